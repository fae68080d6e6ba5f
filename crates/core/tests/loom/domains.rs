//! Domains: transactions without a PASID.

use loom::thread;
use sva_core::container::Unmapped;
use sva_core::*;

use crate::support::*;

// shows T2, U9
// Two threads: group leaves; one read. Every schedule, 54, below 0.1 s.
#[test]
fn concurrent_container_leave_and_classic_dma() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let container = iommu.create_container();
        container.add(device.group()).expect("joins");
        let request = MapRequest {
            iova: 0,
            len: 4096,
            space: probe.space(),
            address: 0,
            permissions: Permissions::READ_WRITE,
        };
        container.map(&request).expect("maps");
        let port = device.port();
        let user = thread::spawn(move || port.read(None, 0, &mut [0]).is_ok());
        container.remove(device.group()).expect("leaves");
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        assert_eq!(user.join().expect("ends"), hits == 1);
        assert_eq!(probe.hits(), hits);
        drop(container);
        assert_clean(&iommu, 1);
    });
}

// shows T2, T3
// Two threads: unmap; one read. Every schedule, 50, below 0.1 s.
#[test]
fn concurrent_unmap_and_classic_dma() {
    model(|| {
        let (iommu, probe) = (system(false, 1), Probe::new());
        let device = plug(&iommu, 0);
        let request = MapRequest {
            iova: 0,
            len: 4096,
            space: probe.space(),
            address: 0,
            permissions: Permissions::READ_WRITE,
        };
        iommu.map(device.group(), &request).expect("maps");
        let port = device.port();
        let user = thread::spawn(move || drop(port.read(None, 0, &mut [0])));
        assert_eq!(
            iommu.unmap(device.group(), 0, 4096),
            Ok(Unmapped { bytes: 4096, deferred: false })
        );
        assert_eq!(probe.inside(), 0);
        let hits = probe.hits();
        user.join().expect("ends");
        assert_eq!(probe.hits(), hits);
    });
}
