//! Everything at once, at random, for a bounded number of rounds.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Target, Witness, numbers, read, status, traced_by, until, write};
use sva_core::{AddressSpace, StopCause};
use sva_host::{AttachError, HostSpace};
use sva_sync::atomic::{AtomicU32, Ordering};

const ROUNDS: u32 = 25;

/// Attaches, reads and drops handles until it is told to stop. Returns the spaces that it still
/// has.
fn attacker(
    pid: Arc<AtomicU32>,
    canary: Arc<sva_sync::atomic::AtomicU64>,
    seed: u64,
) -> Vec<Arc<HostSpace>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kept: Vec<Arc<HostSpace>> = Vec::new();
    loop {
        let target = pid.load(Ordering::SeqCst);
        if target == 0 {
            return kept;
        }
        match sva_host::attach(target) {
            Ok(space) => {
                let at = canary.load(Ordering::SeqCst);
                match read(&*space, at, 8) {
                    Ok(bytes) => assert_eq!(bytes, [0xc5; 8], "seed {seed}"),
                    // The image has another layout, or the process has gone.
                    Err(stopped) => {
                        assert!(!matches!(stopped.cause, StopCause::Host(_)), "{stopped}")
                    }
                }
                if random.bool() {
                    kept.push(space);
                }
                if kept.len() > 3 {
                    kept.swap_remove(random.usize(..kept.len()));
                }
            }
            Err(
                AttachError::Gone { .. }
                | AttachError::NoSuchProcess { .. }
                | AttachError::Zombie { .. }
                | AttachError::Busy { .. }
                | AttachError::NoSyscallInstruction { .. }
                | AttachError::DidNotStop { .. },
            ) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

#[test]
fn attaches_that_race_exec_exit_stop_and_kill_end_well() {
    // shows U4, U7, B5
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..ROUNDS {
        let mut target = Target::start("fixed");
        for _ in 0..random.u32(..3) {
            target.ask("thread");
        }
        let (pid, canary) = (
            Arc::new(AtomicU32::new(target.pid())),
            Arc::new(sva_sync::atomic::AtomicU64::new(target.canary)),
        );
        let attackers: Vec<_> = (0..3)
            .map(|_| {
                let (pid, canary, seed) = (pid.clone(), canary.clone(), random.u64(..));
                std::thread::spawn(move || attacker(pid, canary, seed))
            })
            .collect();
        for _ in 0..random.u32(1..8) {
            std::thread::sleep(Duration::from_micros(random.u64(..3000)));
            disturb(&mut target, &mut random);
        }
        assert_eq!(target.peek(target.canary, 4096), vec![0xc5; 4096], "seed {seed}");
        let last = target.attach();
        let witness = Witness::of(&last);
        target.child.kill().unwrap();
        std::thread::sleep(Duration::from_micros(random.u64(..2000)));
        target.child.wait().unwrap();
        pid.store(0, Ordering::SeqCst);
        let kept: Vec<_> =
            attackers.into_iter().flat_map(|attacker| attacker.join().unwrap()).collect();
        witness.end();
        for space in kept {
            until("ended", || space.ended().is_some());
            assert!(matches!(
                write(&*space, canary.load(Ordering::SeqCst), &[0]).unwrap_err().cause,
                StopCause::Ended
            ));
        }
    }
    let own = std::process::id();
    until("no anchor is left", || traced_by(own).is_empty());
    assert!(
        numbers("/proc").into_iter().all(|task| status(task, "PPid") != own.to_string()),
        "no child is left"
    );
}

fn disturb(target: &mut Target, random: &mut fastrand::Rng) {
    match random.u32(..6) {
        0 => {
            target.tell("exec");
            target.ready();
        }
        1 => {
            target.tell("exec-by-thread");
            target.ready();
        }
        2 => {
            target.signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(random.u64(..2000)));
            target.signal(libc::SIGCONT);
        }
        // Without `__WALL`, by which its threads could see the intermediate task.
        3 => assert_eq!(target.ask("wait-loop 20 plain"), "-1 10"),
        4 => _ = target.ask("thread"),
        _ => _ = target.map("private", 1 << 20),
    }
}
