//! Unbinding: its order, and what holds when it returns (rules U1, U2, U6).

use std::sync::Arc;

use sva_core::error::Refusal;
use sva_core::{Bind, FaultReason, Pasid, PasidTag, Removal, UnbindReport};
use sva_testkit::Protection;

use crate::support::*;

// shows U1, U2
#[test]
fn unbind_stops_the_device_first_then_access_and_releases_the_pasid_after_the_last_access() {
    watched(|| {
        let world = World::new();
        let space = space();
        let probe: Later<(sva_core::DmaPort, MemoryProbe)> = later();
        let at_stop: Noted<Option<FaultReason>> = Noted::default();
        let (of_model, seen) = (probe.clone(), at_stop.clone());
        let device = world.plug_model(
            1,
            Arc::new(OnStop(move |tag: PasidTag| {
                let (port, probe) = of_model.lock().take().expect("bound");
                assert_eq!(probe.iommu.pasid_of(probe.space), Some(tag), "the PASID is held");
                seen.lock().push(refused(&port, tag.pasid));
            })),
        );
        let bond = world.bind(&device, &space);
        let (pasid, id) = (bond.pasid(), space.handle().id());
        *probe.lock() =
            Some((device.port(), MemoryProbe { iommu: world.iommu.clone(), space: id }));
        let parked = Parked::by_pasid(&space, &device.port(), pasid);
        let unbinding = std::thread::spawn(move || bond.unbind());
        eventually("access stops", || device.port().owner_of(pasid).is_none());
        assert_eq!(refused(&device.port(), pasid), Some(FaultReason::NotBound));
        assert_eq!(at_stop.lock()[..], [None], "asked to stop once, while it still had access");
        assert!(!unbinding.is_finished(), "an access is in flight");
        assert!(
            world.iommu.pasid_of(id).is_some() && world.iommu.object_counts().pasids == 1,
            "the PASID is held for it"
        );
        let error = world
            .iommu
            .bind_device(&device, &space.handle(), Bind::new(()))
            .map(drop)
            .expect_err("the slot is taken");
        assert!(
            matches!(
                error,
                sva_core::error::BindError::Device(Refusal::StillUnbinding { pasid: p, .. })
                    if p == pasid
            ),
            "{error}"
        );
        parked.release().expect("it was under way before the unbind");
        let report = unbinding.join().expect("no panic");
        assert_eq!(report, UnbindReport { drained: 1, ..UnbindReport::default() });
        assert_eq!(
            (world.iommu.pasid_of(id), world.iommu.object_counts().pasids, space.watches()),
            (None, 0, 0)
        );
    });
}

struct MemoryProbe {
    iommu: sva_core::Iommu,
    space: sva_core::SpaceId,
}

// shows U1
#[test]
fn every_member_of_a_group_is_asked_to_stop_before_the_first_loses_access() {
    let world = World::grouped(3);
    let space = space();
    let ports: Noted<sva_core::DmaPort> = Noted::default();
    let seen: Noted<usize> = Noted::default();
    let devices: Vec<_> = (1..=3)
        .map(|number| {
            let (ports, seen) = (ports.clone(), seen.clone());
            world.plug_model(
                number,
                Arc::new(OnStop(move |tag: PasidTag| {
                    let open = ports
                        .lock()
                        .iter()
                        .filter(|port| refused(port, tag.pasid).is_none())
                        .count();
                    seen.lock().push(open);
                })),
            )
        })
        .collect();
    let bond = world
        .iommu
        .bind_group(devices[0].group(), &space.handle(), Bind::new(()))
        .expect("capable");
    ports.lock().extend(devices.iter().map(|device| device.port()));
    bond.unbind();
    assert_eq!(seen.lock()[..], [3, 3, 3]);
}

// shows U1
#[test]
fn a_model_that_panics_when_it_is_told_to_stop_does_not_keep_its_access() {
    let world = World::new();
    let space = space();
    let device = world.plug_model(1, Arc::new(OnStop(|_| panic!("as the test wants"))));
    let bond = world.bind(&device, &space);
    let pasid = bond.pasid();
    let report = bond.unbind();
    assert!(!report.deferred);
    assert_eq!(refused(&device.port(), pasid), Some(FaultReason::NotBound));
}

// shows U1, U2
#[test]
fn unbind_and_remove_wait_only_for_what_goes_through_their_own_bond() {
    watched(|| {
        let world = World::new();
        let (one, two, device, other) = (space(), space(), world.plug(1), world.plug(2));
        let held = world.bind(&device, &one);
        let free = world.bind(&device, &two);
        let elsewhere = world.bind(&other, &one);
        let parked = Parked::by_pasid(&one, &device.port(), held.pasid());
        assert_eq!(free.unbind().drained, 0);
        assert_eq!(elsewhere.unbind().drained, 0, "same space, same PASID, another device");
        world.iommu.remove(&other, Removal::Orderly).expect("plugged");
        parked.release().expect("bound");
        assert_eq!(refused(&device.port(), held.pasid()), None);
    });
}

// shows U2
#[test]
fn no_write_lands_after_unbind_has_returned() {
    watched(|| {
        for round in 0..50 {
            let world = World::new();
            let (space, device) = (space(), world.plug(1));
            let bond = world.bind(&device, &space);
            let (port, pasid) = (device.port(), bond.pasid());
            let started = Signal::new();
            let going = started.clone();
            let writer = std::thread::spawn(move || {
                let mut written = 0u64;
                while port.write(Some(pasid), BASE, &[0xff; 64]).is_ok() {
                    written += 1;
                    going.raise();
                }
                written
            });
            started.wait();
            bond.unbind();
            space.poke(BASE, &[0; 64]);
            assert!(writer.join().expect("no panic") > 0);
            assert_eq!(space.peek(BASE, 64), [0; 64], "round {round}");
        }
    });
}

// shows U6
#[test]
fn a_late_transaction_of_an_earlier_owner_is_dropped_and_counted_and_never_reaches_the_next() {
    let world = World::new();
    let device = world.plug_as(1, capable(1)).device;
    let (first, second) = (space(), space());
    let bond = world.bind(&device, &first);
    let old = bond.tag();
    let port = device.port().for_owner(old);
    port.write(Some(old.pasid), BASE, b"mine").expect("bound");
    bond.unbind();
    assert_eq!(refused(&port, old.pasid), Some(FaultReason::NotBound));
    assert_eq!(world.iommu.stale_dropped(), 2);
    let next = world.bind(&device, &second);
    assert_eq!(next.pasid(), old.pasid, "there is only one");
    assert!(next.tag().generation > old.generation);
    assert_eq!(device.port().owner_of(old.pasid), Some(next.tag()));
    world.events();
    assert_eq!(refused(&port, old.pasid), Some(FaultReason::NotBound));
    assert_eq!(second.peek(BASE, 4), [0; 4]);
    assert_eq!(world.iommu.stale_dropped(), 4);
    let stale = sva_core::Event::StaleDropped { device: bdf(1), tag: old };
    assert_eq!(world.events().iter().filter(|event| **event == stale).count(), 2);
    assert_eq!(refused(&device.port().for_owner(next.tag()), next.pasid()), None);
    assert_eq!(world.iommu.stale_dropped(), 4);
    assert_eq!(
        refused(&device.port(), old.pasid),
        None,
        "a device without owners in mind is bound to it now (U5)"
    );
}

// regression 8: it is made non-present first and keeps its slot
// until the last access has left, so that nothing can be programmed over it.
#[test]
fn an_entry_is_made_non_present_before_it_is_cleared() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug_as(1, capable(1)).device);
        let bond = world.bind(&device, &space);
        let parked = Parked::by_pasid(&space, &device.port(), bond.pasid());
        let pasid = bond.pasid();
        let unbinding = std::thread::spawn(move || bond.unbind());
        eventually("non-present", || device.port().owner_of(pasid).is_none());
        let other = crate::support::space();
        let error = world
            .iommu
            .bind_device(&device, &other.handle(), Bind::new(()))
            .map(drop)
            .expect_err("the one PASID is held");
        assert!(error.to_string().contains("no PASID of 1 bits is left: 1 are in use"), "{error}");
        parked.release().expect("under way");
        unbinding.join().expect("no panic");
        drop(world.bind(&device, &other));
    });
}

// regression 1: the number is given back with the last bond, however long the space has been dead.
// shows U5, U6
#[test]
fn a_bond_of_a_dead_space_that_is_unbound_late_does_not_touch_the_next_owner_of_its_pasid() {
    let world = World::new();
    let device = world.plug_as(1, capable(1)).device;
    let (dead, next) = (space(), space());
    let bond = world.bind(&device, &dead);
    dead.end(sva_core::EndReason::Exited);
    assert!(
        world.iommu.bind_device(&device, &next.handle(), Bind::new(())).is_err(),
        "the number is held until the bond is gone"
    );
    // A removal ends the bond, so that its number is free while the owned value still exists.
    world.iommu.remove(&device, Removal::Surprise).expect("plugged");
    let device = world.plug_as(1, capable(1)).device;
    let owner = world.bind(&device, &next);
    assert_eq!(owner.pasid(), bond.pasid());
    assert!(bond.unbind().already_ended);
    assert!(owner.is_live());
    assert_eq!(refused(&device.port(), owner.pasid()), None);
    assert_eq!((world.iommu.object_counts().bonds, world.iommu.object_counts().pasids), (1, 1));
}

// regression 2: every handle of the space goes before the bond does.
#[test]
fn the_last_bond_may_outlive_every_other_handle_of_its_space() {
    let world = World::new();
    let device = world.plug(1);
    let bond = {
        let space = space();
        world.bind(&device, &space)
    };
    let port = device.port();
    assert_eq!(refused(&port, bond.pasid()), Some(FaultReason::SpaceEnded));
    let (tag, id) = (bond.tag(), bond.space());
    assert_eq!(world.iommu.pasid_of(id), Some(tag));
    assert!(bond.unbind().space_ended);
    assert_eq!((world.iommu.pasid_of(id), world.iommu.object_counts().spaces), (None, 0));
    let next = space();
    assert_ne!(world.bind(&device, &next).tag(), tag);
}

// regression 9: the removal has taken the only attachment out before the owner unbinds.
#[test]
fn unbinding_what_is_gone_already_changes_nothing() {
    let world = World::grouped(2);
    let (space, other, first) = (space(), space(), world.plug(1));
    let container = world.container(&[]);
    assert!(container.unbind(space.handle().id()).is_err());
    let bond = world.bind(&first, &space);
    let second = world.plug(2);
    let group =
        world.iommu.bind_group(first.group(), &other.handle(), Bind::new(())).expect("capable");
    for device in [&first, &second] {
        world.iommu.remove(device, Removal::Surprise).expect("plugged");
        assert!(world.iommu.remove(device, Removal::Surprise).is_err());
    }
    assert_eq!(group.unbind(), UnbindReport::default());
    assert_eq!(bond.unbind(), UnbindReport { already_ended: true, ..UnbindReport::default() });
    drop(container);
    world.assert_nothing_is_left();
}

// regression 26: the others that are bound to the same space stay.
#[test]
fn removing_one_device_tears_down_its_own_bonds_alone() {
    let world = World::new();
    let (one, two) = (space(), space());
    let (going, staying) = (world.plug(1), world.plug(2));
    let bonds = [
        world.bind(&going, &one),
        world.bind(&going, &two),
        world.bind(&staying, &one),
        world.bind(&staying, &two),
    ];
    world.iommu.remove(&going, Removal::Orderly).expect("plugged");
    assert_eq!(bonds.each_ref().map(|bond| bond.is_live()), [false, false, true, true]);
    for bond in &bonds[2..] {
        assert_eq!(refused(&staying.port(), bond.pasid()), None);
    }
}

// shows U1
#[test]
fn the_same_space_can_be_bound_again_at_once_and_gets_another_life() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let mut seen: Vec<(Pasid, PasidTag)> = Vec::new();
    for _ in 0..100 {
        let bond = world.bind(&device, &space);
        assert_eq!(refused(&device.port(), bond.pasid()), None);
        assert!(seen.iter().all(|(_, tag)| tag.generation < bond.tag().generation));
        seen.push((bond.pasid(), bond.tag()));
    }
    assert_eq!(space.watches(), 0);
    space.protect(BASE, sva_testkit::PAGE, Protection::READ);
}
