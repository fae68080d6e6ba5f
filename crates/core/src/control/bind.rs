//! Binding devices and groups to a space.
//!
//! A bind checks all devices, then takes a PASID, then programs a PASID entry for each requester,
//! then publishes all entries. The control lock is held for all four steps. Every check comes
//! before the first change, so a refused bind has nothing to undo.
//!
//! The bus and the provider are foreign code and can block, so they are asked before the control
//! lock is taken: for the path, for overlaps, and to watch the space.

use std::sync::Arc;

use smallvec::smallvec;
use sva_sync::atomic::Ordering;

use super::bond::{Bond, GroupBond, OwnedBond};
use super::candidates::Candidates;
use super::space_to_bind::SpaceToBind;
use crate::api::bond::Bind;
use crate::api::error::{
    BindError, BindGroupError, ContainerBindError, Refusal, Sibling, SpaceRefusal,
};
use crate::api::space::{SpaceEnded, SpaceHandle};
use crate::table::{BondKey, BondKind, Device, DeviceRecord, Exhausted, Iommu, State};
use crate::types::ids::{Bdf, GroupId, PasidTag};

/// The error of [`State::bind_candidates`]: a device or the space is refused. Each operation that
/// binds converts it into its own error.
pub(super) enum BindFailure {
    Device(Refusal),
    Space(SpaceRefusal),
}

macro_rules! from_bind_failure {
    ($($error:ty),*) => {$(
        impl From<BindFailure> for $error {
            fn from(failure: BindFailure) -> Self {
                match failure {
                    BindFailure::Device(refusal) => Self::Device(refusal),
                    BindFailure::Space(refusal) => Self::Space(refusal),
                }
            }
        }
    )*};
}
from_bind_failure!(BindError, BindGroupError, ContainerBindError);

impl State {
    /// Binds all capable candidates to the space, or changes nothing.
    pub(super) fn bind_candidates<T: Send + Sync + 'static>(
        &mut self,
        kind: BondKind,
        candidates: &Candidates,
        space: &mut SpaceToBind<'_>,
        bind: &mut Bind<T>,
    ) -> Result<(BondKey, PasidTag), BindFailure> {
        if let Some(reason) = space.end(self) {
            return Err(BindFailure::Space(SpaceRefusal::Ended(SpaceEnded(reason))));
        }
        let description = space.description;
        let known = self.spaces.get(&description.id).map(|state| state.record.tag);
        if let Some(refusal) = candidates.refusal(description, bind.features, known) {
            return Err(BindFailure::Device(refusal));
        }
        let tag = match known {
            Some(tag) => tag,
            None => {
                let full = |e: Exhausted| {
                    BindFailure::Space(SpaceRefusal::NoPasidLeft {
                        width: e.width,
                        in_use: e.in_use,
                    })
                };
                let tag = self.pasids.allocate(candidates.width()).map_err(full)?;
                let Some(watch) = space.take_watch(self) else {
                    unreachable!("a space without a bond that has not ended is watched")
                };
                self.insert_space(space.space, description, tag, watch);
                tag
            }
        };
        // From here on no step can fail.
        let Some(record) = self.spaces.get(&description.id).map(|state| Arc::clone(&state.record))
        else {
            unreachable!("the space was inserted above")
        };
        let key = self.insert_bond(
            kind,
            record,
            bind.features,
            bind.take_exit_handler(),
            bind.take_isolation_handler(),
            bind.take_page_handler(),
        );
        self.add_requesters(key, &candidates.requesters());
        Ok((key, tag))
    }
}

impl Iommu {
    /// Binds `device` to `space`. When the call returns, the device can use the space's PASID.
    ///
    /// If peer windows exist on the device's path, the call blocks while the provider looks for
    /// memory at their addresses.
    ///
    /// # Errors
    /// See [`BindError`]. A bind that fails changes nothing.
    pub fn bind_device<T: Send + Sync + 'static>(
        &self,
        device: &Device,
        space: &impl SpaceHandle,
        mut bind: Bind<T>,
    ) -> Result<Bond<T>, BindError> {
        let space = &space.to_space();
        // A device of another IOMMU is refused as removed: this control lock does not cover its
        // tables.
        let is_own = device.iommu().is_same(self);
        let device = device.record();
        let bdf = device.bdf();
        let routing = device.current_routing(self.topology());
        let overlaps = self.overlaps_of(device, &routing, &**space).map_err(BindError::Space)?;
        let mut space = SpaceToBind::new(self, space);
        let mut state = space.lock();
        if !is_own || device.is_unplugged.load(Ordering::Relaxed) {
            return Err(Refusal::DeviceRemoved { device: bdf }.into());
        }
        if !device.group.is_singleton.load(Ordering::Relaxed) {
            let group = state.groups.get(&device.group_id);
            if let Some(container) = group.and_then(|group| group.container) {
                return Err(BindError::InContainer { device: bdf, container });
            }
            let members = group.into_iter().flat_map(|group| &group.members);
            let siblings =
                members.map(|member| member.bdf()).filter(|member| *member != bdf).collect();
            self.unlock(state);
            return Err(self.not_singleton(device, siblings));
        }
        let candidates =
            Candidates { capable: smallvec![Arc::clone(device)], left_out: Vec::new() };
        let bound =
            state.bind_candidates(BondKind::Device(bdf), &candidates, &mut space, &mut bind);
        self.unlock(state);
        let (key, tag) = bound?;
        self.log_overlaps(&overlaps);
        let owned = OwnedBond::new(self.clone(), key, tag, space.description.id, bind.data);
        Ok(Bond::new(owned, bdf, overlaps))
    }

    /// Binds every member of `group` that can issue a PASID. The bond lists the other members with
    /// the reason. Blocks as [`bind_device`](Self::bind_device) does.
    ///
    /// # Errors
    /// See [`BindGroupError`]. A bind that fails changes nothing.
    pub fn bind_group<T: Send + Sync + 'static>(
        &self,
        group: GroupId,
        space: &impl SpaceHandle,
        mut bind: Bind<T>,
    ) -> Result<GroupBond<T>, BindGroupError> {
        let space = &space.to_space();
        let overlaps = self
            .overlaps(&self.current_routings(&[group]), &**space)
            .map_err(BindGroupError::Space)?;
        let mut space = SpaceToBind::new(self, space);
        let mut state = space.lock();
        let found = state.groups.get(&group).ok_or(BindGroupError::NoSuchGroup { group })?;
        if let Some(container) = found.container {
            return Err(BindGroupError::InContainer { group, container });
        }
        let candidates = Candidates::of(&found.members);
        if candidates.capable.is_empty() {
            return Err(BindGroupError::NoCapableMember { group, left_out: candidates.left_out });
        }
        let bound =
            state.bind_candidates(BondKind::Group(group), &candidates, &mut space, &mut bind);
        if let (Ok((key, _)), Some(found)) = (&bound, state.groups.get_mut(&group)) {
            found.bonds.push(*key);
        }
        self.unlock(state);
        let (key, tag) = bound?;
        self.log_overlaps(&overlaps);
        let owned = OwnedBond::new(self.clone(), key, tag, space.description.id, bind.data);
        Ok(GroupBond::new(owned, group, candidates.left_out, overlaps))
    }

    /// Makes the error of a device that shares its group with `siblings`. Asks the bus for the
    /// reason of each; the caller does not hold the control lock.
    fn not_singleton(&self, device: &DeviceRecord, siblings: Vec<Bdf>) -> BindError {
        let because = |sibling| self.topology().why_shared(device.bdf(), sibling);
        let siblings = siblings
            .into_iter()
            .map(|sibling| Sibling { device: sibling, because: because(sibling) })
            .collect();
        BindError::NotSingleton { device: device.bdf(), group: device.group_id, siblings }
    }
}
