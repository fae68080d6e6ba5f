//! Reading and writing another task's memory by `process_vm_readv` and `process_vm_writev`.
//!
//! The calls honour page protection, resolve absent pages and break copy-on-write as the process's
//! own access would (rule T1), stop at the first page that they cannot have, and count exactly what
//! was done before it (rule T5). They do not say *why* they stopped: that is found out afterwards
//! from the mapping at that address. The process may have changed it in between; an access that the
//! mapping now permits is tried again.

use std::io;

use sva_core::{Access, AccessMode, HostFailure, OnAbsent, Segment, StopCause, Stopped};

use crate::mapping::{USER_END, mapping_at, present_part};
use crate::sys::{self, IOV_MAX, Tid, Unreadable};

/// Bytes of one call: below what the kernel cuts a call off at (2 GiB less a page).
const BATCH_MAX: u64 = 1 << 30;
/// How often an access that should have worked is tried again.
const ATTEMPTS: u32 = 3;

/// The task whose memory is accessed.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Named in the calls.
    pub(crate) tid: Tid,
    /// Asked about in `/proc`.
    pub(crate) proc_number: Tid,
}

/// Where in the pieces a transfer stands.
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

    /// The longest run of whole pieces that one call takes, with its bytes; empty where the first
    /// has to be split.
    fn run(&self) -> (&'a [Segment], u64) {
        if self.within > 0 {
            return (&[], 0);
        }
        let mut bytes = 0;
        let fits = |piece: &&Segment| {
            let fits = piece.address < USER_END && piece.len <= BATCH_MAX - bytes;
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

/// One transfer: `call` moves the bytes of some pieces from or to the buffer at an offset, and
/// answers how many it has moved.
struct Transfer<'a, F> {
    remote: &'a Remote,
    mode: AccessMode,
    call: F,
}

/// Reads; see [`AddressSpace::read`](sva_core::AddressSpace::read).
pub(crate) fn read(
    remote: &Remote,
    pieces: &[Segment],
    buf: &mut [u8],
    mode: AccessMode,
) -> Result<(), Stopped> {
    let call = |pieces: &[Segment], done: usize, bytes: usize| {
        let room =
            buf.get_mut(done..done + bytes).ok_or(io::Error::from(io::ErrorKind::InvalidInput));
        moved("process_vm_readv", room.and_then(|room| sys::read_memory(remote.tid, pieces, room)))
    };
    Transfer { remote, mode, call }.run(pieces)
}

/// Writes; see [`AddressSpace::write`](sva_core::AddressSpace::write).
pub(crate) fn write(
    remote: &Remote,
    pieces: &[Segment],
    data: &[u8],
    mode: AccessMode,
) -> Result<(), Stopped> {
    let call = |pieces: &[Segment], done: usize, bytes: usize| {
        let source =
            data.get(done..done + bytes).ok_or(io::Error::from(io::ErrorKind::InvalidInput));
        moved(
            "process_vm_writev",
            source.and_then(|source| sys::write_memory(remote.tid, pieces, source)),
        )
    };
    Transfer { remote, mode, call }.run(pieces)
}

/// Brings the page of `address` in for an access of this kind, and changes no byte of it; see
/// [`AddressSpace::resolve`](sva_core::AddressSpace::resolve).
///
/// An access to one byte, in all but what is moved: a read is made and forgotten, a write is
/// faulted in and not made. (Writing a byte back that was read before would undo what the process
/// wrote in between.)
pub(crate) fn resolve(
    remote: &Remote,
    address: u64,
    mode: AccessMode,
    source: &Unreadable,
) -> Result<(), Stopped> {
    let mode = AccessMode { on_absent: OnAbsent::Resolve, ..mode };
    let byte = Segment { address, len: 1 };
    let call = |_: &[Segment], _, _| {
        if mode.access == Access::Write {
            fault_in(remote, byte, source)
        } else {
            read_byte(remote, byte)
        }
    };
    Transfer { remote, mode, call }.run(&[byte])
}

fn read_byte(remote: &Remote, byte: Segment) -> Result<u64, StopCause> {
    moved("process_vm_readv", sys::read_memory(remote.tid, &[byte], &mut [0]))
}

/// Faults a page in for writing; 0 where it cannot be had.
///
/// The call for it does not say what came of it. That the page can be had is seen by a read, where
/// the process may read it, or else in the page map, which is not as good: the page may be gone
/// again by then. What neither sees is a kernel that refuses to write to a page that is there,
/// though the mapping permits it (a file system without room, a shadow stack): the access says so.
fn fault_in(remote: &Remote, byte: Segment, source: &Unreadable) -> Result<u64, StopCause> {
    moved(
        "process_vm_writev",
        sys::fault_in_for_write(remote.tid, byte.address, source).map(|()| 0),
    )?;
    match mapping_at(remote.proc_number, byte.address)? {
        Some(mapping) if mapping.writable && mapping.readable => read_byte(remote, byte),
        Some(mapping) if mapping.writable => Ok(present_part(remote.proc_number, byte)?.len),
        _ => Ok(0),
    }
}

/// What a call has moved: nothing where the first page cannot be had.
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
    fn run(mut self, pieces: &[Segment]) -> Result<(), Stopped> {
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
                    if let Some(cause) = self.why(rest.address, failures) {
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

    /// Moves what can be moved at once, which is nothing where the first page cannot be had.
    fn step(&mut self, cursor: &Cursor<'_>, rest: Segment, done: u64) -> Result<u64, StopCause> {
        if self.mode.access == Access::Execute || self.mode.privileged {
            return Err(StopCause::Denied);
        }
        if rest.address >= USER_END {
            return Err(StopCause::NotMapped);
        }
        if self.mode.on_absent == OnAbsent::Stop {
            let present = self.present(rest)?;
            return self.once(&[present], done, present.len);
        }
        match cursor.run() {
            ([], _) => {
                let part = Segment { len: rest.len.min(BATCH_MAX), ..rest };
                self.once(&[part], done, part.len)
            }
            (pieces, bytes) => self.once(pieces, done, bytes),
        }
    }

    fn once(&mut self, pieces: &[Segment], done: u64, bytes: u64) -> Result<u64, StopCause> {
        (self.call)(pieces, done as usize, bytes as usize)
    }

    /// Why nothing can be moved at `address`; `None` where the mapping there permits it by now.
    fn why(&self, address: u64, failures: u32) -> Option<StopCause> {
        match mapping_at(self.remote.proc_number, address) {
            Ok(Some(mapping)) => {
                let permitted = if self.mode.access == Access::Write {
                    mapping.writable
                } else {
                    mapping.readable
                };
                // A mapping that permits it but has no page to give: past the end of its file, or
                // not ordinary memory.
                (!permitted || failures >= ATTEMPTS).then_some(StopCause::Denied)
            }
            Ok(None) => Some(StopCause::NotMapped),
            Err(cause) => Some(cause),
        }
    }

    /// The part of `rest` up to the first page that is not present.
    fn present(&self, rest: Segment) -> Result<Segment, StopCause> {
        let present = present_part(self.remote.proc_number, rest)?;
        if present.len == 0 {
            // Where there is no page because there can be none, that is the reason.
            return Err(self.why(rest.address, 0).unwrap_or(StopCause::NotPresent));
        }
        Ok(present)
    }
}
