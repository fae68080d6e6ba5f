//! Bytes from and to files, pipes and terminals, in bounded pieces and without missing a signal.
//!
//! Signal handlers restart blocking calls, so a plain read of an idle pipe would not see the
//! signal. Each call is therefore made only when it will not block, and signals are checked between
//! the calls.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::interrupt::{Interrupted, Interrupts};

/// What a pipe takes without blocking once it is ready (pipe(7)).
const PIPE_PIECE: usize = 4096;

/// Why a stream stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StreamError {
    /// Opening, reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file, or `standard input`, `standard output`.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Whoever read our output is gone.
    #[error("the reader of the output is gone")]
    BrokenPipe,
    /// A signal came.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A file, pipe or terminal.
#[derive(Debug)]
pub(crate) struct Stream {
    file: File,
    path: PathBuf,
    /// A regular file: its reads and writes do not wait, and a write takes all bytes.
    regular: bool,
    len: u64,
}

impl Stream {
    /// Opens `path` to read; `-` is standard input. Blocks on a FIFO until it has a writer.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn input(path: &Path) -> Result<Self, StreamError> {
        if path == Path::new("-") {
            return Self::new(
                io::stdin().as_fd().try_clone_to_owned().map(File::from),
                Path::new("standard input"),
            );
        }
        Self::new(File::open(path), path)
    }

    /// Opens `path` to write from its beginning; `-` is standard output.
    ///
    /// # Errors
    /// The file cannot be made or opened; a FIFO without a reader.
    pub(crate) fn output(path: &Path) -> Result<Self, StreamError> {
        if path == Path::new("-") {
            return Self::new(
                io::stdout().as_fd().try_clone_to_owned().map(File::from),
                Path::new("standard output"),
            );
        }
        // Non-blocking, or a FIFO without a reader would hold up a bound device for ever.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        Self::new(
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(nonblocking)
                .open(path),
            path,
        )
    }

    fn new(opened: io::Result<File>, path: &Path) -> Result<Self, StreamError> {
        let failed = |source| StreamError::Io { path: path.to_path_buf(), source };
        let file = opened.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self {
            file,
            path: path.to_path_buf(),
            regular: metadata.is_file(),
            len: metadata.len(),
        })
    }

    /// How many bytes it holds, where that is known.
    pub(crate) fn len_hint(&self) -> Option<u64> {
        self.regular.then_some(self.len)
    }

    /// Reads until `buf` is full, the end, or nothing more comes for a moment; answers how many
    /// bytes, 0 only at the end.
    ///
    /// # Errors
    /// The read failed, or a signal came.
    pub(crate) fn fill(
        &mut self,
        buf: &mut [u8],
        interrupts: &Interrupts,
    ) -> Result<usize, StreamError> {
        let mut done = 0;
        while done < buf.len() {
            if !self.ready(PollFlags::IN, interrupts)? {
                if done > 0 {
                    break;
                }
                continue;
            }
            match self.file.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) => self.retry(e)?,
            }
        }
        Ok(done)
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// The write failed, the reader is gone, or a signal came.
    pub(crate) fn drain(
        &mut self,
        mut data: &[u8],
        interrupts: &Interrupts,
    ) -> Result<(), StreamError> {
        while !data.is_empty() {
            if !self.ready(PollFlags::OUT, interrupts)? {
                continue;
            }
            let piece = if self.regular { data } else { &data[..data.len().min(PIPE_PIECE)] };
            match self.file.write(piece) {
                Ok(0) => return Err(self.failed(io::ErrorKind::WriteZero.into())),
                Ok(n) => data = &data[n..],
                Err(e) => self.retry(e)?,
            }
        }
        Ok(())
    }

    /// Waits a moment until a call will not block; false where it still would.
    fn ready(&self, what: PollFlags, interrupts: &Interrupts) -> Result<bool, StreamError> {
        interrupts.check()?;
        if self.regular {
            return Ok(true);
        }
        // Bounded: a signal may come between the check and the call.
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match poll(&mut [PollFd::new(&self.file, what)], Some(&moment)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(self.failed(e.into())),
        }
    }

    fn retry(&self, error: io::Error) -> Result<(), StreamError> {
        match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(()),
            io::ErrorKind::BrokenPipe => Err(StreamError::BrokenPipe),
            _ => Err(self.failed(error)),
        }
    }

    fn failed(&self, source: io::Error) -> StreamError {
        StreamError::Io { path: self.path.clone(), source }
    }
}
