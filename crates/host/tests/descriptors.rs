//! A program that attaches while it has no descriptor to spare. A program of its own, since the
//! limit is the whole program's.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Target, until};
use sva_core::{Access, AddressSpace, StopCause};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, Ordering::SeqCst};

/// All tests in this file share the limit.
static LIMIT: Mutex<()> = Mutex::new(());

fn wait(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {}
}

/// Takes all descriptors that are left, again and again.
fn hoard(over: &AtomicBool) {
    while !over.load(SeqCst) {
        let hoard: Vec<OwnedFd> =
            std::iter::from_fn(|| std::io::stdin().as_fd().try_clone_to_owned().ok()).collect();
        wait(Duration::from_micros(20));
        drop(hoard);
        wait(Duration::from_micros(80));
    }
}

#[test]
fn a_program_without_descriptors_to_spare_harms_no_process() {
    // shows U9
    let _alone = LIMIT.lock();
    let mut target = Target::start("serve");
    let old = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(40), ..old };
    let (mut attached, mut refused) = (0, 0);
    for round in 0..100 {
        let over = AtomicBool::new(false);
        setrlimit(Resource::Nofile, few).unwrap();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| hoard(&over));
            wait(Duration::from_micros(round % 100));
            let result = sva_host::attach(target.pid());
            over.store(true, SeqCst);
            result
        });
        setrlimit(Resource::Nofile, old).unwrap();
        if result.is_ok() {
            attached += 1
        } else {
            refused += 1
        }
        drop(result);
        assert_eq!(target.ask("reap-any"), "-1 10", "round {round}");
        until("it is let go", || target.status("TracerPid") == "0");
    }
    println!("{attached} attached, {refused} refused");
}

#[test]
fn a_program_without_descriptors_does_not_take_a_living_space_for_ended() {
    // shows U7, U4
    let _alone = LIMIT.lock();
    // The leader exits and a thread keeps the memory, so the monitor has to search for a member.
    let mut target = Target::start("serve");
    let space = target.attach();
    let witness = support::Witness::of(&space);
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..old }).unwrap();
    assert_eq!(target.ask("leader-exit"), "leader dead");
    wait(Duration::from_millis(300));
    let told = witness.told.lock().len();
    setrlimit(Resource::Nofile, old).unwrap();
    assert_eq!(told, 0, "a thread has it still");
    wait(Duration::from_millis(100));
    assert!(space.ended().is_none());
    target.child.kill().unwrap();
    assert_eq!(witness.end().0, sva_core::EndReason::Exited);
}

#[test]
fn a_page_that_cannot_be_looked_at_for_want_of_descriptors_is_no_fault_of_the_process() {
    // shows T1, F5: the call that failed is named
    let _alone = LIMIT.lock();
    let mut target = Target::start("serve");
    let at = target.map("private", 4096);
    let space = target.attach();
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..old }).unwrap();
    let translated = space.translate(at, false).map(drop);
    let resolved = space.resolve(at, Access::WRITE);
    let read = space.resolve(at, Access::READ);
    setrlimit(Resource::Nofile, old).unwrap();
    for failed in [translated, resolved] {
        let failed = failed.expect_err("there is none to open maps with");
        assert!(
            matches!(&failed, StopCause::Host(failure) if failure.call == "read /proc/PID/maps"),
            "{failed}"
        );
    }
    read.expect("it needs none");
    assert!(space.ended().is_none());
    space.translate(at, false).unwrap();
}
