//! Overlaps: memory of a space at addresses that a peer of a bound device decodes.
//!
//! A request of the device for such an address reaches the peer and never the IOMMU. Both questions
//! (the routing, which the bus answers, and the mapped ranges, which the provider answers) can
//! block, so they are asked with the control lock released.

use std::sync::Arc;

use crate::api::error::SpaceRefusal;
use crate::api::event::{Event, Overlap};
use crate::api::space::AddressSpace;
use crate::table::{DeviceRecord, Iommu, Routing};
use crate::types::ids::GroupId;

impl Iommu {
    /// Returns the devices of the groups, each with its current routing. Asks the bus if the bus
    /// has changed; the caller does not hold the control lock.
    pub(super) fn current_routings(&self, groups: &[GroupId]) -> Vec<(Arc<DeviceRecord>, Routing)> {
        let state = self.lock();
        let members: Vec<Arc<DeviceRecord>> = groups
            .iter()
            .filter_map(|id| state.groups.get(id))
            .flat_map(|group| group.members.iter().cloned())
            .collect();
        self.unlock(state);
        let with_routing = |device: Arc<DeviceRecord>| {
            let routing = device.current_routing(self.topology());
            (device, routing)
        };
        members.into_iter().map(with_routing).collect()
    }

    /// Updates the cached routings of the devices of the groups. The caller does not hold the
    /// control lock.
    pub(super) fn update_routings(&self, groups: &[GroupId]) {
        let _ = self.current_routings(groups);
    }

    /// Returns where `space` has memory at addresses that a peer of a capable device decodes. May
    /// block; the caller does not hold the control lock.
    pub(super) fn overlaps(
        &self,
        devices: &[(Arc<DeviceRecord>, Routing)],
        space: &dyn AddressSpace,
    ) -> Result<Vec<Overlap>, SpaceRefusal> {
        let mut found = Vec::new();
        for (device, routing) in devices {
            found.extend(self.overlaps_of(device, routing, space)?);
        }
        Ok(found)
    }

    /// Returns the [`overlaps`](Self::overlaps) of one device.
    pub(super) fn overlaps_of(
        &self,
        device: &DeviceRecord,
        routing: &Routing,
        space: &dyn AddressSpace,
    ) -> Result<Vec<Overlap>, SpaceRefusal> {
        if routing.windows().is_empty() || device.spec.capabilities.pasid.is_none() {
            return Ok(Vec::new());
        }
        let windows: Vec<_> = routing.windows().iter().map(|window| window.range).collect();
        let mapped = space.mapped_within(&windows).map_err(SpaceRefusal::Host)?;
        Ok(mapped.into_iter().flat_map(|range| routing.overlaps(device.bdf(), range)).collect())
    }

    /// Logs an event for each overlap.
    pub(super) fn log_overlaps(&self, overlaps: &[Overlap]) {
        for overlap in overlaps {
            self.log(Event::Overlap(*overlap));
        }
    }
}
