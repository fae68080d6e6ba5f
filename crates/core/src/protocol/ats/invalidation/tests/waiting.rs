//! Invalidations that wait for a tag: the number of requests that they need, and what these name.

use super::*;

/// A queue without a clock, all tags of which are in use, for PASIDs that the tests do not use.
fn without_a_free_tag() -> InvalidationQueue {
    let mut queue = InvalidationQueue::new(LIMIT, TRIES);
    queue.enable();
    for n in 0..Itag::COUNT as u32 {
        start(&mut queue, 1000 + n, AlignedRange::ALL);
    }
    queue
}

/// Starts an invalidation. The caller has the only reference to its waiter.
fn start(queue: &mut InvalidationQueue, pasid: u32, range: AlignedRange) -> Arc<TestWaiter> {
    let waiter = TestWaiter::new();
    let pending = PendingInvalidation::new(Pasid::new(pasid), range, weak(&waiter));
    queue.start(pending, false, None, &mut InvalidationActions::default());
    waiter
}

/// Completes the request with tag 0 and returns what the request sent in its place names.
fn next_request(queue: &mut InvalidationQueue) -> Option<(Option<Pasid>, AlignedRange)> {
    let request = queue.in_flight[0].as_ref().expect("in flight");
    let mut actions = InvalidationActions::default();
    queue.complete(
        InvalidationCompletion { tag: Itag::new(0).expect("0..=31"), serial: request.serial },
        &mut actions,
    );
    queue.send_backlog(None, &mut actions);
    actions.send.first().map(|request| (request.pasid, request.range))
}

// shows T7
#[test]
fn an_overfull_backlog_widens_the_requests_of_the_pasid_with_most_of_them_alone() {
    let mut queue = without_a_free_tag();
    let mut waiters = vec![start(&mut queue, 1, AlignedRange::page(0x5000))];
    // Every second page, so that no two can be joined.
    waiters.extend((0..BACKLOG as u64).map(|n| start(&mut queue, 2, AlignedRange::page(n << 13))));
    assert_eq!((queue.backlog.requests(), queue.counts.widened), (2, 1));
    assert_eq!(next_request(&mut queue), Some((Pasid::new(1), AlignedRange::page(0x5000))));
    assert_eq!(next_request(&mut queue), Some((Pasid::new(2), AlignedRange::ALL)));
    assert_eq!(queue.outstanding(), Itag::COUNT - 1 + BACKLOG);
    next_request(&mut queue);
    assert_eq!(waiters.len(), 1 + BACKLOG);
}

// shows T4
#[test]
fn a_backlog_with_too_many_pasids_is_widened_to_all_pasids() {
    let mut queue = without_a_free_tag();
    let _waiters: Vec<_> =
        (0..BACKLOG as u32 + 1).map(|n| start(&mut queue, 1 + n, AlignedRange::page(0))).collect();
    assert_eq!(queue.backlog.requests(), 1);
    assert_eq!(next_request(&mut queue), Some((None, AlignedRange::ALL)));
}

// shows T4, T7
#[test]
fn invalidations_of_single_pages_wait_in_the_fewest_requests_that_name_exactly_them() {
    let mut queue = without_a_free_tag();
    let _waiters: Vec<_> =
        (0..11).map(|n| start(&mut queue, 1, AlignedRange::page(n << 12))).collect();
    let ranges: Vec<_> = std::iter::from_fn(|| next_request(&mut queue))
        .map(|(_, range)| (range.first() >> 12, range.bits()))
        .collect();
    assert_eq!(ranges, [(0, 15), (8, 13), (10, 12)]);
    assert_eq!((queue.counts.merged, queue.counts.widened), (8, 0));
}

// shows S2
#[test]
fn dropped_waiters_do_not_accumulate() {
    let mut waiting = without_a_free_tag();
    for n in 0..100_000u64 {
        drop(start(&mut waiting, 1 + (n % 100) as u32, AlignedRange::page(n << 13)));
    }
    let mut actions = InvalidationActions::default();
    waiting.remove(false, &mut actions);
    assert!(actions.completed.is_empty(), "a translated request is in flight");
    waiting.translated_requests_drained(&mut actions);
    let count = actions.completed.len();
    assert!(count < 2 * (Itag::COUNT + BACKLOG) + 2, "{count} waiters");
    assert_eq!((waiting.counts.canceled, waiting.outstanding()), (100_000 + Itag::COUNT as u64, 0));
}
