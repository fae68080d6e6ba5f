//! What waits for a tag: in how few messages, and at what cost to others.

use super::*;

/// One whose tags are all in use, without a clock, for PASIDs that the tests do not use.
fn without_a_free_tag() -> InvalidationQueue {
    let mut invalidator = InvalidationQueue::new(LIMIT, TRIES);
    invalidator.enable();
    for n in 0..Itag::COUNT as u32 {
        start(&mut invalidator, 1000 + n, AlignedRange::ALL);
    }
    invalidator
}

/// Starts one whose part nobody else keeps unless the caller does.
fn start(invalidator: &mut InvalidationQueue, pasid: u32, range: AlignedRange) -> Arc<Part> {
    let part = Part::new();
    let pending = PendingInvalidation::new(Pasid::new(pasid), range, waiter(&part));
    invalidator.start(pending, false, None, &mut InvalidationActions::default());
    part
}

/// Completes the first in flight and answers what is sent in its place.
fn next_message(invalidator: &mut InvalidationQueue) -> Option<(Option<Pasid>, AlignedRange)> {
    let flight = invalidator.in_flight[0].as_ref().expect("in flight");
    let mut actions = InvalidationActions::default();
    invalidator.complete(
        InvalidationCompletion { tag: Itag::new(0).expect("0..=31"), serial: flight.serial },
        &mut actions,
    );
    invalidator.send_backlog(None, &mut actions);
    actions.send.first().map(|request| (request.pasid, request.range))
}

// shows T7
#[test]
fn where_too_many_wait_all_of_the_pasid_with_most_of_them_goes_and_nothing_of_the_others() {
    let mut invalidator = without_a_free_tag();
    let mut kept = vec![start(&mut invalidator, 1, AlignedRange::page(0x5000))];
    // Every second page, so that none can be joined.
    kept.extend(
        (0..BACKLOG as u64).map(|n| start(&mut invalidator, 2, AlignedRange::page(n << 13))),
    );
    assert_eq!((invalidator.backlog.messages(), invalidator.counts.widened), (2, 1));
    assert_eq!(next_message(&mut invalidator), Some((Pasid::new(1), AlignedRange::page(0x5000))));
    assert_eq!(next_message(&mut invalidator), Some((Pasid::new(2), AlignedRange::ALL)));
    assert_eq!(invalidator.outstanding(), Itag::COUNT - 1 + BACKLOG);
    next_message(&mut invalidator);
    assert_eq!(kept.len(), 1 + BACKLOG);
}

// shows T4
#[test]
fn where_too_many_pasids_wait_everything_goes() {
    let mut invalidator = without_a_free_tag();
    let _kept: Vec<_> = (0..BACKLOG as u32 + 1)
        .map(|n| start(&mut invalidator, 1 + n, AlignedRange::page(0)))
        .collect();
    assert_eq!(invalidator.backlog.messages(), 1);
    assert_eq!(next_message(&mut invalidator), Some((None, AlignedRange::ALL)));
}

// shows T4, T7
#[test]
fn pages_that_are_taken_one_by_one_wait_in_as_few_messages_as_name_them_and_nothing_else() {
    let mut invalidator = without_a_free_tag();
    let _kept: Vec<_> =
        (0..11).map(|n| start(&mut invalidator, 1, AlignedRange::page(n << 12))).collect();
    let ranges: Vec<_> = std::iter::from_fn(|| next_message(&mut invalidator))
        .map(|(_, range)| (range.first() >> 12, range.bits()))
        .collect();
    assert_eq!(ranges, [(0, 15), (8, 13), (10, 12)]);
    assert_eq!((invalidator.counts.joined, invalidator.counts.widened), (8, 0));
}

// shows S2
#[test]
fn nothing_is_kept_for_callers_that_have_let_go() {
    let mut waiting = without_a_free_tag();
    for n in 0..100_000u64 {
        drop(start(&mut waiting, 1 + (n % 100) as u32, AlignedRange::page(n << 13)));
    }
    let mut actions = InvalidationActions::default();
    waiting.remove(false, &mut actions);
    assert!(actions.completed.is_empty(), "a request is under way");
    waiting.translated_requests_drained(&mut actions);
    let finished = actions.completed.len();
    assert!(finished < 2 * (Itag::COUNT + BACKLOG) + 2, "{finished} waiters");
    assert_eq!((waiting.counts.canceled, waiting.outstanding()), (100_000 + Itag::COUNT as u64, 0));
}
