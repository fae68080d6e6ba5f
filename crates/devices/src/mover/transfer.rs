//! Transfers that the host drives: between a process and memory of the device's own, without a
//! descriptor and without a copy in between.

use std::ops::Range;

use sva_core::port::DmaCause;
use sva_core::{Pasid, Segment};

use super::DataMover;
use crate::access::{Halt, JobPort, Part};

/// Bytes at a time: enough that the call's cost does not show, few enough that a stop is noticed
/// within a millisecond or so.
const STEP: usize = 2 << 20;

/// Why a transfer ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferCause {
    /// A transaction failed.
    #[error(transparent)]
    Dma(DmaCause),
    /// The PASID is being unbound.
    #[error("the PASID is being unbound; bind again and transfer the rest")]
    Stopped,
}

/// A transfer that ended early.
#[derive(Debug, thiserror::Error)]
#[error("after {done} bytes: {cause}")]
pub struct TransferError {
    /// Bytes transferred, exactly (rule T5).
    pub done: u64,
    /// Why no more.
    #[source]
    pub cause: TransferCause,
}

impl DataMover {
    /// Reads `into.len()` bytes from `source` into the device. `progress` gets the bytes done so
    /// far after each step and must not block for long.
    ///
    /// # Errors
    /// [`TransferError`] at the first byte that could not be read; all bytes before it are in
    /// `into`.
    pub fn export(
        &self,
        pasid: Option<Pasid>,
        source: u64,
        into: &mut [u8],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), TransferError> {
        let len = into.len();
        self.steps(pasid, source, len, progress, |access, address, range| {
            access.read(address, &mut into[range])
        })
    }

    /// Writes `from` to `destination` out of the device. `progress` as in [`export`](Self::export).
    ///
    /// # Errors
    /// [`TransferError`] at the first byte that could not be written; all bytes before it are in
    /// the process.
    pub fn import(
        &self,
        pasid: Option<Pasid>,
        destination: u64,
        from: &[u8],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), TransferError> {
        self.steps(pasid, destination, from.len(), progress, |access, address, range| {
            access.write(address, &from[range])
        })
    }

    fn steps(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        len: usize,
        progress: &mut dyn FnMut(u64),
        mut step: impl FnMut(&JobPort<'_>, u64, Range<usize>) -> Part,
    ) -> Result<(), TransferError> {
        let run = self.in_flight.begin(&self.ports, pasid);
        let access = JobPort::resolving(&run);
        // A range that wraps is one transaction, which the port refuses whole.
        let most = if (Segment { address, len: len as u64 }).wraps() { len } else { STEP };
        let mut done = 0;
        while done < len {
            let part = step(&access, address + done as u64, done..done + most.min(len - done));
            done += part.done;
            let cause = match part.halt {
                None => None,
                Some(Halt::Stopped) => Some(TransferCause::Stopped),
                Some(Halt::Dma(cause)) => Some(TransferCause::Dma(cause)),
            };
            if let Some(cause) = cause {
                return Err(TransferError { done: done as u64, cause });
            }
            progress(done as u64);
        }
        Ok(())
    }
}
