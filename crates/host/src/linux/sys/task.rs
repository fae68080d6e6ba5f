//! Tasks by number: signals, waits and reaping.
//!
//! Why it is sound: the calls take numbers, which the kernel checks, and write to local values of
//! the type that they expect.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::call::{Tid, syscall};

/// The calling thread's number.
pub(crate) fn gettid() -> Tid {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Whether process `pid` has a thread `tid`. A thread that is dead does not count, nor does one
/// that an exec has given to another process.
pub(crate) fn has_thread(pid: Tid, tid: Tid) -> bool {
    // SAFETY: the call takes numbers only. Signal 0 is not delivered.
    unsafe { syscall(libc::SYS_tgkill, [pid as u64, tid as u64, 0, 0, 0, 0]) }.is_ok()
}

/// Kills process `pid`.
pub(crate) fn kill(pid: Tid) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    unsafe { syscall(libc::SYS_kill, [pid as u64, libc::SIGKILL as u64, 0, 0, 0, 0]) }.map(drop)
}

/// Blocks every signal that can be blocked on the calling thread.
pub(crate) fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the function initialises the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the function reads the initialised set; the null pointer says that the old mask is
    // not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
}

/// What `waitid` reports of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitStatus {
    /// Nothing new.
    Unchanged,
    /// It has stopped, for this signal and event.
    Stopped {
        /// The signal, with 0x80 added for a system call stop.
        signal: i32,
        /// PTRACE_EVENT_*, or 0.
        event: i32,
    },
    /// It is a zombie.
    Zombie,
    /// This process may not wait for it, or not any more.
    NotWaitable,
}

/// Looks at the state of task `tid` without blocking. Consumes a stop, and leaves a zombie.
pub(crate) fn wait(tid: Tid) -> io::Result<WaitStatus> {
    let Some((code, status)) = wait_id(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)? else {
        return Ok(WaitStatus::NotWaitable);
    };
    match code {
        0 => Ok(WaitStatus::Unchanged),
        libc::CLD_TRAPPED | libc::CLD_STOPPED => {
            wait_id(tid, libc::WSTOPPED)?;
            Ok(WaitStatus::Stopped { signal: status & 0xff, event: status >> 8 })
        }
        _ => Ok(WaitStatus::Zombie),
    }
}

/// Reaps `tid` if it is a zombie. `false` while it is not one yet; `true` also where this process
/// may not wait for it any more, because somebody else has reaped it.
pub(crate) fn reap(tid: Tid) -> io::Result<bool> {
    Ok(wait_id(tid, libc::WEXITED)?.is_none_or(|(code, _)| code != 0))
}

/// Whether `tid`, which this process traces, is alive. Does not reap it.
pub(crate) fn is_alive(tid: Tid) -> bool {
    matches!(wait_id(tid, libc::WEXITED | libc::WNOWAIT), Ok(Some((0, _))))
}

/// Whether this process may wait for the task behind a pidfd, as its tracer or its parent, and the
/// task is alive.
pub(crate) fn is_waitable_and_alive(task: BorrowedFd<'_>) -> bool {
    let found = wait_for(libc::P_PIDFD, task.as_raw_fd() as u64, libc::WEXITED | libc::WNOWAIT);
    matches!(found, Ok(Some((0, _))))
}

fn wait_id(tid: Tid, what: i32) -> io::Result<Option<(i32, i32)>> {
    wait_for(libc::P_PID, tid as u64, what)
}

/// Calls `waitid` without blocking. Returns `si_code` (0 where there is nothing to report) and
/// `si_status`; `None` where this process may not wait for the task.
fn wait_for(kind: libc::idtype_t, number: u64, what: i32) -> io::Result<Option<(i32, i32)>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = (what | libc::WNOHANG | libc::__WALL) as u64;
    let arguments = [u64::from(kind), number, info.as_mut_ptr() as u64, options, 0, 0];
    // SAFETY: the kernel writes one siginfo to the local value.
    match unsafe { syscall(libc::SYS_waitid, arguments) } {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        Err(error) => return Err(error),
    }
    // SAFETY: all zeroes is a value of the type, and the kernel writes whole fields.
    let info = unsafe { info.assume_init() };
    // SAFETY: `waitid` fills in the variant of the union that has a status.
    Ok(Some((info.si_code, unsafe { info.si_status() })))
}
