//! A queue of page requests that is full, and devices that send more than they may (rules F3, S2,
//! S3).

use sva_core::IommuConfig;
use sva_core::link::ToDevice;
use sva_core::pri::PrgIndex;
use sva_core::pri::ResponseCode;

use crate::manual_link::*;
use crate::paging::*;

/// What the queue holds.
const QUEUE: usize = 4;

fn tight() -> IommuConfig {
    IommuConfig::default().page_queue(QUEUE)
}

/// The groups that were answered, by the messages that are held.
fn answers(requester: &PageRequester) -> Vec<(u16, ResponseCode)> {
    let codes = requester.link.messages().into_iter().map(|message| match message {
        Message::Down(ToDevice::Response(response)) => (response.index.get(), response.code),
        other => panic!("no response but {other:?}"),
    });
    codes.collect()
}

// shows F3
#[test]
fn a_full_queue_refuses_all_until_it_is_sorted_answers_the_last_of_a_group_and_is_counted_once() {
    let Setting { world, requester, space, bond } = Setting::with(tight());
    let pasid = Some(bond.pasid());
    let taken: Vec<PrgIndex> =
        (0..QUEUE as u64).map(|n| requester.request(pasid, &[page(n)])).collect();
    requester.link.hold(page_responses);
    let lost = requester.request_part(pasid, &[page(8)]);
    assert_eq!(
        (answers(&requester), world.iommu.page_queue_counts().overflows),
        (vec![], 1),
        "a request that is not the last of its group gets no answer"
    );
    requester.finish(lost, page(9));
    assert_eq!(
        answers(&requester),
        [(lost.get(), ResponseCode::Success)],
        "the device is to look again"
    );
    assert!(world.iommu.sort_page_request(), "there is room, but the flag stands");
    let also_lost = requester.request(pasid, &[page(10)]);
    requester.link.hold(no_message);
    requester.link.deliver_all(page_responses);
    assert_eq!((requester.outcome(lost), requester.outcome(also_lost)), (SUCCESS, SUCCESS));
    let counts = world.iommu.page_queue_counts();
    assert_eq!(
        (counts.overflows, counts.lost, counts.requests, space.resolved()),
        (1, 3, QUEUE as u64 + 3, 0)
    );
    assert_eq!(world.resolve(), QUEUE);
    assert!(
        taken.iter().all(|group| requester.outcome(*group) == SUCCESS),
        "what was in the queue is answered as ever"
    );
    let again = requester.request(pasid, &[page(10)]);
    assert_eq!(
        (world.resolve(), requester.outcome(again), world.iommu.page_queue_counts().overflows),
        (1, SUCCESS, 1)
    );
    assert_eq!(requester.device.page_request_counts().unexpected, 0, "nobody was answered twice");
}

// shows F3
#[test]
fn an_overflow_throws_partial_groups_away_and_their_requests_count_no_more() {
    let Setting { world, requester, space, bond } = Setting::with(tight());
    let other = world.requester(2, requesting());
    let other_bond = world.bind(&other.device, &space);
    let resolved = note_resolved(&space);
    let partial = requester.request_part(Some(bond.pasid()), &[page(0), page(1)]);
    let others = other.request_part(Some(other_bond.pasid()), &[page(2)]);
    world.sort();
    assert_eq!(world.pages_under_way(), (3, 0));
    for n in 0..QUEUE as u16 {
        other.send(None, 100 + n, 0, true);
    }
    requester
        .port
        .request_page(partial, page(3), sva_core::Access::READ, false)
        .expect("there is credit");
    world.resolve();
    assert_eq!((world.pages_under_way(), world.iommu.page_queue_counts().discarded), ((0, 0), 3));
    // Both go on with what they had begun: they get what is left of it, and ask once more for the
    // rest.
    requester.finish(partial, page(4));
    other.finish(others, page(5));
    assert_eq!((world.resolve(), &*resolved.lock()), (2, &vec![page(4), page(5)]));
    assert_eq!((requester.outcome(partial), other.outcome(others)), (SUCCESS, SUCCESS));
    let whole = requester.request(Some(bond.pasid()), &[page(0); CREDIT as usize / 2]);
    world.resolve();
    let more = requester.request_part(Some(bond.pasid()), &[page(0); QUEUE]);
    world.sort();
    requester
        .port
        .request_page(more, page(0), sva_core::Access::READ, false)
        .expect("there is credit");
    assert_eq!(
        (requester.outcome(whole), world.iommu.page_queue_counts().lost),
        (SUCCESS, 1),
        "the one that overflowed, and none for want of allocation"
    );
}

// shows F3
#[test]
fn a_stop_marker_that_finds_the_queue_full_has_partial_groups_thrown_away_all_the_same() {
    let Setting { world, requester, space: _space, bond } = Setting::with(tight());
    requester.request_part(Some(bond.pasid()), &[page(0)]);
    world.sort();
    for n in 0..QUEUE as u16 {
        requester.send(None, 100 + n, 0, true);
    }
    requester.port.send_stop_marker(bond.pasid());
    let counts = world.iommu.page_queue_counts();
    assert_eq!(
        (counts.lost, counts.overflows, counts.stop_markers, world.pages_under_way()),
        (1, 1, 1, (1 + QUEUE, 0))
    );
    world.resolve();
    assert_eq!((world.pages_under_way(), world.iommu.page_queue_counts().discarded), ((0, 0), 1));
}

// shows F3, S2, S3
#[test]
fn a_flood_of_stop_markers_leaves_the_queue_to_the_others_and_still_discards() {
    let Setting { world, requester, space, bond } = Setting::new();
    let flooder = world.requester(2, requesting());
    let flooder_bond = world.bind(&flooder.device, &space);
    flooder.request_part(Some(flooder_bond.pasid()), &[page(0)]);
    world.sort();
    for _ in 0..10_000 {
        flooder.send_stop(flooder_bond.pasid());
    }
    let counts = world.iommu.page_queue_counts();
    assert_eq!(
        (counts.stop_markers, counts.lost, counts.overflows, counts.discarded),
        (10_000, 10_000 - 32, 0, 1)
    );
    assert_eq!(world.iommu.object_counts().page_requests, 32);
    let group = requester.request(Some(bond.pasid()), &[page(1)]);
    assert_eq!((world.resolve(), requester.outcome(group)), (1, SUCCESS));
}

// shows F3, S2, S3
#[test]
fn a_device_that_floods_the_queue_takes_its_own_share_and_no_other() {
    let Setting { world, requester, space, bond } =
        Setting::with(IommuConfig::default().page_queue(2 * CREDIT as usize));
    let flooder = world.requester(2, requesting());
    let flooder_bond = world.bind(&flooder.device, &space);
    for n in 0..10_000 {
        flooder.send(Some(flooder_bond.pasid()), n % 512, page(0), n % 3 == 0);
    }
    let counts = world.iommu.page_queue_counts();
    assert_eq!((counts.lost, counts.overflows), (10_000 - u64::from(CREDIT), 0));
    let groups: Vec<PrgIndex> =
        (0..u64::from(CREDIT)).map(|n| requester.request(Some(bond.pasid()), &[page(n)])).collect();
    world.resolve();
    assert!(groups.iter().all(|group| requester.outcome(*group) == SUCCESS));
    assert_eq!(world.iommu.page_queue_counts().overflows, 0);
}

// shows F3, U1
#[test]
fn an_unbind_while_the_queue_has_overflowed_leaves_nothing_of_the_bond_in_it() {
    let Setting { world, requester, space, bond } = Setting::with(tight());
    let other = world.requester(2, requesting());
    let other_bond = world.bind(&other.device, &space);
    let part = requester.request_part(Some(bond.pasid()), &[page(0)]);
    world.sort();
    let queued = requester.request(Some(bond.pasid()), &[page(1)]);
    let others = other.request(Some(other_bond.pasid()), &[page(2)]);
    let more = [
        requester.request_part(Some(bond.pasid()), &[page(3)]),
        requester.request_part(Some(bond.pasid()), &[page(4)]),
    ];
    let lost = requester.request(Some(bond.pasid()), &[page(5)]);
    assert_eq!((world.iommu.page_queue_counts().overflows, requester.outcome(lost)), (1, SUCCESS));
    let report = bond.unbind();
    assert_eq!((report.deferred, report.page_groups, world.pages_under_way()), (false, 1, (0, 1)));
    assert_eq!((requester.outcome(queued), requester.outcome(part)), (INVALID, None));
    assert!(
        more.into_iter().all(|group| requester.outcome(group).is_none()),
        "partial groups are never answered"
    );
    assert_eq!(
        (world.resolve(), other.outcome(others)),
        (1, SUCCESS),
        "the others' requests are resolved as ever"
    );
    let again = other.request(Some(other_bond.pasid()), &[page(2)]);
    assert_eq!(
        (world.resolve(), other.outcome(again)),
        (1, SUCCESS),
        "the queue takes requests again"
    );
}
