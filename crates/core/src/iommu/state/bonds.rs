//! Bonds as the control state has them: their life from [`Phase::Live`] to [`Phase::Gone`], and
//! what they let go of at its end.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Aftermath, Released, SpaceState, State};
use crate::bond::{BondEnd, IsolationChange};
use crate::device::Features;
use crate::gate::Gate;
use crate::ids::{Bdf, ContainerId, GroupId, Pasid, SpaceId};
use crate::invalidation::Countdown;
use crate::iommu::parts::{Attachment, DeviceInner, Requester, SpaceRecord};
use crate::pri::owner::PageRequestHandler;
use crate::pri::times::FaultTimes;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicBool;

pub(crate) type ExitHandler = Box<dyn FnOnce(&BondEnd) + Send>;
pub(crate) type IsolationHandler = Arc<dyn Fn(&IsolationChange) + Send + Sync>;

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
    /// Claimed by whoever unbinds it: gets no new attachment, no handler of it starts but one that
    /// is queued.
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

impl State {
    /// The bond that `key` names, while its entry exists.
    pub(crate) fn bond(&mut self, key: BondKey) -> Option<&mut BondState> {
        self.bonds.get_mut(key.index as usize).filter(|bond| bond.serial == key.serial)
    }

    /// How many bonds are not gone.
    pub(crate) fn live_bonds(&self) -> usize {
        self.spaces.values().map(|space| space.bonds.len()).sum()
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
        // A bond has a PASID and a requester: 2^20 times 2^32 at the very most, but each takes
        // memory; the index cannot pass 2^32 before that is gone.
        let key = BondKey { index: self.bonds.insert(bond) as u32, serial };
        if let Some(state) = self.spaces.get_mut(&space) {
            state.bonds.insert(key);
        }
        key
    }

    /// Programs the table entry of `requester` for a bond: reserved, not yet published (rule B4).
    /// The slot is free and the bond is live.
    pub(crate) fn program(
        &mut self,
        key: BondKey,
        requester: &Arc<Requester>,
    ) -> Option<Arc<Attachment>> {
        let bond =
            self.bonds.get_mut(key.index as usize).filter(|bond| bond.serial == key.serial)?;
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

    /// Claims a live bond for its unbind: no handler starts any more, but one that is queued. False
    /// where somebody else has claimed it.
    pub(crate) fn claim(&mut self, key: BondKey, after: &mut Aftermath) -> bool {
        let Some(bond) = self.bond(key).filter(|bond| bond.phase == Phase::Live) else {
            return false;
        };
        bond.phase = Phase::Closing;
        if let Exit::Armed(handler) = &mut bond.exit {
            after.handlers.extend(handler.take());
            bond.exit = Exit::Disarmed;
        }
        // Nothing else finishes a bond that has lost its last attachment before, to removals or to
        // groups that left.
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
        self.bond(attachment.bond)
            .is_none_or(|bond| !bond.attachments.iter().any(|held| Arc::ptr_eq(held, attachment)))
    }

    /// A handler of the bond has returned.
    pub(crate) fn callback_done(&mut self, key: BondKey, after: &mut Aftermath) {
        if let Some(bond) = self.bond(key) {
            bond.callbacks -= 1;
        }
        self.news = true;
        self.settle(key, after);
    }

    /// The devices that may keep translations of a space, each with the PASID that it has there.
    /// Those included whose entries are being taken out.
    pub(crate) fn translating_users(&mut self, space: SpaceId) -> Vec<(Arc<DeviceInner>, Pasid)> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let pasid = state.record.tag.pasid;
        let bonds = state.bonds.iter().filter_map(|key| {
            self.bonds.get(key.index as usize).filter(|bond| bond.serial == key.serial)
        });
        let requesters =
            bonds.flat_map(|bond| &bond.attachments).map(|attachment| &attachment.requester);
        requesters
            .filter_map(|requester| requester.translating())
            .map(|device| (device, pasid))
            .collect()
    }

    /// Finishes a bond that is closing once nothing of it is left, and the space's PASID with its
    /// last bond (rule U5).
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
}
