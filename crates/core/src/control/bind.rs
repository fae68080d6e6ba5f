//! Binding: reserve for all devices, program all table entries, publish (rules B1 to B5).
//!
//! What can block (asking the bus about a path, asking the space about overlaps) is done before the
//! control lock is taken. Under it everything is checked before anything is changed, so that a
//! refusal has nothing to take back but the PASID of a space that turns out to have ended.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use sva_sync::atomic::Ordering;

use super::bond::{Bond, GroupBond};
use crate::api::bond::Bind;
use crate::api::device::{Feature, Features};
use crate::api::error::{
    BindError, BindGroupError, ContainerBindError, Refusal, Sibling, SpaceRefusal,
};
use crate::api::event::{Event, Overlap};
use crate::api::space::{AddressSpace, SpaceEnded, SpaceHandle};
use crate::table::{
    BondKey, BondKind, Device, DeviceRecord, Exhausted, Iommu, Requester, Routing, State,
};
use crate::types::ids::{Bdf, ContainerId, GroupId, PasidTag, PasidWidth};

/// A group as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Which.
    pub id: GroupId,
    /// Its devices, by address.
    pub members: Vec<Bdf>,
    /// The container that it is in.
    pub container: Option<ContainerId>,
}

/// The devices of one bind, sorted into those that get an entry and those that cannot issue a
/// PASID.
pub(super) struct Candidates {
    pub(super) capable: SmallVec<[Arc<DeviceRecord>; 1]>,
    pub(super) left_out: Vec<Refusal>,
}

impl Candidates {
    pub(super) fn of<'a>(devices: impl IntoIterator<Item = &'a Arc<DeviceRecord>>) -> Self {
        let mut found = Self { capable: SmallVec::new(), left_out: Vec::new() };
        for device in devices {
            match device.spec.capabilities.pasid {
                Some(_) => found.capable.push(Arc::clone(device)),
                None => found.left_out.push(Refusal::NoPasidCapability { device: device.bdf() }),
            }
        }
        found
    }

    /// The widest PASID that all of them can issue.
    fn width(&self) -> PasidWidth {
        let widths = self
            .capable
            .iter()
            .filter_map(|device| device.spec.capabilities.pasid)
            .map(|pasid| pasid.width);
        widths.min().unwrap_or(PasidWidth::MAX)
    }

    /// One of each requester ID: devices that share one are bound as one.
    pub(super) fn requesters(&self) -> SmallVec<[Arc<Requester>; 1]> {
        let mut requesters: SmallVec<[Arc<Requester>; 1]> = SmallVec::new();
        for device in &self.capable {
            if !requesters.iter().any(|known| Arc::ptr_eq(known, &device.requester)) {
                requesters.push(Arc::clone(&device.requester));
            }
        }
        requesters
    }
}

/// Why `device` cannot be given a bond of `space` with `features`, judged from what cannot change
/// under the control lock and what is known of the bus.
pub(super) fn refusal(
    device: &DeviceRecord,
    space: &dyn AddressSpace,
    features: Features,
    tag: Option<PasidTag>,
) -> Option<Refusal> {
    let bdf = device.bdf();
    let Some(pasid) = device.spec.capabilities.pasid else {
        return Some(Refusal::NoPasidCapability { device: bdf });
    };
    if let Some(defect) = device.routing.read().refused_path() {
        return Some(Refusal::Path { device: bdf, defect });
    }
    let provided = space.capabilities();
    let wanted = [
        (features.execute, Feature::Execute, pasid.execute, provided.execute),
        (features.privileged, Feature::Privileged, pasid.privileged, provided.privileged),
        (
            features.page_faults,
            Feature::PageFaults,
            device.spec.capabilities.page_faults,
            provided.page_faults,
        ),
    ];
    for (_, feature, by_device, by_space) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
        if !by_device {
            return Some(Refusal::DeviceLacks { device: bdf, feature });
        }
        if !by_space {
            return Some(Refusal::SpaceLacks { space: space.id(), feature });
        }
    }
    let tag = tag?;
    if !tag.pasid.fits(pasid.width) {
        return Some(Refusal::PasidTooWide { device: bdf, pasid: tag.pasid, width: pasid.width });
    }
    device.requester.entry(tag.pasid).map(|entry| match entry.gate.is_closed() {
        true => Refusal::StillUnbinding { device: bdf, pasid: tag.pasid },
        false => Refusal::AlreadyBound { device: bdf, pasid: tag.pasid },
    })
}

/// What `bind_candidates` can fail with; each caller has an error of its own that takes both.
pub(super) enum Failed {
    Device(Refusal),
    Space(SpaceRefusal),
}

macro_rules! from_failed {
    ($($error:ty),*) => {$(
        impl From<Failed> for $error {
            fn from(failed: Failed) -> Self {
                match failed {
                    Failed::Device(refusal) => Self::Device(refusal),
                    Failed::Space(refusal) => Self::Space(refusal),
                }
            }
        }
    )*};
}
from_failed!(BindError, BindGroupError, ContainerBindError);

impl State {
    /// Binds all candidates to the space or changes nothing: checks, reserves, programs, publishes.
    pub(super) fn bind_candidates<T: Send + Sync + 'static>(
        &mut self,
        iommu: &Iommu,
        kind: BondKind,
        candidates: &Candidates,
        space: &Arc<dyn AddressSpace>,
        bind: &mut Bind<T>,
    ) -> Result<(BondKey, PasidTag), Failed> {
        let ended = |reason| Failed::Space(SpaceRefusal::Ended(SpaceEnded(reason)));
        let known = self.spaces.get(&space.id());
        if let Some(reason) = known.and_then(|state| state.end).or_else(|| space.ended()) {
            return Err(ended(reason));
        }
        let known = known.map(|state| state.record.tag);
        if let Some(refusal) = candidates
            .capable
            .iter()
            .find_map(|device| refusal(device, &**space, bind.features, known))
        {
            return Err(Failed::Device(refusal));
        }
        let tag = match known {
            Some(tag) => tag,
            None => {
                let full = |e: Exhausted| {
                    Failed::Space(SpaceRefusal::NoPasidLeft { width: e.width, in_use: e.in_use })
                };
                let tag = self.pasids.allocate(candidates.width()).map_err(full)?;
                match space.watch(iommu.watcher()) {
                    Ok(watch) => self.insert_space(space, tag, watch),
                    Err(SpaceEnded(reason)) => {
                        self.pasids.release(tag);
                        return Err(ended(reason));
                    }
                }
                tag
            }
        };
        // Nothing below can fail.
        let Some(record) = self.spaces.get(&space.id()).map(|state| Arc::clone(&state.record))
        else {
            unreachable!("inserted above")
        };
        let key = self.insert_bond(
            kind,
            record,
            bind.features,
            bind.take_exit(),
            bind.take_isolation(),
            bind.take_pages(),
        );
        self.add_requesters(key, &candidates.requesters());
        Ok((key, tag))
    }
}

impl Iommu {
    /// Binds `device` to `space`: the device can use the space's PASID from the return on.
    ///
    /// Blocks while the provider looks for overlaps with peer windows, where the device has any.
    ///
    /// # Errors
    /// See [`BindError`]; nothing has changed then (rule B3).
    pub fn bind_device<T: Send + Sync + 'static>(
        &self,
        device: &Device,
        space: &impl SpaceHandle,
        mut bind: Bind<T>,
    ) -> Result<Bond<T>, BindError> {
        let space = &space.to_space();
        let inner = device.record();
        let routing = inner.current_routing(self.topology());
        let overlaps = self.overlaps_of(inner, &routing, &**space).map_err(BindError::Space)?;
        let mut state = self.lock();
        // Also refused here: a device of another IOMMU, whose tables this control lock does not
        // cover.
        if !device.iommu().is_same(self) || inner.is_unplugged.load(Ordering::Relaxed) {
            return Err(Refusal::DeviceRemoved { device: inner.bdf() }.into());
        }
        if !inner.group.is_singleton.load(Ordering::Relaxed) {
            let group = state.groups.get(&inner.group_id);
            if let Some(container) = group.and_then(|group| group.container) {
                return Err(BindError::InContainer { device: inner.bdf(), container });
            }
            let members = group.into_iter().flat_map(|group| &group.members);
            let others =
                members.map(|member| member.bdf()).filter(|bdf| *bdf != inner.bdf()).collect();
            drop(state);
            return Err(self.not_singleton(inner, others));
        }
        let candidates = Candidates { capable: smallvec![Arc::clone(inner)], left_out: Vec::new() };
        let bound = state.bind_candidates(
            self,
            BondKind::Device(inner.bdf()),
            &candidates,
            space,
            &mut bind,
        );
        self.unlock(state);
        let (key, tag) = bound?;
        self.report_overlaps(&overlaps);
        Ok(Bond::new(self.clone(), key, tag, space.id(), bind.data, inner.bdf(), overlaps))
    }

    /// Binds every member of `group` that can issue a PASID; the others are left out and listed
    /// (rule B2). Blocks as [`bind_device`](Self::bind_device) does.
    ///
    /// # Errors
    /// See [`BindGroupError`]; nothing has changed then (rule B3).
    pub fn bind_group<T: Send + Sync + 'static>(
        &self,
        group: GroupId,
        space: &impl SpaceHandle,
        mut bind: Bind<T>,
    ) -> Result<GroupBond<T>, BindGroupError> {
        let space = &space.to_space();
        let overlaps =
            self.overlaps(&self.routings(&[group]), &**space).map_err(BindGroupError::Space)?;
        let mut state = self.lock();
        let found = state.groups.get(&group).ok_or(BindGroupError::NoSuchGroup { group })?;
        if let Some(container) = found.container {
            return Err(BindGroupError::InContainer { group, container });
        }
        let candidates = Candidates::of(&found.members);
        if candidates.capable.is_empty() {
            return Err(BindGroupError::NoCapableMember { group, left_out: candidates.left_out });
        }
        let bound =
            state.bind_candidates(self, BondKind::Group(group), &candidates, space, &mut bind);
        if let (Ok((key, _)), Some(found)) = (&bound, state.groups.get_mut(&group)) {
            found.bonds.push(*key);
        }
        self.unlock(state);
        let (key, tag) = bound?;
        self.report_overlaps(&overlaps);
        Ok(GroupBond::new(
            self.clone(),
            key,
            tag,
            space.id(),
            bind.data,
            group,
            candidates.left_out,
            overlaps,
        ))
    }

    /// The group with its members as it is now.
    pub fn group(&self, group: GroupId) -> Option<GroupInfo> {
        let state = self.lock();
        let found = state.groups.get(&group)?;
        Some(GroupInfo {
            id: group,
            members: found.members.iter().map(|member| member.bdf()).collect(),
            container: found.container,
        })
    }

    /// All groups, by number.
    pub fn groups(&self) -> Vec<GroupInfo> {
        let mut ids: Vec<GroupId> = self.lock().groups.keys().copied().collect();
        ids.sort();
        ids.into_iter().filter_map(|id| self.group(id)).collect()
    }

    fn not_singleton(&self, device: &DeviceRecord, others: Vec<Bdf>) -> BindError {
        let because = |other| self.topology().why_shared(device.bdf(), other);
        let siblings = others
            .into_iter()
            .map(|other| Sibling { device: other, because: because(other) })
            .collect();
        BindError::NotSingleton { device: device.bdf(), group: device.group_id, siblings }
    }

    /// The devices of the groups, each with what the bus says of it now. Not under the control
    /// lock.
    pub(super) fn routings(&self, groups: &[GroupId]) -> Vec<(Arc<DeviceRecord>, Routing)> {
        let members: Vec<Arc<DeviceRecord>> = {
            let state = self.lock();
            groups
                .iter()
                .filter_map(|id| state.groups.get(id))
                .flat_map(|group| group.members.iter().cloned())
                .collect()
        };
        let ask = |device: Arc<DeviceRecord>| {
            let routing = device.current_routing(self.topology());
            (device, routing)
        };
        members.into_iter().map(ask).collect()
    }

    /// Where `space` has memory at addresses that a peer of a capable device decodes (rule B7). May
    /// block; not under the control lock.
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

    /// [`overlaps`](Self::overlaps) of one device.
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

    pub(super) fn report_overlaps(&self, overlaps: &[Overlap]) {
        for overlap in overlaps {
            self.log(Event::Overlap(*overlap));
        }
    }
}

impl Iommu {
    /// The devices that a bond binds now, by address.
    pub(super) fn bond_members(&self, key: BondKey) -> Vec<Bdf> {
        let mut state = self.lock();
        let Some(bond) = state.bond(key) else { return Vec::new() };
        let requesters: Vec<Arc<Requester>> =
            bond.entries.iter().map(|entry| Arc::clone(&entry.requester)).collect();
        let bound = |device: &&Arc<DeviceRecord>| {
            device.spec.capabilities.pasid.is_some()
                && requesters.iter().any(|requester| Arc::ptr_eq(requester, &device.requester))
        };
        let mut members: Vec<Bdf> =
            state.devices.values().filter(bound).map(|device| device.bdf()).collect();
        members.sort();
        members
    }
}
