//! A program that attaches while it has no descriptor to spare. A program of its own, since the limit is the whole program's.

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Target, until};
use sva_core::sync::atomic::{AtomicBool, Ordering::SeqCst};

fn wait(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {}
}

/// Takes all descriptors that are left, again and again.
fn hoard(over: &AtomicBool) {
    while !over.load(SeqCst) {
        let hoard: Vec<OwnedFd> = std::iter::from_fn(|| std::io::stdin().as_fd().try_clone_to_owned().ok()).collect();
        wait(Duration::from_micros(20));
        drop(hoard);
        wait(Duration::from_micros(80));
    }
}

#[test]
fn a_program_without_descriptors_to_spare_harms_no_process() {
    // shows U9
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
