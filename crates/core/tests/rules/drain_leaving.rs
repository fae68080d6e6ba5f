//! Draining: what becomes of page requests when a group leaves a domain, and when a device is
//! removed or reset (rules U1, U2, U6, U9, G3, F2, F7).

use sva_core::pri::GroupOutcome;
use sva_core::{Bind, FaultReason, Removal};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::paging::*;
use crate::support::{Signal, eventually, mapping, reason, watched};

// shows U1, U9, G3
#[test]
fn requests_without_pasid_are_drained_when_their_group_joins_or_leaves_a_container() {
    let Setting { world, requester, space, bond } = Setting::new();
    drop(bond);
    let (groups, handler) = collecting();
    let registered = world
        .iommu
        .handle_page_requests(requester.device.group(), handler)
        .expect("nobody has them");
    let handed_out = requester.request(None, &[0x9000]);
    world.resolve();
    let (waiting, part) =
        (requester.request(None, &[0xa000]), requester.request_part(None, &[0xb000]));
    world.sort();
    let queued = requester.request(None, &[0xc000]);
    assert_eq!(world.pages_under_way(), (2, 2));
    let container = world.container(&[requester.device.group()]);
    assert_eq!(
        (requester.outcome(handed_out), requester.outcome(waiting), world.pages_under_way()),
        (INVALID, INVALID, (0, 0))
    );
    assert_eq!(requester.outcome(queued), INVALID, "it came for the domain of before");
    assert!(!groups.lock().remove(0).is_pending());
    requester.device.reset().expect("plugged").end();
    assert_eq!(requester.outcome(part), Some(GroupOutcome::Forgotten));
    drop(registered);

    container.map(&mapping(0x1000, 4, &space, page(0))).expect("free");
    for close in [false, true] {
        let (waiting, part) =
            (requester.request(None, &[0x1000]), requester.request_part(None, &[0x2000]));
        world.sort();
        assert_eq!(world.pages_under_way(), (1, 1));
        if close {
            break;
        }
        container.remove(requester.device.group()).expect("it is in it");
        assert_eq!(
            (requester.outcome(waiting), requester.outcome(part), world.pages_under_way()),
            (INVALID, None, (0, 0))
        );
        container.add(requester.device.group()).expect("it is free");
    }
    container.close();
    assert_eq!((world.pages_under_way(), space.resolved()), ((0, 0), 0));
}

// shows U9, U1, U2
#[test]
fn what_a_container_gives_up_can_be_begun_and_is_over_when_the_device_has_forgotten_it() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        drop(bond);
        let group = requester.device.group();
        for way in 0..3 {
            let container = world.container(&[group]);
            container.map(&mapping(0x1000, 1, &space, page(0))).expect("free");
            let pasid = container.bind(&space.handle(), Bind::new(())).expect("capable").pasid;
            let waiting =
                [requester.request(Some(pasid), &[page(0)]), requester.request(None, &[0x1000])];
            world.sort();
            requester.link.hold(invalidation_requests);
            // What is refused at once; over when the invalidation that is held has been answered.
            let over: Box<dyn Fn() -> bool> = match way {
                0 => {
                    let unbinding = container.begin_unbind(space.handle().id()).expect("bound");
                    assert!(
                        container.begin_unbind(space.handle().id()).is_err(),
                        "there is one to undo"
                    );
                    Box::new(move || unbinding.is_over())
                }
                1 => {
                    let leaving = container.begin_remove(group).expect("in it");
                    assert!(container.begin_remove(group).is_err(), "it has left");
                    Box::new(move || leaving.is_over())
                }
                _ => {
                    let leaving = container.begin_close();
                    assert_eq!(
                        (world.iommu.object_counts().containers, world.iommu.object_counts().bonds),
                        (0, 1)
                    );
                    Box::new(move || leaving.is_over())
                }
            };
            let port = requester.device.port();
            assert_eq!(
                reason(port.read(Some(pasid), page(99), &mut [0; 8])),
                Some(FaultReason::NotBound),
                "{way}"
            );
            assert_eq!(requester.outcome(waiting[0]), INVALID, "{way}");
            if way > 0 {
                assert_eq!(
                    reason(port.read(None, 0x1000, &mut [0; 8])),
                    Some(FaultReason::NoDomainMapping),
                    "{way}"
                );
                assert_eq!(requester.outcome(waiting[1]), INVALID, "{way}");
            }
            assert!(!over(), "{way}: the device has not forgotten");
            requester.link.hold(no_message);
            requester.link.deliver_all(any_message);
            assert!(over(), "{way}");
            world.resolve();
        }
        assert_eq!(
            (world.iommu.object_counts().bonds, world.iommu.object_counts().containers),
            (0, 0)
        );
        world.take_down(&[&requester]);
    });
}

// shows U1, U9
#[test]
fn leaving_a_container_waits_for_a_group_without_pasid_that_is_being_resolved() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        drop(bond);
        let container = world.container(&[requester.device.group()]);
        container.map(&mapping(0x1000, 2, &space, page(0))).expect("free");
        space.present(page(1), PAGE);
        let slow = Slow::new(&space);
        let group = requester.request(None, &[0x1000]);
        let resolving = slow.begin(&world);
        let over = Signal::new();
        let leaving = std::thread::spawn({
            let (over, member) = (over.clone(), requester.device.group());
            move || {
                container.remove(member).expect("it is in it");
                over.raise();
            }
        });
        let port = requester.device.port();
        eventually("it has left", || {
            reason(port.read(None, 0x2000, &mut [0; 8])) == Some(FaultReason::NoDomainMapping)
        });
        (0..1000).for_each(|_| std::thread::yield_now());
        assert!(!over.is_on());
        slow.let_go();
        leaving.join().expect("no panic");
        assert_eq!(requester.outcome(group), INVALID);
        resolving.join().expect("no panic");
    });
}

// shows F7, G5
#[test]
fn an_orderly_removal_answers_what_is_pending_and_a_surprise_counts_it_as_unanswerable() {
    for removal in [Removal::Orderly, Removal::Surprise] {
        let Setting { world, requester, space: _space, bond } = Setting::new();
        requester.link.hold(page_responses);
        requester.request(Some(bond.pasid()), &[page(0)]);
        requester.request_part(Some(bond.pasid()), &[page(1)]);
        requester.request(None, &[0x1000]);
        world.sort();
        requester.request_part(Some(bond.pasid()), &[page(2)]);
        world.iommu.remove(&requester.device, removal).expect("plugged");
        let orderly = removal == Removal::Orderly;
        let counts = world.iommu.page_queue_counts();
        assert_eq!(requester.link.count(page_responses), if orderly { 2 } else { 0 });
        assert_eq!(
            (counts.invalid, counts.unanswerable, counts.dropped),
            if orderly { (2, 0, 0) } else { (0, 2, 1) }
        );
        assert_eq!(
            (counts.discarded, world.pages_under_way()),
            (if orderly { 2 } else { 1 }, (0, 0))
        );
        // What is still on its way when the device is gone.
        requester.send(Some(bond.pasid()), 90, page(3), true);
        assert_eq!((world.sort(), world.pages_under_way()), (0, (0, 0)));
        assert!(bond.unbind().already_ended);
        requester.link.lose_all(any_message);
        assert_eq!(world.iommu.object_counts(), sva_core::event::ObjectCounts::default());
    }
}

// shows F2, U6
#[test]
fn a_reset_forgets_groups_on_both_sides_and_their_late_answers_reach_nobody() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let slow = Slow::new(&space);
        let pasid = Some(bond.pasid());
        let (resolving, waiting) =
            (requester.request(pasid, &[page(0)]), requester.request(pasid, &[page(1)]));
        let thread = slow.begin(&world);
        let part = requester.request_part(pasid, &[page(2)]);
        let reset = requester.device.begin_reset().expect("plugged");
        assert_eq!(
            (world.pages_under_way(), world.iommu.page_queue_counts().unanswerable),
            ((0, 0), 2)
        );
        for group in [resolving, waiting, part] {
            assert_eq!(requester.outcome(group), Some(GroupOutcome::Forgotten));
        }
        slow.let_go();
        thread.join().expect("no panic");
        assert_eq!(world.iommu.page_queue_counts().late_answers, 1);
        assert!(reset.is_quiet());
        reset.end();
        let again = requester.request(pasid, &[page(3)]);
        assert_eq!((world.resolve(), requester.outcome(again)), (1, SUCCESS));
        assert_eq!(requester.device.page_request_counts().unexpected, 0);
    });
}

// shows F7
#[test]
fn an_orderly_removal_answers_also_the_group_that_is_being_resolved() {
    watched(|| {
        let Setting { world, requester, space, bond } = Setting::new();
        let slow = Slow::new(&space);
        let pasid = Some(bond.pasid());
        requester.request(pasid, &[page(0)]);
        requester.request(pasid, &[page(1)]);
        let thread = slow.begin(&world);
        let removing =
            world.iommu.begin_remove(&requester.device, Removal::Orderly).expect("plugged");
        let counts = world.iommu.page_queue_counts();
        assert_eq!((counts.invalid, counts.unanswerable, removing.is_over()), (2, 0, false));
        slow.let_go();
        thread.join().expect("no panic");
        assert_eq!((world.iommu.page_queue_counts().late_answers, removing.is_over()), (1, true));
        drop(bond);
    });
}
