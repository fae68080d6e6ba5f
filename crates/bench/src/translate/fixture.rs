//! A device, a space in place that it is bound to, and everything in the cache.

use std::error::Error;
use std::sync::Arc;

use sva_core::{AddressSpace, Bind, Bond, Device, DmaPort, Iommu, IommuConfig, Pasid, PasidWidth};
use sva_testkit::{ArenaSpace, FlatTopology, Forwarding, Protection};

use super::notifying_space::NotifyingSpace;
use crate::device::spec;

/// Where the memory of a space begins.
pub(super) const BASE: u64 = 0x7000_0000_0000;

pub(super) struct Fixture {
    pub(super) iommu: Iommu,
    pub(super) device: Device,
    pub(super) space: ArenaSpace,
    /// What is bound.
    pub(super) notifying: Option<Arc<Forwarding<NotifyingSpace>>>,
    pub(super) bond: Bond<()>,
    /// Bytes of an extent; the next one begins twice as much further on, so that no two are joined.
    pub(super) extent: u64,
    pub(super) extents: u64,
}

impl Fixture {
    /// A space of `extents` extents of `extent` bytes, each contiguous and apart from the others.
    pub(super) fn new(extents: u64, extent: u64) -> Result<Self, Box<dyn Error>> {
        let iotlb_bytes = (extents as usize * 64).max(IommuConfig::default().iotlb_bytes);
        let iommu = Iommu::new(
            Arc::new(FlatTopology::new()),
            IommuConfig::default().iotlb_bytes(iotlb_bytes),
        );

        let device = iommu.plug(spec(0, PasidWidth::MAX)?)?.device;
        let space = ArenaSpace::new(extents * extent * 2);
        for n in 0..extents {
            space.map(BASE + n * 2 * extent, extent, Protection::READ_WRITE);
            // Every page is there: what the system needs to make one is not to be measured.
            (0..extent).step_by(4096).for_each(|at| space.poke(BASE + n * 2 * extent + at, &[0]));
        }
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(()))?;
        Ok(Self { iommu, device, space, bond, notifying: None, extent, extents })
    }

    /// As [`new`](Self::new), with a space that lets its watcher be called without a change.
    pub(super) fn notifying(extents: u64, extent: u64) -> Result<Self, Box<dyn Error>> {
        let fixture = Self::new(extents, extent)?;
        let notifying = NotifyingSpace::new(fixture.space.handle());
        let handle: Arc<dyn AddressSpace> = notifying.clone();
        fixture.bond.unbind();
        let bond = fixture.iommu.bind_device(&fixture.device, &handle, Bind::new(()))?;
        Ok(Self { bond, notifying: Some(notifying), ..fixture })
    }

    /// The first address of an extent.
    pub(super) fn first(&self, n: u64) -> u64 {
        BASE + n * 2 * self.extent
    }

    pub(super) fn pasid(&self) -> Pasid {
        self.bond.pasid()
    }

    /// A port that has touched every extent.
    pub(super) fn port(&self) -> Result<DmaPort, Box<dyn Error>> {
        let port = self.device.port();
        for n in 0..self.extents {
            port.read(Some(self.pasid()), self.first(n), &mut [0; 8])?;
        }
        Ok(port)
    }

    /// Addresses of `len` bytes, aligned, at random places of random extents: the same in each
    /// run.
    pub(super) fn addresses(&self, count: usize, len: u64) -> Vec<u64> {
        let mut random = fastrand::Rng::with_seed(5);
        (0..count)
            .map(|_| {
                self.first(random.u64(0..self.extents)) + random.u64(0..self.extent / len) * len
            })
            .collect()
    }
}
