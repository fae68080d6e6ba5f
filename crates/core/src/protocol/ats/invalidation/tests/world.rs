//! The queue with its reference: makes each step on both and checks what it ends and sends.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The state of an invalidation in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    InFlight {
        tag: u8,
        serial: u64,
        due: Duration,
        tries: u8,
    },
    /// Ends when no translated request is in flight.
    UntilDrained,
    Ended,
}

/// An invalidation that was started.
pub(super) struct Started {
    pub(super) waiter: Arc<TestWaiter>,
    pasid: Pasid,
    range: AlignedRange,
    pub(super) state: State,
}

impl Started {
    fn is_covered_by(&self, request: &InvalidationRequest) -> bool {
        let (own, named) = (self.range, request.range);
        request.pasid.is_none_or(|pasid| pasid == self.pasid)
            && named.first() <= own.first()
            && own.last() <= named.last()
    }

    fn pages(&self) -> impl Iterator<Item = (u32, u64)> {
        let pasid = self.pasid.get();
        (self.range.first() >> 12..=self.range.last() >> 12).map(move |page| (pasid, page))
    }
}

/// The queue, with the gate of translated requests and the clock of its caller, and the reference.
pub(super) struct World {
    pub(super) queue: InvalidationQueue,
    pub(super) started: Vec<Started>,
    /// Since the backlog was last empty, more invalidations have waited than requests may: requests
    /// may be widened.
    may_widen: bool,
    sent: Vec<InvalidationRequest>,
    serials: BTreeSet<u64>,
    now: Duration,
    pub(super) translated: usize,
    is_open: bool,
    counts: InvalidationCounts,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            queue: InvalidationQueue::new(LIMIT, TRIES),
            started: Vec::new(),
            may_widen: false,
            sent: Vec::new(),
            serials: BTreeSet::new(),
            now: Duration::ZERO,
            translated: 0,
            is_open: false,
            counts: InvalidationCounts::default(),
        }
    }

    fn drained(&self) -> bool {
        !self.is_open && self.translated == 0
    }

    fn in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        let is_in_flight = |(n, invalidation): (usize, &Started)| {
            matches!(invalidation.state, State::InFlight { .. }).then_some(n)
        };
        self.started.iter().enumerate().filter_map(is_in_flight)
    }

    fn serial_of(&self, waiter: usize) -> Option<u64> {
        if let State::InFlight { serial, .. } = self.started[waiter].state {
            Some(serial)
        } else {
            None
        }
    }

    /// Makes a step and checks its effects. `ended` are the invalidations that it ends.
    fn apply(
        &mut self,
        ended: BTreeSet<usize>,
        change: impl FnOnce(&mut InvalidationQueue, &mut InvalidationActions),
    ) {
        let mut actions = InvalidationActions::default();
        change(&mut self.queue, &mut actions);
        let mut finished = BTreeSet::new();
        for waiter in actions.completed {
            let waiter = waiter.upgrade().expect("the test has all of them");
            let is_same = |started: &Started| {
                std::ptr::addr_eq(Arc::as_ptr(&started.waiter), Arc::as_ptr(&waiter))
            };
            let n = self.started.iter().position(is_same).expect("the test has started it");
            waiter.step();
            assert!(finished.insert(n));
            self.started[n].state = State::Ended;
        }
        assert_eq!(finished, ended);
        for request in actions.send {
            self.check_sent(request);
        }
        let serials: BTreeSet<u64> = self.in_flight().filter_map(|n| self.serial_of(n)).collect();
        let tag_of = |n: usize| {
            if let State::InFlight { tag, .. } = self.started[n].state { tag } else { 0 }
        };
        let tags: BTreeSet<u8> = self.in_flight().map(tag_of).collect();
        assert_eq!(tags.len(), serials.len(), "each request has a tag of its own");
        let waiting = self.waiting();
        assert!(
            waiting == 0 || serials.len() == Itag::COUNT,
            "a request waits only while no tag is free"
        );
        let requests = self.queue.backlog.requests();
        assert!(requests <= BACKLOG.min(waiting), "{requests} for {waiting}");
        self.may_widen &= waiting > 0;
        let outstanding =
            self.started.iter().filter(|invalidation| invalidation.state != State::Ended).count();
        let InvalidationCounts { merged, widened, .. } = self.queue.counts;
        assert!(self.may_widen || widened == self.counts.widened);
        (self.counts.merged, self.counts.widened) = (merged, widened);
        assert_eq!((self.queue.outstanding(), self.queue.counts), (outstanding, self.counts));
    }

    fn waiting(&self) -> usize {
        self.started.iter().filter(|invalidation| invalidation.state == State::Waiting).count()
    }

    fn check_sent(&mut self, request: InvalidationRequest) {
        assert!(!self.queue.is_blocked(), "a blocked device could not answer");
        assert!(self.serials.insert(request.serial), "the serial number is new");
        self.counts.sent += 1;
        let has_tag = |n: &usize| {
            let state = self.started[*n].state;
            matches!(state, State::InFlight { tag, .. } if tag == request.tag.get())
        };
        let repeated: Vec<usize> = self.in_flight().filter(has_tag).collect();
        let (sent, tries) = match repeated.first().map(|n| self.started[*n].state) {
            Some(State::InFlight { serial, due, tries, .. }) => {
                assert!(due <= self.now && tries > 0, "it is not overdue");
                let earlier = self.sent.iter().find(|sent| sent.serial == serial).expect("sent");
                assert_eq!((request.pasid, request.range), (earlier.pasid, earlier.range));
                (repeated, tries - 1)
            }
            _ => (self.check_first(&request), TRIES - 1),
        };
        self.sent.push(request);
        let state = State::InFlight {
            tag: request.tag.get(),
            serial: request.serial,
            due: self.now + LIMIT,
            tries,
        };
        sent.into_iter().for_each(|n| self.started[n].state = state);
    }

    /// A request that is sent for the first time covers the invalidation that has waited longest.
    /// It names exactly the invalidations that it covers, unless requests may be widened. Returns
    /// those.
    fn check_first(&self, request: &InvalidationRequest) -> Vec<usize> {
        let waits = |n: &usize| self.started[*n].state == State::Waiting;
        let all = 0..self.started.len();
        let covered: Vec<usize> =
            all.clone().filter(waits).filter(|n| self.started[*n].is_covered_by(request)).collect();
        assert_eq!(
            covered.first().copied(),
            all.clone().find(waits),
            "in the order in which they were started"
        );
        let pages: BTreeSet<(u32, u64)> =
            covered.iter().flat_map(|n| self.started[*n].pages()).collect();
        let named = 1u128 << (request.range.bits() - 12);
        assert!(
            self.may_widen || request.pasid.is_some() && named == pages.len() as u128,
            "{request:?} for {pages:?}"
        );
        covered
    }

    /// Shuts the gate. Returns the invalidations that a step which blocks the device ends; the
    /// others end when the gate has drained.
    fn block(&mut self) -> BTreeSet<usize> {
        self.is_open = false;
        let drained = self.drained();
        let mut ended = BTreeSet::new();
        for (n, invalidation) in self.started.iter_mut().enumerate() {
            if matches!(invalidation.state, State::Waiting | State::InFlight { .. }) {
                self.counts.canceled += 1;
                if drained {
                    ended.insert(n);
                } else {
                    invalidation.state = State::UntilDrained;
                }
            }
        }
        ended
    }

    /// Does what the caller does when the gate has drained.
    fn settle(&mut self) {
        if self.drained() {
            let ended = self
                .started
                .iter()
                .enumerate()
                .filter(|(_, invalidation)| invalidation.state == State::UntilDrained)
                .map(|(n, _)| n)
                .collect();
            self.apply(ended, |queue, actions| queue.translated_requests_drained(actions));
            self.is_open = !self.queue.is_blocked();
        }
    }

    fn start(&mut self, pasid: Pasid, range: AlignedRange) {
        let (n, drained, now, waiter) =
            (self.started.len(), self.drained(), self.now, TestWaiter::new());
        let blocked = self.queue.is_blocked();
        self.counts.canceled += u64::from(blocked);
        let pending = PendingInvalidation::new(Some(pasid), range, weak(&waiter));
        self.started.push(Started {
            waiter,
            pasid,
            range,
            state: if blocked { State::UntilDrained } else { State::Waiting },
        });
        self.may_widen |= self.waiting() > BACKLOG;
        let ended = if blocked && drained { BTreeSet::from([n]) } else { BTreeSet::new() };
        self.apply(ended, |queue, actions| queue.start(pending, drained, Some(now), actions));
    }

    fn complete(&mut self, completion: InvalidationCompletion) {
        let (tag, serial) = (completion.tag.get(), completion.serial);
        let matches = |n: &usize| match self.started[*n].state {
            State::InFlight { tag: sent, serial: number, .. } => (sent, number) == (tag, serial),
            _ => false,
        };
        let ended: BTreeSet<usize> = self.in_flight().filter(matches).collect();
        self.counts.unexpected += u64::from(ended.is_empty());
        self.counts.completed += ended.len() as u64;
        let now = self.now;
        self.apply(ended, |queue, actions| {
            queue.complete(completion, actions);
            queue.send_backlog(Some(now), actions);
        });
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        let now = self.now;
        let overdue: BTreeMap<usize, u8> = self
            .in_flight()
            .filter_map(|n| {
                if let State::InFlight { due, tries, .. } = self.started[n].state {
                    (due <= now).then_some((n, tries))
                } else {
                    None
                }
            })
            .collect();
        self.counts.timed_out +=
            overdue.keys().filter_map(|n| self.serial_of(*n)).collect::<BTreeSet<u64>>().len()
                as u64;
        let mut is_exhausted = false;
        self.apply(BTreeSet::new(), |queue, actions| is_exhausted = queue.tick(now, actions));
        assert_eq!(is_exhausted, overdue.values().any(|tries| *tries == 0));
        if is_exhausted {
            let ended = self.block();
            let drained = self.drained();
            self.apply(ended, |queue, actions| queue.cut_off(drained, actions));
            assert!(self.queue.is_cut_off() && self.queue.is_halted());
        } else {
            let is_repeated = |n: &usize| {
                let state = self.started[*n].state;
                matches!(state, State::InFlight { due, .. } if due == now + LIMIT)
            };
            assert!(overdue.keys().all(is_repeated), "all overdue requests have been sent again");
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Start { pasid, page, bits } => {
                let range = AlignedRange::new(page << 12 >> bits << bits, bits).expect("aligned");
                self.start(Pasid::new(pasid).expect("small"), range);
            }
            Step::Complete { which } => {
                let serials: Vec<u64> =
                    self.in_flight().filter_map(|n| self.serial_of(n)).collect();
                let in_flight = serials
                    .get(which / 2 % serials.len().max(1))
                    .filter(|_| which.is_multiple_of(2));
                let wanted = in_flight
                    .and_then(|serial| self.sent.iter().find(|request| request.serial == *serial));
                let Some(request) =
                    wanted.or_else(|| self.sent.get(which % self.sent.len().max(1)))
                else {
                    return;
                };
                self.complete(InvalidationCompletion { tag: request.tag, serial: request.serial });
            }
            Step::CompleteWrong { tag, serial } => self
                .complete(InvalidationCompletion { tag: Itag::new(tag).expect("0..=31"), serial }),
            Step::Advance { seconds } => self.advance(Duration::from_secs(seconds)),
            Step::Enter => self.translated += usize::from(self.is_open),
            Step::Leave => {
                self.translated = self.translated.saturating_sub(1);
                self.settle();
            }
            Step::Enable => {
                if !self.queue.is_enabled() && !self.queue.is_halted() {
                    self.queue.enable();
                    self.settle();
                }
            }
            Step::Disable => {
                let ended = self.block();
                let drained = self.drained();
                self.apply(ended, |queue, actions| queue.disable(drained, actions));
            }
            Step::BeginReset => {
                let ended = self.block();
                let drained = self.drained();
                self.apply(ended, |queue, actions| queue.begin_reset(drained, actions));
            }
            Step::EndReset => {
                if self.queue.resets > 0 && self.queue.end_reset() {
                    assert!(!self.queue.is_cut_off());
                    self.settle();
                }
            }
            Step::Remove => {
                let ended = self.block();
                let drained = self.drained();
                self.apply(ended, |queue, actions| queue.remove(drained, actions));
            }
        }
    }
}
