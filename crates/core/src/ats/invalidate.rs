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
//! 4. At most [`Itag::COUNT`] messages are in flight and [`WAITING`](waiting::WAITING) more wait,
//!    whatever a device leaves unanswered and with or without a clock ([`waiting`]).

mod waiting;

use std::time::Duration;

use smallvec::SmallVec;

use super::message::{InvalidationCompletion, InvalidationRequest, Itag};
use crate::mutation;

pub(crate) use waiting::{Job, Waiter};
use waiting::{Waiters, Waiting};

struct Flight {
    serial: u64,
    job: Job,
    due: Option<Duration>,
    tries: u8,
}

/// What follows from a step.
#[derive(Default)]
pub(crate) struct Todo {
    /// Messages to send.
    pub(crate) send: SmallVec<[InvalidationRequest; 1]>,
    /// Those that need not wait any more.
    pub(crate) finished: Vec<Waiter>,
}

/// What happened, since the device was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InvalidationCounts {
    /// Messages sent, repetitions included.
    pub sent: u64,
    /// Invalidations that went into the message of another one, while all tags were in use.
    pub joined: u64,
    /// Times that a message came to name all of a PASID or of the device, because too many were
    /// waiting.
    pub widened: u64,
    /// Invalidations that the device completed.
    pub completed: u64,
    /// Times that a completion did not come in time.
    pub timed_out: u64,
    /// Completions that fit no invalidation in flight: late, doubled or wrong.
    pub unexpected: u64,
    /// Invalidations that were over because the device was blocked.
    pub moot: u64,
}

/// See the module.
pub(crate) struct Invalidator {
    /// ATS is on.
    enabled: bool,
    /// Resets that have begun and are not done; the device is blocked while there is one.
    resets: u32,
    /// It is cut off until a reset.
    cut: bool,
    gone: bool,
    /// By tag. Empty until the first: most devices have none.
    flights: Vec<Option<Flight>>,
    waiting: Waiting,
    /// Somebody sends those that wait, and looks again after each message.
    sending: bool,
    /// What is over when no translated request is under way any more.
    until_quiet: Waiters,
    next_serial: u64,
    limit: Duration,
    tries: u8,
    pub(crate) counts: InvalidationCounts,
}

impl Invalidator {
    /// ATS off. A completion is awaited for `limit`, `tries` times (at least once).
    pub(crate) fn new(limit: Duration, tries: u8) -> Self {
        Self {
            enabled: false,
            resets: 0,
            cut: false,
            gone: false,
            flights: Vec::new(),
            waiting: Waiting::default(),
            sending: false,
            until_quiet: Waiters::default(),
            next_serial: 0,
            limit,
            tries: tries.max(1),
            counts: InvalidationCounts::default(),
        }
    }

    /// Whether translated requests are refused and invalidations have nothing to do.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.enabled || self.stands_still()
    }

    /// Whether the device gets nothing through at all.
    pub(crate) fn stands_still(&self) -> bool {
        self.resets > 0 || self.cut || self.gone
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut
    }

    pub(crate) fn is_in_reset(&self) -> bool {
        self.resets > 0
    }

    /// What is not finished yet.
    pub(crate) fn under_way(&self) -> usize {
        let in_flight: usize =
            self.flights.iter().flatten().map(|flight| flight.job.waiters.asked).sum();
        in_flight + self.waiting.asked() + self.until_quiet.asked
    }

    /// Has the device forget. `quiet`: no translated request of it is under way.
    pub(crate) fn start(&mut self, job: Job, quiet: bool, now: Option<Duration>, todo: &mut Todo) {
        if self.is_blocked() && !mutation::is_on(28) {
            self.counts.moot += 1;
            match quiet {
                true => job.waiters.finish(&mut todo.finished),
                false => self.until_quiet.join(job.waiters),
            }
            return;
        }
        self.waiting.add(job, &mut self.counts);
        self.send_waiting(now, todo);
    }

    /// Whether the caller is to send those that wait, until there is no more to send: one at a time
    /// does that, see [`Iommu`](crate::Iommu).
    pub(crate) fn begin_sending(&mut self) -> bool {
        !self.waiting.is_empty() && !std::mem::replace(&mut self.sending, true)
    }

    /// The caller has sent all that can be sent, or has failed to.
    pub(crate) fn end_sending(&mut self) {
        self.sending = false;
    }

    /// Sends as many of those that wait as there are free tags.
    pub(crate) fn send_waiting(&mut self, now: Option<Duration>, todo: &mut Todo) {
        while let Some(tag) = self.free_tag() {
            let Some(job) = self.waiting.next() else { return };
            let tries = self.tries - 1;
            self.launch(tag, job, tries, now, todo);
        }
    }

    fn launch(&mut self, tag: Itag, job: Job, tries: u8, now: Option<Duration>, todo: &mut Todo) {
        let serial = self.next_serial;
        self.next_serial += 1;
        todo.send.push(InvalidationRequest {
            tag,
            serial,
            pasid: job.pasid,
            global: false,
            range: job.range,
        });
        self.counts.sent += 1;
        let due = now.map(|now| now.saturating_add(self.limit));
        if self.flights.is_empty() {
            self.flights.resize_with(Itag::COUNT, || None);
        }
        self.flights[usize::from(tag.get())] = Some(Flight { serial, job, due, tries });
    }

    fn free_tag(&self) -> Option<Itag> {
        let at = if self.flights.is_empty() {
            Some(0)
        } else {
            self.flights.iter().position(Option::is_none)
        };
        Itag::new(at? as u8)
    }

    /// The device says that it has forgotten. Where a tag is free with that and somebody waits for
    /// one, [`send_waiting`](Self::send_waiting) comes next.
    pub(crate) fn complete(&mut self, completion: InvalidationCompletion, todo: &mut Todo) {
        let slot = self.flights.get_mut(usize::from(completion.tag.get()));
        match slot.and_then(|slot| slot.take_if(|flight| flight.serial == completion.serial)) {
            Some(flight) => {
                self.counts.completed += flight.job.waiters.asked as u64;
                flight.job.waiters.finish(&mut todo.finished);
            }
            None => self.counts.unexpected += 1,
        }
    }

    /// It is `now`: what is overdue is tried again. True where that has been done often enough for
    /// one of them: the device is to be cut off, which finishes them all.
    #[must_use = "the device is to be cut off"]
    pub(crate) fn tick(&mut self, now: Duration, todo: &mut Todo) -> bool {
        let overdue = |flight: &Flight| flight.due.is_some_and(|due| due <= now);
        let late = self.flights.iter().flatten().filter(|flight| overdue(flight));
        let (count, hopeless) = late.fold((0, false), |(count, hopeless), flight| {
            (count + 1, hopeless || flight.tries == 0)
        });
        self.counts.timed_out += count;
        if hopeless {
            return true;
        }
        for at in 0..self.flights.len() {
            let Some(flight) = self.flights[at].take_if(|flight| overdue(flight)) else { continue };
            if let Some(tag) = Itag::new(at as u8) {
                self.launch(tag, flight.job, flight.tries - 1, Some(now), todo);
            }
        }
        false
    }

    /// Everything that was to be forgotten is over: at once where the device is `quiet`, else when
    /// it is.
    fn abandon(&mut self, quiet: bool, todo: &mut Todo) {
        if mutation::is_on(28) {
            return;
        }
        let flights = self.flights.iter_mut().filter_map(Option::take).map(|flight| flight.job);
        for Job { waiters, .. } in flights.chain(self.waiting.take_all()) {
            self.counts.moot += waiters.asked as u64;
            match quiet {
                true => waiters.finish(&mut todo.finished),
                false => self.until_quiet.join(waiters),
            }
        }
    }

    /// No translated request is under way any more, and none can start.
    pub(crate) fn is_quiet_now(&mut self, todo: &mut Todo) {
        std::mem::take(&mut self.until_quiet).finish(&mut todo.finished);
    }

    /// Switches ATS on; the device has forgotten everything before.
    pub(crate) fn enable(&mut self) {
        self.enabled = true;
    }

    /// Switches ATS off: translated requests have been stopped before.
    pub(crate) fn disable(&mut self, quiet: bool, todo: &mut Todo) {
        self.enabled = false;
        self.abandon(quiet, todo);
    }

    /// The device is cut off until it is reset.
    pub(crate) fn cut_off(&mut self, quiet: bool, todo: &mut Todo) {
        self.cut = true;
        self.abandon(quiet, todo);
    }

    /// A reset begins, maybe inside another one.
    pub(crate) fn begin_reset(&mut self, quiet: bool, todo: &mut Todo) {
        self.resets += 1;
        self.abandon(quiet, todo);
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
    pub(crate) fn remove(&mut self, quiet: bool, todo: &mut Todo) {
        self.gone = true;
        self.abandon(quiet, todo);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
