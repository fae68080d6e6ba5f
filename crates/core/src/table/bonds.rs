//! The life of a bond, from [`Phase::Live`] to [`Phase::Gone`], and what is dropped at its end.

use std::sync::Arc;

use smallvec::SmallVec;
use sva_sync::atomic::Ordering;

use super::bond::{BondKind, BondState, ExitState, Phase};
use super::bond_key::BondKey;
use super::records::{DeviceRecord, PasidEntry, Requester};
use super::space::SpaceRecord;
use super::state::{DeferredDrops, SpaceState, State, UnboundSpace};
use crate::api::bond::{ExitHandler, IsolationHandler};
use crate::api::device::Features;
use crate::api::pri::PageRequestHandler;
use crate::types::ids::{Pasid, SpaceId};

impl State {
    /// The state of a bond; `None` once it has been removed.
    pub(crate) fn bond(&mut self, key: BondKey) -> Option<&mut BondState> {
        self.bonds.get_mut(key)
    }

    /// The number of bonds that are not gone.
    pub(crate) fn live_bonds(&self) -> usize {
        self.spaces.values().map(|space| space.bonds.len()).sum()
    }

    /// Inserts a live bond without entries. Its space has been inserted before.
    pub(crate) fn insert_bond(
        &mut self,
        kind: BondKind,
        record: Arc<SpaceRecord>,
        features: Features,
        exit: Option<ExitHandler>,
        on_isolation: Option<IsolationHandler>,
        page_handler: Option<Arc<dyn PageRequestHandler>>,
    ) -> BondKey {
        let space = record.id;
        let bond = BondState {
            phase: Phase::Live,
            kind,
            record,
            features,
            entries: SmallVec::new(),
            page_handler,
            times: None,
            exit: ExitState::Armed(exit),
            on_isolation,
            callbacks: 0,
            is_handle_dropped: false,
        };
        let key = self.bonds.insert(bond);
        if let Some(state) = self.spaces.get_mut(&space) {
            state.bonds.insert(key);
        }
        key
    }

    /// Inserts an unpublished entry for a bond into the PASID table of `requester`. The bond is
    /// live, and the table has no entry for its PASID.
    fn program_entry(
        &mut self,
        key: BondKey,
        requester: &Arc<Requester>,
    ) -> Option<Arc<PasidEntry>> {
        let bond = self.bonds.get_mut(key)?;
        let entry = PasidEntry::new(&bond.record, bond.features, key, requester);
        requester.table.write().insert(bond.record.tag.pasid, Arc::clone(&entry));
        bond.entries.push(Arc::clone(&entry));
        Some(entry)
    }

    /// Adds requesters to a live bond, whose PASID is free in their tables. All entries are
    /// programmed before the first is published.
    pub(crate) fn add_requesters(&mut self, key: BondKey, requesters: &[Arc<Requester>]) {
        let programmed: SmallVec<[_; 1]> =
            requesters.iter().filter_map(|requester| self.program_entry(key, requester)).collect();
        for entry in &programmed {
            entry.is_published.store(true, Ordering::Release);
        }
    }

    /// Begins the end of a live bond. From here on no exit or isolation handler of it starts,
    /// except one that is queued. Returns false if the bond is not live: its end has begun before.
    pub(crate) fn begin_closing(&mut self, key: BondKey, drops: &mut DeferredDrops) -> bool {
        let Some(bond) = self.bond(key).filter(|bond| bond.phase == Phase::Live) else {
            return false;
        };
        bond.phase = Phase::Closing;
        if let ExitState::Armed(handler) = &mut bond.exit {
            drops.exit_handlers.extend(handler.take());
            bond.exit = ExitState::Disarmed;
        }
        // A bond whose last entry was removed before (by removals of devices or by groups that left
        // a container) has no later step that would finish it.
        self.finish_closing(key, drops);
        true
    }

    /// Notes that the user's handle does not read the state of the bond any more.
    pub(crate) fn handle_dropped(&mut self, key: BondKey, drops: &mut DeferredDrops) {
        if let Some(bond) = self.bond(key) {
            bond.is_handle_dropped = true;
        }
        self.finish_closing(key, drops);
    }

    /// Removes an entry, all of whose steps have been made, from its bond and its PASID table.
    pub(crate) fn remove_entry(&mut self, entry: &Arc<PasidEntry>, drops: &mut DeferredDrops) {
        let pasid = entry.record.tag.pasid;
        if let Some(bond) = self.bond(entry.bond)
            && let Some(at) = bond.entries.iter().position(|known| Arc::ptr_eq(known, entry))
        {
            bond.entries.swap_remove(at);
            entry.requester.table.write().remove(&pasid);
            if let Some(times) = entry.times.lock().take() {
                bond.times.get_or_insert_default().merge(&times);
            }
        }
        self.has_changed = true;
        self.finish_closing(entry.bond, drops);
    }

    /// Whether an entry has been removed from its bond and its PASID table.
    pub(crate) fn is_entry_removed(&mut self, entry: &Arc<PasidEntry>) -> bool {
        self.bond(entry.bond)
            .is_none_or(|bond| !bond.entries.iter().any(|known| Arc::ptr_eq(known, entry)))
    }

    /// Whether a bond is gone.
    pub(crate) fn is_gone(&mut self, key: BondKey) -> bool {
        self.bond(key).is_none_or(|bond| bond.phase == Phase::Gone)
    }

    /// The bond, if devices can be added to it: it is live, and its space has not ended.
    pub(crate) fn joinable_bond(&mut self, key: BondKey) -> Option<&mut BondState> {
        self.bond(key).filter(|bond| bond.phase == Phase::Live && !bond.record.has_ended())
    }

    /// Notes that a handler of the bond has returned.
    pub(crate) fn callback_done(&mut self, key: BondKey, drops: &mut DeferredDrops) {
        if let Some(bond) = self.bond(key) {
            bond.callbacks -= 1;
        }
        self.has_changed = true;
        self.finish_closing(key, drops);
    }

    /// The devices that may cache translations of a space, each with its PASID there. Devices whose
    /// entries are being closed are included.
    pub(crate) fn ats_devices_of(&mut self, space: SpaceId) -> Vec<(Arc<DeviceRecord>, Pasid)> {
        let Some(state) = self.spaces.get(&space) else { return Vec::new() };
        let pasid = state.record.tag.pasid;
        let bonds = state.bonds.iter().filter_map(|key| self.bonds.get(*key));
        let requesters = bonds.flat_map(|bond| &bond.entries).map(|entry| &entry.requester);
        requesters
            .filter_map(|requester| requester.ats_device())
            .map(|device| (device, pasid))
            .collect()
    }

    /// Makes a closing bond gone once it has no entry and no handler is queued or running. The last
    /// bond of a space releases the PASID and removes the space: until then accesses of the earlier
    /// owner may be in flight, so the PASID must not be allocated again. Removes the record of a
    /// gone bond once the user's handle does not read it any more.
    fn finish_closing(&mut self, key: BondKey, drops: &mut DeferredDrops) {
        let Some(bond) = self.bond(key) else { return };
        if bond.phase == Phase::Closing && bond.entries.is_empty() && bond.callbacks == 0 {
            bond.phase = Phase::Gone;
            let (space, kind) = (bond.record.id, bond.kind);
            self.has_changed = true;
            if let BondKind::Group(group) = kind
                && let Some(group) = self.groups.get_mut(&group)
            {
                group.bonds.retain(|known| *known != key);
                let id = group.id;
                self.remove_group_if_empty(id);
            }
            self.remove_bond_from_space(space, key, drops);
        }
        if self.bond(key).is_some_and(|bond| bond.phase == Phase::Gone && bond.is_handle_dropped) {
            drops.bonds.extend(self.bonds.remove(key));
        }
    }

    fn remove_bond_from_space(&mut self, space: SpaceId, key: BondKey, drops: &mut DeferredDrops) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        state.bonds.remove(&key);
        if state.bonds.is_empty()
            && let Some(SpaceState { record, watch, .. }) = self.spaces.remove(&space)
        {
            self.pasids.release(record.tag);
            drops.spaces.push(UnboundSpace { record, watch });
        }
    }
}
