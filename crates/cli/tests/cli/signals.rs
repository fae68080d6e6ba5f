//! A signal ends the work between two pieces: the target is let go, and what was done is reported.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::target::{LEN, pattern};
use crate::support::{Target, fed, finish, sva};

const SEED: u64 = 0x5eed_0005;

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}

/// Waits, with a bound, until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_write_that_waits_for_its_input_is_ended_by_a_signal_and_reports_what_it_did() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut target = Target::new(SEED);
        let new = pattern(SEED + 1);
        let line = format!("dma write --pid {} --addr {} --in - --json", target.pid(), target.base);
        let (child, mut input) = fed(&line);
        let fed = 9 << 20;
        input.write_all(&new[..fed]).expect("it reads");
        // What it does with the last, incomplete piece is seen below; the whole pieces must be
        // there while it waits.
        let wanted = crc32c::crc32c(&new[..1 << 20]);
        until("the first piece", || target.crc(0..1 << 20) == wanted);
        send(&child, signal);
        let output = finish(child);
        assert_eq!(
            (output.status.code(), output.status.signal()),
            (Some(code), None),
            "{output:?}"
        );
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        let done =
            report["bytes"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("a number");
        assert!(done >= 1 << 20 && done <= fed && report["fault"].is_null(), "{report}");
        let mut memory = pattern(SEED);
        memory[..done].copy_from_slice(&new[..done]);
        assert_eq!(
            target.crc(0..LEN),
            crc32c::crc32c(&memory),
            "exactly the bytes that it reports"
        );
        assert_eq!(target.status("TracerPid"), "0");
        drop(input);
    }
}

#[test]
fn a_read_whose_reader_sleeps_is_ended_by_a_signal() {
    let target = Target::new(SEED);
    let line =
        format!("dma read --pid {} --addr {} --len 32M --out - --json", target.pid(), target.base);
    let words: Vec<&str> = line.split(' ').collect();
    let mut child =
        sva(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let unread = child.stdout.take().expect("piped");
    // It is stuck once nothing more is written: the pipe holds far less than 32 MiB.
    let written = |child: &Child| {
        let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).expect("it lives");
        io.lines()
            .find_map(|line| line.strip_prefix("wchar: "))
            .and_then(|n| n.parse::<u64>().ok())
            .expect("a number")
    };
    let mut last = 0;
    until("a full pipe", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = written(&child);
        std::mem::replace(&mut last, now) == now && now >= 4096
    });
    send(&child, Signal::TERM);
    let output = finish(child);
    assert_eq!((output.status.code(), output.status.signal()), (Some(143), None), "{output:?}");
    assert_eq!(target.status("TracerPid"), "0");
    drop(unread);
}

// shows U4
#[test]
fn the_end_of_the_target_in_the_middle_is_a_fault() {
    let target = Target::new(SEED);
    let line = format!("dma write --pid {} --addr {} --in - --json", target.pid(), target.base);
    let (child, mut input) = fed(&line);
    let first = vec![7; 2 << 20];
    input.write_all(&first).expect("it reads");
    let mut target = target;
    let wanted = crc32c::crc32c(&first[..1 << 20]);
    until("the first piece", || target.crc(0..1 << 20) == wanted);
    drop(target);
    // Five times the bound in which the end has to be known.
    std::thread::sleep(Duration::from_millis(500));
    // It may have ended by now, or not read all of it.
    let _ = input.write_all(&[9; 4 << 20]);
    drop(input);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert!(
        report["fault"]["reason"].as_str().is_some_and(|reason| reason.contains("ended")),
        "{report}"
    );
}
