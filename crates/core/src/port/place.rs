//! A place in memory that an access has found by what is kept.

use vm_memory::{ByteValued, VolatileMemory, VolatileSlice};

use super::path::Buffer;
use crate::ats::Frame;
use crate::space::AddressSpace;

/// As long as the section lives in which it was found.
pub(super) struct Place<'a> {
    pub(super) space: &'a dyn AddressSpace,
    pub(super) frame: Frame,
    pub(super) len: usize,
    pub(super) write: bool,
}

impl<'a> Place<'a> {
    /// The memory, where the provider gives slices of it.
    #[inline]
    pub(super) fn memory(&self) -> Option<VolatileSlice<'a>> {
        self.space.memory(self.frame, self.len, self.write)
    }

    /// Reads as much as `buf` takes. `None`, with nothing done, where that is not all here or it
    /// cannot be accessed so.
    #[inline(always)]
    pub(super) fn read(&self, buf: &mut [u8]) -> Option<()> {
        if self.len < buf.len() {
            return None;
        }
        let is_done = self.space.read_memory(self.frame, buf)
            || self.space.read_frame(self.frame, buf).is_ok();
        is_done.then_some(())
    }

    /// Writes all of `data`, as [`read`](Self::read).
    #[inline(always)]
    pub(super) fn write(&self, data: &[u8]) -> Option<()> {
        if self.len < data.len() {
            return None;
        }
        let is_done = self.space.write_memory(self.frame, data)
            || self.space.write_frame(self.frame, data).is_ok();
        is_done.then_some(())
    }

    /// The value that is here, as [`read`](Self::read) but by slices alone.
    #[inline(always)]
    pub(super) fn load<T: ByteValued>(&self) -> Option<T> {
        Some(self.memory()?.get_ref::<T>(0).ok()?.load())
    }

    /// Puts a value here, as [`load`](Self::load).
    #[inline(always)]
    pub(super) fn store<T: ByteValued>(&self, value: T) -> Option<()> {
        self.memory()?.get_ref::<T>(0).ok()?.store(value);
        Some(())
    }

    /// Copies between it and the buffer's bytes from `at` on; answers how many. `None` where it
    /// cannot be accessed so, with nothing done.
    #[inline]
    pub(super) fn copy(&self, buffer: &mut Buffer<'_>, at: usize) -> Option<usize> {
        match self.memory() {
            Some(memory) => Some(buffer.copy(at, &memory)),
            None => self.copy_by_provider(buffer, at),
        }
    }

    /// Out of line: for providers that have something to do after a write, such as to mark the page
    /// dirty.
    #[inline(never)]
    fn copy_by_provider(&self, buffer: &mut Buffer<'_>, at: usize) -> Option<usize> {
        match buffer.part(at..at + self.len) {
            Buffer::Into(buf) => self.space.read_frame(self.frame, buf),
            Buffer::From(data) => self.space.write_frame(self.frame, data),
        }
        .ok()
        .map(|()| self.len)
    }
}
