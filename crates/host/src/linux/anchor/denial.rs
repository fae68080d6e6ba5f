//! Why the kernel does not permit to trace a task.

use std::fs;

use crate::error::Denial;
use crate::linux::procfs::Status;

/// `kernel.yama.ptrace_scope`; `None` where the kernel has no Yama.
pub(super) fn ptrace_scope() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?.trim().parse().ok()
}

/// The likely reason, of what can be seen from outside.
pub(super) fn denial(status: &Status) -> Denial {
    let ours = rustix::process::geteuid().as_raw();
    let scope = ptrace_scope().unwrap_or(0);
    if ours != 0 && status.user != ours {
        Denial::OtherUser { theirs: status.user, ours }
    } else if scope > 0 {
        Denial::Yama { scope }
    } else {
        Denial::Protected
    }
}
