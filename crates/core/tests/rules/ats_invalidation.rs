//! Invalidations: a change of a space waits for the devices; tags, late and lost messages, the
//! cut-off (rules T2, T3, T4, U1).

use std::collections::BTreeSet;
use std::time::Duration;

use sva_core::ats::{
    AlignedRange, InvalidationCompletion, InvalidationRequest, Itag, TranslationAnswer,
};
use sva_core::error::ServiceError;
use sva_core::link::ToIommu;
use sva_core::{Event, FaultReason};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

fn completion_in(packet: &Packet) -> InvalidationCompletion {
    match packet.message {
        Message::Up(ToIommu::Invalidated(completion)) => completion,
        other => panic!("{other:?} is no completion"),
    }
}

// shows T2
#[test]
fn a_change_of_a_space_returns_when_the_device_has_completed_and_not_before() {
    watched(|| {
        let rig = Rig::new();
        rig.fill(BASE);
        rig.link
            .hold(|message| invalidation_requests(message) || invalidation_completions(message));
        let done = Signal::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rig.space.unmap(BASE, PAGE);
                done.raise();
            });
            let request = rig.link.wait_for(invalidation_requests);
            let InvalidationRequest { pasid, global, range, .. } = request_in(&request);
            assert_eq!((pasid, global, range), (Some(rig.pasid), false, AlignedRange::page(BASE)));
            assert_eq!(
                (done.is_on(), rig.device.atc_len(), rig.world.iommu.object_counts().invalidations),
                (false, 1, 1)
            );
            request.deliver();
            assert_eq!(
                (done.is_on(), rig.device.atc_len(), rig.world.iommu.object_counts().invalidations),
                (false, 0, 1)
            );
            rig.link.take(invalidation_completions).deliver();
        });
        assert!(done.is_on());
        rig.take_down();
    });
}

// shows T2
#[test]
fn a_change_waits_for_every_device_that_may_cache_it_and_for_no_other() {
    let rig = Rig::new();
    let (other, stranger) =
        (rig.world.plug_translating(2, &rig.link), rig.world.plug_translating(3, &rig.link));
    let without = rig.world.plug_over(4, translating(), &rig.link);
    let second = rig.world.bind(&other, &rig.space);
    let third = rig.world.bind(&stranger, &space());
    let fourth = rig.world.bind(&without, &rig.space);
    rig.link.hold(invalidation_requests);
    let change = rig.unmap(BASE);
    assert_eq!(
        rig.link.count(invalidation_requests),
        2,
        "of the two that have ATS on and are bound to the space"
    );
    rig.link.take(invalidation_requests).deliver();
    assert!(!change.is_over());
    rig.link.take(invalidation_requests).deliver();
    change.finish();
    let sent =
        [&rig.device, &other, &stranger, &without].map(|device| device.invalidation_counts().sent);
    assert_eq!(sent, [1, 1, 0, 0]);
    rig.link.hold(no_message);
    drop((second, third, fourth));
}

// shows T2
#[test]
fn an_invalidation_completes_when_the_accesses_that_use_it_are_over() {
    let rig = Rig::new();
    rig.fill(BASE);
    let parked = rig.park(BASE);
    let (touched, untouched) = (rig.unmap(BASE), rig.unmap(BASE + PAGE));
    untouched.finish();
    assert!(!touched.is_over(), "the write is inside the frame");
    assert_eq!(parked.release().expect("it had begun"), Some(6));
    touched.finish();
    rig.take_down();
}

#[test]
fn no_more_than_32_invalidations_are_in_flight_and_each_has_a_tag_of_its_own() {
    let rig = Rig::new();
    rig.link.hold(invalidation_requests);
    let changes: Vec<Begun> = (0..40)
        .map(|n| Begun(Some(rig.space.begin_replace(BASE + n % PAGES * PAGE, PAGE))))
        .collect();
    let packets: Vec<Packet> = std::iter::from_fn(|| rig.link.find(any_message)).collect();
    let tags: BTreeSet<u8> = packets.iter().map(|packet| request_in(packet).tag.get()).collect();
    assert_eq!(
        (packets.len(), tags.len(), rig.world.iommu.object_counts().invalidations),
        (Itag::COUNT, Itag::COUNT, 40)
    );
    let mut serials: BTreeSet<u64> =
        packets.iter().map(|packet| request_in(packet).serial).collect();
    let free = request_in(&packets[7]).tag;
    let mut packets = packets.into_iter();
    packets.by_ref().nth(7).expect("there are 32").deliver();
    let next = request_in(&rig.link.take(any_message));
    assert_eq!(
        (next.tag, serials.insert(next.serial)),
        (free, true),
        "the tag that became free, for another invalidation"
    );
    assert!(!changes[0].is_over());
    rig.device.reset().expect("plugged in").end();
    changes.into_iter().for_each(Begun::finish);
    rig.take_down();
}

// shows T2
#[test]
fn invalidations_beyond_the_tags_are_sent_as_tags_become_free() {
    let rig = Rig::new();
    rig.link.hold(invalidation_requests);
    let changes: Vec<Begun> = (0..100)
        .map(|n| Begun(Some(rig.space.begin_replace(BASE + n % PAGES * PAGE, PAGE))))
        .collect();
    // What waits for a tag is all of the space's pages, each again and again: one message names
    // them.
    assert_eq!(rig.link.deliver_all(any_message), Itag::COUNT + 1);
    changes.into_iter().for_each(Begun::finish);
    let counts = rig.device.invalidation_counts();
    assert_eq!(
        (counts.sent, counts.merged, counts.widened, counts.completed, counts.unexpected),
        (33, 67, 0, 100, 0)
    );
    rig.take_down();
}

// shows T2
#[test]
fn a_completion_that_comes_twice_late_or_wrong_finishes_nothing() {
    let rig = Rig::new();
    rig.link.hold(|message| invalidation_requests(message) || invalidation_completions(message));
    let first = rig.unmap(BASE);
    rig.link.take(invalidation_requests).deliver();
    let completion = rig.link.take(invalidation_completions);
    let right = completion_in(&completion);
    let unexpected = || rig.device.invalidation_counts().unexpected;
    for wrong in [
        InvalidationCompletion { serial: right.serial + 1, ..right },
        InvalidationCompletion { tag: Itag::new(31).expect("0..=31"), ..right },
    ] {
        let before = unexpected();
        completion.clone().changed(Message::Up(ToIommu::Invalidated(wrong))).deliver();
        assert_eq!((first.is_over(), unexpected() - before), (false, 1), "{wrong:?}");
    }
    completion.clone().deliver();
    first.finish();
    let second = rig.unmap(BASE + PAGE);
    let request = rig.link.take(invalidation_requests);
    assert_eq!(request_in(&request).tag, right.tag, "used again");
    completion.deliver();
    assert_eq!(
        (second.is_over(), unexpected()),
        (false, 3),
        "it was for an earlier use of the tag"
    );
    // The request twice: two completions, of which one fits.
    request.clone().deliver();
    request.deliver();
    assert_eq!(rig.link.deliver_all(invalidation_completions), 2);
    second.finish();
    assert_eq!((unexpected(), rig.device.invalidation_counts().completed), (4, 2));
    rig.take_down();
}

// shows T2
#[test]
fn an_invalidation_that_is_lost_is_sent_again_and_the_late_answer_to_the_first_fits_nothing() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.link.hold(|message| invalidation_requests(message) || invalidation_completions(message));
    let change = rig.unmap(BASE);
    rig.link.take(invalidation_requests).deliver();
    let late = rig.link.take(invalidation_completions);
    rig.clock.advance(ANSWER - Duration::from_nanos(1));
    rig.world.iommu.tick();
    assert_eq!(rig.link.messages(), [], "it is not overdue yet");
    rig.clock.advance(Duration::from_nanos(1));
    rig.world.iommu.tick();
    let again = rig.link.take(invalidation_requests);
    late.deliver();
    assert!(!change.is_over());
    again.deliver();
    rig.link.take(invalidation_completions).deliver();
    change.finish();
    let counts = rig.device.invalidation_counts();
    assert_eq!(
        (counts.sent, counts.timed_out, counts.unexpected, counts.completed, counts.canceled),
        (2, 1, 1, 1, 0)
    );
    rig.take_down();
}

// shows T2
#[test]
fn a_device_that_answers_no_invalidation_is_cut_off_after_all_its_tries_which_ends_the_wait() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.link.hold(invalidation_requests);
    let (first, second) = (rig.unmap(BASE), rig.unmap(BASE + PAGE));
    for n in 1..=u64::from(TRIES) {
        assert_eq!(
            (rig.link.lose_all(any_message), first.is_over(), rig.device.is_cut_off()),
            (2, false, false)
        );
        rig.answer_overdue();
        assert_eq!(rig.device.invalidation_counts().timed_out, 2 * n);
    }
    assert!(rig.device.is_cut_off());
    first.finish();
    second.finish();
    let counts = rig.device.invalidation_counts();
    assert_eq!(
        (counts.sent, counts.completed, counts.canceled, rig.link.messages()),
        (2 * u64::from(TRIES), 0, 2, vec![])
    );
    rig.answer_overdue();
    assert_eq!(
        (rig.world.cut_offs(rig.device.bdf()), rig.world.iommu.object_counts().invalidations),
        (1, 0)
    );
    rig.take_down();
}

// shows T2
#[test]
fn where_a_device_is_cut_off_during_a_write_the_change_waits_for_that_write() {
    let rig = Rig::new();
    rig.fill(BASE);
    let parked = rig.park(BASE);
    let change = rig.unmap(BASE);
    for _ in 0..TRIES {
        rig.answer_overdue();
    }
    assert!(rig.device.is_cut_off() && !change.is_over());
    assert_eq!(parked.release().expect("it had begun"), Some(6));
    change.finish();
    let counts = rig.device.invalidation_counts();
    assert_eq!(
        (counts.completed, counts.unexpected),
        (0, 1),
        "its answer to the last of them comes too late"
    );
    rig.take_down();
}

// shows T2
#[test]
fn whoever_waits_for_a_device_notices_by_itself_that_it_does_not_answer() {
    watched(|| {
        let rig = Rig::new();
        rig.link.hold(invalidation_requests);
        std::thread::scope(|scope| {
            scope.spawn(|| rig.space.unmap(BASE, PAGE));
            for _ in 0..TRIES {
                drop(rig.link.wait_for(invalidation_requests));
                assert!(!rig.device.is_cut_off());
                rig.clock.advance(ANSWER);
            }
        });
        assert_eq!((rig.device.is_cut_off(), rig.world.cut_offs(rig.device.bdf())), (true, 1));
        rig.take_down();
    });
}

// shows T2
#[test]
fn a_device_that_was_cut_off_gets_nothing_through_and_is_sent_nothing() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.link.hold(invalidation_requests);
    let change = rig.unmap(BASE + PAGE);
    rig.let_it_be_cut_off();
    change.finish();
    let (plain, device) = (rig.device.port(), rig.device.bdf());
    let shut = Some(FaultReason::DeviceHalted);
    assert_eq!(reason(plain.read(Some(rig.pasid), BASE, &mut [0; 8])), shut);
    assert_eq!(reason(plain.write(None, PAGE, b"x")), shut);
    assert_eq!(
        reason(rig.write_cached(BASE, b"x").map(drop)),
        shut,
        "it has the translation, and the request is refused"
    );
    assert!(matches!(rig.request(BASE), TranslationAnswer::Refused(_)));
    assert_eq!(rig.device.enable_ats(), Err(ServiceError::Halted { device }));
    rig.unmap(BASE).finish();
    assert_eq!((rig.link.messages(), rig.gated.frame_accesses()), (vec![], 0));
    let bond = rig.bond().tag();
    assert!(rig.world.events().contains(&Event::CutOff { device }));
    assert!(rig.bond().is_live() && bond.pasid == rig.pasid, "its bonds stay");
    rig.take_down();
}
