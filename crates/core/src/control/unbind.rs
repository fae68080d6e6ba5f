//! Unbinding and the end of a space.
//!
//! An unbind makes the bond [closing](Phase::Closing), has the device models stop issuing the
//! PASID, closes the gates of the PASID entries, and waits until the bond is gone, unless it runs
//! inside a callback. The last step of a closing bond (the last access that leaves a gate, the last
//! unpin, the device's completion, the drain of its page requests, the last handler that returns)
//! finishes the bond, on the thread that makes that step. So an unbind that
//! waits and one that does not take the same path.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::api::bond::{BondEnd, UnbindReport};
use crate::api::device::DeviceOps;
use crate::api::event::Event;
use crate::api::space::{EndReason, ExitWork};
use crate::quiesce::callback::{self, InCallback};
use crate::table::{
    BondKey, DeferredDrops, Drained, EndedSpace, ExitState, Iommu, PasidEntry, Phase, State,
};
use crate::types::ids::{Bdf, PasidTag, SpaceId};
use crate::types::range::AddrRange;

/// The PASID entries that are to be closed, and the device models that are to stop issuing their
/// PASIDs first.
#[derive(Default)]
pub(super) struct Teardown {
    entries: SmallVec<[Arc<PasidEntry>; 1]>,
    stops: Vec<(Arc<dyn DeviceOps>, PasidTag)>,
}

impl Teardown {
    /// All PASID entries of a closing bond.
    pub(super) fn of_bond(state: &mut State, key: BondKey) -> Self {
        let mut teardown = Self::default();
        if let Some(bond) = state.bond(key) {
            bond.entries.iter().for_each(|entry| teardown.add(entry));
        }
        teardown
    }

    /// Adds an entry, and the models of all devices that share its requester ID.
    pub(super) fn add(&mut self, entry: &Arc<PasidEntry>) {
        self.entries.push(Arc::clone(entry));
        let tag = entry.record.tag;
        self.stops
            .extend(entry.requester.models.read().iter().map(|(_, ops)| (Arc::clone(ops), tag)));
    }

    /// Adds the model of one device, without the entry, which stays open.
    pub(super) fn add_stop_of(&mut self, device: Bdf, entry: &PasidEntry) {
        let models = entry.requester.models.read();
        let model = models.iter().find(|(of, _)| *of == device);
        self.stops.extend(model.map(|(_, ops)| (Arc::clone(ops), entry.record.tag)));
    }

    /// Removes all models: none is asked to stop.
    pub(super) fn clear_stops(&mut self) {
        self.stops.clear();
    }

    /// Returns whether all entries have been removed from their PASID tables, so that no access
    /// through them is in flight. The caller holds the control lock.
    pub(super) fn is_over(&self, state: &mut State) -> bool {
        self.entries.iter().all(|entry| state.is_entry_removed(entry))
    }
}

impl Iommu {
    /// Has the device models stop issuing, then closes the entries. Returns what was in
    /// flight.
    pub(super) fn stop_and_close(&self, teardown: &Teardown) -> Drained {
        self.ask_to_stop(teardown);
        self.close_all(teardown)
    }

    /// Has the device models stop issuing the PASIDs of the entries.
    pub(super) fn ask_to_stop(&self, teardown: &Teardown) {
        if !teardown.stops.is_empty() {
            let _inside = InCallback::enter();
            for (ops, tag) in &teardown.stops {
                // The unbind goes on even if a model panics: closed gates keep its requests out.
                let _ = catch_unwind(AssertUnwindSafe(|| ops.stop_pasid(*tag)));
            }
        }
    }

    /// Closes the entries: no access starts through them, the devices invalidate their
    /// translations, and the page requests are drained. Returns what was in flight.
    pub(super) fn close_all(&self, teardown: &Teardown) -> Drained {
        teardown.entries.iter().map(|entry| self.close_entry(entry)).sum()
    }

    /// Unbinds for the [`Bond`](crate::Bond) or the container that has the bond, and waits until
    /// the bond is gone, unless inside a callback.
    pub(super) fn unbind(&self, key: BondKey) -> UnbindReport {
        self.perform_unbind(key, !callback::inside())
    }

    /// Unbinds as [`unbind`](Self::unbind) does, and does not wait.
    pub(super) fn begin_unbind(&self, key: BondKey) -> UnbindReport {
        self.perform_unbind(key, false)
    }

    /// Unbinds, and waits until the bond is gone if `wait` is true.
    fn perform_unbind(&self, key: BondKey, wait: bool) -> UnbindReport {
        let mut report = UnbindReport { deferred: !wait, ..UnbindReport::default() };
        // Declared before the others, so dropped after them: the drop of an unused handler runs
        // foreign code, which can block or panic. No new access starts by then.
        let mut drops = DeferredDrops::default();
        let mut state = self.lock();
        let was_live = state.begin_closing(key, &mut drops);
        report.space_ended = state.bond(key).is_some_and(|bond| bond.record.has_ended());
        let mut teardown = Teardown::default();
        if was_live || report.deferred {
            teardown = Teardown::of_bond(&mut state, key);
        }
        if !was_live {
            // The removal of the device ends the bond, and asks the model to stop. An unbind that
            // waits leaves the entries to the removal. One that is deferred closes them, so that no
            // access starts after it.
            teardown.clear_stops();
        }
        self.unlock(state);
        report.already_ended = !was_live;
        let drained = self.stop_and_close(&teardown);
        (report.drained, report.page_groups) = (drained.accesses, drained.page_groups);
        if !report.deferred {
            self.run_exit(key);
            self.wait_until(|state| state.is_gone(key));
        }
        self.with_state(|state, drops| {
            if let Some(bond) = state.bond(key) {
                report.handler_ran = matches!(
                    bond.exit,
                    ExitState::Done | ExitState::Running | ExitState::Queued(_)
                );
                report.deferred &= bond.phase != Phase::Gone;
            }
            state.handle_dropped(key, drops);
        });
        report
    }

    /// Ends a space: no access to it starts from here on, and no access through cached translations
    /// is in flight when this returns. Returns the exit handlers that the provider has to run.
    pub(super) fn space_ended(self, space: SpaceId, reason: EndReason) -> ExitWork {
        let mut state = self.lock();
        let iotlb = state.iotlb_of(space);
        let ended = state.end_space(space, reason);
        self.unlock(state);
        if let Some(iotlb) = iotlb {
            iotlb.invalidate(AddrRange::ALL).wait();
        }
        let Some(EndedSpace { pasid, bonds, queued }) = ended else { return ExitWork::none() };
        self.log(Event::SpaceEnded { space, pasid, reason, bonds });
        if queued.is_empty() {
            return ExitWork::none();
        }
        ExitWork::new(move || queued.into_iter().for_each(|key| self.run_exit(key)))
    }

    /// Runs the bond's exit handler if it is queued. The provider's thread and an unbind that
    /// would otherwise wait for that thread both call this. One of them takes the handler, under
    /// the control lock.
    fn run_exit(&self, key: BondKey) {
        let mut state = self.lock();
        let Some(bond) = state.bond(key) else { return };
        let ExitState::Queued(handler) = &mut bond.exit else { return };
        let Some(handler) = handler.take() else { return };
        bond.exit = ExitState::Running;
        let record = Arc::clone(&bond.record);
        let reason =
            state.spaces.get(&record.id).and_then(|space| space.end).unwrap_or(EndReason::Closed);
        self.unlock(state);
        let end = BondEnd { space: record.id, pasid: record.tag.pasid, reason };
        let inside = InCallback::enter();
        if catch_unwind(AssertUnwindSafe(|| handler(&end))).is_err() {
            self.log(Event::HandlerPanicked { space: record.id, pasid: record.tag.pasid });
        }
        drop(inside);
        self.with_state(|state, drops| {
            if let Some(bond) = state.bond(key) {
                bond.exit = ExitState::Done;
            }
            state.callback_done(key, drops);
        });
    }
}
