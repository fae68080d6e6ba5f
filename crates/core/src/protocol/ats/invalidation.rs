//! The IOMMU's side of invalidations to one device: tags in flight, time-outs, and the blocked
//! state in which there is nothing to wait for.
//!
//! A state machine without locks, links or clock. What it answers says what is to be sent and who
//! has waited long enough; the caller does both with no lock held. Invariants:
//!
//! 1. Everything that was started is finished exactly once: by its completion, or because the
//!    device is blocked (in reset, cut off, removed, ATS off) and no translated request of it is
//!    under way. A blocked device gets no translated request through and forgets all translations
//!    before it is let in again.
//! 2. A tag is used for one invalidation at a time, with a serial number that no other use has: a
//!    completion that comes late or twice finishes nothing.
//! 3. Nothing is sent to a blocked device: it could not answer (each message would time out by
//!    itself).
//! 4. At most [`Itag::COUNT`] messages are in flight and [`BACKLOG`](super::backlog::BACKLOG)
//!    more wait, whatever a device leaves unanswered, with or without a clock.

use std::time::Duration;

use smallvec::SmallVec;

use super::backlog::{Backlog, Waiters};
use super::counts::InvalidationCounts;
use crate::api::ats::{InvalidationCompletion, InvalidationRequest, Itag};
use crate::quiesce::Waiter;

pub(crate) use super::backlog::PendingInvalidation;

struct InFlight {
    serial: u64,
    pending: PendingInvalidation,
    due: Option<Duration>,
    tries: u8,
}

/// What follows from a step.
#[derive(Default)]
pub(crate) struct InvalidationActions {
    /// Messages to send.
    pub(crate) send: SmallVec<[InvalidationRequest; 1]>,
    /// Those that need not wait any more.
    pub(crate) completed: Vec<Waiter>,
}

/// The invalidations of one device.
pub(crate) struct InvalidationQueue {
    /// ATS is on.
    enabled: bool,
    /// Resets that have begun and are not done; the device is blocked while there is one.
    resets: u32,
    /// It is cut off until a reset.
    cut: bool,
    gone: bool,
    /// By tag. Empty until the first: most devices have none.
    in_flight: Vec<Option<InFlight>>,
    backlog: Backlog,
    /// Somebody sends those that wait, and looks again after each message.
    sending: bool,
    /// What is over when no translated request is under way any more.
    until_drained: Waiters,
    next_serial: u64,
    limit: Duration,
    tries: u8,
    pub(crate) counts: InvalidationCounts,
}

impl InvalidationQueue {
    /// ATS off. A completion is awaited for `limit`, `tries` times (at least once).
    pub(crate) fn new(limit: Duration, tries: u8) -> Self {
        Self {
            enabled: false,
            resets: 0,
            cut: false,
            gone: false,
            in_flight: Vec::new(),
            backlog: Backlog::default(),
            sending: false,
            until_drained: Waiters::default(),
            next_serial: 0,
            limit,
            tries: tries.max(1),
            counts: InvalidationCounts::default(),
        }
    }

    /// Whether translated requests are refused and invalidations have nothing to do.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.enabled || self.is_halted()
    }

    /// Whether the device gets nothing through at all.
    pub(crate) fn is_halted(&self) -> bool {
        self.resets > 0 || self.cut || self.gone
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut
    }

    /// What is not finished yet.
    pub(crate) fn outstanding(&self) -> usize {
        let sent: usize =
            self.in_flight.iter().flatten().map(|flight| flight.pending.waiters.asked).sum();
        sent + self.backlog.asked() + self.until_drained.asked
    }

    /// Has the device forget. `is_drained`: no translated request of it is under way.
    pub(crate) fn start(
        &mut self,
        pending: PendingInvalidation,
        is_drained: bool,
        now: Option<Duration>,
        actions: &mut InvalidationActions,
    ) {
        if self.is_blocked() {
            self.counts.canceled += 1;
            match is_drained {
                true => pending.waiters.finish(&mut actions.completed),
                false => self.until_drained.join(pending.waiters),
            }
            return;
        }
        self.backlog.add(pending, &mut self.counts);
        self.send_backlog(now, actions);
    }

    /// Whether the caller is to send those that wait, until there is no more to send: one at a time
    /// does that, see [`Iommu`](crate::Iommu).
    pub(crate) fn begin_sending(&mut self) -> bool {
        !self.backlog.is_empty() && !std::mem::replace(&mut self.sending, true)
    }

    /// The caller has sent all that can be sent, or has failed to.
    pub(crate) fn end_sending(&mut self) {
        self.sending = false;
    }

    /// Sends as many of those that wait as there are free tags.
    pub(crate) fn send_backlog(
        &mut self,
        now: Option<Duration>,
        actions: &mut InvalidationActions,
    ) {
        while let Some(tag) = self.free_tag() {
            let Some(pending) = self.backlog.next() else { return };
            let tries = self.tries - 1;
            self.send(tag, pending, tries, now, actions);
        }
    }

    fn send(
        &mut self,
        tag: Itag,
        pending: PendingInvalidation,
        tries: u8,
        now: Option<Duration>,
        actions: &mut InvalidationActions,
    ) {
        let serial = self.next_serial;
        self.next_serial += 1;
        actions.send.push(InvalidationRequest {
            tag,
            serial,
            pasid: pending.pasid,
            global: false,
            range: pending.range,
        });
        self.counts.sent += 1;
        let due = now.map(|now| now.saturating_add(self.limit));
        if self.in_flight.is_empty() {
            self.in_flight.resize_with(Itag::COUNT, || None);
        }
        self.in_flight[usize::from(tag.get())] = Some(InFlight { serial, pending, due, tries });
    }

    fn free_tag(&self) -> Option<Itag> {
        let at = if self.in_flight.is_empty() {
            Some(0)
        } else {
            self.in_flight.iter().position(Option::is_none)
        };
        Itag::new(at? as u8)
    }

    /// The device says that it has forgotten. Where a tag is free with that and somebody waits for
    /// one, [`send_backlog`](Self::send_backlog) comes next.
    pub(crate) fn complete(
        &mut self,
        completion: InvalidationCompletion,
        actions: &mut InvalidationActions,
    ) {
        let slot = self.in_flight.get_mut(usize::from(completion.tag.get()));
        match slot.and_then(|slot| slot.take_if(|flight| flight.serial == completion.serial)) {
            Some(flight) => {
                self.counts.completed += flight.pending.waiters.asked as u64;
                flight.pending.waiters.finish(&mut actions.completed);
            }
            None => self.counts.unexpected += 1,
        }
    }

    /// It is `now`: what is overdue is tried again. True where that has been done often enough for
    /// one of them: the device is to be cut off, which finishes them all.
    #[must_use = "the device is to be cut off"]
    pub(crate) fn tick(&mut self, now: Duration, actions: &mut InvalidationActions) -> bool {
        let overdue = |flight: &InFlight| flight.due.is_some_and(|due| due <= now);
        let late = self.in_flight.iter().flatten().filter(|flight| overdue(flight));
        let (count, hopeless) = late.fold((0, false), |(count, hopeless), flight| {
            (count + 1, hopeless || flight.tries == 0)
        });
        self.counts.timed_out += count;
        if hopeless {
            return true;
        }
        for at in 0..self.in_flight.len() {
            let Some(flight) = self.in_flight[at].take_if(|flight| overdue(flight)) else {
                continue;
            };
            if let Some(tag) = Itag::new(at as u8) {
                self.send(tag, flight.pending, flight.tries - 1, Some(now), actions);
            }
        }
        false
    }

    /// Everything that was to be forgotten is over: at once where the device is `is_drained`, else when
    /// it is.
    fn cancel_all(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        let in_flight =
            self.in_flight.iter_mut().filter_map(Option::take).map(|flight| flight.pending);
        for PendingInvalidation { waiters, .. } in in_flight.chain(self.backlog.take_all()) {
            self.counts.canceled += waiters.asked as u64;
            match is_drained {
                true => waiters.finish(&mut actions.completed),
                false => self.until_drained.join(waiters),
            }
        }
    }

    /// No translated request is under way any more, and none can start.
    pub(crate) fn translated_requests_drained(&mut self, actions: &mut InvalidationActions) {
        std::mem::take(&mut self.until_drained).finish(&mut actions.completed);
    }

    /// Switches ATS on; the device has forgotten everything before.
    pub(crate) fn enable(&mut self) {
        self.enabled = true;
    }

    /// Switches ATS off: translated requests have been stopped before.
    pub(crate) fn disable(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.enabled = false;
        self.cancel_all(is_drained, actions);
    }

    /// The device is cut off until it is reset.
    pub(crate) fn cut_off(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.cut = true;
        self.cancel_all(is_drained, actions);
    }

    /// A reset begins, maybe inside another one.
    pub(crate) fn begin_reset(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.resets += 1;
        self.cancel_all(is_drained, actions);
    }

    /// A reset is done. True where it was the last, so that the device is let in again.
    pub(crate) fn end_reset(&mut self) -> bool {
        self.resets = self.resets.saturating_sub(1);
        if self.resets > 0 {
            return false;
        }
        self.cut = false;
        !self.gone
    }

    /// The device is gone for good.
    pub(crate) fn remove(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.gone = true;
        self.cancel_all(is_drained, actions);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
