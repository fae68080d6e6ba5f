//! Draining: what becomes of page requests when a bond, a domain, a space or a device goes (rules
//! U1 to U6, F4, F7).

use std::sync::{Arc, Weak};

use sva_core::link::{Link, LinkEnds, ToDevice, ToIommu};
use sva_core::pri::AnswerError;
use sva_core::pri::ResponseCode;
use sva_core::{
    AddressSpace, Bind, Bond, DeviceSpec, EndReason, FaultReason, IommuConfig, Plug, SpaceId,
};
use sva_sync::Mutex;
use sva_testkit::MemorySpace;

use crate::manual_link::*;
use crate::paging::*;
use crate::support::{Later, Signal, World, bdf, eventually, later, reason, watched, width};

// shows U1, U2
#[test]
fn an_unbind_answers_what_is_queued_and_what_waits_as_invalid_and_discards_what_is_partial() {
    let Setting { world, requester, space, bond } = Setting::new();
    let other_space = absent();
    let other_bond = world.bind(&requester.device, &other_space);
    let pasid = Some(bond.pasid());
    let waiting = requester.request(pasid, &[page(0)]);
    let partial = requester.request_part(pasid, &[page(1)]);
    world.sort();
    let queued = requester.request(pasid, &[page(2)]);
    let half_queued = requester.request_part(pasid, &[page(3)]);
    let others = requester.request(Some(other_bond.pasid()), &[page(4)]);
    let others_part = requester.request_part(Some(other_bond.pasid()), &[page(5)]);
    let report = bond.unbind();
    assert_eq!((report.page_groups, report.deferred, space.resolved()), (2, false, 0));
    assert_eq!((requester.outcome(waiting), requester.outcome(queued)), (INVALID, INVALID));
    assert_eq!(
        (requester.outcome(partial), requester.outcome(half_queued)),
        (None, None),
        "nobody asked for an answer"
    );
    assert_eq!(world.pages_under_way(), (1, 1), "what is another PASID's stays");
    requester.finish(others_part, page(6));
    assert_eq!(
        (world.resolve(), requester.outcome(others), requester.outcome(others_part)),
        (2, SUCCESS, SUCCESS)
    );
}

// shows U1, B8
#[test]
fn an_unbind_drains_its_own_device_and_leaves_the_others_requests_of_the_same_space() {
    let Setting { world, requester, space, bond } = Setting::new();
    let other = world.requester(2, requesting());
    let other_bond = world.bind(&other.device, &space);
    assert_eq!(bond.pasid(), other_bond.pasid());
    let (first, second) = (
        requester.request(Some(bond.pasid()), &[page(0)]),
        other.request(Some(bond.pasid()), &[page(1)]),
    );
    assert_eq!(bond.unbind().page_groups, 1);
    assert_eq!(
        (world.resolve(), requester.outcome(first), other.outcome(second)),
        (1, INVALID, SUCCESS)
    );
}

// shows U1, U2, U6
#[test]
fn an_unbind_answers_what_an_owner_has_not_and_the_owner_s_late_answer_is_dropped_and_counted() {
    let Setting { world, requester, space, bond } = Setting::new();
    drop(bond);
    let (owned, handler) = collecting();
    let bond = world
        .iommu
        .bind_device(&requester.device, &space.handle(), Bind::new(()).on_page_requests(handler))
        .expect("free");
    let groups = [
        requester.request(Some(bond.pasid()), &[page(0)]),
        requester.request(Some(bond.pasid()), &[page(1)]),
    ];
    assert_eq!((world.resolve(), world.pages_under_way()), (2, (0, 2)));
    assert_eq!(bond.unbind().page_groups, 2);
    assert!(groups.iter().all(|group| requester.outcome(*group) == INVALID));
    let late = owned.lock().remove(0);
    assert!(!late.is_pending());
    let cookie = late.cookie();
    assert_eq!(late.answer(ResponseCode::Success), Err(AnswerError::NotPending { cookie }));
    owned.lock().clear();
    assert_eq!(
        (
            world.iommu.page_queue_counts().late_answers,
            requester.device.page_request_counts().unexpected
        ),
        (2, 0)
    );
}

// shows U1, U2
#[test]
fn an_unbind_waits_for_the_group_that_is_being_resolved() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let slow = Slow::new(&space);
        let pasid = bond.pasid();
        let group = requester.request(Some(pasid), &[page(0)]);
        let resolving = slow.begin(&world);
        let over = Signal::new();
        let unbinding = std::thread::spawn({
            let over = over.clone();
            move || {
                let report = bond.unbind();
                over.raise();
                report
            }
        });
        let port = requester.device.port();
        eventually("the entry is closed", || {
            reason(port.read(Some(pasid), page(99), &mut [0; 8])) == Some(FaultReason::NotBound)
        });
        (0..1000).for_each(|_| std::thread::yield_now());
        assert!(!over.is_on(), "the provider is still at work for the bond");
        slow.let_go();
        assert!(!unbinding.join().expect("no panic").deferred);
        assert_eq!(
            requester.outcome(group),
            INVALID,
            "the answer came before the unbind was over, and says that the entry is gone"
        );
        resolving.join().expect("no panic");
    });
}

// shows U1, U2, U3
#[test]
fn a_begun_unbind_does_not_wait_for_the_group_that_is_being_resolved_and_is_over_with_it() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let slow = Slow::new(&space);
        let pasid = Some(bond.pasid());
        let (first, second) =
            (requester.request(pasid, &[page(0)]), requester.request(pasid, &[page(1)]));
        let resolving = slow.begin(&world);
        let unbinding = bond.begin_unbind();
        assert_eq!(
            (unbinding.report().deferred, unbinding.report().page_groups, unbinding.is_over()),
            (true, 1, false)
        );
        assert_eq!((requester.outcome(first), requester.outcome(second)), (None, INVALID));
        slow.let_go();
        resolving.join().expect("no panic");
        assert_eq!(
            (unbinding.is_over(), requester.outcome(first), world.pages_under_way()),
            (true, INVALID, (0, 0))
        );
        assert_eq!(world.iommu.object_counts().pasids, 0);
    });
}

// shows U3, F4
#[test]
fn an_unbind_from_inside_the_resolver_of_its_own_group_is_deferred_until_that_has_returned() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let pasid = Some(bond.pasid());
        let held: Later<Bond<()>> = later();
        *held.lock() = Some(bond);
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (slot, notes) = (held.clone(), reports.clone());
        space.on_resolve(move |_| {
            let bond = slot.lock().take();
            notes.lock().extend(bond.map(Bond::unbind));
            true
        });
        let (first, waiting) =
            (requester.request(pasid, &[page(0)]), requester.request(pasid, &[page(1)]));
        assert_eq!(world.resolve(), 1, "the other one was drained");
        let report = reports.lock()[0];
        assert_eq!((report.deferred, report.page_groups), (true, 1));
        assert_eq!((requester.outcome(first), requester.outcome(waiting)), (INVALID, INVALID));
        assert_eq!(
            (
                world.iommu.object_counts().bonds,
                world.iommu.object_counts().pasids,
                space.watches()
            ),
            (0, 0, 0)
        );
    });
}

// shows F4
#[test]
fn a_resolver_may_drop_the_last_handle_of_its_own_space_and_its_bond() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let pasid = Some(bond.pasid());
        let handle: Weak<dyn AddressSpace> = Arc::downgrade(&space.handle());
        let held: Later<(MemorySpace, Bond<()>)> = later();
        let slot = held.clone();
        space.on_resolve(move |_| {
            let last = slot.lock().take();
            drop(last);
            true
        });
        *held.lock() = Some((space, bond));
        let (first, waiting) =
            (requester.request(pasid, &[page(0)]), requester.request(pasid, &[page(1)]));
        world.resolve();
        assert_eq!((requester.outcome(first), requester.outcome(waiting)), (INVALID, INVALID));
        assert_eq!(
            (world.iommu.object_counts().spaces, handle.strong_count()),
            (0, 0),
            "nothing holds it"
        );
        world.take_down(&[&requester]);
    });
}

// shows U4, F5
#[test]
fn groups_that_wait_or_are_being_resolved_when_the_space_ends_are_answered_invalid() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let slow = Slow::new(&space);
        let pasid = Some(bond.pasid());
        let (resolving, waiting) =
            (requester.request(pasid, &[page(0)]), requester.request(pasid, &[page(1)]));
        let thread = slow.begin(&world);
        let queued = requester.request(pasid, &[page(2)]);
        space.end(EndReason::Exited);
        slow.let_go();
        thread.join().expect("no panic");
        assert_eq!(requester.outcome(resolving), INVALID);
        assert_eq!(
            world.resolve(),
            1,
            "the one that waited; the queued one finds no space any more"
        );
        assert_eq!(
            (requester.outcome(waiting), requester.outcome(queued), space.resolved()),
            (INVALID, INVALID, 1)
        );
        assert!(bond.unbind().space_ended);
    });
}

// shows U4, F5
#[test]
fn what_an_owner_grants_after_the_end_of_the_space_is_answered_invalid() {
    let Setting { world, requester, space, bond } = Setting::new();
    drop(bond);
    let (owned, handler) = collecting();
    let bond = world
        .iommu
        .bind_device(&requester.device, &space.handle(), Bind::new(()).on_page_requests(handler))
        .expect("free");
    let (given, waiting) = (
        requester.request(Some(bond.pasid()), &[page(0)]),
        requester.request(Some(bond.pasid()), &[page(1)]),
    );
    world.sort();
    world.iommu.next_page_request_job().expect("two wait").run();
    space.end(EndReason::Exited);
    world.resolve();
    let group = owned.lock().remove(0);
    assert_eq!((group.answer(ResponseCode::Success), owned.lock().len()), (Ok(()), 0));
    assert_eq!((requester.outcome(given), requester.outcome(waiting)), (INVALID, INVALID));
}

// shows U5, U6
#[test]
fn a_pasid_s_next_owner_gets_neither_late_requests_nor_late_answers_of_the_one_before() {
    // One bit: there is PASID 1 and no other.
    let Setting { world, requester, space, bond } =
        Setting::with(IommuConfig::default().pasid_width(width(1)));
    drop(bond);
    let (owned, handler) = collecting();
    let bond = world
        .iommu
        .bind_device(&requester.device, &space.handle(), Bind::new(()).on_page_requests(handler))
        .expect("free");
    let pasid = bond.pasid();
    let given = requester.request(Some(pasid), &[page(0)]);
    world.resolve();
    requester.link.hold(page_messages);
    let late = requester.request(Some(pasid), &[page(1)]);
    drop(bond);
    let next = world.requester(2, requesting());
    let next_space = absent();
    let next_bond = world.bind(&next.device, &next_space);
    assert_eq!(next_bond.pasid(), pasid);
    let pending = next.request(Some(pasid), &[page(2)]);
    assert_eq!(pending.get(), given.get(), "even the index is the same");
    world.sort();
    let answer = owned.lock().remove(0);
    assert!(answer.answer(ResponseCode::ResponseFailure).is_err());
    requester.link.deliver_all(page_messages);
    world.resolve();
    assert_eq!((requester.outcome(given), requester.outcome(late)), (INVALID, INVALID));
    assert_eq!((next.outcome(pending), next_space.resolved()), (SUCCESS, 1));
    assert_eq!(
        (
            world.iommu.page_queue_counts().late_answers,
            next.device.page_request_counts().unexpected
        ),
        (1, 0)
    );
}

/// Runs something of the test's when the next invalidation is sent.
struct AtInvalidation(Later<Box<dyn FnOnce() + Send>>);

impl Link for AtInvalidation {
    fn upstream(&self, ends: &LinkEnds, message: ToIommu) {
        ends.to_iommu(message);
    }

    fn downstream(&self, ends: &LinkEnds, message: ToDevice) {
        ends.to_device(message);
        if matches!(message, ToDevice::Invalidate(_)) {
            let hook = self.0.lock().take();
            hook.into_iter().for_each(|hook| hook());
        }
    }
}

// shows U1, U5
#[test]
fn the_pasid_is_not_released_before_the_queue_is_drained_of_it() {
    watched(|| {
        let world = World::new();
        let hook = later();
        let plug = Plug::new(DeviceSpec { bdf: bdf(1), capabilities: requesting() })
            .link(Arc::new(AtInvalidation(hook.clone())));
        let device = world.iommu.plug(plug).expect("free").device;
        device.enable_ats().expect("it has it");
        device.enable_pri().expect("it has them");
        let space = absent();
        let id: SpaceId = space.handle().id();
        let bond = world.bind(&device, &space);
        let slow = Slow::new(&space);
        let (port, pasid) = (device.ats_port(), bond.pasid());
        let access = std::thread::spawn({
            let port = device.port();
            move || port.read(Some(pasid), page(0), &mut [0; 8])
        });
        slow.inside.wait();
        let group = port.open_group(Some(pasid)).expect("free");
        port.request_page(group, page(1), sva_core::Access::READ, true).expect("there is credit");
        // The device has forgotten, and then the last access leaves: all before the unbind comes to
        // the queue.
        let (iommu, left) = (world.iommu.clone(), Arc::new(Mutex::new(None)));
        let seen = left.clone();
        *hook.lock() = Some(Box::new(move || {
            slow.let_go();
            let _ = access.join().expect("no panic");
            *seen.lock() =
                Some((iommu.pasid_of(id).is_some(), iommu.object_counts().page_requests));
        }));
        assert_eq!(bond.unbind().page_groups, 1);
        assert_eq!(
            *left.lock(),
            Some((true, 1)),
            "the number is held as long as a request with it is queued"
        );
        assert_eq!((port.outcome(group), world.iommu.pasid_of(id)), (INVALID, None));
    });
}
