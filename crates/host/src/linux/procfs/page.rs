//! The mapping at one address, and whether a page is present.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use sva_core::port::HostFailure;
use sva_core::{AddrRange, Segment, StopCause};

use super::maps::mappings;
use crate::linux::sys::{self, Tid};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// A mapping, as far as accesses need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping {
    range: AddrRange,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// The mapping that contains `address`; `None` where there is none.
pub(crate) fn mapping_at(tid: Tid, address: u64) -> Result<Option<Mapping>, StopCause> {
    let found = open(tid, "maps")
        .and_then(|maps| first_mapping_from(tid, &maps, address))
        .map_err(stop_cause("read /proc/PID/maps"))?;
    Ok(found.filter(|mapping| mapping.range.contains(address)))
}

/// The mapping that contains `address`, or the first one after it.
fn first_mapping_from(tid: Tid, maps: impl AsFd, address: u64) -> io::Result<Option<Mapping>> {
    const READABLE: u64 = 1;
    const WRITABLE: u64 = 2;
    match sys::query_mapping(maps.as_fd(), address) {
        Ok(found) => {
            let range = AddrRange::inclusive(found.start, found.end.saturating_sub(1));
            Ok(range.map(|range| Mapping {
                range,
                readable: found.permissions & READABLE != 0,
                writable: found.permissions & WRITABLE != 0,
            }))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        // The kernel has no PROCMAP_QUERY.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            let region = mappings(tid)?.into_iter().find(|region| region.range.last() >= address);
            Ok(region.map(|region| Mapping {
                range: region.range,
                readable: region.read,
                writable: region.write,
            }))
        }
        Err(error) => Err(error),
    }
}

/// Turns the error of a read below `/proc` into the cause of a stopped access: the task has no
/// memory any more, or the call `name` failed.
fn stop_cause(name: &'static str) -> impl Fn(io::Error) -> StopCause {
    move |source| match source.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => StopCause::Ended,
        _ => StopCause::Host(HostFailure { call: name, source }),
    }
}

/// The part of `rest` before the first page that is not present; empty where the first page is not.
/// Looks at 512 pages at most.
pub(crate) fn present_part(tid: Tid, rest: Segment) -> Result<Segment, StopCause> {
    let len = present_bytes(tid, rest).map_err(stop_cause("read /proc/PID/pagemap"))?;
    Ok(Segment { len, ..rest })
}

/// How many bytes of `rest` come before the first page that is not present in the page map of task
/// `tid`. Looks at 512 pages at most.
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
    let path = format!("/proc/{tid}/{name}");
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The parts of `windows` that have mappings, sorted by address. See
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
        while let Some(mapping) = first_mapping_from(tid, &maps, from).map_err(failure)? {
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
