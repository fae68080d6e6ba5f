//! Transfers that the host drives: between a process and memory of the device's own, without a
//! descriptor and without a copy in between.

use std::ops::Range;

use sva_core::{Pasid, Segment};

use super::engine::DataMover;
use crate::job::{JobAccess, TransferError, Transferred};

/// Bytes in one transaction: enough that the cost of the call does not show, few enough that a stop
/// is noticed within about a millisecond.
const STEP: usize = 2 << 20;

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
        self.transfer(pasid, source, len, progress, |access, address, range| {
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
        self.transfer(pasid, destination, from.len(), progress, |access, address, range| {
            access.write(address, &from[range])
        })
    }

    fn transfer(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        len: usize,
        progress: &mut dyn FnMut(u64),
        mut step: impl FnMut(&JobAccess<'_>, u64, Range<usize>) -> Transferred,
    ) -> Result<(), TransferError> {
        let job = self.jobs.begin(&self.ports, pasid);
        let access = JobAccess::resolving(&job);
        // A range that wraps is issued as one transaction, which the port refuses as a whole.
        let most = if (Segment { address, len: len as u64 }).wraps() { len } else { STEP };
        let mut done = 0;
        while done < len {
            let moved = step(&access, address + done as u64, done..done + most.min(len - done));
            done += moved.done;
            if let Some(cause) = moved.cause {
                return Err(TransferError { done: done as u64, cause });
            }
            progress(done as u64);
        }
        Ok(())
    }
}
