//! Devices that come and go.

use std::sync::Arc;

use loom::thread;
use sva_core::link::DirectLink;
use sva_core::pri::ResponseCode;
use sva_core::*;

use crate::support::*;

// shows G5, U2
// Two threads: removal; one read. Every schedule, some 13,000, 0.6 s.
#[test]
fn concurrent_surprise_removal_and_access() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &probe, Bind::new(())).expect("binds");
        let (port, pasid) = (device.port(), bond.pasid());
        let user = thread::spawn(move || drop(port.read(Some(pasid), 0, &mut [0])));
        iommu.remove(&device, Removal::Surprise).expect("there");
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        user.join().expect("ends");
        assert_eq!(probe.hits(), hits);
        assert!(bond.unbind().already_ended);
        assert_clean(&iommu, 0);
    });
}

// shows G5, U2
// Two threads: unbind; removal. Every schedule, some 1,600, 0.1 s.
#[test]
fn concurrent_removal_and_unbind() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let bond = iommu.bind_device(&device, &probe, Bind::new(())).expect("binds");
        let remover = thread::spawn({
            let (iommu, device) = (iommu.clone(), device.clone());
            move || iommu.remove(&device, Removal::Orderly).is_ok()
        });
        bond.unbind();
        assert!(remover.join().expect("ends"));
        assert_clean(&iommu, 0);
    });
}

// shows G4, B8
// Two threads: group unbind; plug. Every schedule, 43, below 0.1 s.
#[test]
fn concurrent_hotplug_and_group_unbind() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let first = plug(&iommu, 0);
        let bond = iommu.bind_group(first.group(), &probe, Bind::new(())).expect("binds");
        let plugger = thread::spawn({
            let iommu = iommu.clone();
            move || plug(&iommu, 1)
        });
        let pasid = bond.pasid();
        bond.unbind();
        let second = plugger.join().expect("plugs");
        for device in [first, second] {
            assert!(device.port().read(Some(pasid), 0, &mut [0]).is_err());
        }
        assert_clean(&iommu, 2);
    });
}

// shows F7, G5, U2
// Two threads: removal; worker. Up to 6 forced switches, some 67,000, 8 s.
#[test]
fn concurrent_surprise_removal_and_fault() {
    bounded(6, || {
        let (iommu, device, port) = translating(2, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let group = port.open_group(Some(bond.pasid())).expect("it has credit");
        assert!(request_page(&port, group, 0, true));
        let worker = thread::spawn({
            let iommu = iommu.clone();
            move || work(&iommu)
        });
        iommu.remove(&device, Removal::Surprise).expect("there");
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        assert_idle(&iommu);
        worker.join().expect("ends");
        assert_eq!(probe.hits(), hits);
        assert!(bond.unbind().already_ended);
        assert_eq!(device.page_request_counts().unexpected, 0);
        assert_clean(&iommu, 0);
    });
}

// shows F7, U2
// Two threads: removal; page request. Every schedule, some 930, below 0.1 s.
#[test]
fn concurrent_orderly_removal_and_page_request() {
    model(|| {
        let (iommu, device, port) = translating(2, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let groups = [0; 2].map(|_| port.open_group(Some(bond.pasid())).expect("it has credit"));
        assert!(request_page(&port, groups[0], 0, true));
        let asker = thread::spawn(move || request_page(&port, groups[1], 1, true));
        iommu.remove(&device, Removal::Orderly).expect("there");
        // What came before was answered; what comes after finds nobody.
        assert_idle(&iommu);
        asker.join().expect("ends");
        let counts = device.page_request_counts();
        assert!((1..=2).contains(&counts.responses) && counts.unexpected == 0);
        assert!(!iommu.sort_page_request() && iommu.next_page_request_job().is_none());
        assert!(bond.unbind().already_ended);
        assert_clean(&iommu, 0);
    });
}

// shows F7, G5
// Two threads: removal; worker. Up to 7 forced switches, some seconds: every schedule takes more
// than ten minutes.
#[test]
fn concurrent_orderly_removal_and_a_group_on_its_way_to_its_owner() {
    bounded(7, || {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let (held, handler) = owner();
        let bind = Bind::new(()).on_page_requests(handler);
        let bond = iommu.bind_device(&device, &probe, bind).expect("nothing is in the way");
        let group = port.open_group(Some(bond.pasid())).expect("it has credit");
        assert!(request_page(&port, group, 0, true));
        let worker = thread::spawn({
            let iommu = iommu.clone();
            move || work(&iommu)
        });
        iommu.remove(&device, Removal::Orderly).expect("there");
        assert_idle(&iommu);
        worker.join().expect("ends");
        let late = held.lock().take().map(|group| group.answer(ResponseCode::Success));
        assert!(late.is_none_or(|late| late.is_err()), "there is nobody to answer");
        assert!(bond.unbind().already_ended);
        assert_clean(&iommu, 0);
    });
}

// shows T2, G5
// Three threads: change; translated read under way; begun removal. Up to 3 forced switches, some
// 41,000, 2 s.
#[test]
fn concurrent_surprise_removal_and_space_change() {
    bounded(3, || {
        let Caching { iommu, device, port, probe, bond } = caching(Arc::new(DirectLink));
        let user = thread::spawn(use_cached(&port, bond.pasid()));
        let remover = thread::spawn({
            let (iommu, device) = (iommu.clone(), device.clone());
            move || iommu.begin_remove(&device, Removal::Surprise).expect("there")
        });
        probe.unmap();
        user.join().expect("ends");
        let removing = remover.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translated request outlived the change");
        assert!(removing.is_over());
        drop(bond);
        assert_clean(&iommu, 0);
    });
}

// shows G4, U1, U2
// Two threads: group unbind; plug, ATS on, translation and read. Every schedule, some 97,000, 5 s.
#[test]
fn concurrent_hotplug_of_a_translating_device_and_group_unbind() {
    model(|| {
        let (iommu, probe) = (system(true, 1), Probe::new());
        let first = plug(&iommu, 1);
        let bond = iommu.bind_group(first.group(), &probe, Bind::new(())).expect("binds");
        let pasid = bond.pasid();
        let plugger = thread::spawn({
            let iommu = iommu.clone();
            move || {
                let device = plug_translating(&iommu, 1, Arc::new(DirectLink));
                let port = device.ats_port();
                fill(&port, pasid);
                read_cached(&port, pasid);
                device
            }
        });
        bond.unbind();
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        let second = plugger.join().expect("plugs");
        assert_eq!((probe.hits(), second.atc_len()), (hits, 0));
        assert_clean(&iommu, 2);
    });
}
