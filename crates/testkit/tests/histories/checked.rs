//! Tests of the checker itself.

use proptest::prelude::*;
use sva_core::FaultReason;
use sva_testkit::Protection;

use crate::checker::{check, smallest};
use crate::reference::{Call, Operation, Outcome, PAGES, State, Word};

fn call(thread: usize, time: (u64, u64), operation: Operation, outcome: Outcome) -> Call {
    Call { thread, operation, called: time.0, outcome, returned: time.1 }
}

fn device(thread: usize, time: (u64, u64), word: Word, outcome: Outcome) -> Call {
    call(thread, time, Operation::Device { page: 0, word }, outcome)
}

fn read(from: u64, outcome: Outcome) -> Call {
    device(1, (from, from + 1), Word::Read, outcome)
}

const ZERO: Outcome = Outcome::Value(0);
const NOT_MAPPED: Outcome = Outcome::Fault(FaultReason::NotMapped);

#[test]
fn a_write_under_way_may_be_seen_and_one_that_was_seen_stays() {
    let write = device(0, (1, 10), Word::Write(7), Outcome::Done);
    let seven = Outcome::Value(7);
    assert_eq!(check(&[write.clone(), read(2, ZERO), read(4, seven)]), Ok(()));
    assert_eq!(check(&[write.clone(), read(2, seven), read(4, ZERO)]), Err(2));
    assert_eq!(check(&[write, read(11, ZERO)]), Err(1));
}

#[test]
fn what_is_taken_away_can_be_used_until_the_change_returns() {
    let unmap = call(0, (1, 10), Operation::Unmap { pages: 0..1 }, Outcome::Done);
    assert_eq!(check(&[unmap.clone(), read(2, NOT_MAPPED), read(4, ZERO)]), Ok(()));
    assert_eq!(check(&[unmap.clone(), read(11, ZERO)]), Err(1));
    assert_eq!(check(&[unmap, read(11, NOT_MAPPED)]), Ok(()));
    let later = call(2, (3, 6), Operation::Unmap { pages: 0..1 }, Outcome::Done);
    let earlier = call(0, (1, 20), Operation::Unmap { pages: 0..1 }, Outcome::Done);
    // It was mapped until the one or the other; whichever came later waited for both.
    assert_eq!(
        check(&[earlier.clone(), read(4, NOT_MAPPED), later.clone(), read(7, ZERO)]),
        Err(3)
    );
    assert_eq!(check(&[earlier, read(4, ZERO), later, read(7, NOT_MAPPED)]), Ok(()));
}

#[test]
fn an_access_by_what_was_taken_may_return_after_the_change() {
    let remap = call(0, (1, 10), Operation::Remap { from: 0, to: 1 }, Outcome::Done);
    let write = |from, to| device(1, (from, to), Word::Write(7), Outcome::Done);
    let read = call(2, (20, 21), Operation::Owner { page: 1, word: Word::Read }, Outcome::Value(7));
    let gone = device(2, (2, 3), Word::Read, NOT_MAPPED);
    assert_eq!(check(&[remap.clone(), gone.clone(), write(4, 15), read.clone()]), Ok(()));
    assert_eq!(check(&[remap, gone, write(11, 15), read]), Err(2));
}

#[test]
fn an_operation_that_was_lost_or_made_twice_has_no_order() {
    let add = |thread, time, was| device(thread, time, Word::Add(1), Outcome::Value(was));
    assert_eq!(check(&[add(0, (1, 10), 0), add(1, (2, 9), 1)]), Ok(()));
    assert_eq!(check(&[add(0, (1, 10), 0), add(1, (2, 9), 0)]), Err(0));
    let replace = call(2, (0, 11), Operation::Replace { pages: 0..PAGES }, Outcome::Done);
    assert_eq!(check(&[add(0, (1, 2), 0), replace, add(1, (3, 4), 0)]), Err(2));
}

#[test]
fn the_smallest_history_leaves_out_what_does_not_matter() {
    let other = Operation::Device { page: 1, word: Word::Write(3) };
    let write = device(0, (1, 2), Word::Write(7), Outcome::Done);
    let calls = [
        write.clone(),
        call(2, (3, 4), other, Outcome::Done),
        read(5, Outcome::Value(7)),
        read(7, ZERO),
        read(9, ZERO),
    ];
    assert_eq!(smallest(&calls), [write, read(7, ZERO)]);
}

/// Whether there is an order, by trying all points of time for each call.
fn has_order(calls: &[Call]) -> bool {
    let mut events: Vec<_> = calls
        .iter()
        .enumerate()
        .flat_map(|(n, call)| [(call.called, n, false), (call.returned, n, true)])
        .collect();
    events.sort_unstable();
    tries(calls, &events, &[], &State::new())
}

/// `left`: who has been called and has not taken effect.
fn tries(calls: &[Call], events: &[(u64, usize, bool)], left: &[usize], state: &State) -> bool {
    let Some((&(_, number, returns), rest)) = events.split_first() else { return true };
    let goes_on = if returns {
        !left.contains(&number)
            && tries(calls, rest, left, &state.clone().returned(calls[number].thread))
    } else {
        tries(calls, rest, &[left, &[number]].concat(), state)
    };
    let takes_effect = |next: usize| {
        let left: Vec<_> = left.iter().copied().filter(|other| *other != next).collect();
        state.effects(next, &calls[next]).iter().any(|after| tries(calls, events, &left, after))
    };
    goes_on || left.iter().any(|next| takes_effect(*next))
}

fn word() -> impl Strategy<Value = (Word, Outcome)> {
    let value =
        || prop_oneof![Just(Outcome::Value(0)), Just(Outcome::Value(1)), Just(Outcome::Value(2))];
    let fault = || prop_oneof![Just(NOT_MAPPED), Just(Outcome::Fault(FaultReason::Denied))];
    prop_oneof![
        (Just(Word::Read), prop_oneof![3 => value(), 1 => fault()]),
        (
            prop_oneof![Just(Word::Write(1)), Just(Word::Write(2))],
            prop_oneof![3 => Just(Outcome::Done), 1 => fault()]
        ),
        (Just(Word::Add(1)), prop_oneof![3 => value(), 1 => fault()]),
        (Just(Word::CompareExchange { expected: 0, new: 1 }), value()),
    ]
}

fn operation() -> impl Strategy<Value = (Operation, Outcome)> {
    let device = (0..2usize, word())
        .prop_map(|(page, (word, outcome))| (Operation::Device { page, word }, outcome));
    let owner = (0..2usize, word())
        .prop_map(|(page, (word, outcome))| (Operation::Owner { page, word }, outcome));
    let protection = || prop_oneof![Just(Protection::READ), Just(Protection::READ_WRITE)];
    let pages = || prop_oneof![Just(0..1), Just(0..2)];
    let change = prop_oneof![
        (pages(), protection())
            .prop_map(|(pages, protection)| Operation::Map { pages, protection }),
        (pages(), protection())
            .prop_map(|(pages, protection)| Operation::Protect { pages, protection }),
        pages().prop_map(|pages| Operation::Unmap { pages }),
        pages().prop_map(|pages| Operation::Absent { pages }),
        pages().prop_map(|pages| Operation::Replace { pages }),
        Just(Operation::Remap { from: 0, to: 1 }),
    ];
    prop_oneof![3 => device, 1 => owner, 2 => change.prop_map(|change| (change, Outcome::Done))]
}

/// Up to six calls of three threads; each takes a while, and the thread's next one comes after it.
fn history() -> impl Strategy<Value = Vec<Call>> {
    prop::collection::vec((0..3usize, 0..5u64, 1..12u64, operation()), 1..7).prop_map(|planned| {
        let mut free = [0; 3];
        let calls = planned.into_iter().enumerate().map(
            |(n, (thread, pause, takes, (operation, outcome)))| {
                let (from, to) = (free[thread] + pause, free[thread] + pause + takes);
                free[thread] = to + 1;
                // No two times are one.
                call(thread, (from * 16 + n as u64, to * 16 + n as u64), operation, outcome)
            },
        );
        calls.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    })]

    #[test]
    fn the_checker_finds_an_order_where_trying_all_finds_one(calls in history()) {
        prop_assert_eq!(check(&calls).is_ok(), has_order(&calls));
    }

    #[test]
    fn what_is_left_of_a_history_without_order_has_none(calls in history()) {
        prop_assume!(check(&calls).is_err());
        let small = smallest(&calls);
        prop_assert!(!has_order(&small) && small.len() <= calls.len());
    }
}
