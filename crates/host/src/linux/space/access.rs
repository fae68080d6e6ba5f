//! Accesses to another task's memory by `process_vm_readv` and `process_vm_writev`.
//!
//! The calls obey page protection, resolve absent pages and break copy-on-write as the process's
//! own access would. They stop at the first page that they cannot access, and count exactly what
//! was done before it. They do not say *why* they stopped; that is looked up afterwards, in the
//! mapping at that address. The process may have changed the mapping in between, so an access that
//! the mapping now permits is tried again.

use std::io;

use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::{Access, Permissions, Segment, StopCause, Stopped};

use crate::linux::procfs::{USER_END, mapping_at, present_part};
use crate::linux::sys::{self, IOV_MAX, Tid, UnreadablePage};

/// Bytes of one call. The kernel cuts a call off at 2 GiB less a page.
const CALL_MAX: u64 = 1 << 30;
/// How often an access that the mapping permits is tried.
const ATTEMPTS: u32 = 3;

/// The task whose memory is accessed.
#[derive(Debug)]
pub(super) struct RemoteMemory {
    /// The task to name in calls.
    pub(super) tid: Tid,
    /// The task whose `/proc` directory is read.
    pub(super) proc_tid: Tid,
}

/// A position in a list of pieces.
#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    pieces: &'a [Segment],
    /// Bytes done of the first piece.
    within: u64,
}

impl<'a> Cursor<'a> {
    /// What is left of the first piece that has anything left.
    fn rest(&mut self) -> Option<Segment> {
        while let Some((first, others)) = self.pieces.split_first() {
            if self.within < first.len {
                return Some(Segment {
                    address: first.address + self.within,
                    len: first.len - self.within,
                });
            }
            *self = Self { pieces: others, within: 0 };
        }
        None
    }

    /// The whole pieces that one call takes, and their bytes; none where the first piece must be
    /// split.
    fn whole_pieces(&self) -> (&'a [Segment], u64) {
        if self.within > 0 {
            return (&[], 0);
        }
        let mut bytes = 0;
        let fits = |piece: &&Segment| {
            let fits = piece.address < USER_END && piece.len <= CALL_MAX - bytes;
            bytes += if fits { piece.len } else { 0 };
            fits
        };
        let count = self.pieces.iter().take(IOV_MAX).take_while(fits).count();
        (self.pieces.get(..count).unwrap_or(&[]), bytes)
    }

    fn advance(&mut self, mut bytes: u64) {
        while let Some((first, others)) = self.pieces.split_first() {
            let left = first.len - self.within;
            if bytes < left {
                self.within += bytes;
                return;
            }
            bytes -= left;
            *self = Self { pieces: others, within: 0 };
        }
    }
}

/// One transfer. `call` takes some pieces, an offset in the buffer and a number of bytes; it moves
/// bytes between them and returns how many it has moved.
struct Transfer<'a, F> {
    memory: &'a RemoteMemory,
    access: Access,
    call: F,
}

/// Reads; see [`AddressSpace::read`](sva_core::AddressSpace::read).
pub(super) fn read(
    memory: &RemoteMemory,
    pieces: &[Segment],
    buf: &mut [u8],
    access: Access,
) -> Result<(), Stopped> {
    let call = |pieces: &[Segment], done: usize, bytes: usize| {
        let room =
            buf.get_mut(done..done + bytes).ok_or(io::Error::from(io::ErrorKind::InvalidInput));
        moved("process_vm_readv", room.and_then(|room| sys::read_memory(memory.tid, pieces, room)))
    };
    Transfer { memory, access, call }.complete(pieces)
}

/// Writes; see [`AddressSpace::write`](sva_core::AddressSpace::write).
pub(super) fn write(
    memory: &RemoteMemory,
    pieces: &[Segment],
    data: &[u8],
    access: Access,
) -> Result<(), Stopped> {
    let call = |pieces: &[Segment], done: usize, bytes: usize| {
        let source =
            data.get(done..done + bytes).ok_or(io::Error::from(io::ErrorKind::InvalidInput));
        moved(
            "process_vm_writev",
            source.and_then(|source| sys::write_memory(memory.tid, pieces, source)),
        )
    };
    Transfer { memory, access, call }.complete(pieces)
}

/// Resolves the page of `address` for an access of this kind and changes no byte of it; see
/// [`AddressSpace::resolve`](sva_core::AddressSpace::resolve).
///
/// It is a transfer of one byte that moves nothing: for a read the byte is read and dropped, for a
/// write the page is faulted in for writing. Rejected for the write: writing a byte back that was
/// read before. It would undo what the process wrote in between.
pub(super) fn resolve(
    memory: &RemoteMemory,
    address: u64,
    access: Access,
    source: &UnreadablePage,
) -> Result<(), Stopped> {
    let access = access.resolving();
    let byte = Segment { address, len: 1 };
    let call = |_: &[Segment], _, _| {
        if access.is_write() { fault_in(memory, byte, source) } else { read_byte(memory, byte) }
    };
    Transfer { memory, access, call }.complete(&[byte])
}

fn read_byte(memory: &RemoteMemory, byte: Segment) -> Result<u64, StopCause> {
    moved("process_vm_readv", sys::read_memory(memory.tid, &[byte], &mut [0]))
}

/// Faults a page in for writing. Returns 1, or 0 where there can be no such page.
///
/// The call that faults does not report its result. Where the process may read the page, a read of
/// one byte tells whether the page exists. Otherwise the page map tells, which is less certain: the
/// page may be gone again. Neither detects a kernel that refuses writes to a page that exists and
/// whose mapping permits them (a file system without room, a shadow stack). There the access that
/// follows is refused.
fn fault_in(
    memory: &RemoteMemory,
    byte: Segment,
    source: &UnreadablePage,
) -> Result<u64, StopCause> {
    let faulted = sys::fault_in_for_write(memory.tid, byte.address, source);
    moved("process_vm_writev", faulted.map(|()| 0))?;
    match mapping_at(memory.proc_tid, byte.address)? {
        Some(mapping) if mapping.writable && mapping.readable => read_byte(memory, byte),
        Some(mapping) if mapping.writable => Ok(present_part(memory.proc_tid, byte)?.len),
        _ => Ok(0),
    }
}

/// Translates one address; see [`AddressSpace::translate`](sva_core::AddressSpace::translate).
///
/// The permissions are those of the mapping. That the kernel has no page to give (a device's
/// registers, beyond the end of a file), or must copy one first, shows at the access. Execution is
/// never permitted, because the access cannot check it. Privileged accesses are never permitted,
/// because all pages are user pages.
pub(super) fn translate(
    memory: &RemoteMemory,
    address: u64,
    privileged: bool,
) -> Result<Translation, StopCause> {
    // Nothing is looked up in the kernel's half of the addresses.
    let mapping = if address < USER_END { mapping_at(memory.proc_tid, address)? } else { None };
    let mapping = mapping.ok_or(StopCause::NotMapped)?;
    let mut permissions = Permissions::empty();
    permissions.set(Permissions::READ, mapping.readable);
    permissions.set(Permissions::WRITE, mapping.writable);
    if privileged || permissions.is_empty() {
        return Ok(Translation::none(address));
    }
    match present_part(memory.proc_tid, Segment { address, len: 1 })?.len {
        0 => Err(StopCause::NotPresent),
        _ => Ok(Translation { permissions, ..Translation::none(address) }),
    }
}

/// The bytes that a call has moved: 0 where it cannot access the first page.
fn moved(name: &'static str, result: io::Result<usize>) -> Result<u64, StopCause> {
    match result {
        Ok(moved) => Ok(moved as u64),
        Err(source) => match source.raw_os_error() {
            Some(libc::EFAULT) => Ok(0),
            Some(libc::ESRCH) => Err(StopCause::Ended),
            _ => Err(StopCause::Host(HostFailure { call: name, source })),
        },
    }
}

impl<F: FnMut(&[Segment], usize, usize) -> Result<u64, StopCause>> Transfer<'_, F> {
    /// Moves all pieces, one call after the other.
    fn complete(mut self, pieces: &[Segment]) -> Result<(), Stopped> {
        let mut done = 0;
        let mut failures = 0;
        let mut cursor = Cursor { pieces, within: 0 };
        while let Some(rest) = cursor.rest() {
            let moved = match self.step(&cursor, rest, done) {
                Ok(moved) => moved,
                Err(cause) => return Err(Stopped { done, cause }),
            };
            match moved {
                0 => {
                    failures += 1;
                    if let Some(cause) = self.cause(rest.address, failures) {
                        return Err(Stopped { done, cause });
                    }
                }
                moved => {
                    failures = 0;
                    done += moved;
                    cursor.advance(moved);
                }
            }
        }
        Ok(())
    }

    /// Makes one call. Returns 0 where it cannot access the first page.
    fn step(&mut self, cursor: &Cursor<'_>, rest: Segment, done: u64) -> Result<u64, StopCause> {
        if self.access.is_execute() || self.access.is_privileged() {
            return Err(StopCause::Denied);
        }
        if rest.address >= USER_END {
            return Err(StopCause::NotMapped);
        }
        if self.access.is_present_only() {
            let present = self.present(rest)?;
            return self.call_once(&[present], done, present.len);
        }
        match cursor.whole_pieces() {
            ([], _) => {
                let part = Segment { len: rest.len.min(CALL_MAX), ..rest };
                self.call_once(&[part], done, part.len)
            }
            (pieces, bytes) => self.call_once(pieces, done, bytes),
        }
    }

    fn call_once(&mut self, pieces: &[Segment], done: u64, bytes: u64) -> Result<u64, StopCause> {
        (self.call)(pieces, done as usize, bytes as usize)
    }

    /// Why nothing can be moved at `address`; `None` where the mapping there permits it by now and
    /// the access is to be tried again.
    fn cause(&self, address: u64, failures: u32) -> Option<StopCause> {
        match mapping_at(self.memory.proc_tid, address) {
            Ok(Some(mapping)) => {
                let permitted =
                    if self.access.is_write() { mapping.writable } else { mapping.readable };
                // A mapping that permits the access but has no page to give lies beyond the end of
                // its file, or is not ordinary memory.
                (!permitted || failures >= ATTEMPTS).then_some(StopCause::Denied)
            }
            Ok(None) => Some(StopCause::NotMapped),
            Err(cause) => Some(cause),
        }
    }

    /// The part of `rest` before the first page that is not present.
    fn present(&self, rest: Segment) -> Result<Segment, StopCause> {
        let present = present_part(self.memory.proc_tid, rest)?;
        if present.len == 0 {
            // Where there can be no page, that is the cause.
            return Err(self.cause(rest.address, 0).unwrap_or(StopCause::NotPresent));
        }
        Ok(present)
    }
}
