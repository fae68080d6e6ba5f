//! The parent's side of a child: starts it, asks it, ends it. Every wait is bounded, and dropping
//! it leaves no process behind.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver};

use sva_devices::{GraphSearch, IndexWidth, ListWalk};

use super::child::{SELF, WORD};
use super::wait::PATIENCE;

/// Why a child did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ProcessError {
    /// It cannot be started.
    #[error("cannot start a child from {SELF}: {0}")]
    Start(#[source] io::Error),
    /// It does not read any more.
    #[error("child {pid} does not take questions: {source}")]
    Deaf {
        /// Its number.
        pid: u32,
        /// What the pipe answered.
        source: io::Error,
    },
    /// It ended, or was silent for too long.
    #[error(
        "child {pid} did not answer `{question}`: it has ended, or took longer than {PATIENCE:?}"
    )]
    Silent {
        /// Its number.
        pid: u32,
        /// What it was asked.
        question: String,
    },
    /// Its answer is none.
    #[error("child {pid} answered `{answer}` to `{question}`")]
    Unclear {
        /// Its number.
        pid: u32,
        /// What it was asked.
        question: String,
        /// What it said.
        answer: String,
    },
    /// It cannot be killed or collected.
    #[error("cannot end child {pid}: {source}")]
    End {
        /// Its number.
        pid: u32,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// A buffer of random data in a child's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer {
    number: usize,
    /// Its first address.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) len: u64,
}

impl Buffer {
    /// The last address (inclusive).
    pub(crate) fn last(&self) -> u64 {
        self.address + (self.len - 1)
    }

    /// Bytes, for a descriptor. No buffer here is larger than a descriptor can say.
    pub(crate) fn size(&self) -> u32 {
        u32::try_from(self.len).unwrap_or(u32::MAX)
    }
}

/// A child process with memory to work on.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Process {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot be started, or says nothing.
    pub(crate) fn start() -> Result<Self, ProcessError> {
        let mut command = Command::new(SELF);
        // A process group of its own: Ctrl-C is for the demonstration, which ends its children
        // itself.
        command.arg(WORD).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(ProcessError::Start)?;
        let input = child.stdin.take();
        let (sender, answers) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            // Ends with the pipe's last writer.
            std::thread::spawn(move || read(stdout, &sender));
        }
        let process = Self { child, input, answers };
        process.numbers::<0>(
            "ready",
            process.answer("ready")?.strip_prefix("ready").unwrap_or("not ready"),
        )?;
        Ok(process)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes a buffer with data from `seed`.
    pub(crate) fn buffer(&mut self, len: u64, seed: u64) -> Result<Buffer, ProcessError> {
        let [number, address] = self.ask(&format!("buffer {len} {seed}"))?;
        Ok(Buffer { number: number as usize, address, len })
    }

    /// Makes a buffer of zeros that it does not touch: none of its pages is there yet.
    pub(crate) fn fresh(&mut self, len: u64) -> Result<Buffer, ProcessError> {
        let [number, address] = self.ask(&format!("fresh {len}"))?;
        Ok(Buffer { number: number as usize, address, len })
    }

    /// The CRC32C of a buffer as the process sees it.
    pub(crate) fn crc(&mut self, buffer: &Buffer) -> Result<u32, ProcessError> {
        self.crc_of(buffer, 0, buffer.len)
    }

    /// The same for a part of it; both numbers are multiples of 8.
    pub(crate) fn crc_of(
        &mut self,
        buffer: &Buffer,
        offset: u64,
        len: u64,
    ) -> Result<u32, ProcessError> {
        let [crc] = self.ask(&format!("crc {} {offset} {len}", buffer.number))?;
        Ok(crc as u32)
    }

    /// Has it give the buffer's memory back to the kernel.
    pub(crate) fn free(&mut self, buffer: &Buffer) -> Result<(), ProcessError> {
        self.ask(&format!("free {}", buffer.number)).map(|[]| ())
    }

    /// Has it build a linked list.
    pub(crate) fn build_list(&mut self, nodes: u64, seed: u64) -> Result<ListWalk, ProcessError> {
        let [head, next_offset, payload_offset, payload] =
            self.ask(&format!("list {nodes} {seed}"))?;
        Ok(ListWalk {
            head,
            next_offset,
            payload_offset,
            payload_len: payload as u32,
            max_nodes: nodes,
        })
    }

    /// How many nodes it finds in its list, and the CRC32C of their payloads.
    pub(crate) fn walk_list(&mut self) -> Result<(u64, u32), ProcessError> {
        let [nodes, checksum] = self.ask("walk")?;
        Ok((nodes, checksum as u32))
    }

    /// Has it build a random graph; a search writes its distances into the process's memory.
    pub(crate) fn build_graph(
        &mut self,
        vertices: u32,
        edges: u64,
        seed: u64,
    ) -> Result<GraphSearch, ProcessError> {
        let [rows, columns, distances] = self.ask(&format!("graph {vertices} {edges} {seed}"))?;
        let (row_width, column_width) = (IndexWidth::U64, IndexWidth::U32);
        Ok(GraphSearch {
            rows,
            row_width,
            columns,
            column_width,
            vertices,
            edges,
            source: 0,
            distances: Some(distances),
        })
    }

    /// How many vertices it reaches from `source`, the largest distance, and how many distances in
    /// its memory are not those it finds.
    pub(crate) fn search_graph(&mut self, source: u32) -> Result<(u32, u32, u64), ProcessError> {
        let [reached, depth, wrong] = self.ask(&format!("search {source}"))?;
        Ok((reached as u32, depth as u32, wrong))
    }

    /// Memory that it may only read: address, bytes, and their CRC32C as it sees it.
    pub(crate) fn constant(&mut self) -> Result<(u64, u64, u32), ProcessError> {
        let [address, len, checksum] = self.ask("constant")?;
        Ok((address, len, checksum as u32))
    }

    /// Has it replace its image by another that has one buffer. Addresses are not randomised from
    /// there on, where the kernel permits it: a further exec with numbers of the same lengths
    /// puts its buffer at the same address.
    pub(crate) fn exec(&mut self, len: u64, seed: u64) -> Result<Buffer, ProcessError> {
        let question = format!("exec {len} {seed}");
        self.say(&question)?;
        let answer = self.answer(&question)?;
        let [number, address] =
            self.numbers(&question, answer.strip_prefix("ready").unwrap_or("not ready"))?;
        Ok(Buffer { number: number as usize, address, len })
    }

    /// Kills it with SIGKILL and collects it.
    pub(crate) fn kill(&mut self) -> Result<(), ProcessError> {
        let pid = self.pid();
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map(|_| ())
            .map_err(|source| ProcessError::End { pid, source })
    }

    fn ask<const N: usize>(&mut self, question: &str) -> Result<[u64; N], ProcessError> {
        self.say(question)?;
        self.numbers(question, &self.answer(question)?)
    }

    fn say(&mut self, question: &str) -> Result<(), ProcessError> {
        let pid = self.pid();
        let Some(input) = &mut self.input else {
            return Err(ProcessError::Deaf { pid, source: io::ErrorKind::BrokenPipe.into() });
        };
        writeln!(input, "{question}").map_err(|source| ProcessError::Deaf { pid, source })
    }

    fn answer(&self, question: &str) -> Result<String, ProcessError> {
        self.answers
            .recv_timeout(PATIENCE)
            .map_err(|_| ProcessError::Silent { pid: self.pid(), question: question.to_owned() })
    }

    fn numbers<const N: usize>(
        &self,
        question: &str,
        answer: &str,
    ) -> Result<[u64; N], ProcessError> {
        let parsed: Result<Vec<u64>, _> =
            answer.split_ascii_whitespace().map(u64::from_str).collect();
        let unclear = || ProcessError::Unclear {
            pid: self.pid(),
            question: question.to_owned(),
            answer: answer.to_owned(),
        };
        parsed.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(unclear)
    }
}

fn read(stdout: ChildStdout, sender: &mpsc::Sender<String>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        if sender.send(line).is_err() {
            return;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
