//! Unbinding and the end of a space (rules U1 to U5).
//!
//! An unbind claims the bond, has the devices stop, closes the gates, and then waits until the bond
//! is gone, unless it runs inside a callback (rule U3). Whoever takes the last thing out of a
//! claimed bond (the last access out of a gate, the last handler) finishes it: so the one that
//! waits and the one that does not go the same way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::api::bond::{BondEnd, UnbindReport};
use crate::api::device::DeviceOps;
use crate::api::event::Event;
use crate::api::pri::FaultTimes;
use crate::api::space::{EndReason, ExitWork};
use crate::quiesce::callback::{self, InCallback};
use crate::table::{BondKey, DeferredDrops, ExitState, Iommu, PasidEntry, Phase, SpaceEnd, State};
use crate::types::ids::{Bdf, PasidTag, SpaceId};
use crate::types::range::AddrRange;

/// What there is to close once a bond has been claimed.
#[derive(Default)]
pub(super) struct Teardown {
    entries: SmallVec<[Arc<PasidEntry>; 1]>,
    /// Models that are to stop issuing a PASID first.
    stops: Vec<(Arc<dyn DeviceOps>, PasidTag)>,
}

impl Teardown {
    /// All of a claimed bond.
    pub(super) fn of_bond(state: &mut State, key: BondKey) -> Self {
        let mut teardown = Self::default();
        if let Some(bond) = state.bond(key) {
            bond.entries.iter().for_each(|entry| teardown.add(entry));
        }
        teardown
    }

    /// One entry; the models of all devices behind its requester ID are to stop.
    pub(super) fn add(&mut self, entry: &Arc<PasidEntry>) {
        self.entries.push(Arc::clone(entry));
        let tag = entry.record.tag;
        self.stops
            .extend(entry.requester.models.read().iter().map(|(_, ops)| (Arc::clone(ops), tag)));
    }

    /// The model of one device is to stop, and the entry stays.
    pub(super) fn add_stop_of(&mut self, device: Bdf, entry: &PasidEntry) {
        let models = entry.requester.models.read();
        let model = models.iter().find(|(of, _)| *of == device);
        self.stops.extend(model.map(|(_, ops)| (Arc::clone(ops), entry.record.tag)));
    }

    /// The devices are gone: nobody is to be asked to stop.
    pub(super) fn forget_stops(&mut self) {
        self.stops.clear();
    }

    /// Whether no access is left in any of them. Asked with the control lock held.
    pub(super) fn is_over(&self, state: &mut State) -> bool {
        self.entries.iter().all(|entry| state.is_entry_removed(entry))
    }
}

impl Iommu {
    /// The devices stop issuing, then the entries become non-present, then devices forget and page
    /// requests are drained (rule U1). Answers how many accesses were in flight, and
    /// how many groups of page requests were answered.
    pub(super) fn stop_access(&self, teardown: &Teardown) -> (usize, usize) {
        self.ask_to_stop(teardown);
        self.close_all(teardown)
    }

    /// Has the models stop issuing.
    pub(super) fn ask_to_stop(&self, teardown: &Teardown) {
        if !teardown.stops.is_empty() {
            let _inside = InCallback::enter();
            for (ops, tag) in &teardown.stops {
                // A model that panics has stopped in its own way; the unbind goes on.
                let _ = catch_unwind(AssertUnwindSafe(|| ops.stop_pasid(*tag)));
            }
        }
    }

    /// Makes the entries non-present, and does what follows from that. Answers as
    /// [`stop_access`](Self::stop_access).
    pub(super) fn close_all(&self, teardown: &Teardown) -> (usize, usize) {
        let closed = teardown.entries.iter().map(|entry| self.close_entry(entry));
        closed.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Unbinds on behalf of the owned value, which is going.
    pub(crate) fn unbind(&self, key: BondKey) -> UnbindReport {
        self.unbind_and(key, !callback::inside())
    }

    /// As [`unbind`](Self::unbind) from inside a callback: waits for nothing, wherever it is
    /// called.
    pub(crate) fn begin_unbind(&self, key: BondKey) -> UnbindReport {
        self.unbind_and(key, false)
    }

    fn unbind_and(&self, key: BondKey, wait: bool) -> UnbindReport {
        let mut report = UnbindReport { deferred: !wait, ..UnbindReport::default() };
        // Declared first, dropped last: dropping the unused handler runs foreign code, which may
        // take its time or panic. Access has stopped by then.
        let mut drops = DeferredDrops::default();
        let mut state = self.lock();
        let claimed = state.begin_closing(key, &mut drops);
        report.space_ended = state.bond(key).is_some_and(|bond| bond.record.has_ended());
        let mut teardown = Teardown::default();
        if claimed || report.deferred {
            teardown = Teardown::of_bond(&mut state, key);
        }
        if !claimed {
            // A removal has claimed it and is asking the device to stop. It is waited for, or in a
            // callback not even that: access stops here and now.
            teardown.forget_stops();
        }
        self.unlock(state);
        report.already_ended = !claimed;
        (report.drained, report.page_groups) = self.stop_access(&teardown);
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

    /// Whether nothing of a bond is left.
    pub(crate) fn bond_is_gone(&self, key: BondKey) -> bool {
        self.lock().is_gone(key)
    }

    /// The times of a bond's faults, of all its devices.
    pub(crate) fn fault_times(&self, key: BondKey) -> FaultTimes {
        let mut state = self.lock();
        let Some(bond) = state.bond(key) else { return FaultTimes::default() };
        let mut times = bond.times.as_deref().cloned().unwrap_or_default();
        for entry in &bond.entries {
            if let Some(more) = &*entry.times.lock() {
                times.merge(more);
            }
        }
        times
    }

    pub(crate) fn bond_is_live(&self, key: BondKey) -> bool {
        self.lock()
            .bond(key)
            .is_some_and(|bond| bond.phase == Phase::Live && !bond.record.has_ended())
    }

    /// A space has ended: stops all access to it and answers the exit handlers that are to run.
    pub(super) fn space_ended(self, space: SpaceId, reason: EndReason) -> ExitWork {
        let mut state = self.lock();
        let iotlb = state.iotlb_of(space);
        let ended = state.end_space(space, reason);
        self.unlock(state);
        if let Some(iotlb) = iotlb {
            iotlb.invalidate(AddrRange::ALL).wait();
        }
        let Some(SpaceEnd { pasid, bonds, queued }) = ended else { return ExitWork::none() };
        self.log(Event::SpaceEnded { space, pasid, reason, bonds });
        if queued.is_empty() {
            return ExitWork::none();
        }
        ExitWork::new(move || queued.into_iter().for_each(|key| self.run_exit(key)))
    }

    /// Runs the bond's exit handler where it is queued. Both the provider's thread and an unbind
    /// that does not want to wait for it come here; one of them gets it.
    fn run_exit(&self, key: BondKey) {
        let mut state = self.lock();
        let Some(bond) = state.bond(key) else { return };
        let ExitState::Queued(handler) = &mut bond.exit else { return };
        let Some(handler) = handler.take() else { return };
        bond.exit = ExitState::Running;
        let record = Arc::clone(&bond.record);
        let reason =
            state.spaces.get(&record.id).and_then(|space| space.end).unwrap_or(EndReason::Closed);
        drop(state);
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
