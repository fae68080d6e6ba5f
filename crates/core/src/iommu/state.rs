//! All control state, under the one control lock.
//!
//! The methods here change state and call nobody. What has to happen once the lock is released
//! (handlers and spaces to drop, watches to take back) they put into an [`Aftermath`], which the
//! caller declares before it takes the lock.

mod bonds;

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;

use super::parts::{DeviceInner, GroupFace, Models, Requester, SpaceRecord};
use crate::bond::AnyData;
use crate::domain::{Domain, DomainUse, Translation};
use crate::ids::{Bdf, ContainerId, GroupId, Pasid, PasidTag, RequesterId, SpaceId};
use crate::iotlb::{Kept, Table};
use crate::mutation;
use crate::pasid::PasidAllocator;
use crate::pri::queue::DeviceKey;
use crate::space::{AddressSpace, EndReason, WatchToken};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::topology::GroupKey;
pub(crate) use bonds::{BondKey, BondKind, BondState, Exit, ExitHandler, IsolationHandler, Phase};

/// A space with at least one bond.
pub(crate) struct SpaceState {
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) end: Option<EndReason>,
    pub(crate) bonds: FxHashSet<BondKey>,
    watch: WatchToken,
}

pub(crate) struct GroupState {
    pub(crate) id: GroupId,
    key: GroupKey,
    /// By address, ascending.
    pub(crate) members: Vec<Arc<DeviceInner>>,
    pub(crate) face: Arc<GroupFace>,
    /// The group's own domain, in use while it is in no container.
    pub(crate) own: Arc<Domain>,
    pub(crate) container: Option<ContainerId>,
    /// Group bonds that are not gone.
    pub(crate) bonds: Vec<BondKey>,
}

impl GroupState {
    /// To be called after a change of the members or the container.
    pub(crate) fn changed(&self) {
        self.face
            .alone
            .store(self.members.len() == 1 && self.container.is_none(), Ordering::Relaxed);
    }
}

/// One BIND of a container.
pub(crate) struct ContainerBond {
    pub(crate) space: SpaceId,
    pub(crate) key: BondKey,
    pub(crate) data: Arc<dyn AnyData>,
}

#[derive(Default)]
pub(crate) struct ContainerState {
    pub(crate) domain: Arc<Domain>,
    pub(crate) groups: BTreeSet<GroupId>,
    pub(crate) bonds: Vec<ContainerBond>,
}

/// A space whose last bond is gone. Dropping it forgets what was kept of it, takes the watch back
/// and lets go of the space.
struct Released {
    record: Arc<SpaceRecord>,
    watch: WatchToken,
}

impl Drop for Released {
    fn drop(&mut self) {
        if let Some(kept) = &self.record.kept {
            kept.forget();
        }
        self.record.space.unwatch(self.watch);
    }
}

/// What the end of a space comes to.
pub(crate) struct End {
    pub(crate) pasid: Pasid,
    pub(crate) bonds: usize,
    /// Those with an exit handler that is to run now.
    pub(crate) queued: Vec<BondKey>,
}

/// What is dropped after the control lock is released, since dropping it can run foreign code.
#[derive(Default)]
pub(crate) struct Aftermath {
    released: SmallVec<[Released; 1]>,
    bonds: SmallVec<[BondState; 1]>,
    handlers: SmallVec<[ExitHandler; 1]>,
    pub(crate) models: Models,
    pub(crate) container_bonds: Vec<ContainerBond>,
}

pub(crate) struct State {
    pub(crate) devices: FxHashMap<Bdf, Arc<DeviceInner>>,
    pub(crate) requesters: FxHashMap<RequesterId, Arc<Requester>>,
    pub(crate) groups: FxHashMap<GroupId, GroupState>,
    group_of: FxHashMap<GroupKey, GroupId>,
    next_group: u32,
    pub(crate) containers: FxHashMap<ContainerId, ContainerState>,
    pub(crate) next_container: u32,
    pub(crate) spaces: FxHashMap<SpaceId, SpaceState>,
    bonds: Slab<BondState>,
    next_serial: u64,
    pub(crate) pasids: PasidAllocator,
    pub(crate) next_device: DeviceKey,
    /// Threads that wait for [`Inner::changed`](super::Inner).
    pub(crate) waiters: usize,
    /// Something that a waiter may wait for has happened since the lock was taken.
    pub(crate) news: bool,
    /// What is kept of all spaces; made with the first that needs it.
    iotlb: Option<Arc<Table>>,
    iotlb_bytes: usize,
}

impl State {
    pub(crate) fn new(pasids: PasidAllocator, iotlb_bytes: usize) -> Self {
        Self {
            devices: FxHashMap::default(),
            requesters: FxHashMap::default(),
            groups: FxHashMap::default(),
            group_of: FxHashMap::default(),
            next_group: 0,
            containers: FxHashMap::default(),
            next_container: 0,
            spaces: FxHashMap::default(),
            bonds: Slab::new(),
            next_serial: 0,
            pasids,
            next_device: 0,
            waiters: 0,
            news: false,
            iotlb: None,
            iotlb_bytes,
        }
    }

    /// Whether this very device is plugged in here.
    pub(crate) fn has(&self, device: &Arc<DeviceInner>) -> bool {
        self.devices.get(&device.bdf()).is_some_and(|there| Arc::ptr_eq(there, device))
    }

    /// The group for `key`, made where there is none.
    pub(crate) fn group_for(&mut self, key: GroupKey) -> &mut GroupState {
        let next = &mut self.next_group;
        let id = *self.group_of.entry(key).or_insert_with(|| {
            *next += 1;
            GroupId(*next - 1)
        });
        self.groups.entry(id).or_insert_with(|| {
            let face =
                GroupFace { translation: Translation::blocking(), alone: AtomicBool::new(false) };
            let own = Arc::clone(&face.translation.current().domain);
            GroupState {
                id,
                key,
                members: Vec::new(),
                face: Arc::new(face),
                own,
                container: None,
                bonds: Vec::new(),
            }
        })
    }

    /// Drops the group where nothing is in it and nobody holds it.
    pub(crate) fn forget_empty_group(&mut self, id: GroupId) {
        let idle = |group: &GroupState| {
            group.members.is_empty()
                && group.container.is_none()
                && group.bonds.is_empty()
                && group.own.len() == 0
        };
        if let Some(group) = self.groups.get(&id).filter(|group| idle(group)) {
            self.group_of.remove(&group.key);
            self.groups.remove(&id);
        }
    }

    /// Enters a space that has no bond yet, and watches it.
    pub(crate) fn enter_space(
        &mut self,
        space: &Arc<dyn AddressSpace>,
        tag: PasidTag,
        watch: WatchToken,
    ) {
        let bytes = self.iotlb_bytes;
        let table = &mut self.iotlb;
        let record = SpaceRecord::new(space, tag, || {
            Arc::clone(table.get_or_insert_with(|| Arc::new(Table::new(bytes))))
        });
        let state =
            SpaceState { record: Arc::new(record), end: None, bonds: FxHashSet::default(), watch };
        self.spaces.insert(space.id(), state);
    }

    /// The space has ended: every handler that is armed is queued. `None` where that was known.
    pub(crate) fn end_space(&mut self, space: SpaceId, reason: EndReason) -> Option<End> {
        let state = self.spaces.get_mut(&space).filter(|state| state.end.is_none())?;
        state.end = Some(reason);
        state.record.end();
        let pasid = state.record.tag.pasid;
        let keys: Vec<BondKey> = state.bonds.iter().copied().collect();
        if mutation::is_on(1)
            && let Some(died) = self.spaces.remove(&space)
        {
            // The record dies with the space, whatever bonds there are.
            self.pasids.release(died.record.tag);
        }
        let mut queued = Vec::with_capacity(keys.len());
        for &key in &keys {
            if let Some(bond) = self.bond(key)
                && let Exit::Armed(handler @ Some(_)) = &mut bond.exit
            {
                bond.exit = Exit::Queued(handler.take());
                bond.callbacks += 1;
                queued.push(key);
            }
        }
        Some(End { pasid, bonds: keys.len(), queued })
    }

    /// What is kept of all spaces.
    pub(crate) fn iotlb(&self) -> Option<Arc<Table>> {
        self.iotlb.clone()
    }

    /// What is kept of a space that has a bond.
    pub(crate) fn kept_of(&self, space: SpaceId) -> Option<Arc<Kept>> {
        self.spaces.get(&space)?.record.kept.clone()
    }

    /// Closes the use of a domain that a group has left; whoever waits learns when it is empty.
    pub(crate) fn close_use(&mut self, ended: &DomainUse) {
        if ended.gate.close() == Some(0) {
            self.news = true;
        }
    }
}
