//! Short random histories of devices that access a space in place while its owner changes it, each
//! checked for an order that a slow reference could have gone through (rules T1 to T4, T6).

mod checked;
mod checker;
mod dawdling;
mod reference;
mod system;

use std::fmt::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use reference::Call;
use system::System;

const HISTORIES: u64 = 2000;
/// For all of them, unless something hangs.
const LONG: Duration = Duration::from_secs(300);

/// What was seen of so many histories.
#[derive(Debug, Default)]
struct Seen {
    accesses: usize,
    /// Accesses that overlap a change of their page.
    overlapping: usize,
    in_place: u64,
    /// The smallest history that has no order, and its seed.
    impossible: Option<(u64, Vec<Call>)>,
    /// How many have none.
    failed: u64,
}

fn histories(from: u64) -> Seen {
    let (mut system, mut seen) = (System::new(), Seen::default());
    for seed in from..from + HISTORIES {
        let calls = system.history(seed);
        seen.accesses += calls.iter().filter(|call| call.is_access()).count();
        seen.overlapping += calls
            .iter()
            .filter(|call| call.is_access() && calls.iter().any(|other| overlaps(call, other)))
            .count();
        if checker::check(&calls).is_err() {
            seen.failed += 1;
            let small = checker::smallest(&calls);
            if seen.impossible.as_ref().is_none_or(|(_, smallest)| small.len() < smallest.len()) {
                seen.impossible = Some((seed, small));
            }
        }
    }
    seen.in_place = system.in_place();
    assert_eq!(system.space.changes_under_way(), 0);
    let written = system.space.stale_write();
    assert!(
        seen.impossible.is_some() || written.is_none(),
        "{written:?} was written to while it was free"
    );
    seen
}

/// Whether the other one is a change of this one's page, while it was under way.
fn overlaps(call: &Call, other: &Call) -> bool {
    let meets = other.operation.pages().iter().any(|page| call.operation.pages().contains(page));
    !other.is_access() && meets && call.called < other.returned && other.called < call.returned
}

fn listing(calls: &[Call]) -> String {
    let mut calls: Vec<_> = calls.iter().collect();
    calls.sort_unstable_by_key(|call| call.called);
    calls.iter().fold(String::new(), |mut text, call| {
        let _ = writeln!(
            text,
            "{:6}..{:6} thread {}: {:x?} -> {:x?}",
            call.called, call.returned, call.thread, call.operation, call.outcome
        );
        text
    })
}

// shows T1, T2, T3, T4, T6: what was taken away is used until its change returns and never after;
// what moves loses nothing
#[test]
fn every_history_of_accesses_and_changes_has_an_order() {
    let seed =
        std::env::var("SVA_HISTORY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
    println!("seed {seed}; another one with SVA_HISTORY_SEED");
    let (done, wait) = mpsc::channel();
    thread::spawn(move || done.send(histories(seed)));
    let seen = wait.recv_timeout(LONG).expect("neither a hang nor a panic");
    if let Some((seed, calls)) = &seen.impossible {
        panic!(
            "{} of {HISTORIES} histories have no order; the smallest, of seed {seed}:\n{}",
            seen.failed,
            listing(calls)
        );
    }
    println!(
        "{} accesses, {} of them while their page changed, {} times in place",
        seen.accesses, seen.overlapping, seen.in_place
    );
    // Otherwise these histories would show little.
    assert!(seen.overlapping as u64 > HISTORIES && seen.in_place > HISTORIES, "{seen:?}");
}
