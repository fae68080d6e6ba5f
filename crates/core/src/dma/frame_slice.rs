//! Memory that an access has found through a cached translation.

use vm_memory::{VolatileMemory, VolatileSlice};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::buffer::Buffer;
use crate::api::ats::Frame;
use crate::api::space::AddressSpace;

/// Contiguous memory of a space. It is valid as long as the read guard under which it was found.
pub(super) struct FrameSlice<'a> {
    pub(super) space: &'a dyn AddressSpace,
    pub(super) frame: Frame,
    pub(super) len: usize,
    pub(super) is_write: bool,
}

impl<'a> FrameSlice<'a> {
    /// The memory as a slice, if the provider gives slices of it. A slice of another length is as
    /// none.
    #[inline]
    pub(super) fn memory(&self) -> Option<VolatileSlice<'a>> {
        let memory = self.space.memory(self.frame, self.len, self.is_write);
        memory.filter(|memory| memory.len() == self.len)
    }

    /// Reads all of the memory into the first bytes of `buf`, and returns how many bytes that was.
    /// Returns `None`, and reads nothing, if the memory cannot be accessed in this way.
    #[inline(always)]
    pub(super) fn read(&self, buf: &mut [u8]) -> Option<usize> {
        let buf = buf.get_mut(..self.len)?;
        let is_done = self.space.read_memory(self.frame, buf)
            || self.space.read_frame(self.frame, buf).is_ok();
        is_done.then_some(self.len)
    }

    /// Writes the first bytes of `data` to all of the memory, as [`read`](Self::read) reads.
    #[inline(always)]
    pub(super) fn write(&self, data: &[u8]) -> Option<usize> {
        let data = data.get(..self.len)?;
        let is_done = self.space.write_memory(self.frame, data)
            || self.space.write_frame(self.frame, data).is_ok();
        is_done.then_some(self.len)
    }

    /// Loads a value of the same length as the memory, through a slice alone. A value of 1, 2, 4 or
    /// 8 bytes is loaded by one instruction.
    #[inline(always)]
    pub(super) fn load<T: FromBytes + IntoBytes>(&self) -> Option<T> {
        let memory = self.memory()?;
        // The compiler knows the size and keeps one of the arms.
        match size_of::<T>() {
            1 => T::read_from_bytes(&[memory.get_ref::<u8>(0).ok()?.load()]).ok(),
            2 => T::read_from_bytes(&memory.get_ref::<u16>(0).ok()?.load().to_ne_bytes()).ok(),
            4 => T::read_from_bytes(&memory.get_ref::<u32>(0).ok()?.load().to_ne_bytes()).ok(),
            8 => T::read_from_bytes(&memory.get_ref::<u64>(0).ok()?.load().to_ne_bytes()).ok(),
            _ => {
                let mut value = T::new_zeroed();
                memory.copy_to(value.as_mut_bytes());
                Some(value)
            }
        }
    }

    /// Stores a value, as [`load`](Self::load) loads one.
    #[inline(always)]
    pub(super) fn store<T: IntoBytes + Immutable>(&self, value: &T) -> Option<()> {
        let (memory, bytes) = (self.memory()?, value.as_bytes());
        if let Ok(bytes) = bytes.try_into() {
            memory.get_ref(0).ok()?.store(u8::from_ne_bytes(bytes));
        } else if let Ok(bytes) = bytes.try_into() {
            memory.get_ref(0).ok()?.store(u16::from_ne_bytes(bytes));
        } else if let Ok(bytes) = bytes.try_into() {
            memory.get_ref(0).ok()?.store(u32::from_ne_bytes(bytes));
        } else if let Ok(bytes) = bytes.try_into() {
            memory.get_ref(0).ok()?.store(u64::from_ne_bytes(bytes));
        } else {
            memory.copy_from(bytes);
        }
        Some(())
    }

    /// Copies all of the memory to or from the buffer's bytes from `at` on, and returns how many
    /// bytes that was. Returns `None`, and copies nothing, if the memory cannot be accessed in this
    /// way.
    #[inline]
    pub(super) fn copy(&self, buffer: &mut Buffer<'_>, at: usize) -> Option<usize> {
        match self.memory() {
            Some(memory) => Some(buffer.copy(at, &memory)),
            None => self.copy_by_provider(buffer, at),
        }
    }

    /// Out of line, for providers that have work to do after a write, such as marking the page
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
