//! The data mover's work in pieces: between two of them a signal is seen and the progress shown.

use sva_core::Fault;
use sva_core::port::DmaCause;
use sva_devices::{CompletionRecord, Descriptor, TransferCause, TransferError};

use crate::error::Error;
use crate::interrupt::{Interrupted, Interrupts};
use crate::progress::Progress;
use crate::session::Session;
use crate::stream::{Stream, StreamError};

/// Bytes that one descriptor takes on: a few milliseconds, so that a signal is answered at once.
const PIECE: u32 = 16 << 20;

/// Bytes that are moved between the process and a file at a time.
const BUFFER: usize = 1 << 20;

/// Why the work ended early.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The device reported a fault.
    Fault(Fault),
    /// A signal came.
    Interrupted(Interrupted),
    /// Something beside the process's memory failed.
    Failed(Error),
}

impl From<StreamError> for Halt {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            other => Self::Failed(other.into()),
        }
    }
}

/// Work on one bound process.
pub(crate) struct Work<'a> {
    session: &'a Session,
    interrupts: &'a Interrupts,
    progress: Progress,
    quiet: bool,
    done: u64,
}

impl<'a> Work<'a> {
    /// Nothing done yet; `quiet` shows no progress.
    pub(crate) fn new(session: &'a Session, interrupts: &'a Interrupts, quiet: bool) -> Self {
        Self { session, interrupts, progress: Progress::none(), quiet, done: 0 }
    }

    /// What it looks at between two pieces.
    pub(crate) fn interrupts(&self) -> &'a Interrupts {
        self.interrupts
    }

    /// Takes the progress off the terminal; answers the bytes done, exactly.
    pub(crate) fn finish(&mut self) -> u64 {
        self.progress = Progress::none();
        self.done
    }

    fn begin(&mut self, total: Option<u64>) {
        self.progress = if self.quiet { Progress::none() } else { Progress::of(total) };
    }

    /// The CRC32C of `len` bytes.
    pub(crate) fn crc(&mut self, address: u64, len: u64) -> Result<u32, Halt> {
        self.begin(Some(len));
        let mut crc = 0;
        for (at, piece) in pieces(len) {
            crc = self.execute(Descriptor::crc(address + at, piece, crc))?.crc();
        }
        Ok(crc)
    }

    /// Copies `len` bytes as if by way of a buffer of that size.
    pub(crate) fn copy(&mut self, source: u64, destination: u64, len: u64) -> Result<(), Halt> {
        self.begin(Some(len));
        let mut pieces: Vec<(u64, u32)> = pieces(len).collect();
        // Each descriptor is right by itself; the pieces must not overwrite what a later one has to
        // read.
        if source < destination && destination - source < len {
            pieces.reverse();
        }
        pieces.into_iter().try_for_each(|(at, piece)| {
            self.execute(Descriptor::memory_move(source + at, destination + at, piece)).map(drop)
        })
    }

    /// Fills `len` bytes.
    pub(crate) fn fill(&mut self, address: u64, len: u64, byte: u8) -> Result<(), Halt> {
        self.begin(Some(len));
        pieces(len).try_for_each(|(at, piece)| {
            self.execute(Descriptor::fill([byte; 8], address + at, piece)).map(drop)
        })
    }

    /// Where the first difference of two ranges of `len` bytes is.
    pub(crate) fn compare(&mut self, a: u64, b: u64, len: u64) -> Result<Option<u64>, Halt> {
        self.begin(Some(len));
        for (at, piece) in pieces(len) {
            let record = self.execute(Descriptor::compare(a + at, b + at, piece))?;
            if record.result != 0 {
                return Ok(Some(at + u64::from(record.bytes_completed.get())));
            }
        }
        Ok(None)
    }

    /// Reads `len` bytes; each piece that was read goes to `sink`, also the one before a fault.
    pub(crate) fn read(
        &mut self,
        address: u64,
        len: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), Halt>,
    ) -> Result<(), Halt> {
        self.begin(Some(len));
        let mut buffer = vec![0; usize::try_from(len).map_or(BUFFER, |len| len.min(BUFFER))];
        while self.done < len {
            self.interrupts.check().map_err(Halt::Interrupted)?;
            let want = usize::try_from(len - self.done).map_or(BUFFER, |rest| rest.min(BUFFER));
            let outcome = self.session.mover.export(
                Some(self.session.pasid()),
                address + self.done,
                &mut buffer[..want],
                &mut |_| (),
            );
            let (got, halt) = self.moved(want, outcome);
            sink(&buffer[..got])?;
            self.advance(got as u64);
            halt.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Writes all that `input` holds.
    pub(crate) fn write(&mut self, address: u64, input: &mut Stream) -> Result<(), Halt> {
        self.begin(input.len_hint());
        let mut buffer = vec![0; BUFFER];
        loop {
            let got = input.fill(&mut buffer, self.interrupts)?;
            if got == 0 {
                return Ok(());
            }
            let wraps = || Halt::Failed(Error::Wraps { address, len: self.done + got as u64 });
            let destination = address.checked_add(self.done).ok_or_else(wraps)?;
            let outcome = self.session.mover.import(
                Some(self.session.pasid()),
                destination,
                &buffer[..got],
                &mut |_| (),
            );
            let (done, halt) = self.moved(got, outcome);
            self.advance(done as u64);
            halt.map_or(Ok(()), Err)?;
        }
    }

    /// Executes one descriptor, which moves no more than a piece, and counts what it did.
    fn execute(&mut self, descriptor: Descriptor) -> Result<CompletionRecord, Halt> {
        self.interrupts.check().map_err(Halt::Interrupted)?;
        // No completion address: the completion comes back here, and nothing is left in the
        // process.
        let outcome =
            self.session.mover.execute(Some(self.session.pasid()), &descriptor.block_on_fault());
        let completion = match outcome {
            Ok(completion) => completion,
            Err(abandoned) => {
                self.advance(abandoned.done.into());
                return Err(Halt::Failed(Error::Abandoned { done: self.done }));
            }
        };
        self.advance(completion.record.bytes_completed.get().into());
        match completion.cause {
            Some(cause) => Err(self.halt(cause)),
            None if completion.is_success() => Ok(completion.record),
            None => Err(Halt::Failed(Error::Rejected { record: completion.record })),
        }
    }

    /// How much of `want` bytes was moved, and why no more.
    fn moved(&self, want: usize, outcome: Result<(), TransferError>) -> (usize, Option<Halt>) {
        let Err(error) = outcome else { return (want, None) };
        let halt = match error.cause {
            TransferCause::Dma(cause) => self.halt(cause),
            _ => Halt::Failed(Error::Abandoned { done: self.done + error.done }),
        };
        (usize::try_from(error.done).map_or(want, |done| done.min(want)), Some(halt))
    }

    fn halt(&self, cause: DmaCause) -> Halt {
        match cause {
            DmaCause::Fault(fault) => Halt::Fault(fault),
            source => Halt::Failed(Error::Dma { done: self.done, source }),
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.progress.set(self.done);
    }
}

/// `len` bytes as pieces: where each begins, and its bytes.
fn pieces(len: u64) -> impl Iterator<Item = (u64, u32)> {
    let count = len.div_ceil(PIECE.into());
    (0..count).map(move |n| {
        let at = n * u64::from(PIECE);
        (at, u32::try_from(len - at).map_or(PIECE, |rest| rest.min(PIECE)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_their_length_without_gap_or_overlap() {
        let piece = u64::from(PIECE);
        for len in [1, piece - 1, piece, piece + 1, 5 * piece + 3, 1 << 40] {
            let mut next = 0;
            for (at, bytes) in pieces(len) {
                assert!(at == next && (1..=PIECE).contains(&bytes), "{len}: {at} {bytes}");
                next = at + u64::from(bytes);
            }
            assert_eq!(next, len);
        }
    }
}
