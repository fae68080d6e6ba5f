//! The state that the control lock covers.
//!
//! The methods change state and call no foreign code. What must be dropped after the lock has been
//! released (handlers, spaces, watches) they put into a [`DeferredDrops`], which the caller
//! declares before it takes the lock.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use slotmap::SlotMap;
use smallvec::SmallVec;
use sva_sync::atomic::{AtomicBool, Ordering};

use super::bond::{BondState, ExitState};
use super::bond_key::BondKey;
use super::domain::{Domain, DomainAttachment, DomainSlot};
use super::group::GroupRecord;
use super::pasid::PasidAllocator;
use super::records::{DeviceRecord, Models, Requester};
use super::space::{SpaceDescription, SpaceRecord};
use crate::api::bond::{AnyData, ExitHandler};
use crate::api::space::{AddressSpace, EndReason, WatchToken};
use crate::api::topology::GroupKey;
use crate::iotlb::{IotlbTable, SpaceIotlb};
use crate::types::ids::{
    Bdf, ContainerId, DeviceKey, GroupId, Pasid, PasidTag, RequesterId, SpaceId,
};

/// A space with at least one bond.
pub(crate) struct SpaceState {
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) end: Option<EndReason>,
    pub(crate) bonds: FxHashSet<BondKey>,
    pub(super) watch: WatchToken,
}

/// A space without a bond that a thread watches in order to bind it.
struct NewWatchState {
    number: WatchNumber,
    space: SpaceId,
    end: Option<EndReason>,
}

/// Identifies a watch that a bind has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchNumber(u64);

/// A group: its members, its own domain and its bonds.
pub(crate) struct GroupState {
    pub(crate) id: GroupId,
    key: GroupKey,
    /// In ascending order of BDF.
    pub(crate) members: Vec<Arc<DeviceRecord>>,
    pub(crate) record: Arc<GroupRecord>,
    /// The domain of the group, which is attached unless the group is in a container.
    pub(crate) own_domain: Arc<Domain>,
    pub(crate) container: Option<ContainerId>,
    /// Group bonds that are not gone.
    pub(crate) bonds: Vec<BondKey>,
}

impl GroupState {
    /// Updates [`GroupRecord::is_singleton`] after a change of the members or the container.
    pub(crate) fn update_singleton(&self) {
        let is_singleton = self.members.len() == 1 && self.container.is_none();
        self.record.is_singleton.store(is_singleton, Ordering::Relaxed);
    }
}

/// One binding of a container.
pub(crate) struct ContainerBond {
    pub(crate) space: SpaceId,
    pub(crate) key: BondKey,
    pub(crate) data: Arc<dyn AnyData>,
}

/// A container: its domain, its groups and its bonds.
#[derive(Default)]
pub(crate) struct ContainerState {
    pub(crate) domain: Arc<Domain>,
    pub(crate) groups: BTreeSet<GroupId>,
    pub(crate) bonds: Vec<ContainerBond>,
}

/// A space whose last bond is gone. Its drop removes its translations from the IOTLB and ends the
/// watch of the space, and drops the space.
pub(super) struct UnboundSpace {
    pub(super) record: Arc<SpaceRecord>,
    pub(super) watch: WatchToken,
}

impl Drop for UnboundSpace {
    fn drop(&mut self) {
        if let Some(iotlb) = &self.record.iotlb {
            iotlb.remove_all();
        }
        self.record.space.unwatch(self.watch);
    }
}

/// A space that has just ended.
pub(crate) struct EndedSpace {
    pub(crate) pasid: Pasid,
    pub(crate) bonds: usize,
    /// The bonds with an exit handler that is to be run now.
    pub(crate) queued: Vec<BondKey>,
}

/// Values to drop after the control lock has been released, since their drop may run foreign code.
#[derive(Default)]
pub(crate) struct DeferredDrops {
    pub(super) spaces: SmallVec<[UnboundSpace; 1]>,
    pub(super) bonds: SmallVec<[BondState; 1]>,
    pub(super) exit_handlers: SmallVec<[ExitHandler; 1]>,
    pub(crate) models: Models,
    pub(crate) container_bonds: Vec<ContainerBond>,
}

/// All state that the control lock covers.
pub(crate) struct State {
    pub(crate) devices: FxHashMap<Bdf, Arc<DeviceRecord>>,
    pub(crate) requesters: FxHashMap<RequesterId, Arc<Requester>>,
    pub(crate) groups: FxHashMap<GroupId, GroupState>,
    group_of: FxHashMap<GroupKey, GroupId>,
    next_group: u32,
    pub(crate) containers: FxHashMap<ContainerId, ContainerState>,
    pub(crate) next_container: u32,
    pub(crate) spaces: FxHashMap<SpaceId, SpaceState>,
    /// The spaces without a bond that threads watch in order to bind them.
    new_watches: Vec<NewWatchState>,
    next_watch: u64,
    pub(super) bonds: SlotMap<BondKey, BondState>,
    pub(crate) pasids: PasidAllocator,
    pub(crate) next_device: DeviceKey,
    /// The number of threads that wait for a change of the state.
    pub(crate) waiting_threads: usize,
    /// Something that a thread may wait for has changed since the lock was taken.
    pub(crate) has_changed: bool,
    /// Allocated with the first space that needs it.
    iotlb: Option<Arc<IotlbTable>>,
    iotlb_bytes: usize,
}

impl State {
    pub(super) fn new(pasids: PasidAllocator, iotlb_bytes: usize) -> Self {
        Self {
            devices: FxHashMap::default(),
            requesters: FxHashMap::default(),
            groups: FxHashMap::default(),
            group_of: FxHashMap::default(),
            next_group: 0,
            containers: FxHashMap::default(),
            next_container: 0,
            spaces: FxHashMap::default(),
            new_watches: Vec::new(),
            next_watch: 0,
            bonds: SlotMap::with_key(),
            pasids,
            next_device: 0,
            waiting_threads: 0,
            has_changed: false,
            iotlb: None,
            iotlb_bytes,
        }
    }

    /// Whether this device is plugged in, rather than an earlier or later one with the same BDF.
    pub(crate) fn is_plugged_in(&self, device: &Arc<DeviceRecord>) -> bool {
        self.devices.get(&device.bdf()).is_some_and(|there| Arc::ptr_eq(there, device))
    }

    /// The group of `key`; makes one if there is none.
    pub(crate) fn group_for(&mut self, key: GroupKey) -> &mut GroupState {
        let next = &mut self.next_group;
        let id = *self.group_of.entry(key).or_insert_with(|| {
            *next += 1;
            GroupId(*next - 1)
        });
        self.groups.entry(id).or_insert_with(|| {
            let record = GroupRecord {
                domain: DomainSlot::blocking(),
                is_singleton: AtomicBool::new(false),
            };
            let own_domain = Arc::clone(&record.domain.current().domain);
            GroupState {
                id,
                key,
                members: Vec::new(),
                record: Arc::new(record),
                own_domain,
                container: None,
                bonds: Vec::new(),
            }
        })
    }

    /// Removes a group that has no members, no bonds and no mappings and is in no container.
    pub(crate) fn remove_group_if_empty(&mut self, id: GroupId) {
        let idle = |group: &GroupState| {
            group.members.is_empty()
                && group.container.is_none()
                && group.bonds.is_empty()
                && group.own_domain.len() == 0
        };
        if let Some(group) = self.groups.get(&id).filter(|group| idle(group)) {
            self.group_of.remove(&group.key);
            self.groups.remove(&id);
        }
    }

    /// Inserts a space that has no bond yet. The caller has made `watch` by watching the space.
    pub(crate) fn insert_space(
        &mut self,
        space: &Arc<dyn AddressSpace>,
        description: SpaceDescription,
        tag: PasidTag,
        watch: WatchToken,
    ) {
        let bytes = self.iotlb_bytes;
        let table = &mut self.iotlb;
        let record = SpaceRecord::new(space, description, tag, || {
            Arc::clone(table.get_or_insert_with(|| Arc::new(IotlbTable::new(bytes))))
        });
        let state =
            SpaceState { record: Arc::new(record), end: None, bonds: FxHashSet::default(), watch };
        self.spaces.insert(description.id, state);
    }

    /// Notes that a thread is about to watch a space that has no bond. Until
    /// [`finish_watch`](Self::finish_watch) the end of the space is recorded for that thread.
    pub(crate) fn begin_watch(&mut self, space: SpaceId) -> WatchNumber {
        let number = WatchNumber(self.next_watch);
        self.next_watch += 1;
        self.new_watches.push(NewWatchState { number, space, end: None });
        number
    }

    /// The end of the space of a watch that has begun.
    pub(crate) fn end_of_watch(&self, number: WatchNumber) -> Option<EndReason> {
        self.new_watches.iter().find(|watch| watch.number == number)?.end
    }

    /// Ends what [`begin_watch`](Self::begin_watch) began: the space has a bond now, or gets none.
    pub(crate) fn finish_watch(&mut self, number: WatchNumber) {
        self.new_watches.retain(|watch| watch.number != number);
    }

    /// Records the end of a space, and queues the armed exit handlers of its bonds. Returns `None`
    /// if the space has no bond, or if the end was recorded before.
    pub(crate) fn end_space(&mut self, space: SpaceId, reason: EndReason) -> Option<EndedSpace> {
        for watch in self.new_watches.iter_mut().filter(|watch| watch.space == space) {
            watch.end.get_or_insert(reason);
        }
        let state = self.spaces.get_mut(&space).filter(|state| state.end.is_none())?;
        state.end = Some(reason);
        state.record.end();
        let pasid = state.record.tag.pasid;
        let keys: Vec<BondKey> = state.bonds.iter().copied().collect();
        let mut queued = Vec::with_capacity(keys.len());
        for &key in &keys {
            if let Some(bond) = self.bond(key)
                && let ExitState::Armed(handler @ Some(_)) = &mut bond.exit
            {
                bond.exit = ExitState::Queued(handler.take());
                bond.callbacks += 1;
                queued.push(key);
            }
        }
        Some(EndedSpace { pasid, bonds: keys.len(), queued })
    }

    /// The IOTLB; `None` before the first space that needs it.
    pub(crate) fn iotlb(&self) -> Option<Arc<IotlbTable>> {
        self.iotlb.clone()
    }

    /// The part of the IOTLB of a space that has a bond.
    pub(crate) fn iotlb_of(&self, space: SpaceId) -> Option<Arc<SpaceIotlb>> {
        self.spaces.get(&space)?.record.iotlb.clone()
    }

    /// Closes a domain attachment that has been replaced, and wakes the waiting threads if no
    /// access is inside.
    pub(crate) fn close_attachment(&mut self, ended: &DomainAttachment) {
        if ended.gate.close() == Some(0) {
            self.has_changed = true;
        }
    }
}
