//! PROCMAP_QUERY: one mapping of a process without reading all of `/proc/PID/maps`.
//!
//! Why it is sound: the request reads and writes one local structure, whose layout is the kernel's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::call::check;

/// One mapping, as PROCMAP_QUERY reports it (linux/fs.h, `struct procmap_query`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MapQuery {
    size: u64,
    flags: u64,
    address: u64,
    /// First address.
    pub(crate) start: u64,
    /// One past the last address.
    pub(crate) end: u64,
    /// PROCMAP_QUERY_VMA_READABLE and so on.
    pub(crate) permissions: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device_major: u32,
    device_minor: u32,
    name_size: u32,
    build_id_size: u32,
    name_address: u64,
    build_id_address: u64,
}

/// Queries a `/proc/PID/maps` descriptor for the mapping at `address`, or the first one after it.
///
/// # Errors
/// ENOENT: there is none. ENOTTY: the kernel is older than 6.11.
pub(crate) fn query_mapping(maps: BorrowedFd<'_>, address: u64) -> io::Result<MapQuery> {
    const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;
    const COVERING_OR_NEXT: u64 = 0x10;
    let mut query = MapQuery {
        size: size_of::<MapQuery>() as u64,
        flags: COVERING_OR_NEXT,
        address,
        ..MapQuery::default()
    };
    // SAFETY: the kernel reads and writes one structure of the size that the structure states. The
    // sizes of name and build id are zero, so their addresses are not used.
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    check(result.into()).map(|_| query)
}
