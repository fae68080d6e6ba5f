//! What a process notices of being attached: nothing but a short pause.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Target, status, until, write};
use sva_host::AttachError;
use sva_sync::atomic::{AtomicBool, Ordering};

/// Attaches and drops the handle, several times, while the target sleeps in a call.
fn disturb(target: &Target) {
    for _ in 0..5 {
        drop(target.attach());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn parse(answer: &str) -> Vec<i64> {
    answer.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("{answer}"))).collect()
}

/// The call takes its time and returns as if nothing had happened. A call whose time-out starts
/// again may take twice the time and more.
fn sleeps_its_time(command: &str, call: &str, expected: (i64, i64), exact: bool) {
    const TIME: i64 = 400;
    let mut target = Target::start("serve");
    target.sleep_in(&format!("{command} {TIME}"), call);
    disturb(&target);
    let answer = parse(&target.answer());
    assert_eq!((answer[0], answer[1]), expected, "{command}: {answer:?}");
    assert!(answer[2] >= TIME - 1, "{command} took {} ms", answer[2]);
    if exact {
        // The slack is for five stops and a busy machine.
        assert!(answer[2] < TIME + 300, "{command} took {} ms", answer[2]);
    }
}

#[test]
fn nanosleep_sleeps_its_time_and_no_longer() {
    // shows U7: nothing of the process is changed
    sleeps_its_time("nanosleep", "230", (0, 0), true);
}

#[test]
fn futex_waits_its_time() {
    sleeps_its_time("futex", "202", (-1, i64::from(libc::ETIMEDOUT)), true);
}

#[test]
fn poll_waits_its_time() {
    sleeps_its_time("poll", "7", (0, 0), true);
}

#[test]
fn a_process_that_waits_for_its_child_is_attached_and_gets_it() {
    sleeps_its_time("wait", "61", (0, 0), true);
}

#[test]
fn epoll_wait_does_not_answer_eintr() {
    sleeps_its_time("epoll", "232", (0, 0), false);
}

#[test]
fn semtimedop_does_not_answer_eintr() {
    sleeps_its_time("semop", "220", (-1, i64::from(libc::EAGAIN)), false);
}

#[test]
fn sigtimedwait_does_not_answer_eintr() {
    sleeps_its_time("sigtimedwait", "128", (-1, i64::from(libc::EAGAIN)), false);
}

#[test]
fn a_receive_with_a_time_out_does_not_answer_eintr() {
    sleeps_its_time("recv", "45", (-1, i64::from(libc::EAGAIN)), false);
}

#[test]
fn a_thread_whose_time_out_would_begin_anew_is_not_stopped_where_another_can_be() {
    const TIME: i64 = 400;
    let mut target = Target::start("serve");
    let answers = [target.ask(&format!("aside epoll {TIME}")), target.answer()];
    assert!(answers.contains(&"begin".to_owned()), "{answers:?}");
    let begin = Instant::now();
    // Often, so that a time-out that starts again each time would not expire before the end.
    while begin.elapsed() < Duration::from_millis(1500) {
        drop(target.attach());
        std::thread::sleep(Duration::from_millis(10));
    }
    let answer = parse(&target.answer());
    assert_eq!((answer[0], answer[1]), (0, 0), "{answer:?}");
    assert!((TIME - 1..1500).contains(&answer[2]), "it took {} ms", answer[2]);
}

#[test]
fn endless_waits_go_on_until_what_they_wait_for_comes() {
    for (command, call) in [("epoll", "232"), ("poll", "7")] {
        let mut target = Target::start("serve");
        target.sleep_in(command, call);
        disturb(&target);
        // The input that ends the wait is the next command.
        target.tell("peek 0 0");
        let answer = target.answer();
        assert!(answer.starts_with("1 0 "), "{command}: {answer}");
        assert_eq!(target.answer(), "");
    }
}

#[test]
fn a_signal_with_a_handler_still_interrupts_a_wait() {
    for (command, call) in [("pause", "34"), ("sigsuspend", "130")] {
        let mut target = Target::start("serve");
        target.sleep_in(command, call);
        disturb(&target);
        assert_eq!(
            std::fs::read_to_string(format!("/proc/{}/syscall", target.pid()))
                .unwrap()
                .split(' ')
                .next(),
            Some(call),
            "sleeps still"
        );
        target.signal(libc::SIGUSR1);
        let answer = target.answer();
        assert!(answer.starts_with("-1 4 "), "{command}: {answer}");
        if command == "sigsuspend" {
            assert!(answer.ends_with(" 1"), "the mask is back after it: {answer}");
        }
    }
}

#[test]
fn a_process_in_a_write_that_could_be_cut_short_is_refused_and_unharmed() {
    const LENGTH: usize = 1 << 20;
    let mut target = Target::start("serve");
    target.sleep_in(&format!("write {LENGTH}"), "1");
    match sva_host::attach(target.pid()) {
        Err(AttachError::Busy { tid, call: 1 }) => assert_eq!(tid, target.pid()),
        other => panic!("{other:?}"),
    }
    target.discard(LENGTH);
    let answer = parse(&target.answer());
    assert_eq!(answer[0], LENGTH as i64, "the write was not cut short");
    drop(target.attach());
}

#[test]
fn another_thread_is_stopped_where_one_must_not_be() {
    const LENGTH: usize = 1 << 20;
    let mut target = Target::start("serve");
    assert_eq!(target.ask("thread"), "done");
    target.sleep_in(&format!("write {LENGTH}"), "1");
    drop(target.attach());
    target.discard(LENGTH);
    assert_eq!(parse(&target.answer())[0], LENGTH as i64);
}

#[test]
fn no_signal_is_lost_and_none_is_seen_twice() {
    const SIGNALS: u32 = 3000;
    let mut target = Target::start("serve");
    assert_eq!(target.ask("count"), "begin");
    // Real-time signals queue up: each one counts.
    let mut sender = Target::start("serve");
    sender.tell(&format!("storm {} {SIGNALS}", target.pid()));
    let sender = std::thread::spawn(move || sender.answer());
    let mut attached = 0;
    while !sender.is_finished() || attached < 10 {
        drop(target.attach());
        attached += 1;
    }
    assert_eq!(sender.join().unwrap(), "sent");
    std::thread::sleep(Duration::from_millis(100));
    target.signal(libc::SIGTERM);
    assert_eq!(target.answer(), SIGNALS.to_string(), "with {attached} attaches");
}

#[test]
fn a_stopped_process_is_attached_and_stays_stopped() {
    let mut target = Target::start("serve");
    let at = target.map("private", 4096);
    target.signal(libc::SIGSTOP);
    until("stopped", || target.status("State").starts_with('T'));
    let space = target.attach();
    write(&*space, at, b"while stopped").unwrap();
    drop(space);
    until("stopped again", || target.status("State").starts_with('T'));
    std::thread::sleep(Duration::from_millis(50));
    assert!(target.status("State").starts_with("T (stopped)"), "{}", target.status("State"));
    target.signal(libc::SIGCONT);
    assert_eq!(target.peek(at, 13), b"while stopped");
}

#[test]
fn a_process_that_waits_for_any_child_sees_its_own_only() {
    let mut target = Target::start("serve");
    target.tell("wait-loop 2000");
    let begin = Instant::now();
    let mut attached = 0;
    let path = format!("/proc/{}/stat", target.pid());
    let pid = target.pid();
    let attaching = std::thread::spawn(move || {
        while begin.elapsed() < Duration::from_millis(1500) {
            drop(support::attach(pid));
            attached += 1;
        }
        attached
    });
    assert_eq!(target.answer(), "-1 10", "ECHILD, after each round has seen its own child");
    assert!(attaching.join().unwrap() > 0, "{path}");
}

#[test]
fn nothing_of_an_attached_process_is_changed() {
    let mut target = Target::start("serve");
    assert_eq!(target.ask("thread"), "done");
    let asleep = |&task: &u32| {
        std::fs::read_to_string(format!("/proc/{task}/syscall"))
            .is_ok_and(|text| text.starts_with("202 "))
    };
    let tasks = format!("/proc/{}/task", target.pid());
    until("the thread sleeps", || {
        support::numbers(&tasks).iter().filter(|&&task| task != target.pid()).any(asleep)
    });
    until("the first one waits for the next question", || target.status("State").starts_with('S'));
    let before = picture(target.pid());
    let space = target.attach();
    for (now, then) in picture(target.pid()).iter().zip(&before) {
        assert_eq!(now, then, "while it is attached");
    }
    drop(space);
    assert_eq!(picture(target.pid()), before, "and after");
    assert_eq!(target.ask("reap-any"), "-1 10");
}

fn picture(pid: u32) -> Vec<String> {
    let list = |name: &str| format!("{:?}", support::numbers(&format!("/proc/{pid}/{name}")));
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let keys = [
        "State",
        "TracerPid",
        "Threads",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Seccomp",
        "NoNewPrivs",
    ];
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Process group, session, terminal and their owner.
    let jobs =
        stat.rsplit_once(')').unwrap().1.split(' ').skip(2).take(5).collect::<Vec<_>>().join(" ");
    keys.iter().map(|key| status(pid, key)).chain([list("task"), list("fd"), maps, jobs]).collect()
}

#[test]
fn an_anchor_keeps_no_descriptor_directory_or_session_of_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let target = Target::from_command(
        Command::new(env!("CARGO_BIN_EXE_sva-host-target"))
            .arg("serve")
            .current_dir(directory.path()),
    );
    let space = target.attach();
    let text = format!("{space:?}");
    let anchor = support::numbers("/proc")
        .into_iter()
        .find(|task| text.contains(&format!("Some({task})")))
        .unwrap();
    assert_eq!(support::numbers(&format!("/proc/{anchor}/fd")), [0u32; 0]);
    assert_eq!(
        std::fs::read_link(format!("/proc/{anchor}/cwd")).unwrap(),
        std::path::Path::new("/")
    );
    assert!(
        status(anchor, "NSsid").ends_with(&anchor.to_string())
            && status(anchor, "NSpgid").ends_with(&anchor.to_string())
    );
    assert_ne!(status(anchor, "PPid"), target.pid().to_string());
    assert!(status(anchor, "State").starts_with("t (tracing stop)"));
    assert_eq!(status(anchor, "Seccomp"), "1", "it could not exec even if it ran");
}

#[test]
fn a_restartable_sequence_is_aborted_by_the_stop() {
    let mut target = Target::start("serve");
    let answer = target.ask("rseq 500");
    if answer == "none" {
        eprintln!("SKIPPED: the C library registers no rseq area");
        return;
    }
    // Until the target answers: the sequence that it is in by then also ends by an abort only.
    let (pid, done) = (target.pid(), AtomicBool::new(false));
    let (answer, attached) = std::thread::scope(|scope| {
        let attacher = scope.spawn(|| {
            let mut attached = 0_u32;
            while !done.load(Ordering::Relaxed) {
                drop(support::attach(pid));
                attached += 1;
            }
            attached
        });
        let answer = target.answer();
        done.store(true, Ordering::Relaxed);
        (answer, attacher.join().expect("it attached each time"))
    });
    let aborted: u32 = answer
        .strip_prefix("aborted ")
        .unwrap_or_else(|| panic!("{answer}, {attached} attaches"))
        .parse()
        .unwrap();
    // An attach between two sequences, or after the last one, aborts none.
    assert!(aborted >= attached / 2, "{aborted} aborts, {attached} attaches");
}
