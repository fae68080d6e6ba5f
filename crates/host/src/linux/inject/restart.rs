//! What a stop does to a system call in progress (x86-64).
//!
//! A stop without a signal handler interrupts a sleeping call. The kernel restarts most calls as
//! if nothing had happened (-ERESTARTSYS and its relatives; `nanosleep`, `poll` and `futex` with
//! the remaining time). Two kinds it does not restart:
//!
//! - Some calls return plain -EINTR (signal(7), "Interruption of system calls and library functions
//!   by stop signals"). Where such a call has done nothing by then, this crate restarts it: it
//!   changes the result to -ERESTARTNOHAND. The kernel then restarts the call unless a handler
//!   runs, and returns EINTR only if one does, as it should. A relative time-out of such a call
//!   starts again; if another thread can be stopped, that one is.
//! - Some calls have moved bytes and would return a short count: blocking writes, transfers between
//!   descriptors, receives that wait for all data. A thread in such a call is not stopped.
//!
//! A call that is not listed here counts as the second kind.

use crate::linux::procfs::SyscallState;

const EINTR: i64 = 4;
const ERESTARTNOHAND: i64 = 514;

const READ: i64 = 0;
const READV: i64 = 19;
const CONNECT: i64 = 42;
const ACCEPT: i64 = 43;
const RECVFROM: i64 = 45;
const RECVMSG: i64 = 47;
const WAIT4: i64 = 61;
const SEMOP: i64 = 65;
const RT_SIGTIMEDWAIT: i64 = 128;
const IO_GETEVENTS: i64 = 208;
const SEMTIMEDOP: i64 = 220;
const EPOLL_WAIT: i64 = 232;
const WAITID: i64 = 247;
const EPOLL_PWAIT: i64 = 281;
const ACCEPT4: i64 = 288;
const IO_PGETEVENTS: i64 = 333;
const IO_URING_ENTER: i64 = 426;
const EPOLL_PWAIT2: i64 = 441;

const MSG_WAITALL: u64 = 0x100;

/// Calls that the kernel itself restarts after a stop.
const RESTARTED: &[i64] = &[
    2,   // open (of a FIFO)
    7,   // poll
    23,  // select
    34,  // pause
    35,  // nanosleep
    42,  // connect: a connection in progress is waited for again
    69,  // msgsnd
    70,  // msgrcv
    72,  // fcntl (F_SETLKW)
    73,  // flock
    130, // rt_sigsuspend
    202, // futex
    219, // restart_syscall: one of these, after an earlier stop
    230, // clock_nanosleep
    240, // mq_open
    242, // mq_timedsend
    243, // mq_timedreceive
    257, // openat (of a FIFO)
    270, // pselect6
    271, // ppoll
    318, // getrandom
    437, // openat2
    // -ERESTARTSYS. The task that this crate makes in the thread's name has no exit signal, and is
    // reaped before the call is made again.
    WAIT4,
    WAITID,
    449, // futex_waitv
    455, // futex_wait
    READ,
    READV,
    ACCEPT,
    ACCEPT4,
    RECVFROM,
    RECVMSG,
    IO_PGETEVENTS,
];

/// Calls that return -EINTR after a stop although they have done nothing: always, or (sockets)
/// where a time-out is set.
const RETURNS_EINTR: &[i64] = &[
    CONNECT,  // on a socket with SO_SNDTIMEO: the connection in progress is waited for again
    READ,     // on a socket with SO_RCVTIMEO
    READV,    // likewise
    ACCEPT,   // likewise
    ACCEPT4,  // likewise
    RECVFROM, // likewise; a receive that has data returns its count instead
    RECVMSG,  // likewise
    SEMOP,    // does all operations or none
    SEMTIMEDOP,
    RT_SIGTIMEDWAIT,
    IO_GETEVENTS, // only where it has no events yet
    IO_PGETEVENTS,
    EPOLL_WAIT,
    EPOLL_PWAIT,
    EPOLL_PWAIT2,
    IO_URING_ENTER, // only where it has submitted nothing
];

/// What a stop would do to a thread at this moment. A greater value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Interruption {
    /// It sleeps in a call whose result could change.
    ChangesResult {
        /// The call's number.
        call: i64,
    },
    /// It runs; whether it is in a call cannot be seen.
    Unknown,
    /// It sleeps in a call that is restarted with its full time-out. Frequent stops would keep the
    /// time-out from expiring.
    RestartsTimeout,
    /// It sleeps in a call that continues as if nothing had happened.
    Harmless,
}

/// What a stop would do to a thread that is doing this.
pub(crate) fn interruption(doing: &SyscallState) -> Interruption {
    match *doing {
        // An interrupted page fault is taken again.
        SyscallState::Running | SyscallState::AsleepOutside => Interruption::Unknown,
        SyscallState::AsleepIn { number, arguments } => {
            let waits_for_all = match number {
                RECVFROM => arguments[3] & MSG_WAITALL != 0,
                RECVMSG => arguments[2] & MSG_WAITALL != 0,
                // If it has submitted something, it returns how much without waiting.
                IO_URING_ENTER => arguments[1] != 0,
                _ => false,
            };
            let restarts = RESTARTED.contains(&number) || RETURNS_EINTR.contains(&number);
            match restarts && !waits_for_all {
                false => Interruption::ChangesResult { call: number },
                true if has_timeout_argument(number, &arguments) => Interruption::RestartsTimeout,
                true => Interruption::Harmless,
            }
        }
    }
}

/// Whether a call that this crate restarts has a relative time-out among its arguments. The
/// time-out of a socket cannot be seen, and is rare.
fn has_timeout_argument(number: i64, arguments: &[u64; 6]) -> bool {
    const IORING_ENTER_EXT_ARG: u64 = 1 << 3;
    match number {
        EPOLL_WAIT | EPOLL_PWAIT => arguments[3] as i32 > 0,
        EPOLL_PWAIT2 | SEMTIMEDOP => arguments[3] != 0,
        RT_SIGTIMEDWAIT => arguments[2] != 0,
        IO_GETEVENTS | IO_PGETEVENTS => arguments[4] != 0,
        IO_URING_ENTER => arguments[3] & IORING_ENTER_EXT_ARG != 0,
        _ => false,
    }
}

/// Whether a thread waits for children of every kind. It would see a task that is made in the name
/// of another thread of its process.
pub(crate) fn waits_for_every_child(doing: &SyscallState) -> bool {
    const EVERY: u64 = (libc::__WALL | libc::__WCLONE) as u32 as u64;
    match *doing {
        SyscallState::AsleepIn { number: WAIT4, arguments } => arguments[2] & EVERY != 0,
        SyscallState::AsleepIn { number: WAITID, arguments } => arguments[3] & EVERY != 0,
        _ => false,
    }
}

/// The result to give to a stopped call instead of `result`, so that the kernel restarts the call
/// unless a handler runs.
pub(super) fn restartable_result(call: i64, result: i64) -> i64 {
    if result == -EINTR && RETURNS_EINTR.contains(&call) { -ERESTARTNOHAND } else { result }
}

#[cfg(test)]
mod tests {
    use super::{
        EPOLL_WAIT, IO_URING_ENTER, Interruption, MSG_WAITALL, READ, RECVFROM, SEMTIMEDOP,
        SyscallState, WAIT4, WAITID, interruption, restartable_result, waits_for_every_child,
    };

    fn call(number: i64, arguments: [u64; 6]) -> Interruption {
        interruption(&SyscallState::AsleepIn { number, arguments })
    }

    #[test]
    fn a_call_that_could_be_cut_short_is_not_stopped() {
        let write = 1;
        assert_eq!(call(write, [0; 6]), Interruption::ChangesResult { call: write });
        assert_eq!(
            call(RECVFROM, [0, 0, 0, MSG_WAITALL, 0, 0]),
            Interruption::ChangesResult { call: RECVFROM }
        );
        assert_eq!(
            call(IO_URING_ENTER, [3, 1, 1, 1, 0, 0]),
            Interruption::ChangesResult { call: IO_URING_ENTER }
        );
        assert_eq!(call(9999, [0; 6]), Interruption::ChangesResult { call: 9999 });
        assert_eq!(call(RECVFROM, [0; 6]), Interruption::Harmless);
        assert_eq!(interruption(&SyscallState::Running), Interruption::Unknown);
    }

    #[test]
    fn a_call_whose_time_out_starts_again_is_second_best() {
        let forever = u64::from(u32::MAX);
        assert_eq!(call(EPOLL_WAIT, [3, 1, 1, 100, 0, 0]), Interruption::RestartsTimeout);
        assert_eq!(call(EPOLL_WAIT, [3, 1, 1, forever, 0, 0]), Interruption::Harmless);
        assert_eq!(call(SEMTIMEDOP, [0, 1, 1, 0x7fff_0000, 0, 0]), Interruption::RestartsTimeout);
        assert_eq!(call(SEMTIMEDOP, [0, 1, 1, 0, 0, 0]), Interruption::Harmless);
        assert_eq!(call(READ, [3, 1, 1, 1, 1, 1]), Interruption::Harmless);
        assert!(
            Interruption::Harmless > Interruption::RestartsTimeout
                && Interruption::RestartsTimeout > Interruption::Unknown
        );
    }

    #[test]
    fn a_wait_for_children_of_every_kind_is_recognised() {
        let waits = |number, arguments| {
            waits_for_every_child(&SyscallState::AsleepIn { number, arguments })
        };
        let every = libc::__WALL as u32 as u64;
        assert!(
            waits(WAIT4, [u64::MAX, 0, every, 0, 0, 0])
                && waits(WAITID, [0, 0, 0, every | 4, 0, 0])
        );
        assert!(
            !waits(WAIT4, [u64::MAX, 0, 0, 0, 0, 0]) && !waits(READ, [0, 0, every, every, 0, 0])
        );
        assert!(!waits_for_every_child(&SyscallState::Running));
    }

    #[test]
    fn only_a_listed_call_that_answers_eintr_is_restarted() {
        assert_eq!(restartable_result(EPOLL_WAIT, -4), -514);
        assert_eq!(restartable_result(EPOLL_WAIT, 1), 1);
        assert_eq!(restartable_result(1, -4), -4, "write");
    }
}
