//! Containers: groups that share MAP/UNMAP and BIND/UNBIND (rules G2, G3, G6, U9).
//!
//! The groups of a container use one domain, so that a mapping is made or removed for all of them
//! in one step; a bond of the container has an attachment for each requester of each group. A step
//! is checked for every group first, under the control lock, and cannot fail after that.

use std::fmt;
use std::sync::Arc;

use sva_sync::MutexGuard;

use super::bind::{Candidates, refusal};
use super::bond::Unbinding;
use super::map::check_reserved;
use crate::api::bond::{AnyData, Bind, UnbindReport};
use crate::api::device::Features;
use crate::api::error::{
    ContainerBindError, ContainerUnbindError, JoinError, MapError, Refusal, SpaceRefusal,
    UnmapError,
};
use crate::api::event::Overlap;
use crate::api::map::{MapRequest, Mapped, Unmapped};
use crate::api::pri::FaultTimes;
use crate::api::space::{SpaceEnded, SpaceHandle};
use crate::table::{
    BondKey, BondKind, ContainerBond, ContainerState, DeviceRecord, Domain, Iommu, Routing, State,
};
use crate::types::ids::{ContainerId, GroupId, Pasid, PasidTag, SpaceId};
use crate::types::range::AddrRange;

/// What a container's BIND answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerBound {
    /// The PASID that all capable devices of the container are to use.
    pub pasid: Pasid,
    /// The PASID with its generation.
    pub tag: PasidTag,
    /// The space was bound with the same features and drvdata before, and nothing has changed.
    pub existing: bool,
    /// Members that were left out, with the reason (rule B2).
    pub left_out: Vec<Refusal>,
    /// Memory that a member cannot reach (rule B7).
    pub overlaps: Vec<Overlap>,
}

/// What a group found when it joined (rule G3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joined {
    /// PASIDs that its capable members can use now.
    pub pasids: Vec<Pasid>,
    /// Members that were left out of the bindings, with the reason.
    pub left_out: Vec<Refusal>,
    /// Memory that a member cannot reach (rule B7): of the container's mappings, and of the spaces
    /// bound to it.
    pub overlaps: Vec<Overlap>,
}

/// One owner's set of groups. Dropping it closes it: its bindings are unbound, its mappings
/// removed, its groups free (rule U9).
#[must_use = "dropping a container closes it"]
pub struct Container {
    pub(super) iommu: Iommu,
    pub(super) id: ContainerId,
}

impl Iommu {
    /// An empty container.
    pub fn container(&self) -> Container {
        let mut state = self.lock();
        let id = ContainerId(state.next_container);
        state.next_container += 1;
        state.containers.insert(id, ContainerState::default());
        drop(state);
        Container { iommu: self.clone(), id }
    }
}

impl State {
    /// Checks whether a group can be given all that the container has, and answers the bonds that
    /// it is to join.
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
            // Ended spaces are left out.
            let Some(bond) = self.joinable_bond(key) else { continue };
            let (record, features) = (Arc::clone(&bond.record), bond.features);
            if let Some(refusal) = candidates
                .capable
                .iter()
                .find_map(|member| refusal(member, &*record.space, features, Some(record.tag)))
            {
                return Err(refusal.into());
            }
            joined.push(key);
        }
        Ok((candidates, joined))
    }

    fn members_of(&self, id: ContainerId) -> impl Iterator<Item = &Arc<DeviceRecord>> {
        let groups = self.containers.get(&id).into_iter().flat_map(|container| &container.groups);
        groups.filter_map(|group| self.groups.get(group)).flat_map(|group| &group.members)
    }
}

impl Container {
    /// Its number.
    pub fn id(&self) -> ContainerId {
        self.id
    }

    pub(super) fn domain(&self) -> Arc<Domain> {
        Arc::clone(&self.iommu.lock().containers[&self.id].domain)
    }

    /// The groups in it.
    pub fn groups(&self) -> Vec<GroupId> {
        self.iommu
            .lock()
            .containers
            .get(&self.id)
            .map(|container| container.groups.iter().copied().collect())
            .unwrap_or_default()
    }

    /// The spaces bound to it, in the order of their BINDs.
    pub fn bound(&self) -> Vec<SpaceId> {
        self.iommu
            .lock()
            .containers
            .get(&self.id)
            .map(|container| container.bonds.iter().map(|bond| bond.space).collect())
            .unwrap_or_default()
    }

    /// How long the faults of its binding of `space` took so far, over all its devices; `None`
    /// where the space is not bound to it.
    pub fn fault_times(&self, space: SpaceId) -> Option<FaultTimes> {
        let key = self
            .iommu
            .lock()
            .containers
            .get(&self.id)?
            .bonds
            .iter()
            .find(|bond| bond.space == space)?
            .key;
        Some(self.iommu.fault_times(key))
    }

    /// Adds a group: it gets all mappings and all bindings, or nothing changes (rule G3). A group
    /// without a capable member may join.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn add(&self, group: GroupId) -> Result<Joined, JoinError> {
        let members = self.iommu.routings(&[group]);
        let mut state = self.iommu.lock();
        let (candidates, keys) = state.check_join(self.id, group)?;
        let requesters = candidates.requesters();
        let mut spaces = Vec::new();
        for key in keys {
            state.add_requesters(key, &requesters);
            spaces.extend(state.bond(key).map(|bond| Arc::clone(&bond.record)));
        }
        let Some(container) = state.containers.get_mut(&self.id) else {
            unreachable!("the container lives as long as this value")
        };
        container.groups.insert(group);
        let (domain, mapped) = (Arc::clone(&container.domain), container.domain.ranges());
        let mut ended = None;
        if let Some(found) = state.groups.get_mut(&group) {
            found.container = Some(self.id);
            found.update_singleton();
            ended = Some((found.members.clone(), found.record.domain.attach(domain)));
        }
        if let Some((_, ended)) = &ended {
            state.close_attachment(ended);
        }
        self.iommu.unlock(state);
        if let Some((devices, ended)) = &ended {
            self.iommu.drain_domain(devices, ended);
        }
        let mut joined = Joined { left_out: candidates.left_out, ..Joined::default() };
        for (device, routing) in &members {
            joined
                .overlaps
                .extend(mapped.iter().flat_map(|range| routing.overlaps(device.bdf(), *range)));
        }
        for record in spaces {
            // The group is in: a space that cannot tell its mappings now is one whose accesses will
            // say so themselves.
            joined
                .overlaps
                .extend(self.iommu.overlaps(&members, &*record.space).unwrap_or_default());
            if !candidates.capable.is_empty() {
                joined.pasids.push(record.tag.pasid);
            }
        }
        self.iommu.report_overlaps(&joined.overlaps);
        Ok(joined)
    }

    /// Maps memory for every device of the container (rule G2).
    ///
    /// # Errors
    /// See [`MapError`]; nothing has changed then.
    pub fn map(&self, request: &MapRequest) -> Result<Mapped, MapError> {
        let range = request.check(self.iommu.config())?;
        self.routings();
        let state = self.iommu.lock();
        let container = &state.containers[&self.id];
        if container.groups.is_empty() {
            return Err(MapError::NoGroup { container: self.id });
        }
        let domain = Arc::clone(&container.domain);
        let mapped = self.iommu.map_for(state.members_of(self.id), &domain, request, range);
        drop(state);
        mapped.inspect(|mapped| self.iommu.report_overlaps(&mapped.overlaps))
    }

    /// Unmaps all mappings inside `len` bytes at `iova`. Blocks until no access through them is in
    /// flight (rule T2), unless called from inside a callback.
    ///
    /// # Errors
    /// See [`UnmapError`]; nothing has changed then.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<Unmapped, UnmapError> {
        let range = AddrRange::new(iova, len).ok_or(UnmapError::NoRange { iova, len })?;
        let removed = self.iommu.lock().containers[&self.id].domain.remove(range);
        let removed = removed.map_err(|mapping| UnmapError::WouldSplit { range, mapping })?;
        Ok(self.iommu.finish_unmap(&removed))
    }

    /// The mapped ranges, ascending.
    pub fn mappings(&self) -> Vec<AddrRange> {
        self.iommu.lock().containers[&self.id].domain.ranges()
    }

    /// Binds every capable device of the container to `space` (rule G2). A second BIND with equal
    /// features and drvdata changes nothing and answers the same PASID (rule B5); its handlers
    /// are dropped unused.
    ///
    /// # Errors
    /// See [`ContainerBindError`]; nothing has changed then.
    pub fn bind<T: PartialEq + Send + Sync + 'static>(
        &self,
        space: &impl SpaceHandle,
        mut bind: Bind<T>,
    ) -> Result<ContainerBound, ContainerBindError> {
        let space = &space.to_space();
        let members = self.routings();
        let overlaps =
            self.iommu.overlaps(&members, &**space).map_err(ContainerBindError::Space)?;
        let data: Arc<dyn AnyData> = Arc::clone(&bind.data) as _;
        let (mut state, existing) = self.compare(space.id(), &*data);
        let candidates = Candidates::of(state.members_of(self.id));
        if let Some((key, same)) = existing {
            return self.existing(&mut state, key, bind.features, same).map(|tag| ContainerBound {
                pasid: tag.pasid,
                tag,
                existing: true,
                left_out: candidates.left_out,
                overlaps,
            });
        }
        if state.containers[&self.id].groups.is_empty() {
            return Err(ContainerBindError::NoGroup { container: self.id });
        }
        if candidates.capable.is_empty() {
            return Err(ContainerBindError::NoCapableMember {
                container: self.id,
                left_out: candidates.left_out,
            });
        }
        let bound = state.bind_candidates(
            &self.iommu,
            BondKind::Container(self.id),
            &candidates,
            space,
            &mut bind,
        );
        if let (Ok((key, _)), Some(container)) = (&bound, state.containers.get_mut(&self.id)) {
            container.bonds.push(ContainerBond { space: space.id(), key: *key, data });
        }
        self.iommu.unlock(state);
        let (_, tag) = bound?;
        self.iommu.report_overlaps(&overlaps);
        Ok(ContainerBound {
            pasid: tag.pasid,
            tag,
            existing: false,
            left_out: candidates.left_out,
            overlaps,
        })
    }

    /// Takes the control lock and answers the bond of a space that there is under it, and whether
    /// that was made with equal drvdata.
    ///
    /// The comparison is the caller's code and runs with no lock held: where the bond has become
    /// another one meanwhile, it is made again.
    fn compare(
        &self,
        space: SpaceId,
        data: &dyn AnyData,
    ) -> (MutexGuard<'_, State>, Option<(BondKey, bool)>) {
        let mut compared: Option<(BondKey, bool)> = None;
        loop {
            let state = self.iommu.lock();
            let found = state.containers[&self.id].bonds.iter().find(|bond| bond.space == space);
            let Some(ContainerBond { key, data: held, .. }) = found else { return (state, None) };
            if compared.is_some_and(|(known, _)| known == *key) {
                return (state, compared);
            }
            let (key, held) = (*key, Arc::clone(held));
            drop(state);
            compared = Some((key, held.same(data)));
        }
    }

    /// What a second BIND of a space comes to.
    fn existing(
        &self,
        state: &mut State,
        key: BondKey,
        features: Features,
        same: bool,
    ) -> Result<PasidTag, ContainerBindError> {
        let container = self.id;
        let Some(bond) = state.bond(key) else {
            unreachable!("a container's bond lives until its UNBIND")
        };
        let (tag, space) = (bond.record.tag, bond.record.id);
        if !same || bond.features != features {
            return Err(ContainerBindError::Different { container, space, pasid: tag.pasid });
        }
        match state.spaces.get(&space).and_then(|space| space.end) {
            Some(reason) => Err(SpaceRefusal::Ended(SpaceEnded(reason)).into()),
            None => Ok(tag),
        }
    }

    /// Undoes the BIND of a space, however often it was asked for. Blocks as the drop of a bond
    /// does.
    ///
    /// # Errors
    /// The space is not bound here.
    pub fn unbind(&self, space: SpaceId) -> Result<UnbindReport, ContainerUnbindError> {
        Ok(self.iommu.unbind(self.take_bond(space)?.key))
    }

    /// Begins to undo the BIND of a space and does not wait, as
    /// [`Bond::begin_unbind`](crate::Bond::begin_unbind).
    ///
    /// # Errors
    /// The space is not bound here.
    pub fn begin_unbind(&self, space: SpaceId) -> Result<Unbinding, ContainerUnbindError> {
        Ok(Unbinding::begin(self.iommu.clone(), Some(self.take_bond(space)?.key)))
    }

    fn take_bond(&self, space: SpaceId) -> Result<ContainerBond, ContainerUnbindError> {
        let mut state = self.iommu.lock();
        let bonds = state.containers.get_mut(&self.id).map(|container| &mut container.bonds);
        let bond = bonds.and_then(|bonds| {
            bonds.iter().position(|bond| bond.space == space).map(|at| bonds.remove(at))
        });
        bond.ok_or(ContainerUnbindError::NotBound { container: self.id, space })
    }

    fn routings(&self) -> Vec<(Arc<DeviceRecord>, Routing)> {
        self.iommu.routings(&self.groups())
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id).field("groups", &self.groups()).finish()
    }
}
