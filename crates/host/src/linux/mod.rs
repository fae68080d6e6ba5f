//! The provider of live processes on x86-64 Linux.
//!
//! Layers, each of which uses only those before it: `sys` (system calls), `procfs` (what `/proc`
//! says), `inject` (system calls in another process's name), `anchor` (the task that gives access
//! to a process's memory), `space` (the address space), `provider` (all spaces, attach, monitor).
//! Of the rest of the crate they use `error` and `region`. `error` of this folder is below all of
//! them.

mod anchor;
mod error;
mod inject;
mod procfs;
mod provider;
mod space;
#[allow(unsafe_code, reason = "this module is for it, and its head says what it claims")]
mod sys;

use std::sync::Arc;

use sva_core::port::HostFailure;

use crate::error::{AttachError, RegionsError};
use crate::region::Region;

pub use space::HostSpace;

/// See [`attach`](crate::attach).
pub(crate) fn attach(pid: u32) -> Result<Arc<HostSpace>, AttachError> {
    let number = sys::Tid::try_from(pid)
        .ok()
        .filter(|&number| number > 0)
        .ok_or(AttachError::NoSuchProcess { pid })?;
    provider::Provider::get()?.attach(number)
}

/// See [`regions`](crate::regions).
pub(crate) fn regions(pid: u32) -> Result<Vec<Region>, RegionsError> {
    let number = sys::Tid::try_from(pid).map_err(|_| RegionsError::NoSuchProcess { pid })?;
    match procfs::mappings_with_flags(number) {
        Ok(regions) if regions.is_empty() => Err(RegionsError::NoMemory { pid }),
        Ok(regions) => Ok(regions),
        Err(source) => Err(match source.raw_os_error() {
            Some(libc::ENOENT) => RegionsError::NoSuchProcess { pid },
            Some(libc::EACCES | libc::EPERM) => RegionsError::NotPermitted { pid },
            Some(libc::ESRCH) => RegionsError::NoMemory { pid },
            _ => RegionsError::Host(HostFailure { call: "read /proc/PID/smaps", source }),
        }),
    }
}
