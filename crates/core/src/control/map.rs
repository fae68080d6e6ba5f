//! MAP and UNMAP of a group's own domain, and the steps that a container's MAP and UNMAP share with
//! them.
//!
//! A MAP checks its range against the reserved regions of the members under the control lock, so
//! that no device joins between the check and the mapping. An UNMAP removes the mappings in one
//! step under the control lock and waits for their gates with the lock released: a mapping that is
//! made meanwhile stays.

use std::sync::Arc;

use crate::api::ats::PAGE;
use crate::api::config::IommuConfig;
use crate::api::error::{MapError, UnmapError};
use crate::api::map::{MapRequest, Mapped, Unmapped};
use crate::api::space::SpaceEnded;
use crate::quiesce::{Gate, callback};
use crate::table::{DeviceRecord, Domain, Iommu, Mapping, Routing, State};
use crate::types::access::Permissions;
use crate::types::ids::{Bdf, ContainerId, GroupId};
use crate::types::range::AddrRange;

impl MapRequest {
    /// Checks the request against the settings and its space, and returns its IOVA range.
    pub(super) fn check(&self, config: &IommuConfig) -> Result<AddrRange, MapError> {
        if self.len == 0 {
            return Err(MapError::Empty { iova: self.iova });
        }
        if let Some(value) =
            [self.iova, self.len, self.address].into_iter().find(|value| value % PAGE != 0)
        {
            return Err(MapError::Unaligned { value, page: PAGE });
        }
        if !self.permissions.intersects(Permissions::READ_WRITE) {
            return Err(MapError::NoAccess { iova: self.iova });
        }
        let wraps = |address| MapError::Wraps { address, len: self.len };
        let range = AddrRange::new(self.iova, self.len).ok_or(wraps(self.iova))?;
        AddrRange::new(self.address, self.len).ok_or(wraps(self.address))?;
        let width = config.address_width;
        if width < 64 && range.last() >> width != 0 {
            return Err(MapError::PastWidth { range, width });
        }
        match self.space.ended() {
            Some(reason) => Err(MapError::Target(SpaceEnded(reason))),
            None => Ok(range),
        }
    }
}

/// Checks that `range` meets no region that is reserved for a device. The error holds the region
/// and the device.
pub(super) fn check_reserved(
    device: &DeviceRecord,
    routing: &Routing,
    range: AddrRange,
) -> Result<(), (AddrRange, Bdf)> {
    match routing.reserved().iter().find(|reserved| reserved.overlaps(range)) {
        Some(reserved) => Err((*reserved, device.bdf())),
        None => Ok(()),
    }
}

impl Domain {
    /// Adds the mapping of a checked request, unless it meets another mapping or the domain has
    /// `limit` mappings. The caller holds the control lock.
    pub(super) fn map(
        &self,
        request: &MapRequest,
        range: AddrRange,
        limit: usize,
    ) -> Result<(), MapError> {
        if let Some(existing) = self.first_overlap(range) {
            return Err(MapError::Overlaps { range, existing });
        }
        if self.len() >= limit {
            return Err(MapError::TooMany { limit });
        }
        let MapRequest { space, address, permissions, .. } = request.clone();
        self.insert(Mapping { range, space, address, permissions, gate: Gate::new() });
        Ok(())
    }
}

impl State {
    /// Returns the own domain of a group that is in no container.
    fn own_domain(&self, group: GroupId) -> Result<Arc<Domain>, GroupDomainError> {
        let found = self.groups.get(&group).ok_or(GroupDomainError::NoSuchGroup)?;
        match found.container {
            Some(container) => Err(GroupDomainError::InContainer(container)),
            None => Ok(Arc::clone(&found.own_domain)),
        }
    }
}

/// Why a group's own domain cannot be used.
enum GroupDomainError {
    NoSuchGroup,
    InContainer(ContainerId),
}

impl Iommu {
    /// Maps memory into the domain of a group that is in no container. Does not block on accesses.
    ///
    /// # Errors
    /// See [`MapError`]. A MAP that fails changes nothing.
    pub fn map(&self, group: GroupId, request: &MapRequest) -> Result<Mapped, MapError> {
        let range = request.check(self.config())?;
        // `map_for_members` reads the cached routings under the control lock.
        self.update_routings(&[group]);
        let state = self.lock();
        let domain = state.own_domain(group).map_err(|error| match error {
            GroupDomainError::NoSuchGroup => MapError::NoSuchGroup { group },
            GroupDomainError::InContainer(container) => MapError::InContainer { group, container },
        })?;
        let members = state.groups.get(&group).into_iter().flat_map(|group| &group.members);
        let mapped = self.map_for_members(members, &domain, request, range);
        self.unlock(state);
        mapped.inspect(|mapped| self.log_overlaps(&mapped.overlaps))
    }

    /// Removes all mappings inside `len` bytes at `iova` from the domain of a group that is in no
    /// container.
    ///
    /// Blocks until no access through them is in flight, unless called from inside a callback.
    ///
    /// # Errors
    /// See [`UnmapError`]. An UNMAP that fails changes nothing.
    pub fn unmap(&self, group: GroupId, iova: u64, len: u64) -> Result<Unmapped, UnmapError> {
        let range = AddrRange::new(iova, len).ok_or(UnmapError::NoRange { iova, len })?;
        let mut state = self.lock();
        let domain = state.own_domain(group).map_err(|error| match error {
            GroupDomainError::NoSuchGroup => UnmapError::NoSuchGroup { group },
            GroupDomainError::InContainer(container) => {
                UnmapError::InContainer { group, container }
            }
        })?;
        let removed = domain.remove(range);
        // A group without devices exists as long as its domain has mappings.
        state.remove_group_if_empty(group);
        self.unlock(state);
        let removed = removed.map_err(|mapping| UnmapError::WouldSplit { range, mapping })?;
        Ok(self.close_mappings_and_wait(&removed))
    }

    /// Adds a mapping to the domain that `members` use. The caller has updated the members'
    /// routings and holds the control lock, so that no device joins between the checks and the
    /// mapping.
    pub(super) fn map_for_members<'a>(
        &self,
        members: impl Iterator<Item = &'a Arc<DeviceRecord>>,
        domain: &Domain,
        request: &MapRequest,
        range: AddrRange,
    ) -> Result<Mapped, MapError> {
        let members: Vec<_> = members.map(|device| (device, device.cached_routing())).collect();
        for (device, routing) in &members {
            check_reserved(device, routing, range)
                .map_err(|(reserved, device)| MapError::Reserved { range, reserved, device })?;
        }
        domain.map(request, range, self.config().max_mappings)?;
        let overlaps = members
            .iter()
            .flat_map(|(device, routing)| routing.overlaps(device.bdf(), range))
            .collect();
        Ok(Mapped { range, overlaps })
    }

    /// Closes the gates of mappings that have been removed from their domain, and waits for the
    /// accesses in flight, unless inside a callback. The caller does not hold the control lock.
    pub(super) fn close_mappings_and_wait(&self, removed: &[Arc<Mapping>]) -> Unmapped {
        let mut unmapped = Self::close_mappings(removed);
        if unmapped.deferred && !callback::inside() {
            self.wait_until(|_| removed.iter().all(|mapping| mapping.gate.is_drained()));
            unmapped.deferred = false;
        }
        unmapped
    }

    /// Closes the gates of mappings that have been removed from their domain. In the result,
    /// `deferred` is true if accesses through them are in flight.
    pub(super) fn close_mappings(removed: &[Arc<Mapping>]) -> Unmapped {
        let mut unmapped = Unmapped::default();
        for mapping in removed {
            // Saturates: a container that closes can have mapped all of 2^64 bytes.
            unmapped.bytes = unmapped.bytes.saturating_add(mapping.range.len());
            unmapped.deferred |= mapping.gate.close() != Some(0);
        }
        unmapped
    }
}
