//! What a stop does to a system call in progress (x86-64).
//!
//! A stop without a signal handler interrupts a sleeping call. Most calls are then restarted by the
//! kernel as if nothing had happened (-ERESTARTSYS and its kin; `nanosleep`, `poll` and `futex`
//! with the time that remains). Two kinds are not:
//!
//! - Some answer plain -EINTR (signal(7), "Interruption of system calls and library functions by
//!   stop signals"). Those for which nothing has been done by then are restarted by us: the answer
//!   is turned into -ERESTARTNOHAND, which restarts the call unless a handler runs, and only then
//!   answers EINTR, as it should. A relative time-out in such a call begins anew; where another
//!   thread can be stopped, it is.
//! - Some have moved bytes and would answer a short count: blocking writes, transfers between
//!   descriptors, receives that wait for all. A thread in such a call is not stopped.
//!
//! Calls that are not listed are taken to be of the second kind.

use crate::procfs::Doing;

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
    WAIT4, /* -ERESTARTSYS; what we make in the thread's name has no exit signal, and is
          * collected before the call is made again */
    WAITID, // likewise
    449,    // futex_waitv
    455,    // futex_wait
    READ,
    READV,
    ACCEPT,
    ACCEPT4,
    RECVFROM,
    RECVMSG,
    IO_PGETEVENTS,
];

/// Calls that answer -EINTR to a stop although nothing has been done: always, or (sockets) where a
/// time-out is set.
const ANSWERS_EINTR: &[i64] = &[
    CONNECT,  // of a socket with SO_SNDTIMEO: the connection in progress is waited for again
    READ,     // of a socket with SO_RCVTIMEO
    READV,    // likewise
    ACCEPT,   // likewise
    ACCEPT4,  // likewise
    RECVFROM, // likewise; a receive that has got something answers its count instead
    RECVMSG,  // likewise
    SEMOP,    // all operations or none
    SEMTIMEDOP,
    RT_SIGTIMEDWAIT,
    IO_GETEVENTS, // only where it has collected nothing
    IO_PGETEVENTS,
    EPOLL_WAIT,
    EPOLL_PWAIT,
    EPOLL_PWAIT2,
    IO_URING_ENTER, // only where it has submitted nothing
];

/// How a thread would take a stop right now; the greater, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stoppable {
    /// It sleeps in a call that a stop could cut short.
    No {
        /// The call's number.
        call: i64,
    },
    /// It runs; what it runs cannot be seen.
    Perhaps,
    /// It sleeps in a call that goes on, but whose time-out begins anew: one stop after the other
    /// would keep it from ever running out.
    Anew,
    /// It sleeps in a call that goes on as if nothing had happened.
    Unharmed,
}

/// Judges what a thread is doing.
pub(crate) fn judge(doing: &Doing) -> Stoppable {
    match *doing {
        // A page fault that is interrupted is taken again.
        Doing::Running | Doing::Asleep => Stoppable::Perhaps,
        Doing::Call { number, arguments } => {
            let waits_for_all = match number {
                RECVFROM => arguments[3] & MSG_WAITALL != 0,
                RECVMSG => arguments[2] & MSG_WAITALL != 0,
                // Having submitted something it answers how much, without waiting.
                IO_URING_ENTER => arguments[1] != 0,
                _ => false,
            };
            let restarts = RESTARTED.contains(&number) || ANSWERS_EINTR.contains(&number);
            match restarts && !waits_for_all {
                false => Stoppable::No { call: number },
                true if has_own_time_out(number, &arguments) => Stoppable::Anew,
                true => Stoppable::Unharmed,
            }
        }
    }
}

/// Whether a call that we have restarted has a relative time-out among its arguments. That of a
/// socket cannot be seen, and is rare.
fn has_own_time_out(number: i64, arguments: &[u64; 6]) -> bool {
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

/// Whether a thread waits for children of every kind, and so would see a task that we have another
/// thread of its process make.
pub(crate) fn waits_for_every_child(doing: &Doing) -> bool {
    const EVERY: u64 = (libc::__WALL | libc::__WCLONE) as u32 as u64;
    match *doing {
        Doing::Call { number: WAIT4, arguments } => arguments[2] & EVERY != 0,
        Doing::Call { number: WAITID, arguments } => arguments[3] & EVERY != 0,
        _ => false,
    }
}

/// The answer that a stopped call is to be given instead of `answer`, so that the kernel restarts
/// it unless a handler runs.
pub(crate) fn restartable_answer(call: i64, answer: i64) -> i64 {
    if answer == -EINTR && ANSWERS_EINTR.contains(&call) { -ERESTARTNOHAND } else { answer }
}

#[cfg(test)]
mod tests {
    use super::{
        Doing, EPOLL_WAIT, IO_URING_ENTER, MSG_WAITALL, READ, RECVFROM, SEMTIMEDOP, Stoppable,
        WAIT4, WAITID, judge, restartable_answer, waits_for_every_child,
    };

    fn call(number: i64, arguments: [u64; 6]) -> Stoppable {
        judge(&Doing::Call { number, arguments })
    }

    #[test]
    fn a_call_that_could_be_cut_short_is_not_stopped() {
        let write = 1;
        assert_eq!(call(write, [0; 6]), Stoppable::No { call: write });
        assert_eq!(call(RECVFROM, [0, 0, 0, MSG_WAITALL, 0, 0]), Stoppable::No { call: RECVFROM });
        assert_eq!(
            call(IO_URING_ENTER, [3, 1, 1, 1, 0, 0]),
            Stoppable::No { call: IO_URING_ENTER }
        );
        assert_eq!(call(9999, [0; 6]), Stoppable::No { call: 9999 });
        assert_eq!(call(RECVFROM, [0; 6]), Stoppable::Unharmed);
        assert_eq!(judge(&Doing::Running), Stoppable::Perhaps);
    }

    #[test]
    fn a_call_whose_time_out_begins_anew_is_second_best() {
        let forever = u64::from(u32::MAX);
        assert_eq!(call(EPOLL_WAIT, [3, 1, 1, 100, 0, 0]), Stoppable::Anew);
        assert_eq!(call(EPOLL_WAIT, [3, 1, 1, forever, 0, 0]), Stoppable::Unharmed);
        assert_eq!(call(SEMTIMEDOP, [0, 1, 1, 0x7fff_0000, 0, 0]), Stoppable::Anew);
        assert_eq!(call(SEMTIMEDOP, [0, 1, 1, 0, 0, 0]), Stoppable::Unharmed);
        assert_eq!(call(READ, [3, 1, 1, 1, 1, 1]), Stoppable::Unharmed);
        assert!(Stoppable::Unharmed > Stoppable::Anew && Stoppable::Anew > Stoppable::Perhaps);
    }

    #[test]
    fn a_wait_for_children_of_every_kind_is_recognised() {
        let waits = |number, arguments| waits_for_every_child(&Doing::Call { number, arguments });
        let every = libc::__WALL as u32 as u64;
        assert!(
            waits(WAIT4, [u64::MAX, 0, every, 0, 0, 0])
                && waits(WAITID, [0, 0, 0, every | 4, 0, 0])
        );
        assert!(
            !waits(WAIT4, [u64::MAX, 0, 0, 0, 0, 0]) && !waits(READ, [0, 0, every, every, 0, 0])
        );
        assert!(!waits_for_every_child(&Doing::Running));
    }

    #[test]
    fn only_a_listed_call_that_answers_eintr_is_restarted() {
        assert_eq!(restartable_answer(EPOLL_WAIT, -4), -514);
        assert_eq!(restartable_answer(EPOLL_WAIT, 1), 1);
        assert_eq!(restartable_answer(1, -4), -4, "write");
    }
}
