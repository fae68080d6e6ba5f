//! Page request groups, their answers, and what is refused (rules F1, F3, F5).

use sva_core::error::{Service, ServiceError};
use sva_core::pri::ResponseCode;
use sva_core::pri::{GroupOutcome, PageRequestError, PrgIndex};
use sva_core::{Access, Bind, Capabilities, EndReason, FaultReason, Features, IommuConfig, Pasid};
use sva_testkit::{PAGE, Protection};

use crate::manual_link::*;
use crate::paging::*;
use crate::support::{World, bdf, reason};

fn number(n: u32) -> Pasid {
    Pasid::new(n).expect("not zero, and 20 bits")
}

// shows F1
#[test]
fn all_indexes_from_0_to_511_are_in_use_at_once_and_each_group_is_answered() {
    let world = World::with(IommuConfig::default().page_requests_each(600));
    let requester = world.requester(1, Capabilities { pri: Some(600), ..requesting() });
    let space = absent();
    let bond = world.bind(&requester.device, &space);
    let groups: Vec<PrgIndex> =
        (0..512).map(|n| requester.request(Some(bond.pasid()), &[page(n % 16)])).collect();
    let mut indexes: Vec<u16> = groups.iter().map(|group| group.get()).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, (0..512).collect::<Vec<u16>>());
    assert_eq!(requester.port.open_group(Some(bond.pasid())), Err(PageRequestError::NoIndex));
    assert_eq!(world.resolve(), 512);
    assert!(groups.iter().all(|group| requester.outcome(*group) == SUCCESS));
    let again = requester.port.open_group(Some(bond.pasid())).expect("the indexes are free again");
    requester.finish(again, page(0));
    drop(bond);
    world.take_down(&[&requester]);
}

// shows S3
#[test]
fn a_device_is_allocated_a_share_of_the_queue_whatever_its_capacity() {
    let world = World::with(IommuConfig::default().page_queue(8).page_requests_each(4));
    let (greedy, modest) = (
        world.requester(1, Capabilities { pri: Some(600), ..requesting() }),
        world.requester(2, requesting()),
    );
    let space = absent();
    let (bond, other) = (world.bind(&greedy.device, &space), world.bind(&modest.device, &space));
    let groups: Vec<PrgIndex> =
        (0..4).map(|n| greedy.request(Some(bond.pasid()), &[page(n)])).collect();
    assert_eq!(
        greedy.port.open_group(Some(bond.pasid())),
        Err(PageRequestError::NoCredit { outstanding: 4, allowed: 4 })
    );
    let group = modest.request(Some(other.pasid()), &[page(5)]);
    assert!(!world.iommu.page_queue_overflowed());
    assert_eq!(world.resolve(), 5);
    assert!(
        groups.iter().all(|group| greedy.outcome(*group) == SUCCESS)
            && modest.outcome(group) == SUCCESS
    );
    drop((bond, other));
    world.take_down(&[&greedy, &modest]);
}

// shows F1
#[test]
fn a_group_is_resolved_in_the_order_of_its_requests_and_answered_once_after_the_last() {
    let Setting { world, requester, space, bond } = Setting::new();
    let resolved = note_resolved(&space);
    requester.link.hold(page_responses);
    let group = requester.request_part(Some(bond.pasid()), &[page(2), page(0)]);
    assert_eq!((world.resolve(), world.pages_under_way()), (0, (2, 0)), "not complete");
    requester.finish(group, page(1));
    assert_eq!(world.resolve(), 1);
    assert_eq!(*resolved.lock(), [page(2), page(0), page(1)]);
    assert_eq!(requester.link.messages().len(), 1, "one answer for three requests");
    requester.link.deliver_all(page_responses);
    assert_eq!((requester.outcome(group), world.resolve()), (SUCCESS, 0));
    let counts = world.iommu.page_queue_counts();
    assert_eq!((counts.requests, counts.groups, counts.succeeded), (3, 1, 1));
}

// shows F1
#[test]
fn requests_of_groups_that_are_sent_by_turns_stay_in_their_groups() {
    let Setting { world, requester, space, bond } = Setting::new();
    let resolved = note_resolved(&space);
    let first = requester.request_part(Some(bond.pasid()), &[page(0)]);
    let second = requester.request_part(Some(bond.pasid()), &[page(1)]);
    requester.port.request_page(first, page(2), Access::READ, false).expect("open");
    requester.finish(second, page(3));
    assert_eq!(world.resolve(), 1, "the second one alone is complete");
    assert_eq!((requester.outcome(first), requester.outcome(second)), (None, SUCCESS));
    requester.finish(first, page(4));
    assert_eq!(world.resolve(), 1);
    assert_eq!(
        (requester.outcome(first), &*resolved.lock()),
        (SUCCESS, &vec![page(1), page(3), page(0), page(2), page(4)])
    );
}

// shows F1
#[test]
fn one_index_names_another_group_for_each_pasid_and_without_one() {
    let Setting { world, requester, space, bond } = Setting::new();
    let other = absent();
    let other_bond = world.bind(&requester.device, &other);
    let (resolved, resolved_other) = (note_resolved(&space), note_resolved(&other));
    requester.send(Some(bond.pasid()), 5, page(0), false);
    requester.send(None, 5, page(1), false);
    requester.send(Some(other_bond.pasid()), 5, page(2), true);
    assert_eq!((world.resolve(), world.pages_under_way()), (1, (2, 0)));
    assert_eq!((resolved.lock().len(), &*resolved_other.lock()), (0, &vec![page(2)]));
    requester.send(Some(bond.pasid()), 5, page(3), true);
    assert_eq!((world.resolve(), world.pages_under_way()), (1, (1, 0)));
    assert_eq!(*resolved.lock(), [page(0), page(3)]);
}

// shows F1, F3
#[test]
fn a_stop_marker_pushes_what_came_before_discards_partial_groups_and_is_never_answered() {
    let Setting { world, requester, space: _space, bond } = Setting::new();
    let other = absent();
    let other_bond = world.bind(&requester.device, &other);
    let whole = requester.request(Some(bond.pasid()), &[page(0)]);
    let part = requester.request_part(Some(bond.pasid()), &[page(1), page(2)]);
    let others = requester.request_part(Some(other_bond.pasid()), &[page(3)]);
    let without = requester.request_part(None, &[page(3)]);
    requester.link.hold(page_responses);
    requester.port.send_stop_marker(bond.pasid());
    assert_eq!(world.sort(), 6);
    assert_eq!((world.pages_under_way(), world.iommu.page_queue_counts().discarded), ((2, 1), 2));
    assert_eq!(requester.link.messages(), [], "nothing is answered by it");
    requester.link.hold(no_message);
    requester.finish(others, page(4));
    assert_eq!(world.resolve(), 2);
    assert_eq!((requester.outcome(whole), requester.outcome(others)), (SUCCESS, SUCCESS));
    assert_eq!(
        (requester.outcome(part), requester.outcome(without)),
        (Some(GroupOutcome::Forgotten), None)
    );
    assert_eq!(requester.device.page_request_counts().unexpected, 0);
}

// shows F1
#[test]
fn a_device_has_no_more_requests_outstanding_than_allowed_and_each_answer_gives_credit_back() {
    let Setting { world, requester, space: _space, bond } = Setting::new();
    let pasid = Some(bond.pasid());
    let whole = requester.request(pasid, &[page(0), page(1), page(2)]);
    let part = requester.request_part(pasid, &[page(3), page(4), page(5), page(6), page(7)]);
    let none_left = PageRequestError::NoCredit { outstanding: CREDIT, allowed: CREDIT };
    assert_eq!(requester.port.open_group(pasid), Err(none_left));
    assert_eq!(requester.port.request_page(part, page(0), Access::READ, true), Err(none_left));
    world.resolve();
    assert_eq!(requester.outcome(whole), SUCCESS);
    requester.finish(part, page(8));
    assert_eq!(
        requester.port.request_page(part, page(0), Access::READ, true),
        Err(PageRequestError::NotOpen(part))
    );
    world.resolve();
    let given_up = requester.request_part(pasid, &[page(0); 8]);
    requester.port.send_stop_marker(bond.pasid());
    assert_eq!(requester.outcome(given_up), Some(GroupOutcome::Forgotten));
    requester.request(pasid, &[page(0); 8]);
    assert_eq!(world.resolve(), 1, "what was given up counts on neither side");
    assert_eq!(world.iommu.page_queue_counts().lost, 0);
}

// shows F1, F3, S2
#[test]
fn requests_beyond_the_allocation_are_lost_and_counted_and_the_device_recovers() {
    let Setting { world, requester, space: _space, bond } = Setting::new();
    let pasid = Some(bond.pasid());
    for n in 0..CREDIT as u16 {
        requester.send(pasid, n, page(0), false);
    }
    assert_eq!((world.sort(), world.pages_under_way()), (CREDIT as usize, (CREDIT as usize, 0)));
    requester.link.hold(page_responses);
    requester.send(pasid, 100, page(1), false);
    assert_eq!(requester.link.messages(), [], "only the last of a group is answered");
    for n in 0..CREDIT as u16 {
        requester.send(pasid, n, page(0), false);
    }
    requester.send(pasid, 101, page(1), true);
    let answer = response(requester.link.take(page_responses).message);
    assert_eq!(
        (answer.index.get(), answer.code),
        (101, ResponseCode::Success),
        "it is to look again"
    );
    assert_eq!(world.iommu.page_queue_counts().lost, 2);
    requester.link.hold(no_message);
    world.sort();
    requester.send(pasid, 102, page(1), true);
    assert_eq!(
        world.pages_under_way(),
        (0, 0),
        "the groups that nobody finishes are gone with the first one too many"
    );
    let group = requester.request(pasid, &[page(1)]);
    assert_eq!((world.resolve(), requester.outcome(group)), (1, SUCCESS));
}

// shows F5
#[test]
fn what_cannot_be_had_answers_invalid_with_the_reason_in_the_log() {
    let Setting { world, requester, space, bond } = Setting::new();
    let pasid = Some(bond.pasid());
    space.protect(page(1), PAGE, Protection::READ);
    space.unmap(page(2), PAGE);
    let asked = [
        (pasid, page(1), Access::WRITE, FaultReason::Denied),
        (pasid, page(2), Access::READ, FaultReason::NotMapped),
        (None, page(0), Access::READ, FaultReason::NoDomainMapping),
    ];
    for (pasid, address, access, why) in asked {
        let group = requester.request_as(pasid, address, access);
        world.resolve();
        assert_eq!((requester.outcome(group), world.reasons()), (INVALID, vec![why]));
    }
    space.on_resolve(|_| false);
    let group = requester.request(pasid, &[page(3)]);
    world.resolve();
    assert_eq!(
        (requester.outcome(group), world.reasons()),
        (INVALID, vec![FaultReason::NotPresent])
    );
    let stranger = requester.request(Some(number(77)), &[page(0)]);
    assert_eq!((world.resolve(), requester.outcome(stranger)), (0, INVALID), "no entry: no work");
    assert_eq!(world.iommu.page_queue_counts().invalid, 5);
}

// shows F1, F5
#[test]
fn the_first_page_that_cannot_be_had_ends_the_group_and_the_next_group_goes_on() {
    let Setting { world, requester, space, bond } = Setting::new();
    let resolved = note_resolved(&space);
    space.unmap(page(1), PAGE);
    let group = requester.request(Some(bond.pasid()), &[page(0), page(1), page(2)]);
    let next = requester.request(Some(bond.pasid()), &[page(3)]);
    assert_eq!(world.resolve(), 2);
    assert_eq!((requester.outcome(group), requester.outcome(next)), (INVALID, SUCCESS));
    assert_eq!(*resolved.lock(), [page(0), page(3)]);
}

// shows F5
#[test]
fn execute_and_privileged_requests_are_granted_by_the_bond_or_answer_invalid() {
    let Setting { world, requester, space, bond } = Setting::new();
    space.protect(page(0), PAGE, Protection { execute: true, ..Protection::READ_WRITE });
    let execute = Access::EXECUTE;
    let privileged = Access::READ | Access::PRIVILEGED;
    for access in [privileged, execute] {
        let group = requester.request_as(Some(bond.pasid()), page(0), access);
        world.resolve();
        assert_eq!(
            (requester.outcome(group), world.reasons()),
            (INVALID, vec![FaultReason::NotGranted])
        );
    }
    drop(bond);
    let features = Features { execute: true, privileged: true, page_faults: true };
    let bond = world
        .iommu
        .bind_device(&requester.device, &space.handle(), Bind::new(()).features(features))
        .expect("it has both");
    space.protect(page(1), PAGE, Protection { privileged: true, ..Protection::READ_WRITE });
    for (address, access) in [(page(0), execute), (page(1), privileged)] {
        space.absent(address, PAGE);
        let group = requester.request_as(Some(bond.pasid()), address, access);
        let before = space.resolved();
        world.resolve();
        assert_eq!((requester.outcome(group), space.resolved() - before), (SUCCESS, 1));
    }
}

// shows F5, F6
#[test]
fn a_bond_without_page_faults_has_no_page_brought_in() {
    let Setting { world, requester, space, bond } = Setting::new();
    drop(bond);
    let bond = world
        .iommu
        .bind_device(&requester.device, &space.handle(), Bind::new(()).features(Features::NONE))
        .expect("free");
    let group = requester.request(Some(bond.pasid()), &[page(0)]);
    assert_eq!((world.resolve(), requester.outcome(group), space.resolved()), (0, INVALID, 0));
    assert_eq!(
        reason(requester.device.port().read(Some(bond.pasid()), page(0), &mut [0; 8])),
        Some(FaultReason::NotPresent)
    );
}

// shows F5, U4
#[test]
fn a_request_for_a_space_that_has_ended_answers_invalid() {
    let Setting { world, requester, space, bond } = Setting::new();
    space.end(EndReason::Exited);
    let group = requester.request(Some(bond.pasid()), &[page(0)]);
    assert_eq!((world.resolve(), requester.outcome(group), space.resolved()), (0, INVALID, 0));
}

// shows F1, T8
#[test]
fn a_request_without_pasid_brings_in_what_the_domain_maps() {
    let Setting { world, requester, space, bond } = Setting::new();
    drop(bond);
    world
        .iommu
        .map(requester.device.group(), &crate::support::mapping(0x1000, 2, &space, page(4)))
        .expect("free");
    let resolved = note_resolved(&space);
    let group = requester.request(None, &[0x2000, 0x1000]);
    assert_eq!((world.resolve(), requester.outcome(group)), (1, SUCCESS));
    assert_eq!(*resolved.lock(), [page(5), page(4)]);
    let beyond = requester.request(None, &[0x3000]);
    assert_eq!(
        (world.resolve(), requester.outcome(beyond), world.reasons()),
        (1, INVALID, vec![FaultReason::NoDomainMapping])
    );
}

// shows F7
#[test]
fn after_page_requests_are_switched_off_nothing_is_pending_and_nothing_is_taken() {
    let Setting { world, requester, space: _space, bond } = Setting::new();
    let pasid = Some(bond.pasid());
    let (queued, part) =
        (requester.request(pasid, &[page(0)]), requester.request_part(pasid, &[page(1)]));
    requester.device.disable_pri().expect("it was on");
    assert_eq!((requester.outcome(queued), world.pages_under_way()), (INVALID, (0, 0)));
    assert_eq!(requester.port.open_group(pasid), Err(PageRequestError::Disabled));
    assert_eq!(
        requester.port.request_page(part, page(2), Access::READ, true),
        Err(PageRequestError::Disabled)
    );
    assert_eq!(
        requester.device.disable_pri(),
        Err(ServiceError::NotOn { device: bdf(1), service: Service::Pri })
    );
    // What a device sends all the same.
    requester.send(pasid, 70, page(3), false);
    requester.send(pasid, 70, page(4), true);
    requester.send_stop(bond.pasid());
    assert_eq!(
        (world.sort(), world.pages_under_way(), world.iommu.page_queue_counts().dropped),
        (0, (0, 0), 3)
    );
    assert_eq!(
        reason(requester.port.read(pasid, page(0), &mut [0; 8])),
        Some(FaultReason::NoTranslation),
        "it cannot wait for the page"
    );
    requester.device.enable_pri().expect("it is off");
    let again = requester.request(pasid, &[page(0)]);
    assert_eq!((world.resolve(), requester.outcome(again)), (1, SUCCESS));
}
