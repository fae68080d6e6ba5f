//! All control state, under the one control lock.
//!
//! The methods here change state and call nobody. What has to happen once the lock is released (handlers and spaces to drop, watches to take back) they put into an
//! [`Aftermath`], which the caller declares before it takes the lock.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;

use super::parts::{Attachment, DeviceInner, GroupFace, Models, Requester, SpaceRecord};
use crate::bond::{AnyData, BondEnd, IsolationChange};
use crate::device::Features;
use crate::domain::{Domain, DomainUse, Translation};
use crate::gate::Gate;
use crate::ids::{Bdf, ContainerId, GroupId, Pasid, PasidTag, RequesterId, SpaceId};
use crate::invalidation::Countdown;
use crate::iotlb::{Kept, Table};
use crate::mutation;
use crate::pasid::PasidAllocator;
use crate::pri::owner::PageRequestHandler;
use crate::pri::queue::DeviceKey;
use crate::pri::times::FaultTimes;
use crate::space::{AddressSpace, EndReason, WatchToken};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::topology::GroupKey;

pub(crate) type ExitHandler = Box<dyn FnOnce(&BondEnd) + Send>;
pub(crate) type IsolationHandler = Arc<dyn Fn(&IsolationChange) + Send + Sync>;

/// A space with at least one bond.
pub(crate) struct SpaceState {
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) end: Option<EndReason>,
    pub(crate) bonds: FxHashSet<BondKey>,
    watch: WatchToken,
}

/// Names a bond: an index that is used again and a serial number that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BondKey {
    index: u32,
    serial: u64,
}

/// Who asked for a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BondKind {
    /// The bond ends with this device, also where others use its requester ID.
    Device(Bdf),
    Group(GroupId),
    Container(ContainerId),
}

/// Where a bond is in its life. It goes down this list and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Live,
    /// Claimed by whoever unbinds it: gets no new attachment, no handler of it starts but one that is queued.
    Closing,
    /// No access, no handler, no PASID.
    Gone,
}

/// The exit handler's life; each step is made under the control lock, so that it runs at most once.
pub(crate) enum Exit {
    Armed(Option<ExitHandler>),
    /// The space has ended and the handler waits for its turn. It counts in `callbacks`.
    Queued(Option<ExitHandler>),
    Running,
    Done,
    Disarmed,
}

pub(crate) struct BondState {
    serial: u64,
    pub(crate) phase: Phase,
    pub(crate) kind: BondKind,
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) features: Features,
    pub(crate) attachments: SmallVec<[Arc<Attachment>; 1]>,
    pub(crate) handler: Option<Arc<dyn PageRequestHandler>>,
    /// Of the faults of attachments that have been taken out.
    pub(crate) times: Option<Box<FaultTimes>>,
    pub(crate) exit: Exit,
    pub(crate) on_isolation: Option<IsolationHandler>,
    /// Handlers of this bond that are queued or running.
    pub(crate) callbacks: u32,
    /// The owned value is gone: the entry goes when the bond is gone.
    owner_gone: bool,
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
        self.face.alone.store(self.members.len() == 1 && self.container.is_none(), Ordering::Relaxed);
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

/// A space whose last bond is gone. Dropping it takes the watch back and lets go of the space.
struct Released {
    record: Arc<SpaceRecord>,
    watch: WatchToken,
}

impl Drop for Released {
    fn drop(&mut self) {
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

    /// The bond that `key` names, while its entry exists.
    pub(crate) fn bond(&mut self, key: BondKey) -> Option<&mut BondState> {
        self.bonds.get_mut(key.index as usize).filter(|bond| bond.serial == key.serial)
    }

    /// How many bonds are not gone.
    pub(crate) fn live_bonds(&self) -> usize {
        self.spaces.values().map(|space| space.bonds.len()).sum()
    }

    /// The group for `key`, made where there is none.
    pub(crate) fn group_for(&mut self, key: GroupKey) -> &mut GroupState {
        let next = &mut self.next_group;
        let id = *self.group_of.entry(key).or_insert_with(|| {
            *next += 1;
            GroupId(*next - 1)
        });
        self.groups.entry(id).or_insert_with(|| {
            let face = GroupFace { translation: Translation::blocking(), alone: AtomicBool::new(false) };
            let own = Arc::clone(&face.translation.current().domain);
            GroupState { id, key, members: Vec::new(), face: Arc::new(face), own, container: None, bonds: Vec::new() }
        })
    }

    /// Drops the group where nothing is in it and nobody holds it.
    pub(crate) fn forget_empty_group(&mut self, id: GroupId) {
        let idle =
            |group: &GroupState| group.members.is_empty() && group.container.is_none() && group.bonds.is_empty() && group.own.len() == 0;
        if let Some(group) = self.groups.get(&id).filter(|group| idle(group)) {
            self.group_of.remove(&group.key);
            self.groups.remove(&id);
        }
    }

    /// Enters a space that has no bond yet, and watches it.
    pub(crate) fn enter_space(&mut self, space: &Arc<dyn AddressSpace>, tag: PasidTag, watch: WatchToken) {
        let bytes = self.iotlb_bytes;
        let table = &mut self.iotlb;
        let record = SpaceRecord::new(space, tag, || Arc::clone(table.get_or_insert_with(|| Arc::new(Table::new(bytes)))));
        let state = SpaceState { record: Arc::new(record), end: None, bonds: FxHashSet::default(), watch };
        self.spaces.insert(space.id(), state);
    }

    /// Enters a bond without attachments. The space has been entered before.
    pub(crate) fn enter_bond(
        &mut self,
        kind: BondKind,
        record: Arc<SpaceRecord>,
        features: Features,
        exit: Option<ExitHandler>,
        on_isolation: Option<IsolationHandler>,
        handler: Option<Arc<dyn PageRequestHandler>>,
    ) -> BondKey {
        let serial = self.next_serial;
        self.next_serial += 1;
        let space = record.id;
        let bond = BondState {
            serial,
            phase: Phase::Live,
            kind,
            record,
            features,
            attachments: SmallVec::new(),
            handler,
            times: None,
            exit: Exit::Armed(exit),
            on_isolation,
            callbacks: 0,
            owner_gone: false,
        };
        // A bond has a PASID and a requester: 2^20 times 2^32 at the very most, but each takes memory; the index cannot pass 2^32 before that is gone.
        let key = BondKey { index: self.bonds.insert(bond) as u32, serial };
        if let Some(state) = self.spaces.get_mut(&space) {
            state.bonds.insert(key);
        }
        key
    }

    /// Programs the table entry of `requester` for a bond: reserved, not yet published (rule B4). The slot is free and the bond is live.
    pub(crate) fn program(&mut self, key: BondKey, requester: &Arc<Requester>) -> Option<Arc<Attachment>> {
        let bond = self.bonds.get_mut(key.index as usize).filter(|bond| bond.serial == key.serial)?;
        let attachment = Arc::new(Attachment {
            gate: Gate::new(),
            published: AtomicBool::new(false),
            record: Arc::clone(&bond.record),
            features: bond.features,
            bond: key,
            requester: Arc::clone(requester),
            left: Countdown::new(Attachment::STEPS),
            times: Mutex::default(),
        });
        requester.table.write().insert(bond.record.tag.pasid, Arc::clone(&attachment));
        bond.attachments.push(Arc::clone(&attachment));
        Some(attachment)
    }

    /// Claims a live bond for its unbind: no handler starts any more, but one that is queued. False where somebody else has claimed it.
    pub(crate) fn claim(&mut self, key: BondKey, after: &mut Aftermath) -> bool {
        let Some(bond) = self.bond(key).filter(|bond| bond.phase == Phase::Live) else { return false };
        bond.phase = Phase::Closing;
        if let Exit::Armed(handler) = &mut bond.exit {
            after.handlers.extend(handler.take());
            bond.exit = Exit::Disarmed;
        }
        // Nothing else finishes a bond that has lost its last attachment before, to removals or to groups that left.
        self.settle(key, after);
        true
    }

    /// The owned value is gone or will not ask again.
    pub(crate) fn disown(&mut self, key: BondKey, after: &mut Aftermath) {
        if let Some(bond) = self.bond(key) {
            bond.owner_gone = true;
        }
        self.settle(key, after);
    }

    /// Takes out an attachment that nothing is left of.
    pub(crate) fn retire(&mut self, attachment: &Arc<Attachment>, after: &mut Aftermath) {
        let pasid = attachment.record.tag.pasid;
        if let Some(bond) = self.bond(attachment.bond)
            && let Some(at) = bond.attachments.iter().position(|held| Arc::ptr_eq(held, attachment))
        {
            bond.attachments.swap_remove(at);
            attachment.requester.table.write().remove(&pasid);
            if let Some(times) = attachment.times.lock().take() {
                bond.times.get_or_insert_default().merge(&times);
            }
        }
        self.news = true;
        self.settle(attachment.bond, after);
    }

    /// Whether an attachment has been taken out of its bond and its table.
    pub(crate) fn is_retired(&mut self, attachment: &Arc<Attachment>) -> bool {
        self.bond(attachment.bond).is_none_or(|bond| !bond.attachments.iter().any(|held| Arc::ptr_eq(held, attachment)))
    }

    /// A handler of the bond has returned.
    pub(crate) fn callback_done(&mut self, key: BondKey, after: &mut Aftermath) {
        if let Some(bond) = self.bond(key) {
            bond.callbacks -= 1;
        }
        self.news = true;
        self.settle(key, after);
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

    /// The devices that may keep translations of a space, each with the PASID that it has there. Those included whose entries are being taken out.
    pub(crate) fn translating_users(&mut self, space: SpaceId) -> Vec<(Arc<DeviceInner>, Pasid)> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let pasid = state.record.tag.pasid;
        let bonds = state.bonds.iter().filter_map(|key| self.bonds.get(key.index as usize).filter(|bond| bond.serial == key.serial));
        let requesters = bonds.flat_map(|bond| &bond.attachments).map(|attachment| &attachment.requester);
        requesters.filter_map(|requester| requester.translating()).map(|device| (device, pasid)).collect()
    }

    /// Finishes a bond that is closing once nothing of it is left, and the space's PASID with its last bond (rule U5).
    fn settle(&mut self, key: BondKey, after: &mut Aftermath) {
        let Some(bond) = self.bond(key) else { return };
        if bond.phase == Phase::Closing && bond.attachments.is_empty() && bond.callbacks == 0 {
            bond.phase = Phase::Gone;
            let (space, kind) = (bond.record.id, bond.kind);
            self.news = true;
            if let BondKind::Group(group) = kind
                && let Some(group) = self.groups.get_mut(&group)
            {
                group.bonds.retain(|held| *held != key);
                let id = group.id;
                self.forget_empty_group(id);
            }
            self.release_bond_of(space, key, after);
        }
        if self.bond(key).is_some_and(|bond| bond.phase == Phase::Gone && bond.owner_gone) {
            after.bonds.push(self.bonds.remove(key.index as usize));
        }
    }

    fn release_bond_of(&mut self, space: SpaceId, key: BondKey, after: &mut Aftermath) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.bonds.remove(&key);
        if state.bonds.is_empty()
            && let Some(SpaceState { record, watch, .. }) = self.spaces.remove(&space)
        {
            self.pasids.release(record.tag);
            after.released.push(Released { record, watch });
        }
    }

    /// Closes the use of a domain that a group has left; whoever waits learns when it is empty.
    pub(crate) fn close_use(&mut self, ended: &DomainUse) {
        if ended.gate.close() == Some(0) {
            self.news = true;
        }
    }
}
