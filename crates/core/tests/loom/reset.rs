//! Reset, cut-off and removal of a device, against those that wait for its accesses.

use std::sync::Arc;

use loom::thread;
use sva_core::link::{DirectLink, ToDevice};

use crate::support::*;

// shows T2
// Three threads: change; translated read under way; begun reset. Up to 4 forced switches, some
// 121,000, 9 s.
#[test]
fn concurrent_reset_and_space_change() {
    bounded(4, || {
        let Caching { iommu, device, port, probe, bond } = caching(Arc::new(LosesInvalidations));
        let user = thread::spawn(use_cached(&port, bond.pasid()));
        let resetter = thread::spawn({
            let device = device.clone();
            move || device.begin_reset().expect("it is there")
        });
        // Only the reset ends what the device never hears of.
        probe.unmap();
        user.join().expect("ends");
        let reset = resetter.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translated request outlived the change");
        assert!(reset.is_quiet());
        assert_eq!(device.atc_len(), 0);
        drop(bond);
        drop(reset);
        assert_clean(&iommu, 1);
    });
}

// shows T2
// Three threads: change; translated read under way; reset, begun and done. Up to 3 forced switches,
// some 27,000, 3 s.
#[test]
fn concurrent_reset_that_ends_and_space_change() {
    bounded(3, || {
        let Caching { iommu, device, port, probe, bond } = caching(Arc::new(DirectLink));
        let user = thread::spawn(use_cached(&port, bond.pasid()));
        let resetter = thread::spawn({
            let device = device.clone();
            move || drop(device.begin_reset().expect("it is there"))
        });
        probe.unmap();
        user.join().expect("ends");
        resetter.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translated request outlived the change");
        assert_eq!(device.atc_len(), 0);
        drop(bond);
        assert_clean(&iommu, 1);
    });
}

// shows T2
// Two threads: reset; another one, begun and done. Up to 5 forced switches, some 31,000, 1 s; every
// schedule would be 920,000.
#[test]
fn concurrent_nested_resets() {
    bounded(5, || {
        let Caching { iommu, device, port, probe: _probe, bond } = caching(Arc::new(DirectLink));
        let resetter = thread::spawn({
            let device = device.clone();
            move || drop(device.begin_reset().expect("it is there"))
        });
        let reset = device.reset().expect("one more at any time");
        // Whatever the other one does: this one is not done.
        assert!(device.port().read(Some(bond.pasid()), PAGE_AT, &mut [0]).is_err());
        assert!(!read_cached(&port, bond.pasid()));
        drop(reset);
        resetter.join().expect("ends");
        fill(&port, bond.pasid());
        assert!(read_cached(&port, bond.pasid()), "the last one lets it in again");
        drop(bond);
        assert_clean(&iommu, 1);
    });
}

// shows T2, U1
// Three threads: wait for a change; tick; translated read and completion. Up to 4 forced switches,
// some 40,000, 3 s. An invalidation is tried once; time stands still.
#[test]
fn concurrent_cut_off_and_late_completion() {
    bounded(4, || {
        let clock = Arc::new(ManualClock::default());
        let iommu = timed(&clock);
        let delaying = DelayingLink::of(|message| matches!(message, ToDevice::Invalidate(_)));
        let device = plug_translating(&iommu, 1, delaying.link());
        let (port, probe) = (device.ats_port(), Probe::new());
        let bond = bind(&iommu, &device, &probe);
        fill(&port, bond.pasid());
        let change = probe.begin_unmap();
        assert!(!change.is_over());
        // It was the only try, and its time is over.
        clock.0.up();
        let ticker = thread::spawn({
            let iommu = iommu.clone();
            move || iommu.tick()
        });
        let pasid = bond.pasid();
        let user = thread::spawn(move || {
            read_cached(&port, pasid);
            delaying.deliver();
        });
        change.wait();
        probe.free();
        user.join().expect("ends");
        ticker.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translated request outlived the change");
        let counts = device.invalidation_counts();
        assert_eq!(counts.completed + counts.canceled, 1, "it is over for one reason");
        assert_eq!(device.is_cut_off(), counts.canceled == 1);
        // It would never answer for the bond either.
        let reset = device.reset().expect("it is there");
        drop(bond);
        drop(reset);
        assert_clean(&iommu, 1);
    });
}
