//! Handlers of page requests: of bonds, groups, containers and domains (section 5, rules F1, F2,
//! F5, F7, G2, G6, T8, U2, U3).

use std::sync::Arc;

use sva_core::error::{DomainOf, HandlerError};
use sva_core::pri::{AnswerError, GroupAnswer, PrgIndex};
use sva_core::pri::{FaultQueue, PageRequestGroup, PageRequestHandler, ResponseCode};
use sva_core::{Bind, Bond, FaultReason, Iommu, Pasid, Removal};
use sva_sync::Mutex;

use crate::fault_queue::{Owned, success};
use crate::paging::*;
use crate::support::{Later, Noted, Parked, World, eventually, later, mapping, reason, watched};

// shows F1
#[test]
fn the_handler_of_a_bond_gets_whole_groups_instead_of_the_provider_and_answers_by_cookie() {
    let owned = Owned::new(8);
    let (first, second) = (owned.request(2), owned.request(1));
    assert_eq!(
        (owned.space.resolved(), owned.notified.lock().len(), owned.queue.len()),
        (0, 2, (2, 0))
    );
    let mut seen = Vec::new();
    let read = owned.queue.read(8, |cookie, device, requests| {
        assert_eq!(device, owned.requester.device.bdf());
        assert!(requests.iter().all(|request| request.pasid == Some(owned.bond.pasid())));
        seen.push((cookie, requests.iter().map(|request| request.address).collect::<Vec<_>>()));
    });
    assert_eq!(read, Ok(2));
    assert_eq!(
        (&seen[0].1, &seen[1].1, owned.queue.len()),
        (&vec![page(0), page(1)], &vec![page(0)], (0, 2))
    );
    owned
        .queue
        .answer(&[
            GroupAnswer { cookie: seen[1].0, code: ResponseCode::InvalidRequest },
            success(seen[0].0),
        ])
        .expect("both are pending");
    assert_eq!(owned.outcomes(&[first, second]), [SUCCESS, INVALID]);
    assert!(owned.queue.is_empty());
}

// shows G6
#[test]
fn a_domain_has_one_handler_and_the_next_one_when_that_is_gone() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let other = world.requester(2, requesting());
    let group = requester.device.group();
    let notes: Noted<u8> = Arc::new(Mutex::new(Vec::new()));
    let handler = |name: u8| -> Arc<dyn PageRequestHandler> {
        let notes = notes.clone();
        Arc::new(move |group: PageRequestGroup| {
            notes.lock().push(name);
            group.answer(ResponseCode::Success).expect("pending");
        })
    };
    let first = world.iommu.handle_page_requests(group, handler(1)).expect("nobody has them");
    assert_eq!(
        world.iommu.handle_page_requests(group, handler(2)).err(),
        Some(HandlerError::Taken { domain: DomainOf::Group(group) })
    );
    let others =
        world.iommu.handle_page_requests(other.device.group(), handler(3)).expect("another domain");
    let request = |requester: &PageRequester| {
        let group = requester.request(None, &[0x1000]);
        world.resolve();
        requester.outcome(group)
    };
    assert_eq!(
        (request(&requester), request(&other), &*notes.lock()),
        (SUCCESS, SUCCESS, &vec![1, 3])
    );
    drop(first);
    assert_eq!(
        (request(&requester), request(&other)),
        (INVALID, SUCCESS),
        "the provider of nothing has nothing"
    );
    let second = world.iommu.handle_page_requests(group, handler(2)).expect("it is free again");
    assert_eq!((request(&requester), &*notes.lock()), (SUCCESS, &vec![1, 3, 3, 2]));
    drop((second, others));
    world.take_down(&[&requester, &other]);
}

// shows G2, G6
#[test]
fn a_group_in_a_container_has_its_requests_go_to_the_container_s_handler() {
    let world = World::new();
    let requesters = [world.requester(1, requesting()), world.requester(2, requesting())];
    let group = requesters[0].device.group();
    let unheard =
        || -> Arc<dyn PageRequestHandler> { Arc::new(|_: PageRequestGroup| panic!("not in use")) };
    let own = world.iommu.handle_page_requests(group, unheard()).expect("nobody has them");
    let container = world.container(&[group, requesters[1].device.group()]);
    let refused = world.iommu.handle_page_requests(group, unheard()).err();
    assert_eq!(refused, Some(HandlerError::InContainer { group, container: container.id() }));
    let passing = world.plug(3);
    let nowhere = passing.group();
    world.iommu.remove(&passing, Removal::Orderly).expect("plugged");
    assert_eq!(
        world.iommu.handle_page_requests(nowhere, unheard()).err(),
        Some(HandlerError::NoSuchGroup { group: nowhere })
    );
    let queue = FaultQueue::new(8, || {});
    let registered = container.handle_page_requests(queue.handler()).expect("nobody has them");
    let taken = HandlerError::Taken { domain: DomainOf::Container(container.id()) };
    assert_eq!(container.handle_page_requests(unheard()).err(), Some(taken));
    let groups = [requesters[0].request(None, &[0x1000]), requesters[1].request(None, &[0x2000])];
    world.resolve();
    let mut seen = Vec::new();
    queue.read(8, |cookie, device, _| seen.push((success(cookie), device))).expect("room");
    assert_eq!(
        seen.iter().map(|(_, device)| *device).collect::<Vec<_>>(),
        [requesters[0].device.bdf(), requesters[1].device.bdf()]
    );
    // What was handed out is its owner's to answer, registered or not.
    drop(registered);
    queue.answer(&seen.iter().map(|(answer, _)| *answer).collect::<Vec<_>>()).expect("pending");
    assert_eq!(
        (requesters[0].outcome(groups[0]), requesters[1].outcome(groups[1])),
        (SUCCESS, SUCCESS)
    );
    drop((container, own));
}

// shows G6
#[test]
fn a_group_s_own_handler_gets_nothing_in_a_container_and_the_requests_again_after() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let group = requester.device.group();
    let (own, shared) = (FaultQueue::new(8, || {}), FaultQueue::new(8, || {}));
    let registered =
        world.iommu.handle_page_requests(group, own.handler()).expect("nobody has them");
    let request = || {
        let index = requester.request(None, &[0x1000]);
        world.resolve();
        index
    };
    let before = request();
    let container = world.container(&[group]);
    assert_eq!(
        (requester.outcome(before), own.read(8, |_, _, _| panic!("drained"))),
        (INVALID, Ok(0)),
        "with the join"
    );
    assert_eq!(
        requester.outcome(request()),
        INVALID,
        "the container has no handler, and its own is not asked"
    );
    let of_container = container.handle_page_requests(shared.handler()).expect("nobody has them");
    let inside = request();
    assert_eq!((requester.outcome(inside), own.len(), shared.len()), (None, (0, 0), (1, 0)));
    container.remove(group).expect("it is in there");
    assert_eq!(requester.outcome(inside), INVALID, "with the leave");
    let after = request();
    assert_eq!((requester.outcome(after), own.len()), (None, (1, 0)));
    drop((of_container, container, registered, own, shared));
    world.take_down(&[&requester]);
}

// shows F1
#[test]
fn a_group_that_its_handler_drops_or_panics_over_is_answered_invalid_and_the_next_one_comes() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let space = absent();
    let handler = |group: PageRequestGroup| match group.requests()[0].address {
        address if address == page(0) => drop(group),
        address if address == page(1) => panic!("a handler that cannot"),
        _ => group.answer(ResponseCode::Success).expect("pending"),
    };
    let bond = world
        .iommu
        .bind_device(
            &requester.device,
            &space.handle(),
            Bind::new(()).on_page_requests(Arc::new(handler)),
        )
        .expect("free");
    let groups: Vec<PrgIndex> =
        (0..3).map(|n| requester.request(Some(bond.pasid()), &[page(n)])).collect();
    assert_eq!(world.resolve(), 3);
    let outcomes: Vec<_> = groups.iter().map(|group| requester.outcome(*group)).collect();
    assert_eq!((outcomes, world.pages_under_way()), (vec![INVALID, INVALID, SUCCESS], (0, 0)));
    assert_eq!(world.iommu.page_queue_counts().late_answers, 0);
}

// shows U2, U3
#[test]
fn a_handler_that_unbinds_its_own_bond_does_not_wait_for_itself() {
    watched(|| {
        let world = World::new();
        let requester = world.requester(1, requesting());
        let space = absent();
        let held: Later<Bond<()>> = later();
        let slot = held.clone();
        let handler = move |group: PageRequestGroup| {
            let bond = slot.lock().take().expect("the first group");
            let report = bond.unbind();
            assert!(report.deferred, "what it would wait for is this call");
            assert_eq!(report.page_groups, 2, "its own group, and the one that waited");
            let cookie = group.cookie();
            assert_eq!(
                group.answer(ResponseCode::Success),
                Err(AnswerError::NotPending { cookie })
            );
        };
        let bond = world
            .iommu
            .bind_device(
                &requester.device,
                &space.handle(),
                Bind::new(()).on_page_requests(Arc::new(handler)),
            )
            .expect("free");
        let pasid = Some(bond.pasid());
        *held.lock() = Some(bond);
        let groups = [requester.request(pasid, &[page(0)]), requester.request(pasid, &[page(1)])];
        assert_eq!(world.resolve(), 1);
        assert_eq!(
            (requester.outcome(groups[0]), requester.outcome(groups[1])),
            (INVALID, INVALID)
        );
        assert_eq!((world.iommu.object_counts().bonds, world.iommu.object_counts().pasids), (0, 0));
        assert!(held.lock().is_none());
    });
}

// shows F7, U2
#[test]
fn no_group_of_a_device_that_is_being_removed_is_handed_on() {
    watched(|| {
        let world = World::new();
        let requester = world.requester(1, requesting());
        let space = absent();
        let handed: Noted<Option<Pasid>> = Arc::new(Mutex::new(Vec::new()));
        let notes = handed.clone();
        let handler: Arc<dyn PageRequestHandler> =
            Arc::new(move |group: PageRequestGroup| notes.lock().push(group.pasid()));
        let registered = world
            .iommu
            .handle_page_requests(requester.device.group(), handler.clone())
            .expect("nobody has them");
        let bond = world
            .iommu
            .bind_device(
                &requester.device,
                &space.handle(),
                Bind::new(()).on_page_requests(handler),
            )
            .expect("free");
        // An access in flight holds the removal up, and the groups wait meanwhile.
        let parked = Parked::by_pasid(&space, &requester.device.port(), bond.pasid());
        requester.request(Some(bond.pasid()), &[page(0)]);
        requester.request(None, &[0x1000]);
        world.sort();
        let (iommu, device): (Iommu, _) = (world.iommu.clone(), requester.device.clone());
        let removing = std::thread::spawn(move || iommu.remove(&device, Removal::Surprise));
        let port = requester.device.port();
        eventually("the removal has begun", || {
            reason(port.read(None, 0, &mut [0; 8])) == Some(FaultReason::DeviceRemoved)
        });
        world.resolve();
        assert_eq!(*handed.lock(), [], "reported to nobody");
        let _ = parked.release();
        removing.join().expect("no panic").expect("plugged");
        assert_eq!(
            (world.pages_under_way(), world.iommu.page_queue_counts().unanswerable),
            ((0, 0), 2)
        );
        drop((bond, registered));
    });
}

// shows T8, F5
#[test]
fn mappings_of_a_domain_with_a_handler_are_its_owner_s_affair() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let space = absent();
    world.iommu.map(requester.device.group(), &mapping(0x1000, 1, &space, page(0))).expect("free");
    let queue = FaultQueue::new(8, || {});
    let registered = world
        .iommu
        .handle_page_requests(requester.device.group(), queue.handler())
        .expect("nobody has them");
    let group = requester.request(None, &[0x1000]);
    world.resolve();
    assert_eq!((queue.len(), space.resolved()), ((1, 0), 0));
    drop((queue, registered));
    assert_eq!(requester.outcome(group), INVALID);
    let again = requester.request(None, &[0x1000]);
    world.resolve();
    assert_eq!((requester.outcome(again), space.resolved()), (SUCCESS, 1), "the provider's again");
}
