//! A process with memory to be measured on: this program again, under another subcommand.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The target's side: has memory and says where; a line of input has it take other memory instead.
/// Ends with its input.
pub(crate) fn run(bytes: usize, untouched: bool) -> Result<(), Box<dyn Error>> {
    if untouched {
        // A touch is to make one page, and not the five hundred around it.
        sva_bench::system::disable_huge_pages()?;
    }
    let mut input = std::io::stdin().lines();
    loop {
        let mut memory = vec![0u8; bytes];
        if !untouched {
            // So that no page has to be made while somebody measures.
            for (n, page) in memory.chunks_mut(4096).enumerate() {
                page.fill(n as u8 | 1);
            }
        }
        let mut out = std::io::stdout();
        writeln!(out, "{}", memory.as_ptr() as usize)?;
        out.flush()?;
        if input.next().transpose()?.is_none() {
            return Ok(());
        }
    }
}

/// A running target.
pub(crate) struct Target {
    child: Child,
    answers: BufReader<ChildStdout>,
    /// Where its memory begins.
    pub(crate) address: u64,
}

impl Target {
    /// Starts one with `bytes` of touched memory.
    pub(crate) fn start(bytes: usize) -> Result<Self, Box<dyn Error>> {
        Self::launch(bytes, &[])
    }

    /// Starts one with `bytes` of memory of which no page is there yet. 64 MiB or more: the
    /// allocator takes less from what it was given back.
    pub(crate) fn untouched(bytes: usize) -> Result<Self, Box<dyn Error>> {
        Self::launch(bytes, &["--untouched"])
    }

    fn launch(bytes: usize, more: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("target")
            .arg(bytes.to_string())
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("the target has no output")?);
        let mut target = Self { child, answers, address: 0 };
        target.read_address()?;
        Ok(target)
    }

    fn read_address(&mut self) -> Result<(), Box<dyn Error>> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        self.address = line.trim().parse()?;
        Ok(())
    }

    /// Has it take other memory: of an untouched target no page is there again.
    pub(crate) fn renew(&mut self) -> Result<(), Box<dyn Error>> {
        writeln!(self.child.stdin.as_mut().ok_or("the target has no input")?)?;
        self.read_address()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends when its input closes; there is nobody to tell where it does not.
        let _ = self.child.wait();
    }
}
