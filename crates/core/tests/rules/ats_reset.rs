//! Reset, cut-off, switching off and removal of a device that caches translations: at every step,
//! with messages that come late (rules F7, G5, T2, T3).

use std::sync::Arc;

use sva_core::ats::{TranslationAnswer, TranslationRequestError};
use sva_core::error::ServiceError;
use sva_core::pri::GroupOutcome;
use sva_core::{Access, FaultReason};
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

impl Rig {
    /// Why nothing of the device gets through, by whatever way; `None` where all of it does.
    fn fault(&self) -> Option<FaultReason> {
        let (plain, frame) = (
            self.device.port(),
            self.space.handle().translate(BASE, false).expect("mapped").frame.expect("synchronous"),
        );
        let ways = [
            reason(plain.read(Some(self.pasid), BASE, &mut [0; 8])),
            reason(plain.write_translated(Some(self.pasid), frame, b"raw")),
            reason(self.port.write(Some(self.pasid), BASE, b"by itself")),
            reason(plain.write(None, PAGE, b"x"))
                .filter(|reason| *reason != FaultReason::NoDomainMapping),
        ];
        assert_eq!(ways, [ways[0]; 4], "untranslated, translated, either, and without PASID");
        ways[0]
    }
}

// shows T2
#[test]
fn a_device_in_reset_gets_nothing_through_and_caches_nothing() {
    let rig = Rig::new();
    rig.fill(BASE);
    assert_eq!(rig.fault(), None);
    let reset = rig.device.reset().expect("plugged in");
    assert!(reset.is_quiet());
    assert_eq!((rig.fault(), rig.device.atc_len()), (Some(FaultReason::DeviceHalted), 0));
    let device = rig.device.bdf();
    let asked = rig.port.request_translation(Some(rig.pasid), BASE, Access::READ);
    assert_eq!(asked, Err(TranslationRequestError::Halted { device }));
    assert_eq!(rig.device.enable_ats(), Err(ServiceError::Halted { device }));
    reset.end();
    assert_eq!((rig.fault(), rig.bond().is_live()), (None, true));
    rig.take_down();
}

// regression 20: a second reset was refused as busy, and its caller went on as if it had been made.
#[test]
fn resets_may_overlap_and_the_last_to_end_lets_the_device_in() {
    for first_ends_first in [true, false] {
        let rig = Rig::new();
        let mut resets = [rig.device.reset().ok(), rig.device.reset().ok()];
        assert!(
            resets.iter().all(Option::is_some),
            "a reset of a device that is being reset is one too"
        );
        drop(resets[usize::from(!first_ends_first)].take());
        assert_eq!(rig.fault(), Some(FaultReason::DeviceHalted), "the other one is not over");
        drop(resets);
        assert_eq!(rig.fault(), None);
        rig.take_down();
    }
}

// shows T2
// regression 28: invalidations were sent to a device that was being reset, and each waited for its
// whole limit.
#[test]
fn invalidations_to_a_device_in_reset_are_over_at_once_and_none_is_sent_to_it() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.link.hold(invalidation_requests);
    let before = rig.unmap(BASE);
    assert_eq!((before.is_over(), rig.link.lose_all(any_message)), (false, 1));
    let reset = rig.device.reset().expect("plugged in");
    assert!(before.is_over(), "the device has forgotten it");
    let during = rig.unmap(BASE + PAGE);
    assert!(during.is_over(), "it caches nothing");
    for _ in 0..TRIES {
        rig.answer_overdue();
    }
    assert_eq!((rig.link.messages(), rig.device.is_cut_off()), (vec![], false));
    let counts = rig.device.invalidation_counts();
    assert_eq!((counts.sent, counts.canceled, counts.timed_out), (1, 2, 0));
    before.finish();
    during.finish();
    reset.end();
    rig.take_down();
}

// shows U3
#[test]
fn a_reset_from_inside_an_access_of_the_device_does_not_wait_for_that() {
    let rig = Rig::new();
    rig.fill(BASE);
    let (device, slot) = (rig.device.clone(), later());
    let made = slot.clone();
    rig.gated.at_next_frame(move || {
        let reset = device.reset().expect("plugged in");
        *made.lock() = Some((reset.is_quiet(), reset));
    });
    assert!(rig.write_cached(BASE, b"under way").expect("it had begun"));
    assert_eq!(rig.space.peek(BASE, 9), b"under way");
    let (quiet_inside, reset) = slot.lock().take().expect("the hook ran");
    assert_eq!(
        (quiet_inside, reset.is_quiet(), rig.fault()),
        (false, true, Some(FaultReason::DeviceHalted))
    );
    reset.end();
    assert_eq!(rig.fault(), None);
    rig.take_down();
}

// shows T2
#[test]
fn after_a_reset_that_ends_early_no_translated_request_passes_before_the_last_of_before_has_left() {
    let rig = Rig::new();
    rig.fill(BASE);
    let frame =
        rig.port.use_translation(Some(rig.pasid), BASE, Access::WRITE).expect("cached").frame();
    let parked = rig.park(BASE);
    let reset = rig.device.begin_reset().expect("plugged in");
    assert!(!reset.is_quiet());
    let during = rig.unmap(BASE + PAGE);
    assert!(!during.is_over(), "a request that may use it is under way");
    reset.end();
    let plain = rig.device.port();
    plain.read(Some(rig.pasid), BASE, &mut [0; 8]).expect("the reset is over");
    rig.fill(BASE);
    let translated = || reason(plain.write_translated(Some(rig.pasid), frame, b"x"));
    assert_eq!(translated(), Some(FaultReason::TranslatedRefused));
    let after = rig.unmap(BASE);
    assert!(!after.is_over(), "the write is inside the frame");
    assert!(!during.is_over());
    assert_eq!(parked.release().expect("it had begun"), Some(6));
    during.finish();
    after.finish();
    rig.fill(BASE + 2 * PAGE);
    assert!(rig.write_cached(BASE + 2 * PAGE, b"x").expect("translated requests pass again"));
    rig.take_down();
}

// shows T2
#[test]
fn a_change_is_not_forgotten_where_a_reset_ends_just_as_the_last_request_leaves() {
    watched(|| {
        let rig = Rig::new();
        // The moment is as short as a lock takes: each round comes to it at another time.
        for round in 0..4000 {
            rig.fill(BASE);
            let (inside, go) = (Signal::new(), Arc::new(AtomicBool::new(false)));
            let (entered, leave) = (inside.clone(), go.clone());
            rig.gated.at_next_frame(move || {
                entered.raise();
                while !leave.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
            });
            let (port, pasid) = (rig.port.clone(), rig.pasid);
            let write =
                std::thread::spawn(move || port.try_write(Some(pasid), BASE, b"x", Access::WRITE));
            inside.wait();
            let reset = rig.device.begin_reset().expect("plugged in");
            let change = Begun(Some(rig.space.begin_replace(BASE, PAGE)));
            go.store(true, Ordering::Release);
            for _ in 0..round % 400 {
                std::hint::spin_loop();
            }
            reset.end();
            write.join().expect("no panic").expect("it had begun");
            assert!(change.is_over(), "round {round}");
            change.finish();
        }
        rig.take_down();
    });
}

// shows T2
#[test]
fn a_translation_in_use_over_a_reset_is_not_used_after_it() {
    let rig = Rig::new();
    rig.fill(BASE);
    let guard = rig.port.use_translation(Some(rig.pasid), BASE, Access::WRITE).expect("cached");
    let reset = rig.device.reset().expect("plugged in");
    let during = rig.unmap(BASE);
    assert!(during.is_over(), "no request is under way");
    during.finish();
    reset.end();
    assert_eq!(
        guard.write(b"stale").map_err(|error| error.fault().map(|fault| fault.reason)),
        Err(Some(FaultReason::DeviceHalted))
    );
    assert_eq!(rig.gated.frame_accesses(), 0);
    drop(guard);
    rig.take_down();
}

// shows T2
#[test]
fn a_reset_lets_a_device_in_that_was_cut_off_and_it_has_forgotten_everything() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.fill(BASE + PAGE);
    rig.link.hold(invalidation_requests);
    let change = rig.unmap(BASE + PAGE);
    rig.let_it_be_cut_off();
    change.finish();
    assert!(rig.device.atc_len() > 0, "it was told nothing");
    let reset = rig.device.reset().expect("plugged in");
    assert_eq!((rig.device.atc_len(), rig.device.is_cut_off()), (0, true));
    reset.end();
    assert_eq!((rig.device.is_cut_off(), rig.fault()), (false, None));
    rig.link.hold(no_message);
    assert_eq!(rig.request(BASE + PAGE), TranslationAnswer::NoAccess, "it asks anew");
    rig.take_down();
}

// shows T3
#[test]
fn messages_of_before_a_reset_do_nothing_during_and_after_it() {
    for after in [false, true] {
        let rig = Rig::new();
        rig.fill(BASE);
        rig.link.hold(any_message);
        let asked = rig.send(BASE);
        let answered = rig.send(BASE + PAGE);
        let is_answered = |message: &Message| match message {
            Message::Up(sva_core::link::ToIommu::Translate(request)) => request.id == answered,
            _ => false,
        };
        rig.link.take(is_answered).deliver();
        let (change, unanswered) = (rig.unmap(BASE + 2 * PAGE), rig.unmap(BASE + 3 * PAGE));
        rig.link.take(invalidation_requests).deliver();
        let late: Vec<Packet> = std::iter::from_fn(|| rig.link.find(any_message)).collect();
        assert_eq!(late.len(), 4, "a request and a completion of each kind");
        let mut reset = rig.device.reset().ok();
        change.finish();
        unanswered.finish();
        if after {
            drop(reset.take());
        }
        let (before, counts) = (rig.device.atc_counts(), rig.device.invalidation_counts());
        rig.link.hold(no_message);
        late.clone().into_iter().chain(late).for_each(Packet::deliver);
        assert_eq!(rig.device.atc_len(), 0);
        // What a device in reset is sent it does not see. Afterwards both completions that fit
        // nothing are counted, and the second invalidation is answered once more each time.
        let (unexpected, invalidations) = if after { (4, 4) } else { (0, 2) };
        assert_eq!(rig.device.atc_counts().unexpected - before.unexpected, unexpected);
        assert_eq!(rig.device.invalidation_counts().unexpected - counts.unexpected, invalidations);
        assert_eq!(
            [asked, answered].map(|request| rig.port.translation(request)),
            [Some(TranslationAnswer::Outdated); 2],
            "forgotten"
        );
        drop(reset);
        assert_eq!(rig.fault(), None);
        rig.take_down();
    }
}

// shows F2, U6
#[test]
fn a_page_response_of_before_a_reset_answers_nothing_during_and_after_it() {
    for after in [false, true] {
        let rig = Rig::new();
        rig.device.enable_pri().expect("ATS is on");
        rig.link.hold(page_responses);
        let group = rig.port.open_group(Some(rig.pasid)).expect("there is credit");
        rig.port.request_page(group, BASE, Access::READ, true).expect("there is credit");
        assert!(rig.world.iommu.sort_page_request());
        rig.world.iommu.next_page_request_job().expect("a group").run();
        let mut reset = rig.device.reset().ok();
        if after {
            drop(reset.take());
        }
        rig.link.take(page_responses).deliver();
        let counts = rig.device.page_request_counts();
        assert_eq!(
            (counts.responses, counts.unexpected),
            (0, u64::from(after)),
            "a device in reset sees nothing"
        );
        assert_eq!(rig.port.outcome(group), Some(GroupOutcome::Forgotten));
        drop(reset);
        assert_eq!(rig.world.iommu.object_counts().page_groups, 0);
        rig.device.disable_pri().expect("a reset leaves it on");
        rig.take_down();
    }
}

// shows T2
// regression 11: translations that a device had cached outlived the time in which nobody told it of
// changes.
#[test]
fn translations_that_were_cached_when_ats_was_switched_off_are_gone_when_it_is_on_again() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.device.disable_ats().expect("it was on");
    rig.space.unmap(BASE, PAGE);
    rig.device.enable_ats().expect("it was off");
    assert_eq!(rig.device.atc_len(), 0);
    assert!(!rig.write_cached(BASE, b"stale").expect("nothing is cached"));
    assert_eq!(rig.request(BASE), TranslationAnswer::NoAccess);
    rig.take_down();
}

// shows T2
#[test]
fn switching_ats_off_waits_for_translated_requests_and_not_for_completions() {
    watched(|| {
        let rig = Rig::new();
        rig.fill(BASE);
        rig.link.hold(invalidation_requests);
        let change = rig.unmap(BASE + PAGE);
        let parked = rig.park(BASE);
        let (device, done) = (rig.device.clone(), Signal::new());
        let returned = done.clone();
        let switching = std::thread::spawn(move || {
            device.disable_ats().expect("it is on");
            returned.raise();
        });
        let frame = sva_core::Frame(0);
        let translated =
            || reason(rig.device.port().write_translated(Some(rig.pasid), frame, b"x"));
        eventually("translated requests are refused", || {
            translated() == Some(FaultReason::TranslatedRefused)
        });
        assert!(!done.is_on() && !change.is_over());
        parked.release().expect("it had begun");
        switching.join().expect("no panic");
        change.finish();
        rig.take_down();
    });
}

// shows U3
#[test]
fn ats_that_is_switched_off_inside_an_access_and_on_again_waits_for_that_access_before_others_pass()
{
    let rig = Rig::new();
    rig.fill(BASE);
    let (device, pasid, port) = (rig.device.clone(), rig.pasid, rig.port.clone());
    let inside = later();
    let noted = inside.clone();
    rig.gated.at_next_frame(move || {
        device.disable_ats().expect("it is on");
        device.enable_ats().expect("it is off");
        port.request_translation(Some(pasid), BASE, Access::WRITE).expect("it is on");
        *noted.lock() =
            Some(reason(port.try_write(Some(pasid), BASE, b"x", Access::WRITE).map(drop)));
    });
    assert!(rig.write_cached(BASE, b"under way").expect("it had begun"));
    assert_eq!(*inside.lock(), Some(Some(FaultReason::TranslatedRefused)));
    assert!(rig.write_cached(BASE, b"next").expect("translated requests pass again"));
    let reset = rig.device.reset().expect("plugged in");
    reset.end();
    rig.take_down();
}
