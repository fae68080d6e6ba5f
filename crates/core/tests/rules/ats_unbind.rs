//! Unbinds, and ends of spaces, of a device that translates for itself (rules T3, U1, U2, U3, U4,
//! U6).

use sva_core::ats::{AlignedRange, InvalidationRequest, TranslationAnswer};
use sva_core::error::{BindError, Refusal};
use sva_core::{Bind, EndReason, FaultReason};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

// shows U1, U2
#[test]
fn an_unbind_returns_when_the_device_has_invalidated_the_pasid_and_not_before() {
    watched(|| {
        let mut rig = Rig::new();
        rig.fill(BASE);
        rig.link.hold(invalidation_requests);
        let (bond, done) = (rig.take_bond(), Signal::new());
        std::thread::scope(|scope| {
            let unbind = scope.spawn(|| {
                let report = bond.unbind();
                done.raise();
                report
            });
            let request = rig.link.wait_for(any_message);
            // It has sent the message; give it time to wait for the answer.
            (0..1000).for_each(|_| std::thread::yield_now());
            let InvalidationRequest { pasid, range, .. } = request_in(&request);
            assert_eq!((pasid, range), (Some(rig.pasid), AlignedRange::ALL));
            assert_eq!(
                reason(rig.write_cached(BASE, b"x").map(drop)),
                Some(FaultReason::NotBound),
                "the entry is not present"
            );
            assert_eq!(
                (done.is_on(), rig.device.atc_len(), rig.world.iommu.object_counts().pasids),
                (false, 1, 1)
            );
            request.deliver();
            assert!(!unbind.join().expect("no panic").deferred);
        });
        assert_eq!((rig.device.atc_len(), rig.world.iommu.object_counts().pasids), (0, 0));
        rig.take_down();
    });
}

// shows U1
#[test]
fn an_unbind_that_was_begun_is_over_when_the_device_has_invalidated_and_keeps_the_entry_until_then()
{
    let mut rig = Rig::new();
    rig.fill(BASE);
    rig.link.hold(invalidation_requests);
    let unbinding = rig.take_bond().begin_unbind();
    assert!(unbinding.report().deferred && !unbinding.is_over());
    let (device, pasid) = (rig.device.bdf(), rig.pasid);
    let again =
        rig.world.iommu.bind_device(&rig.device, &rig.space.handle(), Bind::new(())).map(drop);
    assert!(matches!(
        again,
        Err(BindError::Device(Refusal::StillUnbinding { device: d, pasid: p }))
            if (d, p) == (device, pasid)
    ));
    rig.link.take(any_message).deliver();
    assert!(unbinding.is_over());
    rig.take_down();
}

// shows U1
#[test]
fn an_unbind_does_not_wait_longer_for_a_device_than_it_takes_to_cut_it_off() {
    let mut rig = Rig::new();
    rig.fill(BASE);
    rig.link.hold(invalidation_requests);
    let unbinding = rig.take_bond().begin_unbind();
    rig.let_it_be_cut_off();
    assert!(unbinding.is_over());
    rig.take_down();
}

// shows U3
#[test]
fn an_unbind_inside_an_access_by_a_translation_is_deferred_to_its_end() {
    let mut rig = Rig::new();
    rig.fill(BASE);
    let (bond, report) = (rig.take_bond(), later());
    let noted = report.clone();
    rig.gated.at_next_frame(move || *noted.lock() = Some(bond.unbind()));
    assert!(rig.write_cached(BASE, b"under way").expect("it had begun"));
    let report = report.lock().take().expect("the hook ran");
    assert_eq!((report.deferred, report.drained), (true, 1));
    assert_eq!(
        (rig.world.iommu.object_counts().bonds, rig.device.atc_len()),
        (0, 0),
        "over with the access"
    );
    rig.take_down();
}

// shows U6, T3
#[test]
fn a_completion_for_an_earlier_owner_of_the_pasid_is_not_cached_for_the_next() {
    for which in [translation_requests as Which, translation_completions] {
        // One PASID, so that the next owner has the number of the last.
        let mut rig = Rig::with(config().pasid_width(width(1)));
        rig.link.hold(which);
        let asked = rig.send(BASE);
        drop(rig.take_bond());
        let (next, bond) = rig.bind_another();
        assert_eq!(bond.pasid(), rig.pasid);
        rig.link.hold(no_message);
        rig.link.take(which).deliver();
        assert_eq!(
            (rig.port.translation(asked), rig.device.atc_len()),
            (Some(TranslationAnswer::Outdated), 0)
        );
        rig.port.write(Some(rig.pasid), BASE, b"next").expect("it asks anew");
        assert_eq!((next.peek(BASE, 4), rig.space.peek(BASE, 4)), (b"next".to_vec(), vec![0; 4]));
        drop(bond);
        rig.take_down();
    }
}

// shows U4
#[test]
fn from_the_moment_when_a_space_is_said_to_have_ended_no_translation_of_it_is_made_or_used() {
    let rig = Rig::new();
    rig.fill(BASE);
    // The provider has said so and still answers, as one that is slow to close.
    rig.gated.announce(EndReason::Exited);
    assert_eq!(reason(rig.write_cached(BASE, b"x").map(drop)), Some(FaultReason::SpaceEnded));
    assert_eq!(
        (rig.request(BASE + PAGE), rig.gated.frame_accesses()),
        (TranslationAnswer::NoAccess, 0)
    );
    rig.take_down();
}
