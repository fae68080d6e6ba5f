//! Translations that devices cache, against what makes them wrong.

use std::sync::Arc;

use loom::thread;
use sva_core::link::{DirectLink, ToDevice};
use sva_core::*;

use crate::support::*;

// shows T2, T3
// Two threads: change; translation and read. Every schedule, some 2,500, 0.3 s.
#[test]
fn concurrent_fill_and_space_change() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let pasid = bond.pasid();
        let user = thread::spawn(move || {
            fill(&port, pasid);
            read_cached(&port, pasid)
        });
        probe.unmap();
        user.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translation outlived its page");
        assert_eq!(device.atc_len(), 0);
        drop(bond);
        assert_clean(&iommu, 1);
    });
}

/// A device that does not wait to be told: it requests a translation with the only PASID that there
/// is, and uses it.
fn impatient(port: AtsPort) -> impl FnOnce() + Send + 'static {
    let pasid = Pasid::new(1).expect("the only one");
    move || {
        fill(&port, pasid);
        read_cached(&port, pasid);
    }
}

// shows T2, B4
// Three threads: bind; translation and read; change. Up to 4 forced switches, some 20,000, 2 s.
#[test]
fn concurrent_bind_and_space_change() {
    bounded(4, || {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let user = thread::spawn(impatient(port));
        let changer = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.unmap()
        });
        let bond = bind(&iommu, &device, &probe);
        user.join().expect("ends");
        changer.join().expect("ends");
        assert_eq!(probe.stale(), 0, "the change did not find the bond");
        assert_eq!(device.atc_len(), 0);
        drop(bond);
        assert_clean(&iommu, 1);
    });
}

// shows T2
// Three threads: ATS on; translation and read; change. Up to 4 forced switches, some 6,300, 0.6 s.
#[test]
fn concurrent_ats_enable_and_space_change() {
    bounded(4, || {
        let iommu = system(false, 1);
        let spec = DeviceSpec {
            bdf: function(0),
            capabilities: Capabilities::translating(PasidWidth::MAX, 1),
        };
        let device = iommu.plug(spec).expect("a free address").device;
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let user = thread::spawn(impatient(device.ats_port()));
        let changer = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.unmap()
        });
        device.enable_ats().expect("it has ATS");
        user.join().expect("ends");
        changer.join().expect("ends");
        assert_eq!(probe.stale(), 0, "the change did not find the device");
        assert_eq!(device.atc_len(), 0);
        drop(bond);
        assert_clean(&iommu, 1);
    });
}

// shows U1, U2, T3
// Two threads: unbind; translation and read. Every schedule, some 5,800, 0.4 s.
#[test]
fn concurrent_unbind_and_fill() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let pasid = bond.pasid();
        let user = thread::spawn(move || {
            fill(&port, pasid);
            read_cached(&port, pasid)
        });
        bond.unbind();
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        user.join().expect("ends");
        assert_eq!(probe.hits(), hits);
        assert_eq!(device.atc_len(), 0);
        assert_clean(&iommu, 1);
    });
}

// shows U5, U6
// Two threads: unbind and bind of another space; completion and read. Every schedule, some 5,200,
// 0.4 s. One PASID.
#[test]
fn concurrent_pasid_reuse_and_late_completion() {
    model(|| {
        let iommu = system(false, 1);
        let delaying = DelayingLink::of(|message| matches!(message, ToDevice::Translated(_)));
        let device = plug_translating(&iommu, 1, delaying.link());
        let port = device.ats_port();
        let (old, new) = (Probe::with_frame(1), Probe::with_frame(2));
        let bond = bind(&iommu, &device, &old);
        let tag = bond.tag();
        let request =
            port.request_translation(Some(tag.pasid), PAGE_AT, Access::READ).expect("ATS is on");
        // Its completion is on the way.
        let late = thread::spawn({
            let port = port.clone();
            move || {
                assert!(delaying.deliver());
                read_cached(&port, tag.pasid)
            }
        });
        bond.unbind();
        let (inside, hits) = (old.inside(), old.hits());
        let next = bind(&iommu, &device, &new);
        assert_eq!(next.pasid(), tag.pasid);
        assert_ne!(next.tag(), tag);
        late.join().expect("ends");
        assert_eq!((inside, old.hits()), (0, hits), "no access after the unbind");
        assert_eq!(
            (new.hits(), new.stale()),
            (0, 0),
            "a late completion never reaches the next owner"
        );
        let _ = port.translation(request);
        drop(next);
        assert_clean(&iommu, 1);
    });
}

// shows T2
// Two threads: ATS off and change; translated read. Every schedule, some 1,900, 0.1 s.
#[test]
fn concurrent_translated_request_and_ats_disable() {
    model(|| {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        let pasid = bond.pasid();
        fill(&port, pasid);
        device.disable_pri().expect("it is on");
        let user = thread::spawn(move || read_cached(&port, pasid));
        device.disable_ats().expect("it is on");
        // Nothing has to be awaited from the device any more.
        assert!(probe.begin_unmap().is_over());
        probe.free();
        user.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translated request got through without ATS");
        assert_eq!(device.atc_len(), 0);
        drop(bond);
        assert_clean(&iommu, 1);
    });
}

// shows T2, U1
// Three threads: unbind; translated read under way; change. Up to 3 forced switches, some 28,000, 3
// s.
#[test]
fn concurrent_unbind_and_space_change() {
    bounded(3, || {
        let (iommu, device, port) = translating(1, Arc::new(DirectLink));
        let probe = Probe::new();
        let bond = bind(&iommu, &device, &probe);
        fill(&port, bond.pasid());
        let user = thread::spawn(use_cached(&port, bond.pasid()));
        let changer = thread::spawn({
            let probe = Arc::clone(&probe);
            move || probe.unmap()
        });
        bond.unbind();
        user.join().expect("ends");
        changer.join().expect("ends");
        assert_eq!(probe.stale(), 0, "a translation outlived its page");
        assert_eq!(device.atc_len(), 0);
        assert_clean(&iommu, 1);
    });
}

// shows S2
// Two threads: read; the only translation request that may be outstanding is collected, or given
// up. Every schedule, 16 each. Without the wake-up for room it is a deadlock.
#[test]
fn concurrent_read_and_collection_of_the_only_translation_request() {
    for collects in [true, false] {
        model(move || {
            let iommu = system_with(tiny(1).translation_requests_each(1));
            let device = plug_translating(&iommu, 1, Arc::new(DirectLink));
            let (port, probe) = (device.ats_port(), Probe::new());
            let bond = bind(&iommu, &device, &probe);
            let pasid = bond.pasid();
            // For a page that is not there: nothing is cached that the read could use.
            let asked = port
                .request_translation(Some(pasid), !PAGE_AT, Access::READ)
                .expect("the only one");
            let reader = thread::spawn({
                let port = port.clone();
                move || port.read(Some(pasid), PAGE_AT, &mut [0]).is_ok()
            });
            if collects {
                assert!(port.translation(asked).is_some());
            } else {
                port.abandon_translation(asked);
            }
            assert!(reader.join().expect("ends"));
            drop(bond);
            assert_clean(&iommu, 1);
        });
    }
}
