//! The transfers of the mover's and the walker's jobs, with the count of bytes done in any case.

use sva_core::{Access, Segment};

use super::tracker::Job;
use super::transfer::Transferred;

/// Bytes in the smallest page: no access inside one is done in part.
pub(crate) const PAGE: u64 = 4096;

/// A job's access to memory, with one way to treat page faults.
pub(crate) struct JobAccess<'a> {
    job: &'a Job<'a>,
    read: Access,
    write: Access,
}

impl<'a> JobAccess<'a> {
    /// Page faults are resolved.
    pub(crate) fn resolving(job: &'a Job<'a>) -> Self {
        Self { job, read: Access::READ, write: Access::WRITE }
    }

    /// Page faults are resolved if `block_on_fault`, else they end the transfer.
    pub(crate) fn new(job: &'a Job<'a>, block_on_fault: bool) -> Self {
        let this = Self::resolving(job);
        if block_on_fault {
            this
        } else {
            Self { read: this.read.present_only(), write: this.write.present_only(), ..this }
        }
    }

    pub(crate) fn read(&self, address: u64, buf: &mut [u8]) -> Transferred {
        let piece = [Segment { address, len: buf.len() as u64 }];
        self.gather(&piece, buf)
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Transferred {
        let piece = [Segment { address, len: data.len() as u64 }];
        self.scatter(&piece, data)
    }

    /// `buf` has as many bytes as the pieces together.
    pub(crate) fn gather(&self, pieces: &[Segment], buf: &mut [u8]) -> Transferred {
        self.job.gather_some(pieces, buf, self.read)
    }

    /// `data` has as many bytes as the pieces together.
    pub(crate) fn scatter(&self, pieces: &[Segment], data: &[u8]) -> Transferred {
        self.job.scatter_some(pieces, data, self.write)
    }
}
