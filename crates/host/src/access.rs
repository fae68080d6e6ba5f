//! Reading and writing another task's memory by `process_vm_readv` and `process_vm_writev`.
//!
//! The calls honour page protection, resolve absent pages and break copy-on-write as the process's own access would (rule T1), stop at the first page that they cannot have, and count
//! exactly what was done before it (rule T5). They do not say *why* they stopped: that is found out afterwards from the mapping at that address. The process may have changed it
//! in between; an access that the mapping now permits is tried again.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use sva_core::{Access, AccessMode, AddrRange, HostFailure, OnAbsent, Segment, StopCause, Stopped};

use crate::regions;
use crate::sys::{self, IOV_MAX, Tid};

/// Bytes of one call: below what the kernel cuts a call off at (2 GiB less a page).
const BATCH_MAX: u64 = 1 << 30;
/// The process's own half of the addresses ends here. Above it there may be pages that are the kernel's though a process can see them (`[vsyscall]`).
const USER_END: u64 = 1 << 63;
pub(crate) const PAGE: u64 = 4096;
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
                return Some(Segment { address: first.address + self.within, len: first.len - self.within });
            }
            *self = Self { pieces: others, within: 0 };
        }
        None
    }

    /// The longest run of whole pieces that one call takes, with its bytes; empty where the first has to be split.
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

/// One transfer: `call` moves the bytes of some pieces from or to the buffer at an offset, and answers how many it has moved.
struct Transfer<'a, F> {
    remote: &'a Remote,
    mode: AccessMode,
    name: &'static str,
    call: F,
}

/// Reads; see [`AddressSpace::read`](sva_core::AddressSpace::read).
pub(crate) fn read(remote: &Remote, pieces: &[Segment], buf: &mut [u8], mode: AccessMode) -> Result<(), Stopped> {
    let call = |pieces: &[Segment], done: usize, bytes: usize| match buf.get_mut(done..done + bytes) {
        Some(room) => sys::read_memory(remote.tid, pieces, room),
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    Transfer { remote, mode, name: "process_vm_readv", call }.run(pieces)
}

/// Writes; see [`AddressSpace::write`](sva_core::AddressSpace::write).
pub(crate) fn write(remote: &Remote, pieces: &[Segment], data: &[u8], mode: AccessMode) -> Result<(), Stopped> {
    let call = |pieces: &[Segment], done: usize, bytes: usize| match data.get(done..done + bytes) {
        Some(source) => sys::write_memory(remote.tid, pieces, source),
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    Transfer { remote, mode, name: "process_vm_writev", call }.run(pieces)
}

impl<F: FnMut(&[Segment], usize, usize) -> io::Result<usize>> Transfer<'_, F> {
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
        match (self.call)(pieces, done as usize, bytes as usize) {
            Ok(moved) => Ok(moved as u64),
            Err(error) => match error.raw_os_error() {
                Some(libc::EFAULT) => Ok(0),
                Some(libc::ESRCH) => Err(StopCause::Ended),
                _ => Err(StopCause::Host(HostFailure { call: self.name, source: error })),
            },
        }
    }

    /// Why nothing can be moved at `address`; `None` where the mapping there permits it by now.
    fn why(&self, address: u64, failures: u32) -> Option<StopCause> {
        let wanted = if self.mode.access == Access::Write { Mapping::WRITABLE } else { Mapping::READABLE };
        match mapping_from(self.remote.proc_number, address) {
            Ok(Some(mapping)) if mapping.range.contains(address) => {
                // A mapping that permits it but has no page to give: past the end of its file, or not ordinary memory.
                let refused = mapping.permissions & wanted == 0 || failures >= ATTEMPTS;
                refused.then_some(StopCause::Denied)
            }
            Ok(_) => Some(StopCause::NotMapped),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Some(StopCause::Ended),
            Err(source) => Some(StopCause::Host(HostFailure { call: "read /proc/PID/maps", source })),
        }
    }

    /// The part of `rest` up to the first page that is not present, as the page map says.
    fn present(&self, rest: Segment) -> Result<Segment, StopCause> {
        let failure = |error: io::Error| match error.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => StopCause::Ended,
            _ => StopCause::Host(HostFailure { call: "read /proc/PID/pagemap", source: error }),
        };
        let present = present_bytes(self.remote.proc_number, rest).map_err(failure)?;
        if present == 0 {
            // Where there is no page because there can be none, that is the reason.
            return Err(self.why(rest.address, 0).unwrap_or(StopCause::NotPresent));
        }
        Ok(Segment { len: present, ..rest })
    }
}

/// How many bytes of `rest` come before the first page that is not present, as the page map of task `tid` says; looks at some pages only.
pub(crate) fn present_bytes(tid: Tid, rest: Segment) -> io::Result<u64> {
    const ENTRIES: usize = 512;
    const PRESENT: u64 = 1 << 63;
    let first = rest.address / PAGE;
    let pages = ((rest.address + (rest.len - 1)) / PAGE - first + 1).min(ENTRIES as u64) as usize;
    let mut entries = [0_u8; ENTRIES * 8];
    let room = entries.get_mut(..pages * 8).unwrap_or(&mut []);
    let file = open(tid, "pagemap")?;
    let read = rustix::io::pread(&file, &mut *room, first * 8)?;
    let is_present = |entry: &&[u8]| <[u8; 8]>::try_from(*entry).is_ok_and(|entry| u64::from_le_bytes(entry) & PRESENT != 0);
    let present = room.get(..read).unwrap_or(&[]).chunks_exact(8).take_while(is_present).count() as u64;
    Ok(((first + present) * PAGE).saturating_sub(rest.address).min(rest.len))
}

fn open(tid: Tid, name: &str) -> io::Result<rustix::fd::OwnedFd> {
    Ok(rustix::fs::open(format!("/proc/{tid}/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A mapping, as far as accesses need it.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    range: AddrRange,
    permissions: u64,
}

impl Mapping {
    const READABLE: u64 = 1;
    const WRITABLE: u64 = 2;
}

/// The mapping at `address`, or the first one after it.
fn mapping_from(tid: Tid, address: u64) -> io::Result<Option<Mapping>> {
    let maps = open(tid, "maps")?;
    query(tid, &maps, address)
}

fn query(tid: Tid, maps: impl AsFd, address: u64) -> io::Result<Option<Mapping>> {
    match sys::mapping_from(maps.as_fd(), address) {
        Ok(found) => {
            Ok(AddrRange::inclusive(found.start, found.end.saturating_sub(1))
                .map(|range| Mapping { range, permissions: found.permissions }))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            Ok(regions::plain(tid)?.into_iter().find(|region| region.range.last() >= address).map(|region| {
                let readable = if region.read { Mapping::READABLE } else { 0 };
                Mapping { range: region.range, permissions: readable | if region.write { Mapping::WRITABLE } else { 0 } }
            }))
        }
        Err(error) => Err(error),
    }
}

/// Which parts of `windows` have mappings; see [`AddressSpace::mapped_within`](sva_core::AddressSpace::mapped_within).
pub(crate) fn mapped_within(tid: Tid, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
    let failure = |source| HostFailure { call: "read /proc/PID/maps", source };
    let maps = open(tid, "maps").map_err(failure)?;
    let mut found = Vec::new();
    for window in windows {
        let mut from = window.first();
        while let Some(mapping) = query(tid, &maps, from).map_err(failure)? {
            let Some(part) = mapping.range.intersection(*window) else { break };
            found.push(part);
            match mapping.range.last().checked_add(1) {
                Some(next) if next <= window.last() => from = next,
                _ => break,
            }
        }
    }
    found.sort_by_key(|part| part.first());
    Ok(found)
}
