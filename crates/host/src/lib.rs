//! A live Linux process as an address space for software devices.
//!
//! [`attach`] gives a [`HostSpace`] for any process that the caller may trace, unmodified and
//! running. What is attached is the process's *memory*, not its number: it ends when the
//! last of its tasks has left it, and whatever has the number afterwards is another space (rule
//! U7).
//!
//! - Accesses go through an *anchor*, a task that shares the memory and never runs: module `anchor`
//!   says why that is sound, and what the process could notice. What is made in the process is made
//!   by a *stopper*, a process of ours that outlives us.
//! - A *keeper* thread makes and collects anchors, a *monitor* thread notices the end of spaces
//!   within 100 ms (module `monitor`).
//! - A process that cannot be attached soundly is refused with the reason ([`AttachError`]); there
//!   is no fallback.
//!
//! # What a program that uses this crate should know
//!
//! - The anchors are tasks traced by this process. `waitpid(-1)` in any of its threads may report
//!   their stops and deaths, and SIGCHLD may come for them: numbers that are not known are to be
//!   passed over. Should such a wait collect the death of an anchor that somebody else has killed,
//!   the space ends at the next tick of the monitor; before that, the number could be used again
//!   only if the system went through all its process numbers in 20 ms.
//! - After `fork` the child has no attachments: every space has ended for it, and it can attach
//!   nothing. `exec`, exit and kill leave no anchor behind.
//! - A signal that ends this program in the middle of an attach does not harm the process that is
//!   being attached: a short-lived process of our own finishes it (module `stopper`). Only where
//!   both are killed at once, as with a whole cgroup, or where the kernel lets nobody but an
//!   ancestor trace (Yama, `ptrace_scope` 1, without CAP_SYS_PTRACE), the process's thread goes on
//!   with registers that are not its own, and mostly crashes; there a program should handle the
//!   signals that can end it (SIGINT and SIGTERM at least) and end between two calls, as the
//!   command `sva` does.
//! - An access can take as long as the process likes, where its memory is backed by a userfaultfd
//!   that nobody answers or by a file system in user space. Such a call is not interrupted: an
//!   unbind waits for it (rule U2), and no other space is held up by it. A program that has to end
//!   all the same can end the process, or itself.
//! - Memory of the *own* process can be attached as well; writes by a device then change it under
//!   the feet of the program, as a debugger's would.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!(
    "sva-host is built for x86-64 Linux only: its anchors are made with that processor's registers"
);

mod access;
mod anchor;
mod calls;
mod clock;
mod error;
mod gate;
mod keeper;
mod landmarks;
mod mapping;
mod monitor;
mod procfs;
mod provider;
mod regions;
mod saved;
mod space;
mod stopper;
#[allow(unsafe_code, reason = "the module for it; each function says what it claims")]
mod sys;
mod target;
mod tracee;

use std::sync::Arc;

pub use clock::MonotonicClock;
pub use error::{AttachError, Denial};
pub use regions::{FindError, Region, RegionsError, Unusable, find as find_region, regions};
pub use space::HostSpace;

/// The address space of the process that task `pid` belongs to; `pid` may be any of its threads,
/// and one of our own.
///
/// Two tasks that share their memory give one space, also over several calls (rule B5). A process
/// that is attached for the first time has one of its threads stopped for some hundred
/// microseconds, longer where the processors are busy (see [`HostSpace::stop_time`]). Blocks up to
/// some 100 ms where all threads are in calls that must not be interrupted, and while another
/// attach is under way. Must not be called in a signal handler.
///
/// # Errors
/// Each reason for which a process cannot be attached has a variant. The process is as it was
/// before.
pub fn attach(pid: u32) -> Result<Arc<HostSpace>, AttachError> {
    let number = sys::Tid::try_from(pid)
        .ok()
        .filter(|&number| number > 0)
        .ok_or(AttachError::NoSuchProcess { pid })?;
    provider::Provider::get()?.attach(number)
}
