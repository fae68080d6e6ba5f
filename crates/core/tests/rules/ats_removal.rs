//! A device that caches translations is removed, at every step of what it has under way (rules F7,
//! G5, T2).

use sva_core::ats::TranslationRequestError;
use sva_core::error::ServiceError;
use sva_core::topology::RequesterId;
use sva_core::{Access, FaultReason, Removal};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

// shows F7
#[test]
fn a_removed_device_cannot_be_switched_or_reset() {
    let rig = Rig::new();
    let device = rig.device.bdf();
    rig.world.iommu.remove(&rig.device, Removal::Surprise).expect("plugged in");
    assert_eq!(rig.device.reset().map(drop), Err(sva_core::error::ResetError::Gone { device }));
    assert_eq!(rig.device.enable_ats(), Err(ServiceError::Halted { device }));
    let asked = rig.port.request_translation(Some(rig.pasid), BASE, Access::READ);
    assert_eq!(asked, Err(TranslationRequestError::Halted { device }));
    assert_eq!(
        reason(rig.port.write(Some(rig.pasid), BASE, b"x")),
        Some(FaultReason::DeviceRemoved)
    );
    rig.take_down();
}

// shows T2
#[test]
fn a_device_goes_on_being_told_of_changes_when_one_that_shared_its_requester_id_is_removed() {
    let rig = Rig::new();
    rig.world.bus.alias(bdf(2), RequesterId(rig.device.bdf()));
    let sibling = rig.world.plug_over(2, translating(), &rig.link);
    rig.world.iommu.remove(&sibling, Removal::Orderly).expect("plugged in");
    rig.fill(BASE);
    rig.space.unmap(BASE, PAGE);
    assert_eq!((rig.device.atc_len(), rig.device.invalidation_counts().completed), (0, 1));
    rig.take_down();
}

/// What is under way when the device is removed; the answer is what happens afterwards.
type Step = fn(&mut Rig) -> Box<dyn FnOnce()>;

const STEPS: &[(&str, Step)] = &[
    ("nothing", |_| Box::new(|| ())),
    ("a translation request", |rig| {
        rig.link.hold(translation_requests);
        rig.send(BASE);
        Box::new(|| ())
    }),
    ("a translation completion", |rig| {
        rig.link.hold(translation_completions);
        rig.send(BASE);
        Box::new(|| ())
    }),
    ("an invalidation", |rig| {
        rig.link.hold(invalidation_requests);
        let change = rig.unmap(BASE);
        Box::new(|| change.finish())
    }),
    ("an invalidation that is lost", |rig| {
        rig.link.hold(invalidation_requests);
        let change = rig.unmap(BASE);
        rig.link.lose_all(any_message);
        Box::new(|| change.finish())
    }),
    ("an invalidation completion", |rig| {
        rig.link.hold(invalidation_completions);
        let change = rig.unmap(BASE);
        Box::new(|| change.finish())
    }),
    ("a change while it is cut off", |rig| {
        rig.link.hold(invalidation_requests);
        let change = rig.unmap(BASE);
        rig.let_it_be_cut_off();
        Box::new(|| change.finish())
    }),
    ("two resets", |rig| {
        let resets = [rig.device.reset(), rig.device.reset()];
        Box::new(|| drop(resets))
    }),
    ("a use of a translation", |rig| {
        let guard = rig.port.use_translation(Some(rig.pasid), BASE, Access::WRITE).expect("cached");
        let change = rig.unmap(BASE);
        Box::new(move || {
            assert_eq!(reason(guard.write(b"x").map(drop)), Some(FaultReason::DeviceRemoved));
            drop(guard);
            change.finish();
        })
    }),
    ("a write by a translation", |rig| {
        let (parked, change) = (rig.park(BASE), rig.unmap(BASE));
        Box::new(|| {
            assert!(!change.is_over(), "the write is inside the frame");
            parked.release().expect("it had begun");
            change.finish();
        })
    }),
    ("a write by a translation over a reset", |rig| {
        let parked = rig.park(BASE);
        rig.device.begin_reset().expect("plugged in").end();
        let change = rig.unmap(BASE);
        Box::new(|| {
            assert!(!change.is_over(), "the write is inside the frame");
            parked.release().expect("it had begun");
            change.finish();
        })
    }),
    ("an unbind", |rig| {
        rig.link.hold(invalidation_requests);
        let unbinding = rig.take_bond().begin_unbind();
        assert!(!unbinding.is_over());
        Box::new(move || assert!(unbinding.is_over()))
    }),
    ("an end of the space", |rig| {
        rig.space.end(sva_core::EndReason::Exited);
        Box::new(|| ())
    }),
];

// shows G5, F7, T2
#[test]
fn a_device_can_be_removed_at_any_step_and_nothing_is_left_of_it() {
    watched(|| {
        for (name, step) in STEPS {
            for how in [Removal::Surprise, Removal::Orderly] {
                println!("{how:?} removal during {name}");
                let mut rig = Rig::new();
                rig.fill(BASE);
                let afterwards = step(&mut rig);
                let removing = rig.world.iommu.begin_remove(&rig.device, how).expect("plugged in");
                afterwards();
                assert!(removing.is_over());
                rig.link.deliver_all(any_message);
                assert_eq!(
                    reason(rig.port.write(Some(rig.pasid), BASE, b"x")),
                    Some(FaultReason::DeviceRemoved)
                );
                rig.take_down();
            }
        }
    });
}
