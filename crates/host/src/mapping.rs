//! What `/proc` says of single addresses: the mapping there, and whether its page is present.
//!
//! All of it is the state of one moment, which the process may have changed by the time we look at
//! the answer.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use sva_core::{AddrRange, HostFailure, Permissions, Segment, StopCause, Translation};

use crate::regions;
use crate::sys::{self, Tid};

/// The process's own half of the addresses ends here. Above it there may be pages that are the
/// kernel's though a process can see them (`[vsyscall]`).
pub(crate) const USER_END: u64 = 1 << 63;
pub(crate) const PAGE: u64 = 4096;

/// A mapping, as far as accesses need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping {
    range: AddrRange,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// The mapping that `address` is in; `None` where there is none.
pub(crate) fn mapping_at(tid: Tid, address: u64) -> Result<Option<Mapping>, StopCause> {
    let found = open(tid, "maps")
        .and_then(|maps| query(tid, &maps, address))
        .map_err(cause("read /proc/PID/maps"))?;
    Ok(found.filter(|mapping| mapping.range.contains(address)))
}

/// The mapping at `address`, or the first one after it.
fn query(tid: Tid, maps: impl AsFd, address: u64) -> io::Result<Option<Mapping>> {
    const READABLE: u64 = 1;
    const WRITABLE: u64 = 2;
    match sys::mapping_from(maps.as_fd(), address) {
        Ok(found) => {
            Ok(AddrRange::inclusive(found.start, found.end.saturating_sub(1)).map(|range| {
                Mapping {
                    range,
                    readable: found.permissions & READABLE != 0,
                    writable: found.permissions & WRITABLE != 0,
                }
            }))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            let region =
                regions::plain(tid)?.into_iter().find(|region| region.range.last() >= address);
            Ok(region.map(|region| Mapping {
                range: region.range,
                readable: region.read,
                writable: region.write,
            }))
        }
        Err(error) => Err(error),
    }
}

/// What a failed look at `/proc` says: that the task has no memory any more, or that the call
/// `name` failed.
fn cause(name: &'static str) -> impl Fn(io::Error) -> StopCause {
    move |source| match source.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => StopCause::Ended,
        _ => StopCause::Host(HostFailure { call: name, source }),
    }
}

/// The part of `rest` up to the first page that is not present; empty where that is the first.
/// Looks at some pages only.
pub(crate) fn present_part(tid: Tid, rest: Segment) -> Result<Segment, StopCause> {
    let len = present_bytes(tid, rest).map_err(cause("read /proc/PID/pagemap"))?;
    Ok(Segment { len, ..rest })
}

/// How many bytes of `rest` come before the first page that is not present, as the page map of task
/// `tid` says; looks at some pages only.
pub(crate) fn present_bytes(tid: Tid, rest: Segment) -> io::Result<u64> {
    const ENTRIES: usize = 512;
    const PRESENT: u64 = 1 << 63;
    let first = rest.address / PAGE;
    let pages = ((rest.address + (rest.len - 1)) / PAGE - first + 1).min(ENTRIES as u64) as usize;
    let mut entries = [0_u8; ENTRIES * 8];
    let room = entries.get_mut(..pages * 8).unwrap_or(&mut []);
    let file = open(tid, "pagemap")?;
    let read = rustix::io::pread(&file, &mut *room, first * 8)?;
    let is_present = |entry: &&[u8]| {
        <[u8; 8]>::try_from(*entry).is_ok_and(|entry| u64::from_le_bytes(entry) & PRESENT != 0)
    };
    let present =
        room.get(..read).unwrap_or(&[]).chunks_exact(8).take_while(is_present).count() as u64;
    Ok(((first + present) * PAGE).saturating_sub(rest.address).min(rest.len))
}

fn open(tid: Tid, name: &str) -> io::Result<rustix::fd::OwnedFd> {
    Ok(rustix::fs::open(
        format!("/proc/{tid}/{name}"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// What the page of `address` is to a device; see
/// [`AddressSpace::translate`](sva_core::AddressSpace::translate).
///
/// The mapping's word: that the kernel has no page to give (a device's registers, the rest of a
/// file), or has to copy one first, shows at the access. Execution is never permitted, since it
/// cannot be checked at the access, and nothing to privileged accesses, since all pages are the
/// user's.
pub(crate) fn translate(
    tid: Tid,
    address: u64,
    privileged: bool,
) -> Result<Translation, StopCause> {
    // Of the kernel's half nothing is asked.
    let mapping = if address < USER_END { mapping_at(tid, address)? } else { None };
    let mapping = mapping.ok_or(StopCause::NotMapped)?;
    let permits = Permissions { read: mapping.readable, write: mapping.writable, execute: false };
    if privileged || permits.is_none() {
        return Ok(Translation::none(address));
    }
    match present_part(tid, Segment { address, len: 1 })?.len {
        0 => Err(StopCause::NotPresent),
        _ => Ok(Translation { permits, ..Translation::none(address) }),
    }
}

/// Which parts of `windows` have mappings; see
/// [`AddressSpace::mapped_within`](sva_core::AddressSpace::mapped_within).
pub(crate) fn mapped_within(
    tid: Tid,
    windows: &[AddrRange],
) -> Result<Vec<AddrRange>, HostFailure> {
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
