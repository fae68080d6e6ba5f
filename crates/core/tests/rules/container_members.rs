//! Groups join a container and leave it, and containers close (rules G3, G5, G6, U9).

use std::sync::Arc;

use sva_core::error::{JoinError, LeaveError, MapError, Refusal, UnmapError};
use sva_core::event::Overlap;
use sva_core::topology::{PeerWindow, RequesterId};
use sva_core::{Bind, EndReason, Event, FaultReason, Removal, UnbindReport};
use sva_testkit::PAGE;

use crate::support::*;

// shows G3
#[test]
fn a_group_that_joins_gets_all_mappings_and_bindings_and_spaces_that_have_ended_are_left_out() {
    let world = World::new();
    let (alive, dead, backing) = (space(), space(), space());
    let first = world.plug(1);
    let container = world.container(&[first.group()]);
    container.map(&mapping(0x10000, 1, &backing, BASE)).expect("free");
    let live = container.bind(&alive.handle(), Bind::new(())).expect("capable");
    let ended = container.bind(&dead.handle(), Bind::new(())).expect("capable");
    dead.end(EndReason::Exited);
    world.share(&[2, 3]);
    let (joiner, without) = (world.plug(2), world.plug_as(3, plain()).device);
    let window = sva_core::AddrRange::new(BASE + PAGE, PAGE).expect("a range");
    world.bus.windows(bdf(2), &[PeerWindow { range: window, decoder: bdf(9), claimed: true }]);
    world.events();
    let joined = container.add(joiner.group()).expect("free");
    assert_eq!(joined.pasids, [live.pasid]);
    assert_eq!(joined.left_out, [Refusal::NoPasidCapability { device: bdf(3) }]);
    let overlap = Overlap { device: bdf(2), range: window, decoder: bdf(9) };
    assert_eq!(joined.overlaps, [overlap]);
    assert_eq!(world.events(), [Event::Overlap(overlap)]);
    assert_eq!(refused(&joiner.port(), live.pasid), None);
    assert_eq!(refused(&joiner.port(), ended.pasid), Some(FaultReason::NotBound));
    assert_eq!(refused(&first.port(), ended.pasid), Some(FaultReason::SpaceEnded));
    for device in [&joiner, &without] {
        device.port().write(None, 0x10000, &[1]).expect("mapped");
    }
}

// shows G3
#[test]
fn a_group_without_a_capable_member_may_join_and_is_reported() {
    let world = World::new();
    let (bound, backing) = (space(), space());
    let (first, without) = (world.plug(1), world.plug_as(2, plain()).device);
    let container = world.container(&[first.group()]);
    container.map(&mapping(0x10000, 1, &backing, BASE)).expect("free");
    container.bind(&bound.handle(), Bind::new(())).expect("capable");
    let joined = container.add(without.group()).expect("may join");
    assert_eq!(
        (joined.pasids.len(), &joined.left_out[..]),
        (0, &[Refusal::NoPasidCapability { device: bdf(2) }][..])
    );
    without.port().write(None, 0x10000, &[1]).expect("mapped");
    let only = world.container(&[]);
    let error = only.bind(&bound.handle(), Bind::new(())).map(drop).expect_err("no group");
    assert_eq!(error.to_string(), "container 1 has no group; add one first");
    assert_eq!(
        only.map(&mapping(0, 1, &backing, BASE)),
        Err(MapError::NoGroup { container: only.id() })
    );
    container.remove(without.group()).expect("in it");
    only.add(without.group()).expect("free");
    let error = only.bind(&bound.handle(), Bind::new(())).map(drop).expect_err("nobody can");
    assert!(
        error.to_string().starts_with(
            "no member of container 1 can issue a PASID: 0000:01:02.0 has no PASID capability"
        ),
        "{error}"
    );
}

// shows G6
#[test]
fn a_group_has_one_owner() {
    let world = World::new();
    let (space, backing) = (space(), space());
    let device = world.plug(1);
    let group = device.group();
    let (mine, theirs) = (world.container(&[group]), world.container(&[]));
    let error = theirs.add(group).expect_err("taken");
    assert!(matches!(
        error,
        JoinError::InContainer { group: g, container }
            if g == group && container == mine.id()
    ));
    assert_eq!(error.to_string(), "group 0 is in container 0 already");
    assert!(matches!(mine.add(group), Err(JoinError::InContainer { .. })), "nor twice in one");
    assert_eq!(
        world.iommu.map(group, &mapping(0, 1, &backing, BASE)),
        Err(MapError::InContainer { group, container: mine.id() })
    );
    assert_eq!(
        world.iommu.unmap(group, 0, PAGE),
        Err(UnmapError::InContainer { group, container: mine.id() })
    );
    let error = theirs.remove(group).expect_err("not there");
    assert_eq!(error, LeaveError::NotIn { group, container: theirs.id() });
    assert_eq!(error.to_string(), "group 0 is not in container 1");
    drop(mine);

    let bond = world.bind(&device, &space);
    let error = theirs.add(group).expect_err("bound");
    assert!(matches!(
        error,
        JoinError::HasBonds { group: g, device, bonds: 1 }
            if g == group && device == bdf(1)
    ));
    assert_eq!(
        error.to_string(),
        "0000:01:01.0 in group 0 has 1 bonds of its own; unbind them first"
    );
    drop(bond);
    world.iommu.map(group, &mapping(0, 1, &backing, BASE)).expect("free");
    let error = theirs.add(group).expect_err("mapped");
    assert_eq!(error.to_string(), "group 0 has 1 mappings of its own; unmap them first");
    world.iommu.unmap(group, 0, PAGE).expect("mapped");
    theirs.add(group).expect("free now");
}

// shows U9
#[test]
fn a_group_that_leaves_loses_everything_and_the_others_nothing() {
    watched(|| {
        let world = World::new();
        let (bound, backing) = (space(), space());
        let model = Model::new();
        let (leaver, stayer) = (world.plug_model(1, model.clone()), world.plug(2));
        let container = Arc::new(world.container(&[leaver.group(), stayer.group()]));
        container.map(&mapping(0x10000, 1, &backing, PARK)).expect("free");
        let tag = container.bind(&bound.handle(), Bind::new(())).expect("capable").tag;
        let parked = Parked::at(&backing, &leaver.port(), None, 0x10000);
        let (leaving, group) = (container.clone(), leaver.group());
        let removed = std::thread::spawn(move || leaving.remove(group));
        eventually("the bindings are gone", || leaver.port().owner_of(tag.pasid).is_none());
        assert_eq!(model.stopped(), [tag], "the order of U1");
        assert_eq!(
            reason(leaver.port().read(None, 0x10000, &mut [0])),
            Some(FaultReason::NoDomainMapping)
        );
        assert!(!removed.is_finished(), "an access through the container's mapping is in flight");
        parked.release().expect("under way");
        removed.join().expect("no panic").expect("in it");
        assert_eq!(container.groups(), [stayer.group()]);
        assert_eq!(refused(&stayer.port(), tag.pasid), None);
        stayer.port().write(None, 0x10000, &[1]).expect("mapped");
        let own = space();
        world.bind(&leaver, &own).unbind();
    });
}

// shows U9
#[test]
fn a_container_that_closes_stops_its_devices_removes_its_mappings_and_frees_its_groups() {
    watched(|| {
        let world = World::new();
        let (bound, backing) = (space(), space());
        let model = Model::new();
        let (one, two) = (world.plug_model(1, model.clone()), world.plug(2));
        let container = world.container(&[one.group(), two.group()]);
        container.map(&mapping(0x10000, 1, &backing, BASE)).expect("free");
        let tag = container.bind(&bound.handle(), Bind::new(())).expect("capable").tag;
        let parked = Parked::by_pasid(&bound, &one.port(), tag.pasid);
        let closing = std::thread::spawn(move || container.close());
        eventually("access stops", || one.port().owner_of(tag.pasid).is_none());
        assert!(
            !closing.is_finished() && world.iommu.object_counts().pasids == 1,
            "an access is in flight"
        );
        parked.release().expect("under way");
        closing.join().expect("no panic");
        assert_eq!(model.stopped(), [tag]);
        let counts = world.iommu.object_counts();
        assert_eq!((counts.containers, counts.bonds, counts.pasids, counts.groups), (0, 0, 0, 2));
        assert_eq!(bound.watches(), 0);
        for device in [&one, &two] {
            assert_eq!(
                reason(device.port().read(None, 0x10000, &mut [0])),
                Some(FaultReason::NoDomainMapping)
            );
            assert_eq!(refused(&device.port(), tag.pasid), Some(FaultReason::NotBound));
        }
        world.container(&[one.group(), two.group()]).close();
    });
}

// shows U9, G5
#[test]
fn a_container_whose_groups_and_devices_have_gone_can_be_unbound_and_closed() {
    watched(|| {
        let world = World::new();
        let (one, two) = (space(), space());
        let device = world.plug(1);
        let container = world.container(&[device.group()]);
        container.bind(&one.handle(), Bind::new(())).expect("capable");
        container.bind(&two.handle(), Bind::new(())).expect("capable");
        container.remove(device.group()).expect("in it");
        assert_eq!(container.unbind(id_of(&one)).expect("bound"), UnbindReport::default());
        world.iommu.remove(&device, Removal::Surprise).expect("plugged");
        container.close();
        world.assert_nothing_is_left();
    });
}

// regression 21: leaving a container and joining another, from inside an access through the first,
// leaves the group with a domain at every step.
#[test]
fn a_group_always_has_a_domain_to_go_to() {
    watched(|| {
        let world = World::new();
        let (backing, device) = (space(), world.plug(1));
        let (first, second) = (world.container(&[device.group()]), world.container(&[]));
        first.map(&mapping(0x10000, 1, &backing, PARK)).expect("free");
        backing.absent(PARK, PAGE);
        let slot = later();
        *slot.lock() = Some(first);
        let (mine, same, group) = (slot.clone(), device.clone(), device.group());
        let done = Signal::new();
        let moved = done.clone();
        backing.on_resolve(move |_| {
            if let Some(first) = mine.lock().take() {
                first.remove(group).expect("in it");
                assert_eq!(
                    reason(same.port().read(None, 0x10000, &mut [0])),
                    Some(FaultReason::NoDomainMapping)
                );
                first.add(group).expect("free again, at once");
                first.remove(group).expect("in it");
                second.add(group).expect("free");
                drop(first);
                assert_eq!(
                    reason(same.port().read(None, 0x10000, &mut [0])),
                    Some(FaultReason::NoDomainMapping)
                );
                moved.raise();
            }
            true
        });
        device.port().read(None, 0x10000, &mut [0; 8]).expect("it was under way");
        assert!(done.is_on());
        world.iommu.remove(&device, Removal::Surprise).expect("plugged");
        assert_eq!(
            reason(device.port().read(None, 0x10000, &mut [0])),
            Some(FaultReason::DeviceRemoved)
        );
    });
}

// shows U9, U2, B8, G6
#[test]
fn a_group_that_leaves_loses_the_entries_of_a_requester_id_whose_capable_device_is_gone() {
    let world = World::grouped(3);
    for number in 1..=3 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (space, capable) = (space(), world.plug(1));
    let sibling = world.plug_as(2, plain()).device;
    let group = sibling.group();
    let container = world.container(&[group]);
    let bound = container.bind(&space.handle(), Bind::new(())).expect("one can issue a PASID");
    world.iommu.remove(&capable, Removal::Orderly).expect("plugged");
    container.remove(group).expect("it is in there");
    let newcomer = world.plug_as(3, everything());
    assert_eq!(newcomer.joined, [], "its group is free");
    assert_eq!(refused(&newcomer.device.port(), bound.pasid), Some(FaultReason::NotBound));
    let other = world.container(&[group]);
    assert_eq!(other.bound(), []);
    container.unbind(space.handle().id()).expect("bound");
}
