//! How an anchor is recognised, be it ours or another program's.

use std::io;

use crate::linux::procfs;
use crate::linux::sys::Tid;

/// All signals that can be blocked.
pub(super) const ALL_SIGNALS: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// Whether a task is an anchor: strict seccomp, no_new_privs and all signals blocked. Nothing else
/// has these three together.
///
/// A process that gives its last task these properties ends its own space early and harms nobody
/// else.
///
/// # Errors
/// The task's status could not be read, and the task is not gone.
pub(crate) fn is_anchor(tid: Tid) -> io::Result<bool> {
    let has_marks = |status: procfs::Status| {
        status.seccomp == 1 && status.no_new_privileges && status.blocked == ALL_SIGNALS
    };
    match procfs::status(tid) {
        Err(error) if procfs::is_gone(&error) => Ok(false),
        status => status.map(has_marks),
    }
}
