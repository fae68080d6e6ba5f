//! A device, a space in place that it is bound to, and everything in the cache.

use std::error::Error;
use std::sync::Arc;

use sva_core::{AddressSpace, Bind, Bond, Device, DmaPort, Iommu, IommuConfig, Pasid, PasidWidth};
use sva_testkit::{ArenaSpace, FlatTopology, Forwarding, Protection};

use super::watched::Watched;
use crate::host::spec;

/// Where the memory of a space begins.
pub(super) const BASE: u64 = 0x7000_0000_0000;

pub(super) struct Scene {
    pub(super) iommu: Iommu,
    pub(super) device: Device,
    pub(super) space: ArenaSpace,
    /// What is bound.
    pub(super) watched: Option<Arc<Forwarding<Watched>>>,
    pub(super) bond: Bond<()>,
    /// Bytes of a run; the next one begins twice as much further on, so that no two are one.
    pub(super) run: u64,
    pub(super) runs: u64,
}

impl Scene {
    /// A space of `runs` runs of `run` bytes, each contiguous and apart from the others.
    pub(super) fn new(runs: u64, run: u64) -> Result<Self, Box<dyn Error>> {
        let iotlb_bytes = (runs as usize * 64).max(IommuConfig::default().iotlb_bytes);
        let iommu = Iommu::new(
            Arc::new(FlatTopology::new()),
            IommuConfig::default().iotlb_bytes(iotlb_bytes),
        );

        let device = iommu.plug(spec(0, PasidWidth::MAX)?)?.device;
        let space = ArenaSpace::new(runs * run * 2);
        for n in 0..runs {
            space.map(BASE + n * 2 * run, run, Protection::READ_WRITE);
            // Every page is there: what the system needs to make one is not to be measured.
            (0..run).step_by(4096).for_each(|at| space.poke(BASE + n * 2 * run + at, &[0]));
        }
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(()))?;
        Ok(Self { iommu, device, space, bond, watched: None, run, runs })
    }

    /// As [`new`](Self::new), with a space that lets its watcher be called without a change.
    pub(super) fn watched(runs: u64, run: u64) -> Result<Self, Box<dyn Error>> {
        let scene = Self::new(runs, run)?;
        let watched = Watched::new(scene.space.handle());
        let handle: Arc<dyn AddressSpace> = watched.clone();
        scene.bond.unbind();
        let bond = scene.iommu.bind_device(&scene.device, &handle, Bind::new(()))?;
        Ok(Self { bond, watched: Some(watched), ..scene })
    }

    /// The first address of a run.
    pub(super) fn first(&self, run: u64) -> u64 {
        BASE + run * 2 * self.run
    }

    pub(super) fn pasid(&self) -> Pasid {
        self.bond.pasid()
    }

    /// A port that has touched every run.
    pub(super) fn port(&self) -> Result<DmaPort, Box<dyn Error>> {
        let port = self.device.port();
        for run in 0..self.runs {
            port.read(Some(self.pasid()), self.first(run), &mut [0; 8])?;
        }
        Ok(port)
    }

    /// Addresses of `len` bytes, aligned, at random places of random runs; the same for each seed.
    pub(super) fn addresses(&self, count: usize, len: u64) -> Vec<u64> {
        let mut random = fastrand::Rng::with_seed(5);
        (0..count)
            .map(|_| self.first(random.u64(0..self.runs)) + random.u64(0..self.run / len) * len)
            .collect()
    }
}
