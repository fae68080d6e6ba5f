//! Handlers of page requests: of bonds and of domains, and the queue that one reads in its own
//! time (section 5, rules F1, F2, U2, U3).

use std::sync::Arc;

use sva_core::error::{DomainOf, HandlerError};
use sva_core::pri::{AnswerError, AnswersError, GroupAnswer, NoRoom, PrgIndex};
use sva_core::pri::{FaultQueue, PageRequestGroup, PageRequestHandler, ResponseCode};
use sva_core::{Bind, Bond, FaultReason, Iommu, Pasid, Removal};
use sva_sync::Mutex;
use sva_testkit::MemorySpace;

use crate::paging::*;
use crate::support::{Later, Noted, Parked, World, eventually, later, mapping, reason, watched};

/// A world with a device whose page requests a queue gets, by its bond.
struct Owned {
    world: World,
    requester: PageRequester,
    space: MemorySpace,
    queue: FaultQueue,
    bond: Bond<()>,
    notified: Noted<()>,
}

impl Owned {
    fn new(capacity: usize) -> Self {
        let world = World::new();
        let requester = world.requester(1, requesting());
        let space = absent();
        let notified: Noted<()> = Arc::new(Mutex::new(Vec::new()));
        let notes = notified.clone();
        let queue = FaultQueue::new(capacity, move || notes.lock().push(()));
        let bond = world
            .iommu
            .bind_device(
                &requester.device,
                &space.handle(),
                Bind::new(()).on_page_requests(queue.handler()),
            )
            .expect("free");
        Self { world, requester, space, queue, bond, notified }
    }

    /// Asks for a group of so many pages, and has it delivered.
    fn request(&self, pages: u64) -> PrgIndex {
        let group = self
            .requester
            .request(Some(self.bond.pasid()), &(0..pages).map(page).collect::<Vec<_>>());
        assert_eq!(self.world.resolve(), 1);
        group
    }

    /// Reads with this room. Answers the cookies, each with the number of its requests.
    fn read(&self, room: usize) -> Result<Vec<(u64, usize)>, NoRoom> {
        let mut groups = Vec::new();
        let count =
            self.queue.read(room, |cookie, _, requests| groups.push((cookie, requests.len())))?;
        assert_eq!(groups.len(), count);
        Ok(groups)
    }

    fn read_all(&self) -> Vec<u64> {
        self.read(usize::MAX)
            .expect("there is room")
            .into_iter()
            .map(|(cookie, _)| cookie)
            .collect()
    }

    fn outcomes(&self, groups: &[PrgIndex]) -> Vec<Option<sva_core::pri::GroupOutcome>> {
        groups.iter().map(|group| self.requester.outcome(*group)).collect()
    }
}

fn success(cookie: u64) -> GroupAnswer {
    GroupAnswer { cookie, code: ResponseCode::Success }
}

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

// shows F1
#[test]
fn a_reader_without_room_for_a_group_gets_no_part_of_it() {
    let owned = Owned::new(8);
    let groups = [owned.request(2), owned.request(2), owned.request(1)];
    let read = owned.read(3).expect("there is room for the first");
    assert_eq!(
        read.iter().map(|(_, requests)| *requests).collect::<Vec<_>>(),
        [2],
        "a whole group, and not the half of another"
    );
    let rest = owned.read(3).expect("there is room for both");
    assert_eq!(rest.iter().map(|(_, requests)| *requests).collect::<Vec<_>>(), [2, 1]);
    let answers: Vec<GroupAnswer> =
        read.iter().chain(&rest).map(|(cookie, _)| success(*cookie)).collect();
    owned.queue.answer(&answers).expect("all are pending");
    assert_eq!(owned.outcomes(&groups), [SUCCESS; 3]);
}

// shows F1
#[test]
fn a_group_that_is_larger_than_the_room_is_refused_with_both_numbers_and_stays() {
    let owned = Owned::new(8);
    let group = owned.request(3);
    for room in [0, 2] {
        assert_eq!(owned.read(room), Err(NoRoom { requests: 3, room }));
    }
    assert_eq!((owned.queue.len(), owned.read(3).map(|read| read.len())), ((1, 0), Ok(1)));
    assert_eq!(
        (owned.requester.outcome(group), owned.read(0)),
        (None, Ok(vec![])),
        "an empty queue needs no room"
    );
}

// shows F2, S2
#[test]
fn answers_are_taken_exactly_up_to_the_first_that_cannot_be() {
    let owned = Owned::new(8);
    let groups = [owned.request(1), owned.request(1), owned.request(1)];
    let cookies = owned.read_all();
    let unknown = 12_345;
    let result = owned.queue.answer(&[
        success(cookies[0]),
        success(cookies[1]),
        success(unknown),
        success(cookies[2]),
    ]);
    assert_eq!(
        result,
        Err(AnswersError { done: 2, cause: AnswerError::Unknown { cookie: unknown } })
    );
    assert_eq!(owned.outcomes(&groups), [SUCCESS, SUCCESS, None], "the one after it is not taken");
    assert_eq!(
        owned.queue.answer(&[success(cookies[0])]).map_err(|error| error.done),
        Err(0),
        "no second answer"
    );
    owned.requester.device.reset().expect("plugged").end();
    let gone = AnswersError { done: 0, cause: AnswerError::NotPending { cookie: cookies[2] } };
    assert_eq!(owned.queue.answer(&[success(cookies[2])]), Err(gone));
    assert!(owned.queue.is_empty());
}

// shows S2
#[test]
fn a_group_that_was_not_read_cannot_be_answered() {
    let owned = Owned::new(8);
    let (group, other) = (owned.request(1), owned.request(1));
    let first = owned.read(1).expect("room for one")[0].0;
    let guessed = first + 1;
    let result = owned.queue.answer(&[success(guessed)]);
    assert_eq!(
        result,
        Err(AnswersError { done: 0, cause: AnswerError::Unknown { cookie: guessed } })
    );
    assert_eq!((owned.outcomes(&[group, other]), owned.queue.len()), (vec![None, None], (1, 1)));
}

// shows F4
#[test]
fn a_reader_that_causes_a_fault_of_its_own_queue_gets_that_group_as_well() {
    watched(|| {
        let owned = Owned::new(8);
        owned.request(1);
        let mut read = Vec::new();
        let count = owned.queue.read(8, |cookie, _, _| {
            read.push(cookie);
            if read.len() < 3 {
                // What a copy to the reader's memory may come to, where that is reached through the
                // device.
                owned.request(1);
            }
        });
        assert_eq!((count, read.len(), owned.queue.len()), (Ok(3), 3, (0, 3)));
    });
}

// shows F3, G5
#[test]
fn closing_the_queue_answers_everything_in_it_and_what_comes_later_and_leaves_nothing() {
    let owned = Owned::new(8);
    let groups = [owned.request(1), owned.request(2), owned.request(1)];
    owned.read(1).expect("room for one");
    assert_eq!((owned.queue.len(), owned.world.pages_under_way()), ((2, 1), (0, 3)));
    let Owned { world, requester, space: _space, queue, bond, .. } = owned;
    drop(queue);
    assert!(groups.iter().all(|group| requester.outcome(*group) == INVALID));
    assert_eq!(world.pages_under_way(), (0, 0));
    let later = requester.request(Some(bond.pasid()), &[page(0)]);
    assert_eq!(
        (world.resolve(), requester.outcome(later), world.pages_under_way()),
        (1, INVALID, (0, 0))
    );
    drop(bond);
    world.take_down(&[&requester]);
    // A group that is left somewhere keeps its system.
    let bus = world.bus.clone();
    drop((world, requester));
    assert_eq!(Arc::strong_count(&bus), 1);
}

// shows S2
#[test]
fn groups_beyond_the_capacity_are_answered_invalid_and_an_answer_makes_room() {
    let owned = Owned::new(2);
    let groups = [owned.request(1), owned.request(1), owned.request(1)];
    assert_eq!(
        (owned.outcomes(&groups), owned.queue.len(), owned.notified.lock().len()),
        (vec![None, None, INVALID], (2, 0), 2)
    );
    let cookies = owned.read_all();
    let read_counts_as_well = owned.request(1);
    assert_eq!(owned.requester.outcome(read_counts_as_well), INVALID);
    owned.queue.answer(&[success(cookies[0])]).expect("pending");
    let fits = owned.request(1);
    assert_eq!((owned.requester.outcome(fits), owned.queue.len()), (None, (1, 1)));
}

// shows U2, S2
#[test]
fn groups_that_were_drained_are_not_read_any_more_and_take_no_room() {
    let owned = Owned::new(2);
    owned.request(1);
    let cookie = owned.read_all()[0];
    owned.request(1);
    let Owned { world, requester, space, queue, bond, .. } = owned;
    assert_eq!(bond.unbind().page_groups, 2);
    assert_eq!(queue.read(8, |_, _, _| panic!("its bond is gone")), Ok(0));
    let bond = world
        .iommu
        .bind_device(
            &requester.device,
            &space.handle(),
            Bind::new(()).on_page_requests(queue.handler()),
        )
        .expect("free");
    let groups = [
        requester.request(Some(bond.pasid()), &[page(0)]),
        requester.request(Some(bond.pasid()), &[page(1)]),
    ];
    world.resolve();
    assert_eq!(
        (requester.outcome(groups[0]), requester.outcome(groups[1]), queue.len()),
        (None, None, (2, 0))
    );
    assert!(queue.answer(&[success(cookie)]).is_err());
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
