//! The tracer process never allocates: it has the thread-local storage and the heap of a program
//! whose threads may be dead, with locks that nobody will release.
//!
//! The allocator of this program ends any process but the program itself that calls it. A tracer
//! process that ends so fails its attach.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(unsafe_code, reason = "an allocator of its own")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::time::{Duration, Instant};

use support::{Target, read, until};
use sva_host::{AttachError, attach};
use sva_sync::atomic::{AtomicU32, Ordering::SeqCst};

struct OfOneProcess;

/// The process that may allocate; 0 for any.
static PROGRAM: AtomicU32 = AtomicU32::new(0);

const MESSAGE: &str = "allocated where nothing may be allocated\n";
const STATUS: i32 = 99;

fn check() {
    let program = PROGRAM.load(SeqCst);
    if program != 0 && program != std::process::id() {
        // SAFETY: the message is that long.
        unsafe { libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
        // SAFETY: ends the process.
        unsafe { libc::_exit(STATUS) };
    }
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for OfOneProcess {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        check();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: OfOneProcess = OfOneProcess;

/// Attaches while `disturb` runs on a thread of its own. The tracer process must not end before its
/// work is done.
fn attach_while(target: &Target, disturb: impl FnOnce() + Send) -> Result<(), AttachError> {
    let result = std::thread::scope(|scope| {
        scope.spawn(disturb);
        attach(target.pid())
    });
    if let Err(error) = &result {
        assert!(!error.to_string().contains("tracer process"), "it ended before its time: {error}");
    }
    result.map(drop)
}

fn wait(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {}
}

#[test]
fn the_tracer_process_never_allocates() {
    // shows U9
    PROGRAM.store(std::process::id(), SeqCst);
    the_allocator_sees_another_process();

    let mut target = Target::start("serve");
    for _ in 0..20 {
        let space = target.attach();
        assert_eq!(read(&*space, target.canary, 1).unwrap(), [0xc5]);
    }

    // Refused while the thread is stopped.
    assert_eq!(target.ask("subreaper"), "0");
    assert!(matches!(attach(target.pid()), Err(AttachError::AdoptsOrphans { .. })));
    let mut target = Target::start("serve");
    if target.ask("dispatch") == "0" {
        assert!(matches!(attach(target.pid()), Err(AttachError::SyscallUserDispatch { .. })));
        assert_eq!(target.ask("reap-any"), "-1 10");
    }

    // The target is killed, or replaced by exec, or stopped, at any moment.
    let (mut failed, mut attached) = (0, 0);
    let mut count =
        |result: Result<(), AttachError>| if result.is_ok() { attached += 1 } else { failed += 1 };
    for round in 0..40 {
        let moment = Duration::from_micros(round * 25 + 100);
        let target = Target::start("serve");
        count(attach_while(&target, || {
            wait(moment);
            target.signal(libc::SIGKILL);
        }));
        let mut target = Target::start("serve");
        target.tell("exec-by-thread");
        count(attach_while(&target, || wait(moment)));
        target.ready();
        // What was made in the name of a thread that an exec kills that moment may be left to the
        // new image: see docs/design/host.md.
        target.ask("reap-any");
        count(attach_while(&target, || {
            for _ in 0..10 {
                target.signal(libc::SIGSTOP);
                target.signal(libc::SIGCONT);
            }
        }));
        until("it goes on", || target.status("State").starts_with('S'));
        assert_eq!(target.ask("reap-any"), "-1 10", "round {round}");
    }
    println!("{attached} attached, {failed} failed");
}

/// Without this the rest of the test would show nothing.
fn the_allocator_sees_another_process() {
    // SAFETY: the child does what it is to be caught at, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(std::hint::black_box(Box::new(1)));
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: writes the status to a local.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), STATUS);
}
