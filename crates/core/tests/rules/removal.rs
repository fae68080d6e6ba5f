//! Devices go: in order, by surprise, and while something else goes on (rules B1, B3, B5, F7, G5,
//! U1 to U4).

use std::sync::Arc;

use sva_core::error::RemoveError;
use sva_core::topology::RequesterId;
use sva_core::{Bind, Device, Event, FaultReason, Plug, Removal};
use sva_sync::Mutex;

use crate::support::*;

// shows F7, U1, G5
#[test]
fn an_orderly_removal_asks_the_device_to_stop_first_and_a_surprise_one_asks_nothing() {
    for removal in [Removal::Orderly, Removal::Surprise] {
        let world = World::new();
        let space = space();
        let slot: Later<(Device, sva_core::Pasid)> = later();
        let flushed: Noted<Option<FaultReason>> = Noted::default();
        let (of_model, results) = (slot.clone(), flushed.clone());
        let flush = move |tag: sva_core::PasidTag| {
            let (device, _) = of_model.lock().clone().expect("bound");
            results.lock().push(reason(device.port().write(Some(tag.pasid), BASE, b"last words")));
        };
        let device = world.plug_model(1, Arc::new(OnStop(flush)));
        let bond = world.bind(&device, &space);
        *slot.lock() = Some((device.clone(), bond.pasid()));
        world.iommu.remove(&device, removal).expect("plugged");
        slot.lock().take();
        match removal {
            Removal::Orderly => {
                assert_eq!(flushed.lock()[..], [None], "what it had under way got through")
            }
            Removal::Surprise => assert!(flushed.lock().is_empty()),
        }
        assert!(device.is_removed() && !bond.is_live());
        assert_eq!(
            reason(device.port().read(Some(bond.pasid()), BASE, &mut [0])),
            Some(FaultReason::DeviceRemoved)
        );
        assert!(world.events().contains(&Event::BondEnded { device: bdf(1), pasid: bond.pasid() }));
        let again = world.iommu.remove(&device, removal).expect_err("gone");
        assert_eq!(again, RemoveError::Gone { device: bdf(1) });
        assert!(bond.unbind().already_ended);
        world.assert_nothing_is_left();
    }
}

// shows F7, B1
#[test]
fn a_device_that_is_asked_to_stop_for_its_removal_cannot_be_bound_any_more() {
    for members in [1, 2] {
        let world = World::grouped(members);
        let (one, two) = (space(), Arc::new(space()));
        let (slot, refusals): (Later<Device>, Noted<String>) = (later(), Noted::default());
        let (mine, iommu, other, texts) =
            (slot.clone(), world.iommu.clone(), two.clone(), refusals.clone());
        let device = world.plug_model(
            1,
            Arc::new(OnStop(move |_| {
                let device = mine.lock().take().expect("plugged");
                let bound = iommu
                    .bind_device(&device, &other.handle(), Bind::new(()))
                    .map(std::mem::forget);
                texts
                    .lock()
                    .push(bound.map_or_else(|error| error.to_string(), |()| "bound".to_owned()));
            })),
        );
        let bond = world.bind(&device, &one);
        let sibling = (members == 2).then(|| world.plug(2));
        *slot.lock() = Some(device.clone());
        world.iommu.remove(&device, Removal::Orderly).expect("plugged");
        assert_eq!(
            refusals.lock()[..],
            ["0000:01:01.0 has been removed from this IOMMU; plug it in again"]
        );
        drop(bond);
        if let Some(sibling) = sibling {
            world.iommu.remove(&sibling, Removal::Orderly).expect("plugged");
        }
        world.assert_nothing_is_left();
    }
}

// shows F7, G5
#[test]
fn removing_one_of_two_devices_with_one_requester_id_ends_its_own_bond_and_no_other() {
    let world = World::grouped(2);
    for number in 1..=2 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (own, common) = (space(), space());
    let model = Model::new();
    let first = world.plug_model(1, model.clone());
    let bond = world.bind(&first, &own);
    let second = world.plug(2);
    let group =
        world.iommu.bind_group(first.group(), &common.handle(), Bind::new(())).expect("capable");
    world.iommu.remove(&first, Removal::Orderly).expect("plugged");
    assert!(!bond.is_live(), "its device is gone");
    assert_eq!(
        refused(&second.port(), bond.pasid()),
        Some(FaultReason::NotBound),
        "it was there by the other's bond alone"
    );
    assert_eq!(
        refused(&second.port(), group.pasid()),
        None,
        "the group's bond is this device's as well"
    );
    let mut stopped = model.stopped();
    stopped.sort_by_key(|tag| tag.pasid);
    assert_eq!(stopped, [bond.tag(), group.tag()], "the device that goes is asked to stop both");
    drop((bond, group));
    world.bind(&second, &own).unbind();
    world.iommu.remove(&second, Removal::Surprise).expect("plugged");
    world.assert_nothing_is_left();
}

// shows G5, B5
#[test]
fn removing_the_other_of_two_devices_with_one_requester_id_leaves_the_bond_to_its_own_device() {
    let world = World::grouped(2);
    for number in 1..=2 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (space, first) = (space(), world.plug(1));
    let bond = world.bind(&first, &space);
    let second = world.plug(2);
    world.iommu.remove(&second, Removal::Orderly).expect("plugged");
    assert!(bond.is_live());
    assert_eq!(refused(&first.port(), bond.pasid()), None);
    assert_eq!(refused(&second.port(), bond.pasid()), Some(FaultReason::DeviceRemoved));
    assert!(!bond.unbind().already_ended);
}

// shows G5, U2
#[test]
fn surprise_removal_waits_for_the_access_in_flight_and_ends_every_later_one() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let bond = world.bind(&device, &space);
        let parked = Parked::by_pasid(&space, &device.port(), bond.pasid());
        let (iommu, gone) = (world.iommu.clone(), device.clone());
        let removed = std::thread::spawn(move || iommu.remove(&gone, Removal::Surprise));
        eventually("reception stops", || device.is_removed());
        assert_eq!(refused(&device.port(), bond.pasid()), Some(FaultReason::DeviceRemoved));
        assert!(!removed.is_finished(), "an access is in flight");
        parked.release().expect("it was under way before");
        removed.join().expect("no panic").expect("plugged");
        let report = bond.unbind();
        assert!(report.already_ended && !report.deferred);
        world.assert_nothing_is_left();
    });
}

// shows G5, U4
#[test]
fn surprise_removal_while_the_exit_handler_runs_neither_hangs_nor_runs_it_twice() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let (running, go, runs) = (Signal::new(), Signal::new(), Arc::new(Mutex::new(0)));
        let (inside, leave, count) = (running.clone(), go.clone(), runs.clone());
        let bind = Bind::new(()).on_exit(move |_, ()| {
            *count.lock() += 1;
            inside.raise();
            leave.wait();
        });
        let bond = world.iommu.bind_device(&device, &space.handle(), bind).expect("free");
        let ending = std::thread::spawn(move || space.end(sva_core::EndReason::Exited));
        running.wait();
        world.iommu.remove(&device, Removal::Surprise).expect("plugged");
        assert!(device.is_removed());
        let unbinding = std::thread::spawn(move || bond.unbind());
        assert_eq!(world.iommu.object_counts().bonds, 1, "its handler is still running");
        go.raise();
        ending.join().expect("no panic");
        assert!(unbinding.join().expect("no panic").handler_ran);
        assert_eq!(*runs.lock(), 1);
        world.assert_nothing_is_left();
    });
}

// shows G5, B3
#[test]
fn a_removal_that_races_a_bind_leaves_either_a_refusal_or_an_ended_bond() {
    watched(|| {
        for round in 0..200 {
            let world = World::new();
            let (space, device) = (space(), world.plug(1));
            let (iommu, gone) = (world.iommu.clone(), device.clone());
            let start = Arc::new(std::sync::Barrier::new(2));
            let at = start.clone();
            let removal = if round % 2 == 0 { Removal::Surprise } else { Removal::Orderly };
            let removing = std::thread::spawn(move || {
                at.wait();
                iommu.remove(&gone, removal)
            });
            start.wait();
            let bond = world.iommu.bind_device(&device, &space.handle(), Bind::new(()));
            removing.join().expect("no panic").expect("plugged");
            match bond {
                Ok(bond) => assert!(
                    !bond.is_live()
                        && refused(&device.port(), bond.pasid())
                            == Some(FaultReason::DeviceRemoved)
                ),
                Err(error) => assert!(error.to_string().contains("has been removed"), "{error}"),
            }
            world.assert_nothing_is_left();
            assert_eq!(space.watches(), 0);
        }
    });
}

// shows G5
#[test]
fn a_removal_leaves_a_group_bond_to_the_others_and_the_returning_device_joins_again() {
    let world = World::grouped(2);
    let (space, first, second) = (space(), world.plug(1), world.plug(2));
    let bond =
        world.iommu.bind_group(first.group(), &space.handle(), Bind::new(())).expect("capable");
    world.iommu.remove(&first, Removal::Surprise).expect("plugged");
    assert!(bond.is_live());
    assert_eq!(bond.members(), [bdf(2)]);
    assert_eq!(refused(&second.port(), bond.pasid()), None);
    world.iommu.remove(&second, Removal::Orderly).expect("plugged");
    assert!(bond.members().is_empty());
    let again = world.plug_as(1, everything());
    assert_eq!(again.joined, [bond.pasid()]);
    assert_eq!(refused(&again.device.port(), bond.pasid()), None);
    assert_eq!(
        refused(&first.port(), bond.pasid()),
        Some(FaultReason::DeviceRemoved),
        "the handle of the old device stays dead"
    );
}

/// Answers the counts when it is dropped: as a model does that owns bonds, it calls into the core.
struct AsksWhenDropped(sva_core::Iommu, Arc<Signal>);

impl sva_core::DeviceOps for AsksWhenDropped {}

impl Drop for AsksWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.object_counts();
        self.1.raise();
    }
}

// shows U3
#[test]
fn a_model_is_dropped_with_no_lock_of_the_core_held() {
    watched(|| {
        let world = World::new();
        let (plugged, refused) = (Signal::new(), Signal::new());
        let device =
            world.plug_model(1, Arc::new(AsksWhenDropped(world.iommu.clone(), plugged.clone())));
        let spec = sva_core::DeviceSpec { bdf: bdf(1), capabilities: plain() };
        let model = Arc::new(AsksWhenDropped(world.iommu.clone(), refused.clone()));
        world.iommu.plug(Plug::new(spec).model(model)).map(drop).expect_err("occupied");
        assert!(refused.is_on() && !plugged.is_on());
        world.iommu.remove(&device, Removal::Orderly).expect("plugged");
        assert!(plugged.is_on(), "the core lets go of the model at the removal");
    });
}
