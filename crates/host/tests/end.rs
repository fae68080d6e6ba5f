//! The end of a space: noticed by itself, told once, and final.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::time::{Duration, Instant};

use support::{PATIENCE, Target, Witness, numbers, read, traced_by, until, write};
use sva_core::{AddressSpace, EndReason, StopCause};
use sva_sync::atomic::Ordering;

/// An end is noticed within 100 ms (U4). The slack is for a test machine that is busy.
const BOUND: Duration = Duration::from_millis(100);
const SLACK: Duration = Duration::from_millis(900);

fn assert_in_time(from: Instant, told: Instant) {
    let took = told.saturating_duration_since(from);
    assert!(took < BOUND + SLACK, "told after {took:?}");
}

#[test]
fn the_exec_of_an_idle_process_is_noticed_in_time() {
    // shows U4, U7
    let mut target = Target::start("serve");
    let space = target.attach();
    let witness = Witness::of(&space);
    target.tell("exec");
    target.ready();
    let from = Instant::now();
    let (reason, told) = witness.end();
    assert_eq!(reason, EndReason::Execed);
    assert_in_time(from, told);
    until("the handler has run", || witness.ran.load(Ordering::SeqCst) == 1);
    assert_eq!(space.ended(), Some(EndReason::Execed));
    let anew = target.attach();
    assert_ne!(anew.id(), space.id(), "the new image is another space");
    assert!(anew.ended().is_none());
}

#[test]
fn the_exit_of_an_idle_process_is_noticed_in_time() {
    // shows U4, U7
    let mut target = Target::start("serve");
    let space = target.attach();
    let witness = Witness::of(&space);
    let from = Instant::now();
    // It stays a zombie: nobody has waited for it yet.
    target.tell("exit");
    let (reason, told) = witness.end();
    assert_eq!(reason, EndReason::Exited);
    assert_in_time(from, told);
    until("the handler has run", || witness.ran.load(Ordering::SeqCst) == 1);
    until("no anchor is left", || {
        traced_by(std::process::id())
            .iter()
            .all(|&task| !shares_anchor(&format!("{space:?}"), task))
    });
}

fn shares_anchor(space: &str, task: u32) -> bool {
    space.contains(&format!("Some({task})"))
}

#[test]
fn a_killed_process_ends_its_space() {
    // shows U4
    let mut target = Target::start("serve");
    let space = target.attach();
    let witness = Witness::of(&space);
    target.child.kill().unwrap();
    target.child.wait().unwrap();
    assert_eq!(witness.end().0, EndReason::Exited);
}

#[test]
fn exec_by_a_thread_that_is_not_the_leader_ends_the_space() {
    // shows U7
    let mut target = Target::start("serve");
    let at = target.map("private", 4096);
    let space = target.attach();
    let witness = Witness::of(&space);
    write(&*space, at, &[1]).unwrap();
    target.tell("exec-by-thread");
    target.ready();
    assert_eq!(witness.end().0, EndReason::Execed);
}

#[test]
fn no_access_succeeds_after_the_end() {
    // shows U4
    let mut target = Target::start("serve");
    let at = target.map("private", 4096);
    let space = target.attach();
    target.tell("exit");
    until("ended", || space.ended().is_some());
    for stopped in [read(&*space, at, 8).unwrap_err(), write(&*space, at, &[0; 8]).unwrap_err()] {
        assert!(matches!(stopped.cause, StopCause::Ended) && stopped.done == 0, "{stopped}");
    }
    assert!(space.watch(Witness::of_nothing()).is_err());
    assert!(space.regions().is_err());
    assert_eq!(
        space.mapped_within(&[sva_core::AddrRange::inclusive(0, u64::MAX).unwrap()]).unwrap(),
        []
    );
}

#[test]
fn a_watch_that_was_taken_back_is_not_told() {
    // shows U2
    let mut target = Target::start("serve");
    let space = target.attach();
    let (told, untold) = (Witness::of(&space), Witness::of_nothing());
    let token = space.watch(untold.clone()).unwrap();
    space.unwatch(token);
    target.tell("exit");
    told.end();
    std::thread::sleep(Duration::from_millis(50));
    assert!(untold.told.lock().is_empty());
}

#[test]
fn the_slow_handler_of_one_space_holds_up_no_other() {
    // shows U4, S3
    let (mut slow, mut quick) = (Target::start("serve"), Target::start("serve"));
    let (slow_space, quick_space) = (slow.attach(), quick.attach());
    let release = std::sync::Arc::new(sva_sync::atomic::AtomicBool::new(false));
    slow_space.watch(std::sync::Arc::new(Slow(release.clone()))).unwrap();
    let witness = Witness::of(&quick_space);
    slow.tell("exit");
    until("the slow one has ended", || slow_space.ended().is_some());
    quick.tell("exit");
    until("the quick one's handler has run", || witness.ran.load(Ordering::SeqCst) == 1);
    assert!(!release.swap(true, Ordering::SeqCst), "the slow one's handler has run all the time");
}

struct Slow(std::sync::Arc<sva_sync::atomic::AtomicBool>);

impl sva_core::SpaceWatcher for Slow {
    fn space_ended(&self, _: sva_core::SpaceId, _: EndReason) -> sva_core::space::ExitWork {
        let release = self.0.clone();
        sva_core::space::ExitWork::new(move || {
            let begin = Instant::now();
            while !release.load(Ordering::SeqCst) && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    }
}

#[test]
fn dropping_the_last_handle_leaves_nothing_behind() {
    // shows U7
    let mut target = Target::start("serve");
    assert_eq!(target.ask("reap-any"), "-1 10");
    let process = target.pid();
    let before = traces(process);
    let space = target.attach();
    let again = target.attach();
    let text = format!("{space:?}");
    drop(space);
    assert_eq!(read(&*again, target.canary, 4).unwrap().len(), 4, "a handle is left");
    drop(again);
    until("no anchor is left", || numbers("/proc").iter().all(|&task| !shares_anchor(&text, task)));
    assert_eq!(traces(process), before);
    assert_eq!(target.ask("reap-any"), "-1 10", "ECHILD: it has no child");
}

/// What other tasks can see of a process.
fn traces(pid: u32) -> (Vec<u32>, Vec<u32>, String, [String; 6]) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let keys = ["TracerPid", "Threads", "SigBlk", "SigPnd", "ShdPnd", "SigIgn"];
    (
        numbers(&format!("/proc/{pid}/task")),
        numbers(&format!("/proc/{pid}/fd")),
        maps,
        keys.map(|key| support::status(pid, key)),
    )
}

#[test]
fn an_anchor_that_somebody_kills_ends_the_space() {
    // shows U4
    let mut target = Target::start("serve");
    let at = target.map("private", 4096);
    let space = target.attach();
    let witness = Witness::of(&space);
    let text = format!("{space:?}");
    let anchor = numbers("/proc").into_iter().find(|&task| shares_anchor(&text, task)).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(anchor as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(witness.end().0, EndReason::RightsLost);
    assert!(read(&*space, at, 1).is_err());
    let anew = target.attach();
    assert_eq!(read(&*anew, at, 1).unwrap(), [0], "the process itself is unharmed");
    assert_ne!(anew.id(), space.id());
}

#[test]
fn a_thousand_accesses_in_flight_end_with_the_space() {
    // shows U4, G5
    let mut target = Target::start("serve");
    let at = target.map("private", 64 << 10);
    let space = target.attach();
    let devices: Vec<_> = (0..4)
        .map(|_| {
            let space = space.clone();
            std::thread::spawn(move || {
                let begin = Instant::now();
                while begin.elapsed() < PATIENCE {
                    if let Err(stopped) = write(&*space, at, &[7; 64 << 10]) {
                        return stopped;
                    }
                }
                panic!("no end");
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(20));
    target.child.kill().unwrap();
    for device in devices {
        let stopped = device.join().unwrap();
        assert!(matches!(stopped.cause, StopCause::Ended), "{stopped}");
    }
}

/// A process decides how long an access to its memory takes. It must not delay other processes.
#[test]
fn a_process_whose_memory_never_answers_holds_up_no_other() {
    // shows S3, U4
    let mut stuck = Target::start("serve");
    let Some(at) = stuck.unanswered() else { return };
    let pid = stuck.pid();
    let (sender, attached) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(sender.send(sva_host::attach(pid).map_err(|error| error.to_string())))
    });
    let space =
        attached.recv_timeout(PATIENCE).expect("the attach does not hang").expect("it attaches");
    let reading = std::thread::spawn(move || drop(read(&*space, at, 1)));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!reading.is_finished(), "the access waits");
    let mut other = Target::start("serve");
    let space = other.attach();
    let witness = Witness::of(&space);
    let from = Instant::now();
    other.child.kill().expect("it lives");
    let (reason, told) = witness.end();
    assert_eq!(reason, EndReason::Exited);
    assert_in_time(from, told);
    assert!(!reading.is_finished(), "the access waits still");
    drop(stuck);
    // The userfaultfd ends with the process. Then the access ends, with or without the byte.
    until("the access has ended", || reading.is_finished());
}
