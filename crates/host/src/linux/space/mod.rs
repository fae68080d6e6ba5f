//! The address space of a live process: accesses to its memory, its watchers and its end.
//!
//! Layer: above `anchor`, `procfs` and `sys`. It does not know which other spaces there are. Inside
//! the folder, lowest first: `context`, `member`, `access`, `host_space`.

mod access;
mod context;
mod host_space;
mod member;

pub(crate) use context::Context;
pub use host_space::HostSpace;
pub(crate) use host_space::Liveness;
