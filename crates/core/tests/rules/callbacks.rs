//! Unbinding from inside handlers, resolvers and device models (rule U3). A hang here is found by
//! the watchdog.

use std::sync::Arc;

use sva_core::topology::PeerWindow;
use sva_core::{
    AddrRange, Bind, Bond, Container, EndReason, FaultReason, Iommu, Removal, UnbindReport,
};
use sva_sync::Mutex;
use sva_testkit::PAGE;

use crate::hooked_bus::HookedBus;
use crate::support::*;

// shows U3, U4
#[test]
fn an_exit_handler_can_unbind_its_own_bond() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let (slot, reports): (Later<Bond<&str>>, Noted<UnbindReport>) = (later(), Noted::default());
        let (mine, seen) = (slot.clone(), reports.clone());
        let bind = Bind::new("drvdata").on_exit(move |_, data| {
            let bond = mine.lock().take().expect("put there before the end");
            assert_eq!((*data, *bond.drvdata()), ("drvdata", "drvdata"));
            seen.lock().push(bond.unbind());
        });
        *slot.lock() = Some(world.iommu.bind_device(&device, &space.handle(), bind).expect("free"));
        space.end(EndReason::Exited);
        let report = UnbindReport {
            deferred: true,
            space_ended: true,
            handler_ran: true,
            ..UnbindReport::default()
        };
        assert_eq!(reports.lock()[..], [report]);
        assert_eq!(
            world.iommu.object_counts().bonds,
            0,
            "the handler has returned, and the bond is gone"
        );
        assert_eq!(space.watches(), 0);
    });
}

// shows U3
#[test]
fn two_handlers_in_two_threads_unbind_each_other_s_bonds() {
    watched(|| {
        let world = World::new();
        let (left, right) = (space(), space());
        let slots: [Later<Bond<()>>; 2] = [later(), later()];
        let meet = Arc::new(std::sync::Barrier::new(2));
        let devices = [world.plug(1), world.plug(2)];
        let spaces = [&left, &right];
        for n in 0..2 {
            let (other, meet) = (slots[1 - n].clone(), meet.clone());
            let bind = Bind::new(()).on_exit(move |_, ()| {
                meet.wait();
                let bond = other.lock().take().expect("bound");
                assert!(
                    bond.unbind().deferred,
                    "the other's handler is running, and this one does not wait for it"
                );
                meet.wait();
            });
            *slots[n].lock() = Some(
                world.iommu.bind_device(&devices[n], &spaces[n].handle(), bind).expect("free"),
            );
        }
        std::thread::scope(|scope| {
            scope.spawn(|| left.end(EndReason::Exited));
            scope.spawn(|| right.end(EndReason::Execed));
        });
        assert_eq!(world.iommu.object_counts().bonds, 0);
        assert_eq!(world.iommu.object_counts().pasids, 0);
    });
}

// shows U3
#[test]
fn two_handlers_of_one_space_in_one_thread_unbind_each_other_s_bonds_and_both_run() {
    watched(|| {
        let world = World::new();
        let space = space();
        let slots: [Later<Bond<()>>; 2] = [later(), later()];
        let ran = Arc::new(Mutex::new(0));
        for n in 0..2 {
            let (other, ran) = (slots[1 - n].clone(), ran.clone());
            let bind = Bind::new(()).on_exit(move |_, ()| {
                *ran.lock() += 1;
                drop(other.lock().take());
            });
            let device = world.plug(n as u8 + 1);
            *slots[n].lock() =
                Some(world.iommu.bind_device(&device, &space.handle(), bind).expect("free"));
        }
        space.end(EndReason::Exited);
        assert_eq!(*ran.lock(), 2, "the end was published before the unbinds began (U4)");
        assert_eq!(world.iommu.object_counts().bonds, 0);
    });
}

// shows U3, U2
#[test]
fn a_resolver_that_unbinds_does_not_wait_for_the_access_that_it_is_inside_of() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let slot = later();
        let bond = world.bind(&device, &space);
        let pasid = bond.pasid();
        *slot.lock() = Some(bond);
        let (mine, same, iommu) = (slot.clone(), device.clone(), world.iommu.clone());
        let id = space.handle().id();
        space.absent(BASE, PAGE);
        space.on_resolve(move |_| {
            let Some(bond) = mine.lock().take() else { return true };
            let report = bond.unbind();
            assert_eq!(
                report,
                UnbindReport { deferred: true, drained: 1, ..UnbindReport::default() }
            );
            assert_eq!(
                refused(&same.port(), pasid),
                Some(FaultReason::NotBound),
                "access has stopped at once"
            );
            assert!(iommu.pasid_of(id).is_some(), "the PASID is held for the access in flight");
            true
        });
        device.port().read(Some(pasid), BASE, &mut [0; 8]).expect("it was under way");
        assert!(slot.lock().is_none());
        assert_eq!(
            (world.iommu.pasid_of(id), world.iommu.object_counts().bonds),
            (None, 0),
            "the last access has finished it"
        );
        assert_eq!(space.watches(), 0);
    });
}

// shows U3, G5
#[test]
fn a_resolver_can_remove_the_very_device_that_it_works_for() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let bond = world.bind(&device, &space);
        let (iommu, gone) = (world.iommu.clone(), device.clone());
        space.absent(BASE, PAGE);
        space.on_resolve(move |_| iommu.remove(&gone, Removal::Surprise).is_ok());
        device.port().read(Some(bond.pasid()), BASE, &mut [0; 8]).expect("it was under way");
        assert_eq!(
            reason(device.port().read(Some(bond.pasid()), BASE, &mut [0; 8])),
            Some(FaultReason::DeviceRemoved)
        );
        drop(bond);
        world.assert_nothing_is_left();
    });
}

// shows U3, B7
#[test]
fn a_model_that_a_peer_write_reaches_can_unbind_and_the_rest_of_that_access_is_cut_off() {
    watched(|| {
        let bus = HookedBus::new(bdf(1));
        let window = AddrRange::new(BASE + PAGE, PAGE).expect("a range");
        bus.script.windows(bdf(1), &[PeerWindow { range: window, decoder: bdf(9), claimed: true }]);
        let iommu = Iommu::new(bus.clone(), sva_core::IommuConfig::default());
        let spec = sva_core::DeviceSpec { bdf: bdf(1), capabilities: everything() };
        let device = iommu.plug(spec).expect("free").device;
        let space = space();
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
        let (pasid, model, gone) = (bond.pasid(), iommu.clone(), device.clone());
        *bus.on_write.lock() = Some(Box::new(move || {
            assert!(!bond.unbind().already_ended);
            model.remove(&gone, Removal::Orderly).expect("plugged");
        }));
        let (done, fault) =
            stop(device.port().write(Some(pasid), BASE + PAGE - 4, &vec![5; PAGE as usize + 8]));
        assert_eq!(
            (done, fault.address, fault.reason),
            (4 + PAGE, BASE + 2 * PAGE, FaultReason::NotBound)
        );
        assert_eq!(space.peek(BASE + 2 * PAGE, 4), [0; 4]);
        assert_eq!(iommu.object_counts(), sva_core::event::ObjectCounts::default());
    });
}

// shows U3
#[test]
fn a_model_can_unbind_from_the_call_that_tells_it_to_stop() {
    watched(|| {
        let world = World::new();
        let (first, second) = (space(), space());
        let (slot, refusals): (Later<Bond<()>>, Noted<Option<FaultReason>>) =
            (later(), Noted::default());
        let port: Later<sva_core::DmaPort> = later();
        let (other, seen, way) = (slot.clone(), refusals.clone(), port.clone());
        let device = world.plug_model(
            1,
            Arc::new(OnStop(move |_| {
                let Some(bond) = other.lock().take() else { return };
                let pasid = bond.pasid();
                assert!(!bond.unbind().already_ended);
                seen.lock().push(refused(way.lock().as_ref().expect("plugged"), pasid));
            })),
        );
        *port.lock() = Some(device.port());
        *slot.lock() = Some(world.bind(&device, &second));
        world.bind(&device, &first).unbind();
        assert_eq!(refusals.lock()[..], [Some(FaultReason::NotBound)]);
        assert_eq!(world.iommu.object_counts().bonds, 0);
    });
}

// shows U3
#[test]
fn a_model_that_unbinds_while_its_own_removal_asks_it_to_stop_has_no_access_after_the_unbind() {
    watched(|| {
        let world = World::new();
        let space = space();
        let (slot, seen): (Later<(Bond<()>, sva_core::DmaPort)>, Noted<_>) =
            (later(), Noted::default());
        let (mine, into) = (slot.clone(), seen.clone());
        let device = world.plug_model(
            1,
            Arc::new(OnStop(move |_| {
                let (bond, port) = mine.lock().take().expect("bound");
                let pasid = bond.pasid();
                into.lock().push((bond.unbind(), refused(&port, pasid)));
            })),
        );
        *slot.lock() = Some((world.bind(&device, &space), device.port()));
        world.iommu.remove(&device, Removal::Orderly).expect("plugged");
        let seen = seen.lock();
        assert!(seen[0].0.already_ended, "the removal has ended it");
        assert_eq!(
            seen[0].1,
            Some(FaultReason::NotBound),
            "an unbind stops access at once, wherever it is called"
        );
        world.assert_nothing_is_left();
    });
}

/// Does something of the test's when it is dropped, as drvdata does that owns other bonds.
struct WhenDropped(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for WhenDropped {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

// shows U1, U2
#[test]
fn a_handler_that_is_dropped_unused_is_dropped_when_access_has_stopped() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let (same, pasid): (_, Later<sva_core::Pasid>) = (device.clone(), later());
        let seen: Noted<Option<FaultReason>> = Noted::default();
        let (number, results) = (pasid.clone(), seen.clone());
        let look = WhenDropped(Some(Box::new(move || {
            let pasid = number.lock().take().expect("bound");
            results.lock().push(refused(&same.port(), pasid));
            panic!("as the test wants");
        })));
        let bind = Bind::new(()).on_exit(move |_, ()| drop(look));
        let bond = world.iommu.bind_device(&device, &space.handle(), bind).expect("free");
        *pasid.lock() = Some(bond.pasid());
        let number = bond.pasid();
        let unbound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || bond.unbind()));
        assert!(unbound.is_err(), "the panic is the caller's");
        assert_eq!(seen.lock()[..], [Some(FaultReason::NotBound)]);
        assert_eq!(
            refused(&device.port(), number),
            Some(FaultReason::NotBound),
            "whatever its drop did, the bond is gone"
        );
        assert_eq!(world.iommu.object_counts().bonds, 0);
    });
}

// shows U3
#[test]
fn drvdata_that_the_device_s_own_access_drops_may_remove_that_device() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let (iommu, gone, removed) = (world.iommu.clone(), device.clone(), Signal::new());
        let done = removed.clone();
        let data = WhenDropped(Some(Box::new(move || {
            iommu.remove(&gone, Removal::Surprise).expect("plugged");
            done.raise();
        })));
        // The handler keeps the drvdata in the core until the bond is gone, which the device's own
        // access brings about.
        let bind = Bind::new(data).on_isolation_change(|_, _| ());
        let slot = later();
        let bond = world.iommu.bind_device(&device, &space.handle(), bind).expect("free");
        let pasid = bond.pasid();
        *slot.lock() = Some(bond);
        let mine = slot.clone();
        space.absent(BASE, PAGE);
        space.on_resolve(move |_| mine.lock().take().is_some_and(|bond| bond.unbind().deferred));
        device.port().read(Some(pasid), BASE, &mut [0; 8]).expect("it was under way");
        assert!(removed.is_on());
        world.assert_nothing_is_left();
    });
}

// shows U3, G4
#[test]
fn isolation_handlers_can_unbind_the_bonds_of_the_handlers_that_come_after_them() {
    watched(|| {
        let world = World::grouped(2);
        let device = world.plug(1);
        let spaces = [space(), space()];
        let slots: [Later<Bond<WhenDropped>>; 2] = [later(), later()];
        for n in 0..2 {
            let (own, other) = (slots[n].clone(), slots[1 - n].clone());
            // The handler unbinds its own bond; the drvdata goes with it, and takes the other bond
            // along.
            let data = WhenDropped(Some(Box::new(move || drop(other.lock().take()))));
            let bind = Bind::new(data).on_isolation_change(move |_, _| drop(own.lock().take()));
            let bond = world.iommu.bind_device(&device, &spaces[n].handle(), bind).expect("alone");
            *slots[n].lock() = Some(bond);
        }
        world.plug(2);
        assert!(slots.iter().all(|slot| slot.lock().is_none()));
        assert_eq!(world.iommu.object_counts().bonds, 0);
    });
}

// shows U3, U9
#[test]
fn a_container_can_be_changed_and_closed_inside_a_resolver_that_works_for_it() {
    watched(|| {
        let world = World::new();
        let (bound, backing, device) = (space(), space(), world.plug(1));
        let slot: Later<Container> = later();
        let container = world.container(&[device.group()]);
        container.map(&mapping(0x10000, 1, &backing, PARK)).expect("free");
        container.map(&mapping(0x20000, 1, &backing, BASE)).expect("free");
        let pasid = container.bind(&bound.handle(), Bind::new(())).expect("capable").pasid;
        *slot.lock() = Some(container);
        backing.absent(PARK, PAGE);
        let (mine, same) = (slot.clone(), device.clone());
        backing.on_resolve(move |_| {
            let Some(container) = mine.lock().take() else { return true };
            let unmapped = container.unmap(0x10000, PAGE).expect("mapped");
            assert_eq!(
                (unmapped.bytes, unmapped.deferred),
                (PAGE, true),
                "this very access goes through it"
            );
            assert!(
                !container.unmap(0x20000, PAGE).expect("mapped").deferred,
                "nobody is in that one"
            );
            container.close();
            assert_eq!(
                reason(same.port().read(None, 0x10000, &mut [0])),
                Some(FaultReason::NoDomainMapping)
            );
            assert_eq!(refused(&same.port(), pasid), Some(FaultReason::NotBound));
            true
        });
        device.port().read(None, 0x10000, &mut [0; 8]).expect("it was under way");
        assert!(slot.lock().is_none());
        let counts = world.iommu.object_counts();
        assert_eq!((counts.containers, counts.bonds, counts.pasids), (0, 0, 0));
        world.container(&[device.group()]).close();
    });
}
