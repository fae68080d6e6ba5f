//! What a device caches of translations, and the translated requests that it makes (rules T1 to
//! T4).

use sva_core::ats::Translation;
use sva_core::ats::{AlignedRange, TranslationAnswer, TranslationCompletion, TranslationRefusal};
use sva_core::link::ToDevice;
use sva_core::{Access, FaultReason, Frame, Pasid, Permissions};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

// regression 30: a cache that was full was emptied to make room for one entry.
#[test]
fn a_cache_that_is_full_gives_up_one_translation_for_another() {
    let rig = Rig::with(config().atc_entries(4));
    for n in 0..PAGES {
        rig.fill(BASE + n * PAGE);
        assert_eq!(rig.device.atc_len() as u64, (n + 1).min(4));
    }
    let counts = rig.device.atc_counts();
    assert_eq!((counts.fills, counts.evicted), (PAGES, PAGES - 4));
    rig.take_down();
}

// regression 29: entries were found by their page, and what was found was not the caller's.
#[test]
fn two_processes_that_use_one_address_do_not_throw_each_other_out() {
    let rig = Rig::new();
    let (other, bond) = rig.bind_another();
    for (space, pasid, data) in [(&rig.space, rig.pasid, b"one"), (&other, bond.pasid(), b"two")] {
        rig.port.write(Some(pasid), BASE, data).expect("mapped");
        assert_eq!(space.peek(BASE, 3), data);
    }
    assert_eq!(rig.device.atc_len(), 2);
    let before = rig.device.atc_counts();
    for _ in 0..4 {
        for (pasid, data) in [(rig.pasid, b"one"), (bond.pasid(), b"two")] {
            let mut buf = [0; 3];
            rig.port.read(Some(pasid), BASE, &mut buf).expect("cached");
            assert_eq!(&buf, data);
        }
    }
    let after = rig.device.atc_counts();
    assert_eq!((after.hits - before.hits, after.misses - before.misses), (8, 0));
    drop(bond);
    assert_eq!(rig.device.atc_len(), 1, "what was the other's stays");
    rig.take_down();
}

// shows T4
// regression 19: a change inside of a large page was invalidated as small as it was asked for.
#[test]
fn a_change_of_a_part_takes_the_large_translation_that_holds_it() {
    let rig = Rig::new();
    rig.space.largest_translation(21);
    rig.fill(BASE);
    assert!(rig.write_cached(BASE + 15 * PAGE, b"all").expect("one translation holds all pages"));
    rig.space.unmap(BASE + 7 * PAGE, PAGE);
    assert_eq!(rig.device.atc_len(), 0);
    assert!(!rig.write_cached(BASE + 7 * PAGE, b"stale").expect("nothing is cached"));
    rig.take_down();
}

// shows T4
#[test]
fn a_change_of_several_pages_takes_the_translations_of_all_of_them() {
    let rig = Rig::new();
    (0..PAGES).for_each(|n| rig.fill(BASE + n * PAGE));
    rig.space.unmap(BASE + 5 * PAGE, 6 * PAGE);
    for n in 0..PAGES {
        let written = rig.write_cached(BASE + n * PAGE, b"x").expect("what is cached is mapped");
        assert!(!written || !(5..11).contains(&n), "page {n} is not mapped any more");
    }
    rig.take_down();
}

// shows T3
#[test]
fn a_completion_that_a_change_overtook_is_not_cached() {
    for (largest, changed) in [(12, BASE), (21, BASE + 9 * PAGE)] {
        let rig = Rig::new();
        rig.space.largest_translation(largest);
        rig.link.hold(translation_completions);
        let asked = rig.send(BASE);
        rig.space.unmap(changed, PAGE);
        rig.link.take(translation_completions).deliver();
        assert_eq!(
            (rig.port.translation(asked), rig.device.atc_len()),
            (Some(TranslationAnswer::Outdated), 0),
            "unmapped {changed:#x}"
        );
        assert_eq!(rig.device.atc_counts().outdated, 1);
        rig.take_down();
    }
}

// shows T3
#[test]
fn a_completion_is_cached_where_the_change_meanwhile_was_elsewhere() {
    let rig = Rig::new();
    let (other, bond) = rig.bind_another();
    rig.link.hold(translation_completions);
    let asked = rig.send(BASE);
    rig.space.unmap(BASE + PAGE, PAGE);
    other.unmap(BASE, PAGE);
    rig.link.take(translation_completions).deliver();
    assert_eq!(rig.port.translation(asked), Some(TranslationAnswer::Cached));
    drop(bond);
    rig.take_down();
}

// shows T3
#[test]
fn a_completion_that_comes_before_the_invalidation_is_cached_until_that_comes() {
    let rig = Rig::new();
    rig.link.hold(|message| translation_completions(message) || invalidation_requests(message));
    let asked = rig.send(BASE);
    let change = rig.unmap(BASE);
    rig.link.take(translation_completions).deliver();
    assert_eq!(
        (rig.port.translation(asked), change.is_over()),
        (Some(TranslationAnswer::Cached), false)
    );
    assert!(
        rig.write_cached(BASE, b"old").expect("the change is not over"),
        "the old frame is there as long as that"
    );
    rig.link.take(invalidation_requests).deliver();
    assert_eq!(rig.device.atc_len(), 0);
    change.finish();
    rig.take_down();
}

// shows T2
#[test]
fn an_invalidation_waits_for_an_access_whose_translation_has_been_evicted() {
    let rig = Rig::with(config().atc_entries(1));
    rig.fill(BASE);
    let parked = rig.park(BASE);
    rig.fill(BASE + PAGE);
    assert!(rig.port.use_translation(Some(rig.pasid), BASE, Access::WRITE).is_none(), "evicted");
    let change = rig.unmap(BASE);
    assert!(!change.is_over(), "the write is inside the frame");
    assert_eq!(parked.release().expect("it had begun"), Some(6));
    change.finish();
    rig.take_down();
}

// shows T2
#[test]
fn a_device_with_ats_off_never_uses_a_translated_address() {
    let rig = Rig::new();
    let frame = rig.frame(BASE);
    rig.fill(BASE);
    rig.device.disable_ats().expect("it is on");
    rig.link.hold(any_message);
    rig.port.write(Some(rig.pasid), BASE, b"plain").expect("untranslated");
    assert_eq!(
        (rig.space.peek(BASE, 5), rig.gated.frame_accesses(), rig.link.messages()),
        (b"plain".to_vec(), 0, vec![])
    );
    let plain = rig.device.port();
    assert_eq!(
        reason(plain.write_translated(Some(rig.pasid), frame, b"x")),
        Some(FaultReason::TranslatedRefused)
    );
    let read = plain.read_translated(Some(rig.pasid), frame, &mut [0], Access::READ);
    assert_eq!(
        (reason(read), rig.gated.frame_accesses()),
        (Some(FaultReason::TranslatedRefused), 0)
    );
    rig.take_down();
}

// shows T2
#[test]
fn a_translation_request_that_arrives_after_ats_was_switched_off_is_refused() {
    let rig = Rig::new();
    rig.link.hold(any_message);
    let asked = rig.send(BASE);
    rig.device.disable_ats().expect("it is on");
    rig.link.take(translation_requests).deliver();
    let completion = rig.link.take(translation_completions);
    assert_eq!(translation_in(&completion).result, Err(TranslationRefusal::Unsupported));
    completion.deliver();
    assert_eq!(
        (rig.port.translation(asked), rig.device.atc_counts().unexpected),
        (Some(TranslationAnswer::Outdated), 1),
        "it was forgotten"
    );
    rig.take_down();
}

// shows T1, S2
#[test]
fn a_translated_request_reaches_no_frame_that_is_not_the_spaces_own() {
    let rig = Rig::new();
    let (other, bond) = rig.bind_another();
    let (own, theirs) = (
        rig.frame(BASE),
        other.handle().translate(BASE, false).expect("mapped").frame.expect("synchronous"),
    );
    let plain = rig.device.port();
    let write = |pasid, frame, data: &[u8]| reason(plain.write_translated(pasid, frame, data));
    assert_eq!(write(Some(rig.pasid), own, b"own"), None);
    for made_up in [theirs, Frame(0), Frame(own.0 + PAGES * PAGE), Frame(u64::MAX)] {
        assert_eq!(
            write(Some(rig.pasid), made_up, b"xx"),
            Some(FaultReason::NoSuchFrame),
            "{made_up}"
        );
        let read =
            reason(plain.read_translated(Some(rig.pasid), made_up, &mut [0; 2], Access::READ));
        assert_eq!(read, Some(FaultReason::NoSuchFrame), "{made_up}");
    }
    let past_the_end = Frame(own.0 + PAGES * PAGE - 1);
    assert_eq!(write(Some(rig.pasid), past_the_end, b"xx"), Some(FaultReason::NoSuchFrame));
    assert_eq!(rig.space.peek(BASE + PAGES * PAGE - 1, 1), [0], "refused as a whole");
    assert_eq!(
        write(Some(bond.pasid()), own, b"xx"),
        Some(FaultReason::NoSuchFrame),
        "by the other's PASID"
    );
    assert_eq!(
        write(None, own, b"xx"),
        Some(FaultReason::TranslatedRefused),
        "no frame belongs to a domain"
    );
    assert_eq!(
        write(Some(Pasid::new(999).expect("20 bits")), own, b"xx"),
        Some(FaultReason::NotBound)
    );
    assert_eq!(other.peek(BASE, 2), [0, 0]);
    drop(bond);
    rig.take_down();
}

// shows S2
#[test]
fn completions_that_come_twice_or_answer_another_request_are_not_cached() {
    let rig = Rig::new();
    rig.link.hold(translation_completions);
    let asked = rig.send(BASE);
    let packet = rig.link.take(translation_completions);
    let completion = translation_in(&packet);
    let translation = completion.result.expect("mapped");
    let elsewhere = Translation { range: AlignedRange::page(BASE + PAGE), ..translation };
    packet
        .clone()
        .changed(Message::Down(ToDevice::Translated(TranslationCompletion {
            result: Ok(elsewhere),
            ..completion
        })))
        .deliver();
    assert_eq!(
        (rig.port.translation(asked), rig.device.atc_len()),
        (Some(TranslationAnswer::NoAccess), 0),
        "not the page that was asked for"
    );
    packet.clone().deliver();
    assert_eq!(
        (rig.device.atc_len(), rig.device.atc_counts().unexpected),
        (0, 1),
        "the question was answered"
    );
    let asked = rig.send(BASE);
    let right = rig.link.take(translation_completions);
    packet.deliver();
    assert_eq!(rig.port.translation(asked), None, "an answer to another request");
    right.clone().deliver();
    right.deliver();
    assert_eq!(
        (rig.port.translation(asked), rig.device.atc_len(), rig.device.atc_counts().unexpected),
        (Some(TranslationAnswer::Cached), 1, 3)
    );
    rig.take_down();
}

// shows T1
#[test]
fn a_completion_for_privileged_accesses_does_not_answer_a_user_s_request() {
    let rig = Rig::new();
    rig.space.protect(BASE, PAGE, sva_testkit::Protection::READ_WRITE.privileged());
    rig.link.hold(translation_completions);
    let user = rig.send(BASE);
    let refused = rig.link.take(translation_completions);
    let id = translation_in(&refused).id;
    let asked =
        rig.port.request_translation(Some(rig.pasid), BASE, Access::READ | Access::PRIVILEGED);
    asked.expect("ATS is on");
    let packet = rig.link.take(translation_completions);
    let completion = translation_in(&packet);
    packet
        .changed(Message::Down(ToDevice::Translated(TranslationCompletion { id, ..completion })))
        .deliver();
    assert_eq!(
        (rig.port.translation(user), rig.device.atc_len(), rig.device.atc_counts().unexpected),
        (None, 0, 1)
    );
    refused.deliver();
    assert_eq!(
        (rig.port.translation(user), rig.device.atc_len()),
        (Some(TranslationAnswer::NoAccess), 0)
    );
    rig.take_down();
}

// shows S2
#[test]
fn a_completion_with_a_made_up_frame_gets_the_device_nowhere() {
    let rig = Rig::new();
    rig.link.hold(translation_completions);
    let asked = rig.send(BASE);
    let packet = rig.link.take(translation_completions);
    let completion = translation_in(&packet);
    let forged = completion.result.map(|translation| Translation {
        frame: Some(Frame(0x1000)),
        permissions: Permissions::all(),
        ..translation
    });
    packet
        .changed(Message::Down(ToDevice::Translated(TranslationCompletion {
            result: forged,
            ..completion
        })))
        .deliver();
    assert_eq!(
        rig.port.translation(asked),
        Some(TranslationAnswer::Cached),
        "a device believes what it is told"
    );
    assert_eq!(reason(rig.write_cached(BASE, b"x").map(drop)), Some(FaultReason::NoSuchFrame));
    rig.take_down();
}

// shows T2
#[test]
fn an_answer_that_does_not_come_ends_the_access_after_its_limit() {
    watched(|| {
        let rig = Rig::new();
        rig.link.hold(translation_requests);
        let limit = rig.world.iommu.config().response_limit;
        let outcome = std::thread::scope(|scope| {
            let access = scope.spawn(|| rig.port.write(Some(rig.pasid), BASE, b"x"));
            let late = rig.link.wait_for(translation_requests);
            // Its time begins when it begins to wait, which is after this.
            eventually("the access gives up", || {
                rig.clock.advance(limit);
                access.is_finished()
            });
            let outcome = access.join().expect("no panic");
            late.deliver();
            outcome
        });
        assert_eq!((reason(outcome), rig.device.atc_len()), (Some(FaultReason::TimedOut), 0));
        rig.take_down();
    });
}
