//! Calls that the target sleeps in while it is attached. Each answers its result and how long it
//! took.

use std::ptr;
use std::time::Instant;

use sva_sync::atomic::{AtomicBool, AtomicU32, Ordering};

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Answers `RESULT ERRNO MILLISECONDS`; the first line says that the call is about to be made.
fn timed(call: impl FnOnce() -> i64) -> String {
    super::say("begin");
    let begin = Instant::now();
    let result = call();
    let error =
        if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
    format!("{result} {error} {}", begin.elapsed().as_millis())
}

fn span(milliseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (milliseconds / 1000) as i64,
        tv_nsec: (milliseconds % 1000 * 1_000_000) as i64,
    }
}

pub(crate) fn respond(command: &str, argument: u64, second: u64) -> Option<String> {
    let time = span(argument);
    let milliseconds = if argument == 0 { -1 } else { argument as i32 };
    Some(match command {
        // SAFETY: the structure lives across the call.
        "nanosleep" => timed(|| unsafe { libc::nanosleep(&time, ptr::null_mut()) }.into()),
        "futex" => {
            let word = 0_u32;
            // SAFETY: as above.
            timed(|| unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    &raw const word,
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    0,
                    &raw const time,
                )
            })
        }
        "poll" => {
            let mut input = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
            // SAFETY: as above.
            timed(|| unsafe { libc::poll(&mut input, 1, milliseconds) }.into())
        }
        "epoll" => epoll(milliseconds),
        "sigtimedwait" => {
            // SAFETY: all zeroes is a set; it is then filled in.
            let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
            // SAFETY: as above.
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
            // SAFETY: as above.
            timed(|| unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &time) }.into())
        }
        "semop" => semaphore(argument),
        "recv" => receive(argument),
        "pause" => {
            handle(libc::SIGUSR1);
            // SAFETY: no arguments.
            timed(|| unsafe { libc::pause() }.into())
        }
        "wait" => wait_for_child(time),
        // The mask applies during the call only, and unblocks what is blocked otherwise.
        "sigsuspend" => suspend(),
        // One write of more than the pipe holds.
        "write" => big_write(argument as usize),
        "storm" => storm(argument as i32, second),
        // Runs until SIGTERM comes and counts the real-time signals.
        "count" => count_signals(),
        _ => return None,
    })
}

fn handle(signal: i32) {
    // SAFETY: all zeroes is an action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(i32) as usize;
    // SAFETY: the handler only counts.
    unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
}

/// Waits for a child that sleeps for a while. Answers 0 instead of the child's number.
fn wait_for_child(time: libc::timespec) -> String {
    // SAFETY: the child makes two system calls and no other.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::nanosleep(&time, ptr::null_mut()) };
        // SAFETY: as above.
        unsafe { libc::_exit(7) };
    }
    let mut status = 0;
    timed(|| {
        // SAFETY: the status lives across the call.
        let found = unsafe { libc::waitpid(child, &mut status, 0) };
        if found == child && libc::WEXITSTATUS(status) == 7 { 0 } else { found.into() }
    })
}

fn epoll(milliseconds: i32) -> String {
    // SAFETY: takes a number only.
    let queue = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: the event lives across the call.
    unsafe { libc::epoll_ctl(queue, libc::EPOLL_CTL_ADD, 0, &mut event) };
    // SAFETY: as above.
    let answer = timed(|| unsafe { libc::epoll_wait(queue, &mut event, 1, milliseconds) }.into());
    // SAFETY: opened above.
    unsafe { libc::close(queue) };
    answer
}

fn semaphore(milliseconds: u64) -> String {
    let time = span(milliseconds);
    // SAFETY: takes numbers only.
    let set = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    let mut down = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    // SAFETY: the operation lives across the call.
    let answer = timed(|| unsafe {
        libc::syscall(libc::SYS_semtimedop, set, &raw mut down, 1, &raw const time)
    });
    // SAFETY: takes numbers only.
    unsafe { libc::semctl(set, 0, libc::IPC_RMID) };
    answer
}

/// Receives from a socket with a time-out, to which nothing is sent.
fn receive(milliseconds: u64) -> String {
    let mut ends = [0; 2];
    // SAFETY: writes two numbers.
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()) };
    let time = libc::timeval { tv_sec: 0, tv_usec: (milliseconds * 1000) as i64 };
    let length = size_of::<libc::timeval>() as u32;
    // SAFETY: the time lives across the call.
    unsafe {
        libc::setsockopt(
            ends[0],
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const time).cast(),
            length,
        )
    };
    let mut byte = 0_u8;
    // SAFETY: the byte lives across the call.
    timed(|| unsafe { libc::recv(ends[0], (&raw mut byte).cast(), 1, 0) } as i64)
}

fn suspend() -> String {
    handle(libc::SIGUSR1);
    // SAFETY: all zeroes is a set.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut blocked = empty;
    // SAFETY: writes to the set.
    unsafe { libc::sigaddset(&mut blocked, libc::SIGUSR1) };
    // SAFETY: reads the set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &blocked, ptr::null_mut()) };
    // SAFETY: reads the set.
    let answer = timed(|| unsafe { libc::sigsuspend(&empty) }.into());
    let mut after = empty;
    // SAFETY: writes to the set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &empty, &mut after) };
    // SAFETY: reads the set.
    let still_blocked = unsafe { libc::sigismember(&after, libc::SIGUSR1) };
    format!("{answer} {still_blocked}")
}

fn big_write(length: usize) -> String {
    let bytes = vec![b'x'; length - 1].into_iter().chain([b'\n']).collect::<Vec<u8>>();
    // SAFETY: the bytes live across the call.
    timed(|| unsafe { libc::write(1, bytes.as_ptr().cast(), length) } as i64)
}

fn count_signals() -> String {
    static ENOUGH: AtomicBool = AtomicBool::new(false);
    extern "C" fn enough(_: i32) {
        ENOUGH.store(true, Ordering::Relaxed);
    }
    handle(libc::SIGRTMIN());
    // SAFETY: the handler only sets a flag.
    unsafe { libc::signal(libc::SIGTERM, enough as extern "C" fn(i32) as usize) };
    super::say("begin");
    let mut spins = 0_u64;
    while !ENOUGH.load(Ordering::Relaxed) {
        spins = std::hint::black_box(spins + 1);
    }
    format!("{}", SIGNALS.load(Ordering::Relaxed))
}

/// Sends real-time signals; a full queue is tried again.
fn storm(pid: i32, signals: u64) -> String {
    for _ in 0..signals {
        // SAFETY: takes numbers only.
        while unsafe { libc::kill(pid, libc::SIGRTMIN()) } != 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    "sent".into()
}
