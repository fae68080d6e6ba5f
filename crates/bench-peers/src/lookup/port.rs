//! A port of sva: its look-up of a cached translation, with all that an access checks before it is
//! made.

use std::error::Error;
use std::sync::Arc;

use sva_core::ats::Frame;
use sva_core::{
    Access, Bdf, Bind, Bond, Capabilities, DeviceSpec, DmaPort, Iommu, IommuConfig, Pasid,
    PasidWidth,
};
use sva_testkit::{ArenaSpace, FlatTopology, Protection};

use super::cache::{Lookup, Mapping, PAGE};

/// A port that has read each page.
pub(super) struct PortLookup {
    port: DmaPort,
    pasid: Pasid,
    /// Where the first page leads.
    base: u64,
    _bond: Bond<()>,
    _space: ArenaSpace,
}

impl PortLookup {
    pub(super) fn new(mappings: &[Mapping]) -> Result<Self, Box<dyn Error>> {
        // Room for twice as many, as in the rows of `sva-bench`: hardly anything is evicted.
        let iotlb_bytes = (mappings.len() * 64).max(IommuConfig::default().iotlb_bytes);
        let iommu = Iommu::new(
            Arc::new(FlatTopology::new()),
            IommuConfig::default().iotlb_bytes(iotlb_bytes),
        );
        let bdf = Bdf::new(0, 1, 0, 0).ok_or("no such device")?;
        let device = iommu
            .plug(DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) })?
            .device;
        let space = ArenaSpace::new(mappings.len() as u64 * PAGE);
        // An arena gives its frames out in order.
        let mut in_order = mappings.to_vec();
        in_order.sort_unstable_by_key(|mapping| mapping.frame);
        in_order.iter().for_each(|mapping| space.map(mapping.page, PAGE, Protection::READ_WRITE));
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(()))?;
        let (port, pasid) = (device.port(), bond.pasid());
        for mapping in mappings {
            port.read(Some(pasid), mapping.page, &mut [0; 8])?;
        }
        let first = in_order.first().ok_or("no mappings")?.page;
        let base =
            port.cached_translation(pasid, first, Access::READ).ok_or("nothing is cached")?.0;
        Ok(Self { port, pasid, base, _bond: bond, _space: space })
    }

    #[inline]
    fn cached(&self, address: u64) -> Option<Frame> {
        self.port
            .cached_translation(self.pasid, address, Access::READ)
            .or_else(|| self.missed(address))
    }

    /// It has been evicted: as for any access, the provider is asked and its answer is cached.
    #[cold]
    fn missed(&self, address: u64) -> Option<Frame> {
        self.port.read(Some(self.pasid), address, &mut [0]).ok()?;
        self.port.cached_translation(self.pasid, address, Access::READ)
    }
}

impl Lookup for PortLookup {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        Some(self.cached(address)?.0 - self.base)
    }
}
