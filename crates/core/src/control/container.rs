//! Containers: groups that share one domain and one set of bonds.
//!
//! All groups of a container use its domain, so one step maps or unmaps memory for all of them. A
//! bond of the container has a PASID entry for each requester of each group. An operation checks
//! every group first, under the control lock; after the checks no step can fail.

use std::fmt;
use std::sync::Arc;

use super::candidates::Candidates;
use super::map::check_reserved;
use crate::api::error::{JoinError, MapError, Refusal, UnmapError};
use crate::api::event::Overlap;
use crate::api::map::{MapRequest, Mapped, Unmapped};
use crate::table::{
    BondKey, ContainerState, DeviceRecord, Domain, DomainAttachment, Iommu, Routing, State,
};
use crate::types::ids::{ContainerId, GroupId, Pasid};
use crate::types::range::AddrRange;

/// The result of adding a group to a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joined {
    /// The PASIDs of the container's bonds, which the group's capable members can use now.
    pub pasids: Vec<Pasid>,
    /// The members that were left out of the bonds, each with the reason.
    pub left_out: Vec<Refusal>,
    /// Memory that a member cannot reach, because a peer decodes its addresses: of the container's
    /// mappings and of the spaces bound to it.
    pub overlaps: Vec<Overlap>,
}

/// A set of groups with one owner. Its drop closes it: it unbinds the spaces, removes the mappings
/// and frees the groups, in this order.
#[must_use = "dropping a container closes it"]
pub struct Container {
    pub(super) iommu: Iommu,
    pub(super) id: ContainerId,
}

impl Iommu {
    /// Makes an empty container.
    pub fn create_container(&self) -> Container {
        let mut state = self.lock();
        let id = ContainerId(state.next_container);
        state.next_container += 1;
        state.containers.insert(id, ContainerState::default());
        self.unlock(state);
        Container { iommu: self.clone(), id }
    }
}

/// A domain attachment that a group's devices used until another one replaced it.
struct ReplacedAttachment {
    members: Vec<Arc<DeviceRecord>>,
    attachment: Arc<DomainAttachment>,
}

impl State {
    /// Checks that a group can get all mappings and all bonds of the container. Returns the group's
    /// devices and the bonds that the group has to join.
    fn check_join(
        &mut self,
        id: ContainerId,
        group: GroupId,
    ) -> Result<(Candidates, Vec<BondKey>), JoinError> {
        let found = self.groups.get(&group).ok_or(JoinError::NoSuchGroup { group })?;
        if let Some(container) = found.container {
            return Err(JoinError::InContainer { group, container });
        }
        for member in &found.members {
            let bonds = member.requester.table.read().len();
            if bonds > 0 {
                return Err(JoinError::HasBonds { group, device: member.bdf(), bonds });
            }
        }
        if !found.bonds.is_empty() {
            return Err(JoinError::HasGroupBonds { group, bonds: found.bonds.len() });
        }
        if found.own_domain.len() > 0 {
            return Err(JoinError::HasMappings { group, mappings: found.own_domain.len() });
        }
        let members = found.members.clone();
        let container = &self.containers[&id];
        for mapping in container.domain.ranges() {
            for member in &members {
                check_reserved(member, &member.cached_routing(), mapping).map_err(
                    |(reserved, device)| JoinError::Reserved { mapping, reserved, device },
                )?;
            }
        }
        let keys: Vec<BondKey> = container.bonds.iter().map(|bond| bond.key).collect();
        let candidates = Candidates::of(&members);
        let mut joined = Vec::new();
        for key in keys {
            // The bonds of spaces that have ended get no further entry.
            let Some(bond) = self.joinable_bond(key) else { continue };
            let (record, features) = (Arc::clone(&bond.record), bond.features);
            let tag = Some(record.tag);
            if let Some(refusal) = candidates.refusal(record.description(), features, tag) {
                return Err(refusal.into());
            }
            joined.push(key);
        }
        Ok((candidates, joined))
    }

    /// Makes a checked group a member of a container and attaches the container's domain to it.
    ///
    /// Returns the group's devices with the attachment that was replaced. Its gate is closed; the
    /// caller drains its page requests.
    fn add_group(&mut self, id: ContainerId, group: GroupId) -> Option<ReplacedAttachment> {
        let container = self.containers.get_mut(&id)?;
        let found = self.groups.get_mut(&group)?;
        container.groups.insert(group);
        found.container = Some(id);
        found.update_singleton();
        let members = found.members.clone();
        let attachment = found.record.domain.attach(Arc::clone(&container.domain));
        self.close_attachment(&attachment);
        Some(ReplacedAttachment { members, attachment })
    }

    /// Returns the devices of all groups of a container.
    pub(super) fn members_of(&self, id: ContainerId) -> impl Iterator<Item = &Arc<DeviceRecord>> {
        let groups = self.containers.get(&id).into_iter().flat_map(|container| &container.groups);
        groups.filter_map(|group| self.groups.get(group)).flat_map(|group| &group.members)
    }
}

impl Container {
    /// The container's number.
    pub fn id(&self) -> ContainerId {
        self.id
    }

    /// The domain that all groups of the container use.
    pub(super) fn domain(&self) -> Arc<Domain> {
        Arc::clone(&self.iommu.lock().containers[&self.id].domain)
    }

    /// Returns the container's groups, ascending by number.
    pub fn groups(&self) -> Vec<GroupId> {
        let state = self.iommu.lock();
        let container = state.containers.get(&self.id);
        container.into_iter().flat_map(|c| &c.groups).copied().collect()
    }

    /// Adds a group: the group gets all mappings and all bonds of the container, or nothing
    /// changes. A group without a capable member can join.
    ///
    /// Blocks while the bound spaces are asked for overlaps.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn add(&self, group: GroupId) -> Result<Joined, JoinError> {
        let members = self.iommu.current_routings(&[group]);
        let mut state = self.iommu.lock();
        let (candidates, keys) = state.check_join(self.id, group)?;
        let requesters = candidates.requesters();
        let mut spaces = Vec::new();
        for key in keys {
            state.add_requesters(key, &requesters);
            spaces.extend(state.bond(key).map(|bond| Arc::clone(&bond.record)));
        }
        let replaced = state.add_group(self.id, group);
        let mapped = state.containers[&self.id].domain.ranges();
        self.iommu.unlock(state);
        if let Some(ReplacedAttachment { members, attachment }) = &replaced {
            self.iommu.drain_domain(members, attachment);
        }
        let mut joined = Joined { left_out: candidates.left_out, ..Joined::default() };
        for (device, routing) in &members {
            joined
                .overlaps
                .extend(mapped.iter().flat_map(|range| routing.overlaps(device.bdf(), *range)));
        }
        for record in spaces {
            // The group has joined already. A provider that fails to list its mappings here reports
            // the same failure to the accesses.
            joined
                .overlaps
                .extend(self.iommu.overlaps(&members, &*record.space).unwrap_or_default());
            if !candidates.capable.is_empty() {
                joined.pasids.push(record.tag.pasid);
            }
        }
        self.iommu.log_overlaps(&joined.overlaps);
        Ok(joined)
    }

    /// Maps memory for every device of the container.
    ///
    /// # Errors
    /// See [`MapError`]. A MAP that fails changes nothing.
    pub fn map(&self, request: &MapRequest) -> Result<Mapped, MapError> {
        let range = request.check(self.iommu.config())?;
        // `map_for_members` reads the cached routings under the control lock.
        self.iommu.update_routings(&self.groups());
        let state = self.iommu.lock();
        let container = &state.containers[&self.id];
        if container.groups.is_empty() {
            return Err(MapError::NoGroup { container: self.id });
        }
        let domain = Arc::clone(&container.domain);
        let mapped = self.iommu.map_for_members(state.members_of(self.id), &domain, request, range);
        self.iommu.unlock(state);
        mapped.inspect(|mapped| self.iommu.log_overlaps(&mapped.overlaps))
    }

    /// Removes all mappings inside `len` bytes at `iova`. Blocks until no access through them is in
    /// flight, unless called from inside a callback.
    ///
    /// # Errors
    /// See [`UnmapError`]. An UNMAP that fails changes nothing.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<Unmapped, UnmapError> {
        let range = AddrRange::new(iova, len).ok_or(UnmapError::NoRange { iova, len })?;
        let removed = self.iommu.lock().containers[&self.id].domain.remove(range);
        let removed = removed.map_err(|mapping| UnmapError::WouldSplit { range, mapping })?;
        Ok(self.iommu.close_mappings_and_wait(&removed))
    }

    /// Returns the mapped ranges, ascending.
    pub fn mappings(&self) -> Vec<AddrRange> {
        self.iommu.lock().containers[&self.id].domain.ranges()
    }

    /// Returns the devices of all groups, each with its current routing. The caller does not hold
    /// the control lock.
    pub(super) fn current_routings(&self) -> Vec<(Arc<DeviceRecord>, Routing)> {
        self.iommu.current_routings(&self.groups())
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id).field("groups", &self.groups()).finish()
    }
}
