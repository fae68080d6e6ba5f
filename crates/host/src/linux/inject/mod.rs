//! System calls in another process's name: a thread is stopped by `ptrace`, its registers are set
//! to a `syscall` instruction, and what it had is restored afterwards.
//!
//! Layer: above `procfs` and `sys`. It knows nothing of anchors.

mod restart;
mod site;
mod state;
mod tracee;

pub(crate) use restart::{Interruption, interruption, waits_for_every_child};
pub(crate) use site::SyscallSite;
pub(crate) use state::{PendingDetach, ThreadState, restore_and_detach};
#[cfg(test)]
pub(crate) use tracee::record_progress;
pub(crate) use tracee::{FIRST_STOP, NEXT_STOP, Syscall, TraceError, Tracee, progress};
