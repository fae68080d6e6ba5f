//! System calls that no safe wrapper offers. All `unsafe` code of this crate stands here, except
//! for the one call in `anchor::tracer_process` that starts a [`clone::VmProcess`].
//!
//! Layer: the lowest. It uses no other module of this crate.
//!
//! # What the module claims
//!
//! Every safe function here is sound to call with any arguments:
//!
//! - The kernel checks task numbers, addresses and rights, and answers an error.
//! - A pointer into our own memory is derived from a reference that lives across the call, and goes
//!   with that reference's length.
//! - Addresses in another address space are plain numbers. The kernel dereferences them in that
//!   space only.
//! - `ptrace` requests change the state of a task that the calling thread traces. They write to our
//!   memory only the value that they return.
//!
//! One thing is not claimed, because no interface to memory by address can claim it:
//! [`write_memory`] on our own process overwrites what it is told to. That is reached only where a
//! caller binds its own process to a device and has the device write there.
//!
//! # Thread-local storage
//!
//! No function here allocates, except [`clone::VmProcess::start`]. None uses `errno` or other
//! thread-local storage, except [`block_signals`], [`query_mapping`], [`ForkMark::new`],
//! [`UnreadablePage::new`] and [`clone::VmProcess::start`]. All others can therefore run in a
//! process that uses the thread-local storage of the thread that made it (module [`clone`]). The
//! wrappers of `rustix` can run there too: its `linux_raw` backend makes bare system calls.

mod call;
pub(crate) mod clone;
mod fork;
mod maps;
mod memory;
mod ptrace;
mod task;

pub(crate) use call::{Descriptor, Tid, sleep, yield_processor};
pub(crate) use fork::ForkMark;
pub(crate) use maps::query_mapping;
pub(crate) use memory::*;
pub(crate) use ptrace::*;
pub(crate) use task::*;
