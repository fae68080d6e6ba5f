//! What the event log says of page requests that are answered as invalid (rule F6): each refusal
//! once, whether the device requests its pages by hand or by a whole transfer.

use std::sync::Arc;

use sva_core::pri::{PageRequestGroup, ResponseCode};
use sva_core::{Access, Bind, Bond, Event, Fault, FaultReason, Pasid};
use sva_sync::Mutex;
use sva_testkit::{MemorySpace, PAGE, Protection};

use crate::manual_link::*;
use crate::paging::*;
use crate::support::*;

const INVALID_REQUEST: FaultReason = FaultReason::PageRefused(ResponseCode::InvalidRequest);

/// The faults in the log.
fn faults(world: &World) -> Vec<Fault> {
    let faults = world.events().into_iter().filter_map(|event| match event {
        Event::Fault(fault) => Some(fault),
        _ => None,
    });
    faults.collect()
}

/// What the log says of a refused request of the first device.
fn refusal(pasid: Pasid, address: u64, access: Access, reason: FaultReason) -> Fault {
    Fault { device: bdf(1), pasid: Some(pasid), address, access, reason }
}

/// Has `requester` request one page by hand, and then access it by a whole transfer, which requests
/// it. Nothing permits the access: each request is refused, and logged once, for `reason`.
fn assert_logged_once(
    world: &World,
    requester: &PageRequester,
    pasid: Pasid,
    address: u64,
    access: Access,
    reason: FaultReason,
) {
    let logged = [refusal(pasid, address, access, reason)];
    let group = requester.request_as(Some(pasid), address, access);
    world.resolve();
    assert_eq!((requester.outcome(group), faults(world)), (INVALID, logged.to_vec()), "by hand");
    let port = requester.port.clone();
    let transfer = std::thread::spawn(move || match access.is_write() {
        true => port.write(Some(pasid), address, &[1; 8]),
        false => port.read(Some(pasid), address, &mut [0; 8]),
    });
    eventually("the page is requested and refused", || world.resolve() > 0);
    let (done, fault) = stop(transfer.join().expect("no panic"));
    assert_eq!((done, fault), (0, refusal(pasid, address, access, INVALID_REQUEST)));
    assert_eq!(faults(world), logged, "by a whole transfer");
}

// shows F6
#[test]
fn a_request_for_a_page_that_is_not_mapped_is_logged_once() {
    watched(|| {
        let Setting { world, requester, space: _space, bond } = Setting::new();
        let (pasid, reason) = (bond.pasid(), FaultReason::NotMapped);
        assert_logged_once(&world, &requester, pasid, page(PAGES), Access::READ, reason);
        drop(bond);
        world.take_down(&[&requester]);
    });
}

// shows F6
#[test]
fn a_request_for_an_access_that_the_page_denies_is_logged_once() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        space.protect(page(1), PAGE, Protection::READ);
        let (pasid, reason) = (bond.pasid(), FaultReason::Denied);
        assert_logged_once(&world, &requester, pasid, page(1), Access::WRITE, reason);
        drop(bond);
        world.take_down(&[&requester]);
    });
}

/// A bond whose owner does with each group what `answer` does.
fn owned(
    world: &World,
    requester: &PageRequester,
    space: &MemorySpace,
    answer: impl Fn(PageRequestGroup) + Send + Sync + 'static,
) -> Bond<()> {
    let bind = Bind::new(()).on_page_requests(Arc::new(answer));
    world.iommu.bind_device(&requester.device, &space.handle(), bind).expect("free")
}

// shows F6
#[test]
fn a_request_that_its_owner_answers_as_invalid_or_lets_drop_is_logged_once() {
    watched(|| {
        let world = World::new();
        let requester = world.requester(1, requesting());
        let space = absent();
        let invalid = |group: PageRequestGroup| {
            group.answer(ResponseCode::InvalidRequest).expect("it is pending");
        };
        let bond = owned(&world, &requester, &space, invalid);
        let pasid = bond.pasid();
        assert_logged_once(&world, &requester, pasid, page(2), Access::READ, INVALID_REQUEST);
        drop(bond);
        let bond = owned(&world, &requester, &space, drop);
        let pasid = bond.pasid();
        assert_logged_once(&world, &requester, pasid, page(2), Access::WRITE, INVALID_REQUEST);
        drop(bond);
        world.take_down(&[&requester]);
    });
}

// shows F6
#[test]
fn a_request_of_a_pasid_that_is_not_bound_is_logged_once() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let pasid = Pasid::new(5).expect("small");
    let group = requester.request(Some(pasid), &[page(0), page(1)]);
    assert_eq!((world.resolve(), requester.outcome(group)), (0, INVALID));
    // By the last request of the group, which is the one that is answered.
    assert_eq!(faults(&world), [refusal(pasid, page(1), Access::READ, INVALID_REQUEST)]);
    world.take_down(&[&requester]);
}

// shows F6
#[test]
fn a_transfer_whose_page_request_arrives_after_the_unbind_is_logged_once() {
    watched(|| {
        let Setting { world, requester, space: _space, bond } = Setting::new();
        let pasid = bond.pasid();
        requester.link.hold(page_messages);
        let port = requester.port.clone();
        let transfer = std::thread::spawn(move || port.read(Some(pasid), page(3), &mut [0; 8]));
        let request = requester.link.wait_for(page_messages);
        drop(bond);
        request.deliver();
        assert_eq!(world.resolve(), 0);
        let (done, fault) = stop(transfer.join().expect("no panic"));
        let refused = refusal(pasid, page(3), Access::READ, INVALID_REQUEST);
        assert_eq!((done, fault, faults(&world)), (0, refused, vec![refused]));
        world.take_down(&[&requester]);
    });
}

// shows F6, U1
#[test]
fn a_request_that_an_unbind_drains_is_logged_once() {
    let Setting { world, requester, space: _space, bond } = Setting::new();
    let pasid = bond.pasid();
    let group = requester.request(Some(pasid), &[page(4)]);
    assert_eq!(bond.unbind().page_groups, 1);
    assert_eq!((world.resolve(), requester.outcome(group)), (0, INVALID));
    assert_eq!(faults(&world), [refusal(pasid, page(4), Access::READ, INVALID_REQUEST)]);
    world.take_down(&[&requester]);
}

// shows F6, U1, U2
#[test]
fn a_request_whose_page_comes_in_during_the_unbind_is_logged_once_as_invalid() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let pasid = bond.pasid();
        let slow = Slow::new(&space);
        let group = requester.request(Some(pasid), &[page(5)]);
        let resolving = slow.begin(&world);
        let unbinding = bond.begin_unbind();
        slow.let_go();
        resolving.join().expect("no panic");
        assert!(unbinding.is_over());
        assert_eq!(requester.outcome(group), INVALID);
        assert_eq!(faults(&world), [refusal(pasid, page(5), Access::READ, INVALID_REQUEST)]);
        world.take_down(&[&requester]);
    });
}

// shows F6, U1, U2
#[test]
fn a_request_that_is_too_late_for_its_owner_is_logged_once() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let space = absent();
    let handed: Noted<()> = Arc::new(Mutex::new(Vec::new()));
    let notes = handed.clone();
    let bond = owned(&world, &requester, &space, move |_| notes.lock().push(()));
    let pasid = bond.pasid();
    let group = requester.request(Some(pasid), &[page(6)]);
    world.sort();
    let job = world.iommu.next_page_request_job().expect("a group waits");
    let unbinding = bond.begin_unbind();
    job.run();
    assert!(unbinding.is_over());
    assert_eq!((handed.lock().len(), requester.outcome(group)), (0, INVALID));
    assert_eq!(faults(&world), [refusal(pasid, page(6), Access::READ, INVALID_REQUEST)]);
    world.take_down(&[&requester]);
}
