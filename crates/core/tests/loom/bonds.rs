//! Bonds: bind, unbind, the end of a space, and who gets the PASID next.

use std::sync::Arc;

use loom::thread;
use sva_core::error::*;
use sva_core::*;
use sva_sync::Mutex;

use crate::support::*;

// shows U4, B3
// Two threads: bind; end of the space. Every schedule, 9, below 0.1 s.
#[test]
fn concurrent_bind_and_exit() {
    model(|| {
        let (iommu, probe, runs) = (system(false, 1), Probe::new(), Arc::new(Count::default()));
        let device = plug(&iommu, 0);
        let ender = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.end()
        });
        let counted = Arc::clone(&runs);
        let bond =
            iommu.bind_device(&device, &probe, Bind::new(()).on_exit(move |_, ()| counted.up()));
        ender.join().expect("ends");
        match bond {
            // The end was published while the bond lived: its handler has run, once.
            Ok(bond) => {
                assert_eq!(runs.get(), 1);
                assert!(device.port().read(Some(bond.pasid()), 0, &mut [0]).is_err());
                assert!(bond.unbind().handler_ran);
                assert_eq!(runs.get(), 1);
            }
            Err(error) => {
                assert!(matches!(error, BindError::Space(SpaceRefusal::Ended(_))));
                assert_eq!(runs.get(), 0);
            }
        }
        assert_clean(&iommu, 1);
    });
}

// shows U2, U4
// Two threads: unbind; end of the space with its handler. Every schedule, some 130, below 0.1 s.
#[test]
fn concurrent_unbind_and_exit() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        // Runs that began, and runs that are over: steps of the model both.
        let runs = Arc::new(Mutex::new((0, 0)));
        let device = plug(&iommu, 0);
        let counted = Arc::clone(&runs);
        let bind = Bind::new(()).on_exit(move |_, ()| {
            counted.lock().0 += 1;
            counted.lock().1 += 1;
        });
        let bond = iommu.bind_device(&device, &probe, bind).expect("binds");
        let ender = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.end()
        });
        let report = bond.unbind();
        let after = *runs.lock();
        assert_eq!(after, (u32::from(report.handler_ran), u32::from(report.handler_ran)));
        ender.join().expect("ends");
        assert_eq!(*runs.lock(), after, "no handler runs after the unbind");
        assert_clean(&iommu, 1);
    });
}

// shows U1, U2
// Two threads: unbind; one read. Every schedule, 64, below 0.1 s.
#[test]
fn concurrent_unbind_and_access() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &probe, Bind::new(())).expect("binds");
        let pasid = bond.pasid();
        let port = device.port();
        let user = thread::spawn(move || port.read(Some(pasid), 0, &mut [0]).is_ok());
        drop(bond);
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        assert_eq!(user.join().expect("ends"), hits == 1);
        assert_eq!(probe.hits(), hits, "no access after the unbind");
        assert_clean(&iommu, 1);
    });
}

// shows U5, U6
// Two threads: unbind and bind of another space; one read for the first owner. Every schedule, some
// 130, below 0.1 s. One PASID.
#[test]
fn concurrent_pasid_release_and_late_access() {
    model(|| {
        let (iommu, old, new) = (system(false, 1), Probe::new(), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &old, Bind::new(())).expect("binds");
        let tag = bond.tag();
        let port = device.port().for_owner(tag);
        let late = thread::spawn(move || port.read(Some(tag.pasid), 0, &mut [0]).is_ok());
        bond.unbind();
        let next =
            iommu.bind_device(&device, &new, Bind::new(())).expect("the one PASID is free again");
        assert_eq!(next.pasid(), tag.pasid);
        assert_ne!(next.tag(), tag);
        let reached = late.join().expect("ends");
        assert_eq!(new.hits(), 0, "a late access never reaches the next owner");
        assert_eq!(reached, old.hits() == 1);
        // Where it did not reach its owner it was dropped and counted.
        assert_eq!(iommu.stale_dropped(), u64::from(!reached));
        drop(next);
        assert_clean(&iommu, 1);
    });
}

// shows U3
// Two threads: end of one space; end of the other. Every schedule, some 534,000, 100 s.
#[test]
#[ignore = "takes a minute or more: cargo xtask full"]
fn concurrent_handlers_that_unbind_each_other() {
    model(|| {
        let iommu = system(false, 2);
        let device = plug(&iommu, 0);
        let slots: [Arc<Mutex<Option<Bond<()>>>>; 2] =
            std::array::from_fn(|_| Arc::new(Mutex::new(None)));
        let probes = [Probe::new(), Probe::new()];
        for own in 0..2 {
            let other = Arc::clone(&slots[1 - own]);
            let bind = Bind::new(()).on_exit(move |_, ()| {
                let taken = other.lock().take();
                drop(taken);
            });
            *slots[own].lock() =
                Some(iommu.bind_device(&device, &probes[own], bind).expect("binds"));
        }
        let ender = thread::spawn({
            let probe = Arc::clone(&probes[0]);
            move || probe.end()
        });
        probes[1].end();
        ender.join().expect("no deadlock");
        for slot in &slots {
            let left = slot.lock().take();
            drop(left);
        }
        assert_clean(&iommu, 1);
    });
}

// shows B3, B4
// Two threads: group bind that is refused; one read. Every schedule, 27, below 0.1 s.
#[test]
fn concurrent_refused_group_bind_and_access() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let bound = plug(&iommu, 1);
        let bond = iommu.bind_device(&bound, &probe, Bind::new(())).expect("alone");
        let first = plug(&iommu, 0);
        let (port, pasid) = (first.port(), bond.pasid());
        let early = thread::spawn(move || port.read(Some(pasid), 0, &mut [0]).is_ok());
        let refused = iommu.bind_group(first.group(), &probe, Bind::new(()));
        assert!(matches!(refused, Err(BindGroupError::Device(Refusal::AlreadyBound { .. }))));
        assert!(!early.join().expect("ends"), "no entry is programmed before all are reserved");
        assert!(bound.port().read(Some(pasid), 0, &mut [0]).is_ok(), "the bond of before lives on");
        drop(bond);
        assert_clean(&iommu, 2);
    });
}

// shows B4, B2
// Two threads: group bind; two reads. Every schedule, 72, below 0.1 s.
#[test]
fn concurrent_group_bind_and_access() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let devices = [plug(&iommu, 0), plug(&iommu, 1)];
        let ports = [devices[0].port(), devices[1].port()];
        let pasid = Pasid::new(1).expect("the only one");
        let early = thread::spawn(move || {
            // Entries are published in the order of their addresses, when all have been programmed.
            let last = ports[1].read(Some(pasid), 0, &mut [0]).is_ok();
            !last || ports[0].read(Some(pasid), 0, &mut [0]).is_ok()
        });
        let bond = iommu.bind_group(devices[0].group(), &probe, Bind::new(())).expect("binds");
        assert!(
            early.join().expect("ends"),
            "an entry was published before all had been programmed"
        );
        assert_eq!(bond.members().len(), 2);
        drop(bond);
        assert_clean(&iommu, 2);
    });
}
