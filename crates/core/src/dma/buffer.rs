//! The buffer of a transfer, in the device model's memory.

use std::ops::Range;

use vm_memory::VolatileSlice;

use crate::api::fault::{DmaCause, DmaError};
use crate::types::range::Segment;

/// The destination or source of the bytes of a transfer.
pub(super) enum Buffer<'a> {
    Into(&'a mut [u8]),
    From(&'a [u8]),
}

impl Buffer<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Into(buf) => buf.len(),
            Self::From(data) => data.len(),
        }
    }

    /// Checks that the buffer is as long as all pieces together, and returns that length.
    pub(super) fn check_length(&self, pieces: &[Segment]) -> Result<u64, DmaError> {
        let total = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.len));
        if total == self.len() as u64 {
            return Ok(total);
        }
        let cause = DmaCause::Length { pieces: total, buffer: self.len() as u64 };
        Err(DmaError { done: 0, cause })
    }

    /// Copies all of `memory` to or from the buffer's bytes from `at` on, and returns how many
    /// bytes that was.
    #[inline]
    pub(super) fn copy(&mut self, at: usize, memory: &VolatileSlice<'_>) -> usize {
        match self {
            Self::Into(buf) => memory.copy_to(&mut buf[at..]),
            Self::From(data) => {
                memory.copy_from(&data[at..]);
                memory.len()
            }
        }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> Buffer<'_> {
        match self {
            Self::Into(buf) => Buffer::Into(&mut buf[range]),
            Self::From(data) => Buffer::From(&data[range]),
        }
    }
}
