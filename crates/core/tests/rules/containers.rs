//! Groups and containers (rules B2, B5, G2, G3, G6, U9).

use std::sync::Arc;

use sva_core::device::Feature;
use sva_core::error::{
    BindGroupError, ContainerBindError, ContainerUnbindError, JoinError, LeaveError, MapError,
    Refusal, UnmapError,
};
use sva_core::event::Overlap;
use sva_core::topology::PeerWindow;
use sva_core::topology::RequesterId;
use sva_core::{Bind, EndReason, Event, FaultReason, Features, Removal, UnbindReport};
use sva_sync::Mutex;
use sva_testkit::PAGE;

use crate::support::*;

// shows B2
#[test]
fn bind_group_binds_every_capable_member_and_lists_the_others_with_the_reason() {
    let world = World::grouped(3);
    let (space, first, third) = (space(), world.plug(1), world.plug(3));
    let second = world.plug_as(2, plain()).device;
    let bond = world
        .iommu
        .bind_group(first.group(), &space.handle(), Bind::new("drvdata"))
        .expect("capable");
    assert_eq!(bond.members(), [bdf(1), bdf(3)]);
    assert_eq!(bond.left_out(), [Refusal::NoPasidCapability { device: bdf(2) }]);
    assert_eq!(
        (bond.group(), bond.space(), *bond.drvdata()),
        (first.group(), space.handle().id(), "drvdata")
    );
    for device in [&first, &third] {
        assert_eq!(refused(&device.port(), bond.pasid()), None);
    }
    assert_eq!(refused(&second.port(), bond.pasid()), Some(FaultReason::CannotIssuePasid));
    let pasid = bond.pasid();
    bond.unbind();
    for device in [&first, &third] {
        assert_eq!(refused(&device.port(), pasid), Some(FaultReason::NotBound));
    }
}

// shows B2
#[test]
fn bind_group_refuses_what_is_no_group_or_cannot_issue_a_pasid() {
    let world = World::grouped(2);
    let (space, first) = (space(), world.plug_as(1, plain()).device);
    let _ = world.plug_as(2, plain());
    let error = world
        .iommu
        .bind_group(first.group(), &space.handle(), Bind::new(()))
        .map(drop)
        .expect_err("nobody can");
    let text = "no member of group 0 can issue a PASID: \
                0000:01:01.0 has no PASID capability: it can only use the group's domain (map), \
                0000:01:02.0 has no PASID capability: it can only use the group's domain (map)";
    assert_eq!(error.to_string(), text);
    assert!(matches!(
        error,
        BindGroupError::NoCapableMember { group, ref left_out }
            if group == first.group() && left_out.len() == 2
    ));
    let gone = world.plug(5);
    world.iommu.remove(&gone, Removal::Orderly).expect("plugged");
    let error = world
        .iommu
        .bind_group(gone.group(), &space.handle(), Bind::new(()))
        .map(drop)
        .expect_err("no group");
    assert_eq!(error.to_string(), format!("there is no {}", gone.group()));
    let container = world.container(&[first.group()]);
    let error = world
        .iommu
        .bind_group(first.group(), &space.handle(), Bind::new(()))
        .map(drop)
        .expect_err("in a container");
    assert_eq!(error.to_string(), "group 0 is in container 0; bind there");
    drop(container);
    assert_eq!(world.iommu.groups().len(), 1);
}

// shows B2
#[test]
fn a_group_bond_takes_the_pasid_that_its_narrowest_member_can_issue() {
    let world = World::grouped(2);
    let (narrow, wide, lone) = (world.plug_as(1, capable(1)).device, world.plug(2), world.plug(3));
    let (first, second, filler) = (space(), space(), space());
    let _filler = world.bind(&lone, &filler);
    let error = world
        .iommu
        .bind_group(narrow.group(), &first.handle(), Bind::new(()))
        .map(drop)
        .expect_err("1 is taken");
    assert!(error.to_string().starts_with("no PASID of 1 bits is left"), "{error}");
    drop(_filler);
    let bond =
        world.iommu.bind_group(narrow.group(), &first.handle(), Bind::new(())).expect("1 is free");
    assert_eq!(bond.pasid().get(), 1);
    assert_eq!(refused(&wide.port(), bond.pasid()), None);
    drop(world.bind(&lone, &second));
}

// shows B5
#[test]
fn a_container_s_bind_is_idempotent_and_one_unbind_undoes_it() {
    let world = World::new();
    let (space, one, two) = (space(), world.plug(1), world.plug(2));
    let container = world.container(&[one.group(), two.group()]);
    let first = container.bind(&space.handle(), Bind::new("drvdata")).expect("capable");
    assert!(!first.already_bound);
    for _ in 0..3 {
        let again = container.bind(&space.handle(), Bind::new("drvdata")).expect("the same again");
        assert_eq!((again.tag, again.pasid, again.already_bound), (first.tag, first.pasid, true));
    }
    assert_eq!(
        (world.iommu.object_counts().bonds, container.bound()),
        (1, vec![space.handle().id()])
    );
    for other in [Bind::new("other"), Bind::new("drvdata").features(Features::NONE)] {
        let error = container.bind(&space.handle(), other).map(drop).expect_err("different");
        let text = format!(
            "container 0 has bound {} already, with PASID 1 and other features or drvdata; unbind \
             that first",
            first_id(&space)
        );
        assert_eq!(error.to_string(), text);
    }
    let error = container
        .bind(&space.handle(), Bind::new(7_u8))
        .map(drop)
        .expect_err("another type of drvdata");
    assert!(matches!(error, ContainerBindError::Different { .. }), "{error:?}");
    assert_eq!(container.unbind(first_id(&space)).expect("bound"), UnbindReport::default());
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), first.pasid), Some(FaultReason::NotBound));
    }
    let error = container.unbind(first_id(&space)).expect_err("once is enough");
    assert_eq!(
        error,
        ContainerUnbindError::NotBound { container: container.id(), space: first_id(&space) }
    );
    assert_eq!(error.to_string(), format!("container 0 has not bound {}", first_id(&space)));
}

fn first_id(space: &sva_testkit::MemorySpace) -> sva_core::SpaceId {
    space.handle().id()
}

/// drvdata whose comparison calls into the core, as any of the caller's code may.
struct AsksWhenCompared(sva_core::Iommu);

impl PartialEq for AsksWhenCompared {
    fn eq(&self, _: &Self) -> bool {
        self.0.object_counts().bonds == 1
    }
}

// shows B5, U3
#[test]
fn drvdata_is_compared_with_no_lock_of_the_core_held() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let container = world.container(&[device.group()]);
        let data = || AsksWhenCompared(world.iommu.clone());
        container.bind(&space.handle(), Bind::new(data())).expect("capable");
        assert!(
            container.bind(&space.handle(), Bind::new(data())).expect("the same").already_bound
        );
        container.unbind(first_id(&space)).expect("bound");
        container.close();
    });
}

// shows B5, U4
#[test]
fn a_second_bind_of_a_space_that_has_ended_says_so_until_it_is_unbound() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let container = world.container(&[device.group()]);
    let runs = Arc::new(Mutex::new(Vec::new()));
    let count = runs.clone();
    let bind =
        Bind::new("drvdata").on_exit(move |end, data| count.lock().push((end.reason, *data)));
    container.bind(&space.handle(), bind).expect("capable");
    space.end(EndReason::Execed);
    assert_eq!(runs.lock()[..], [(EndReason::Execed, "drvdata")]);
    let error = container.bind(&space.handle(), Bind::new("drvdata")).map(drop).expect_err("ended");
    assert_eq!(error.to_string(), "the address space has ended: its last task left it by exec");
    assert!(container.unbind(first_id(&space)).expect("bound").handler_ran);
    assert_eq!(runs.lock().len(), 1);
}

// shows G2
#[test]
fn map_and_bind_reach_every_group_and_unmap_and_unbind_take_them_from_every_group() {
    let world = World::new();
    let (bound, backing) = (space(), space());
    let (one, two, without) = (world.plug(1), world.plug(2), world.plug_as(3, plain()).device);
    let container = world.container(&[one.group(), two.group(), without.group()]);
    container.map(&mapping(0x10000, 2, &backing, BASE)).expect("free");
    let result = container.bind(&bound.handle(), Bind::new(())).expect("capable");
    assert_eq!(result.left_out, [Refusal::NoPasidCapability { device: bdf(3) }]);
    for device in [&one, &two, &without] {
        device.port().write(None, 0x11ff8, &[device.bdf().device(); 8]).expect("mapped");
        assert_eq!(backing.peek(BASE + 0x1ff8, 8), [device.bdf().device(); 8]);
    }
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), result.pasid), None);
    }
    assert_eq!(container.unmap(0x10000, 2 * PAGE).expect("mapped").bytes, 2 * PAGE);
    container.unbind(first_id(&bound)).expect("bound");
    for device in [&one, &two, &without] {
        assert_eq!(
            reason(device.port().read(None, 0x10000, &mut [0])),
            Some(FaultReason::NoDomainMapping)
        );
        assert!(refused(&device.port(), result.pasid).is_some());
    }
}

// shows G2
#[test]
fn a_refused_map_or_unmap_changes_nothing_in_any_group() {
    let world = World::new();
    let backing = space();
    let (one, two) = (world.plug(1), world.plug(2));
    let container = world.container(&[one.group(), two.group()]);
    container.map(&mapping(0x10000, 2, &backing, BASE)).expect("free");
    let reserved = sva_core::AddrRange::new(0x30000, PAGE).expect("a range");
    world.bus.reserve(bdf(2), &[reserved]);
    let error =
        container.map(&mapping(0x30000, 1, &backing, BASE)).expect_err("reserved for the second");
    assert_eq!(error, MapError::Reserved { range: reserved, reserved, device: bdf(2) });
    let error = container.unmap(0x10000, PAGE).expect_err("would split");
    assert!(matches!(error, UnmapError::WouldSplit { .. }));
    assert_eq!(
        container.mappings(),
        [sva_core::AddrRange::new(0x10000, 2 * PAGE).expect("a range")]
    );
    for device in [&one, &two] {
        assert_eq!(
            reason(device.port().read(None, 0x30000, &mut [0])),
            Some(FaultReason::NoDomainMapping)
        );
        assert_eq!(reason(device.port().read(None, 0x10000, &mut [0])), None);
    }
}

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

// shows G6
#[test]
fn a_group_bond_whose_members_are_gone_still_keeps_the_group_out_of_a_container() {
    let world = World::grouped(2);
    let (own, other) = (space(), space());
    let (going, without) = (world.plug(1), world.plug_as(2, plain()).device);
    let group = going.group();
    let bond = world.iommu.bind_group(group, &own.handle(), Bind::new(())).expect("capable");
    world.iommu.remove(&going, Removal::Surprise).expect("plugged");
    let container = world.container(&[]);
    let error = container.add(group).expect_err("a device that comes back would have two owners");
    assert_eq!(error.to_string(), "group 0 has 1 bonds of its own; unbind them first");
    drop(bond);
    container.add(group).expect("free");
    let back = world.plug_as(1, everything());
    assert!(back.joined.is_empty());
    container.bind(&other.handle(), Bind::new(())).expect("capable");
    drop(without);
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
        assert_eq!(container.unbind(first_id(&one)).expect("bound"), UnbindReport::default());
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

// regression 24: everything that takes more than one lock runs against everything else.
#[test]
fn joins_binds_maps_and_ends_from_four_threads_do_not_deadlock() {
    watched(|| {
        let world = World::new();
        let (one, two) = (world.plug(1), world.plug(2));
        let shared = space();
        let container = world.container(&[]);
        std::thread::scope(|scope| {
            for device in [&one, &two] {
                let (container, world, shared) = (&container, &world, &shared);
                scope.spawn(move || {
                    for _ in 0..300 {
                        if container.add(device.group()).is_ok() {
                            let _ = container.remove(device.group());
                        }
                        let _ = world
                            .iommu
                            .bind_device(device, &shared.handle(), Bind::new(()))
                            .map(drop);
                    }
                });
            }
            scope.spawn(|| {
                for n in 0..300 {
                    let dying = space();
                    let _ = container.bind(&dying.handle(), Bind::new(n));
                    dying.end(EndReason::Exited);
                    let _ = container.unbind(first_id(&dying));
                }
            });
            scope.spawn(|| {
                for n in 0..300 {
                    let _ = container.map(&mapping(n * PAGE, 1, &shared, BASE));
                    let _ = world.iommu.map(one.group(), &mapping(n * PAGE, 1, &shared, BASE));
                    let _ = one.port().read(None, n * PAGE, &mut [0; 8]);
                    let _ = container.unmap(0, 1 << 40);
                    let _ = world.iommu.unmap(one.group(), 0, 1 << 40);
                }
            });
        });
        drop(container);
        for device in [&one, &two] {
            world.iommu.remove(device, Removal::Orderly).expect("plugged");
        }
        assert_eq!(
            (
                world.iommu.object_counts().bonds,
                world.iommu.object_counts().pasids,
                shared.watches()
            ),
            (0, 0, 0)
        );
    });
}

// shows G2, B1
#[test]
fn devices_with_one_requester_id_are_bound_and_unbound_as_one() {
    let world = World::grouped(2);
    for number in 1..=2 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (space, model) = (space(), Model::new());
    let (one, two) = (world.plug(1), world.plug_model(2, model.clone()));
    let container = world.container(&[one.group()]);
    let bound = container.bind(&space.handle(), Bind::new(())).expect("capable");
    assert_eq!((one.requester(), two.requester()), (RequesterId(bdf(20)), RequesterId(bdf(20))));
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), bound.pasid), None);
    }
    container.unbind(first_id(&space)).expect("bound");
    assert_eq!(model.stopped(), [bound.tag], "the models of all of them are to stop");
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), bound.pasid), Some(FaultReason::NotBound));
    }
    let features = Features { execute: true, ..Features::default() };
    let bound =
        container.bind(&space.handle(), Bind::new(()).features(features)).expect("both can");
    let newcomer = world.plug_as(3, capable(20));
    drop(newcomer);
    let lacks = Refusal::DeviceLacks { device: bdf(4), feature: Feature::Execute };
    world.share(&[1, 2, 4]);
    let late = world.plug_as(4, capable(20));
    assert_eq!(
        (late.not_joined.len(), late.not_joined[0].because, late.not_joined[0].pasid),
        (1, lacks, bound.pasid)
    );
}
