//! Tasks of the target: threads, and children made by fork, vfork and CLONE_VM.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use sva_sync::atomic::AtomicU8;

thread_local! {
    /// The pipes to a forked child that serves commands too.
    static CHILD: RefCell<Option<(File, BufReader<File>)>> = const { RefCell::new(None) };
}

/// Answers each line of standard input.
pub(crate) fn serve_lines(respond: impl Fn(&str) -> String) {
    for line in super::lines() {
        super::say(&respond(&line));
    }
}

pub(crate) fn respond(command: &str, arguments: &[&str]) -> Option<String> {
    Some(match command {
        "fork" => fork_server(),
        "child" => tell_child(&arguments.join(" ")),
        "thread" => {
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
            "done".into()
        }
        // Runs another command on a thread of its own, which answers when it is done.
        "aside" => {
            let command = arguments.join(" ");
            std::thread::spawn(move || super::say(&super::respond(&command)));
            "aside".into()
        }
        // The leader exits, and another thread continues.
        "leader-exit" => leader_exit(),
        // A restartable sequence that never ends by itself.
        "rseq" => super::sequence::run(arguments.first().and_then(|n| n.parse().ok()).unwrap_or(0)),
        "exec-by-thread" => std::thread::spawn(|| super::exec("serve")).join().unwrap_or_default(),
        // Makes a process with the same memory, which waits for ever.
        "clone-vm" => format!("{}", clone_sleeper(libc::CLONE_VM | libc::SIGCHLD)),
        // The same by vfork: this thread waits until it has gone.
        "vfork" => format!("{}", clone_sleeper(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD)),
        "wait-loop" => {
            let options = if arguments.contains(&"plain") { 0 } else { libc::__WALL };
            wait_loop(arguments.first().and_then(|n| n.parse().ok()).unwrap_or(1), options)
        }
        "reap-any" => reap_any(),
        "subreaper" => {
            // SAFETY: takes numbers only.
            format!("{}", unsafe {
                libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_u64, 0_u64, 0_u64, 0_u64)
            })
        }
        // Starts a thread that reaps any child, as fast as it can.
        "thief" => {
            std::thread::spawn(|| {
                loop {
                    // SAFETY: writes nothing.
                    unsafe {
                        libc::waitpid(
                            -1,
                            std::ptr::null_mut(),
                            libc::__WALL | libc::WNOHANG | libc::WUNTRACED,
                        )
                    };
                }
            });
            "done".into()
        }
        // Starts a thread that closes what other threads open, as fast as it can.
        "closer" => {
            // The lowest free number: nobody here uses the numbers above it.
            let first = File::open("/dev/null").map_or(i32::MAX, |file| file.as_raw_fd()) as u32;
            let pause = std::time::Duration::from_micros(
                arguments.first().and_then(|n| n.parse().ok()).unwrap_or(0),
            );
            std::thread::spawn(move || {
                loop {
                    // SAFETY: takes numbers only. Nobody relies on a descriptor that is opened from
                    // now on.
                    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) };
                    std::thread::sleep(pause);
                }
            });
            "done".into()
        }
        "trace" => {
            let pid: i32 = arguments.first().and_then(|n| n.parse().ok()).unwrap_or(0);
            // SAFETY: takes numbers only.
            format!("{}", unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0_u64, 0_u64) })
        }
        "unshare-pid" => {
            // SAFETY: takes a number only.
            format!("{}", unsafe { libc::unshare(libc::CLONE_NEWPID) })
        }
        "dumpable" | "undumpable" => {
            let on = u64::from(command == "dumpable");
            // SAFETY: takes numbers only.
            format!("{}", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, on, 0_u64, 0_u64, 0_u64) })
        }
        "seccomp" => allow_all_filter(),
        "dispatch" => dispatch_own_calls(),
        "setuid" => {
            let user = arguments.first().and_then(|n| n.parse().ok()).unwrap_or(65534);
            // SAFETY: takes a number only.
            format!("{}", unsafe { libc::setuid(user) })
        }
        _ => return None,
    })
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: writes two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: fresh descriptors that nobody else owns.
    let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    (read, write)
}

fn fork_server() -> String {
    let (commands, to_child) = pipe();
    let (from_child, answers) = pipe();
    // SAFETY: the process has one thread here.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop((to_child, from_child));
        let mut out = File::from(answers);
        for line in BufReader::new(File::from(commands)).lines().map_while(Result::ok) {
            let _ = writeln!(out, "{}", super::respond(&line));
        }
        std::process::exit(0);
    }
    CHILD.set(Some((to_child.into(), BufReader::new(from_child.into()))));
    format!("{child}")
}

fn tell_child(line: &str) -> String {
    CHILD.with_borrow_mut(|child| {
        let Some((commands, answers)) = child else { return "no child".into() };
        let mut answer = String::new();
        let _ = writeln!(commands, "{line}");
        let _ = answers.read_line(&mut answer);
        answer.trim_end().to_owned()
    })
}

fn leader_exit() -> String {
    std::thread::spawn(|| {
        // Until the leader is dead.
        while std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|text| !text.contains("State:\tZ"))
        {
            std::thread::yield_now();
        }
        super::say("leader dead");
        serve_lines(super::respond);
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    });
    // SAFETY: ends this thread only; what it holds is never used again.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

fn clone_sleeper(flags: i32) -> i32 {
    extern "C" fn sleep(_: *mut libc::c_void) -> i32 {
        loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        }
    }
    let stack = Box::leak(vec![0_u128; 4096].into_boxed_slice());
    // SAFETY: the stack is leaked and used by the new task only, which makes system calls only.
    unsafe { libc::clone(sleep, stack.as_mut_ptr_range().end.cast(), flags, std::ptr::null_mut()) }
}

/// Makes children one after the other and waits for any child of any kind. It must see only its
/// own.
fn wait_loop(rounds: u32, options: i32) -> String {
    for round in 0..rounds {
        // SAFETY: the process has one thread here; the child only exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit((round % 100) as i32) };
        }
        let mut status = 0;
        // SAFETY: writes the status to a local.
        let waited = unsafe { libc::waitpid(-1, &mut status, options) };
        if waited != child || libc::WEXITSTATUS(status) != (round % 100) as i32 {
            return format!("round {round}: child {child}, waited {waited}, status {status:#x}");
        }
    }
    // SAFETY: writes nothing.
    let waited = unsafe { libc::waitpid(-1, std::ptr::null_mut(), options | libc::WNOHANG) };
    format!("{waited} {}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Whether there is any child.
fn reap_any() -> String {
    // SAFETY: writes nothing.
    let waited = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
    format!("{waited} {}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Enables syscall user dispatch with a selector byte that always allows the call.
fn dispatch_own_calls() -> String {
    const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
    static SELECTOR: AtomicU8 = AtomicU8::new(0);
    // SAFETY: the kernel reads the byte at each call from now on; it is never freed.
    format!("{}", unsafe {
        libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, 1_u64, 0_u64, 0_u64, &raw const SELECTOR)
    })
}

fn allow_all_filter() -> String {
    let allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };
    let program = libc::sock_fprog { len: 1, filter: &raw const allow as *mut _ };
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) };
    // SAFETY: the program and its one instruction live across the call.
    format!("{}", unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, 2_u64, &raw const program, 0_u64, 0_u64)
    })
}
