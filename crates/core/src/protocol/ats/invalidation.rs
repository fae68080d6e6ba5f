//! The invalidation queue of the IOMMU for one device: tags in flight, time-outs, and the blocked
//! state, in which invalidations need no answer of the device.
//!
//! It is a state machine without locks, links or clock. It returns the requests to send and the
//! waiters to complete as [`InvalidationActions`]; the caller does both with no lock held.
//! Invariants:
//!
//! 1. Every invalidation that was started ends exactly once: with its completion, or when the
//!    device is blocked (in reset, cut off, removed, ATS off) and none of its translated requests
//!    is in flight. Translated requests of a blocked device are refused, and the device discards
//!    all translations before it is unblocked.
//! 2. A tag is used for one request at a time, with a serial number that no other use has. A late
//!    or duplicated completion therefore ends nothing.
//! 3. Nothing is sent to a blocked device: it could not answer, and each request would time out.
//! 4. At most [`Itag::COUNT`] requests are in flight and at most
//!    [`BACKLOG`](super::backlog::BACKLOG) more wait, whether or not the device answers and whether
//!    or not there is a clock.

use std::time::Duration;

use smallvec::SmallVec;

use super::backlog::{Backlog, Waiters};
use super::counts::InvalidationCounts;
use crate::api::ats::{InvalidationCompletion, InvalidationRequest, Itag};
use crate::quiesce::WeakWaiter;

pub(crate) use super::backlog::PendingInvalidation;

/// A request that has been sent and not completed.
struct InFlight {
    serial: u64,
    pending: PendingInvalidation,
    due: Option<Duration>,
    /// The number of times that it may be sent again.
    retries: u8,
}

/// What the caller is to do after a call.
#[derive(Default)]
pub(crate) struct InvalidationActions {
    /// Requests to send.
    pub(crate) send: SmallVec<[InvalidationRequest; 1]>,
    /// Waiters of invalidations that have ended.
    pub(crate) completed: Vec<WeakWaiter>,
}

/// The invalidations of one device.
pub(crate) struct InvalidationQueue {
    /// Whether ATS is on.
    is_enabled: bool,
    /// The number of resets in progress.
    resets: u32,
    /// Whether the device is cut off, until it is reset.
    is_cut_off: bool,
    is_removed: bool,
    /// The requests in flight, by tag. Empty until the first request, which most devices never get.
    in_flight: Vec<Option<InFlight>>,
    backlog: Backlog,
    /// Whether a thread is sending the backlog. It checks for more after each request.
    is_sending: bool,
    /// Waiters of invalidations that end when no translated request is in flight any more.
    until_drained: Waiters,
    next_serial: u64,
    limit: Duration,
    /// The number of times that a request is sent at most.
    tries: u8,
    pub(crate) counts: InvalidationCounts,
}

impl InvalidationQueue {
    /// Makes a queue with ATS off. A request is sent up to `tries` times (at least once); each time
    /// its completion may take `limit`.
    pub(crate) fn new(limit: Duration, tries: u8) -> Self {
        Self {
            is_enabled: false,
            resets: 0,
            is_cut_off: false,
            is_removed: false,
            in_flight: Vec::new(),
            backlog: Backlog::default(),
            is_sending: false,
            until_drained: Waiters::default(),
            next_serial: 0,
            limit,
            tries: tries.max(1),
            counts: InvalidationCounts::default(),
        }
    }

    /// Whether translated requests are refused, so that invalidations need no answer of the device.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.is_enabled || self.is_halted()
    }

    /// Whether all requests of the device are refused: it is in reset, cut off or removed.
    pub(crate) fn is_halted(&self) -> bool {
        self.resets > 0 || self.is_cut_off || self.is_removed
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// The number of invalidations that have not ended.
    pub(crate) fn outstanding(&self) -> usize {
        let sent: usize =
            self.in_flight.iter().flatten().map(|request| request.pending.waiters.count).sum();
        sent + self.backlog.invalidations() + self.until_drained.count
    }

    /// Starts an invalidation. `is_drained` says that no translated request of the device is in
    /// flight and none can start.
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

    /// Begins the sending of the backlog. Returns true if the caller is to call
    /// [`send_backlog`](Self::send_backlog) until nothing is left to send, and then
    /// [`end_sending`](Self::end_sending); false if the backlog is empty, or another thread is
    /// sending it. One thread at a time sends in a loop: a link may deliver a request and its
    /// completion within the call that sends it. The start of an invalidation and a tick send what
    /// has a tag once and do not loop.
    pub(crate) fn begin_sending(&mut self) -> bool {
        !self.backlog.is_empty() && !std::mem::replace(&mut self.is_sending, true)
    }

    /// Ends the sending of the backlog: nothing is left to send, or a link has panicked.
    pub(crate) fn end_sending(&mut self) {
        self.is_sending = false;
    }

    /// Sends requests of the backlog while there are free tags.
    pub(crate) fn send_backlog(
        &mut self,
        now: Option<Duration>,
        actions: &mut InvalidationActions,
    ) {
        while let Some(tag) = self.free_tag() {
            let Some(pending) = self.backlog.next() else { return };
            let retries = self.tries - 1;
            self.send(tag, pending, retries, now, actions);
        }
    }

    fn send(
        &mut self,
        tag: Itag,
        pending: PendingInvalidation,
        retries: u8,
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
        self.in_flight[usize::from(tag.get())] = Some(InFlight { serial, pending, due, retries });
    }

    fn free_tag(&self) -> Option<Itag> {
        let at = if self.in_flight.is_empty() {
            Some(0)
        } else {
            self.in_flight.iter().position(Option::is_none)
        };
        Itag::new(at? as u8)
    }

    /// Takes a completion. It frees a tag, so that the caller is to call
    /// [`begin_sending`](Self::begin_sending) next.
    pub(crate) fn complete(
        &mut self,
        completion: InvalidationCompletion,
        actions: &mut InvalidationActions,
    ) {
        let slot = self.in_flight.get_mut(usize::from(completion.tag.get()));
        match slot.and_then(|slot| slot.take_if(|request| request.serial == completion.serial)) {
            Some(request) => {
                self.counts.completed += request.pending.waiters.count as u64;
                request.pending.waiters.finish(&mut actions.completed);
            }
            None => self.counts.unexpected += 1,
        }
    }

    /// Sends requests that are overdue at `now` again. Returns true, and sends nothing, if one of
    /// them has no try left: the caller is to [cut the device off](Self::cut_off), which ends all
    /// invalidations.
    #[must_use = "the device is to be cut off"]
    pub(crate) fn tick(&mut self, now: Duration, actions: &mut InvalidationActions) -> bool {
        let is_overdue = |request: &InFlight| request.due.is_some_and(|due| due <= now);
        let overdue = self.in_flight.iter().flatten().filter(|request| is_overdue(request));
        let (count, is_exhausted) = overdue.fold((0, false), |(count, is_exhausted), request| {
            (count + 1, is_exhausted || request.retries == 0)
        });
        self.counts.timed_out += count;
        if is_exhausted {
            return true;
        }
        for at in 0..self.in_flight.len() {
            let Some(request) = self.in_flight[at].take_if(|request| is_overdue(request)) else {
                continue;
            };
            if let Some(tag) = Itag::new(at as u8) {
                self.send(tag, request.pending, request.retries - 1, Some(now), actions);
            }
        }
        false
    }

    /// Ends all invalidations of a blocked device: at once if `is_drained`, otherwise when
    /// [its translated requests have drained](Self::translated_requests_drained).
    fn cancel_all(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        let in_flight =
            self.in_flight.iter_mut().filter_map(Option::take).map(|request| request.pending);
        for PendingInvalidation { waiters, .. } in in_flight.chain(self.backlog.take_all()) {
            self.counts.canceled += waiters.count as u64;
            match is_drained {
                true => waiters.finish(&mut actions.completed),
                false => self.until_drained.join(waiters),
            }
        }
    }

    /// Ends the invalidations that waited for translated requests: none is in flight any more, and
    /// none can start.
    pub(crate) fn translated_requests_drained(&mut self, actions: &mut InvalidationActions) {
        std::mem::take(&mut self.until_drained).finish(&mut actions.completed);
    }

    /// Switches ATS on. The cache of the device is empty.
    pub(crate) fn enable(&mut self) {
        self.is_enabled = true;
    }

    /// Switches ATS off. The caller has stopped translated requests.
    pub(crate) fn disable(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.is_enabled = false;
        self.cancel_all(is_drained, actions);
    }

    /// Cuts the device off until it is reset.
    pub(crate) fn cut_off(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.is_cut_off = true;
        self.cancel_all(is_drained, actions);
    }

    /// Begins a reset. Resets nest.
    pub(crate) fn begin_reset(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.resets += 1;
        self.cancel_all(is_drained, actions);
    }

    /// Ends a reset. Returns true if it was the last one in progress and the device is still
    /// present, so that its requests are served again.
    pub(crate) fn end_reset(&mut self) -> bool {
        self.resets = self.resets.saturating_sub(1);
        if self.resets > 0 {
            return false;
        }
        self.is_cut_off = false;
        !self.is_removed
    }

    /// Removes the device, for good.
    pub(crate) fn remove(&mut self, is_drained: bool, actions: &mut InvalidationActions) {
        self.is_removed = true;
        self.cancel_all(is_drained, actions);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
