//! Random sequences of all that can happen to invalidations: every waiter is finished exactly once,
//! not too early and not too late.

mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use proptest::prelude::*;

use super::super::backlog::BACKLOG;
use super::*;
use crate::api::ats::AlignedRange;
use crate::quiesce::{Completion, Countdown};
use crate::types::ids::Pasid;

const LIMIT: Duration = Duration::from_secs(10);
const TRIES: u8 = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Start {
        pasid: u32,
        page: u64,
        bits: u8,
    },
    /// The completion of a message that has been sent at some time comes.
    Complete {
        which: usize,
    },
    /// One with any tag and any serial number comes.
    CompleteWrong {
        tag: u8,
        serial: u64,
    },
    Later {
        seconds: u64,
    },
    Enter,
    Leave,
    Enable,
    Disable,
    BeginReset,
    EndReset,
    Remove,
}

/// Where an invalidation is, as the test knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Waiting,
    InFlight {
        tag: u8,
        serial: u64,
        due: Duration,
        tries: u8,
    },
    /// Over when no translated request is under way.
    UntilQuiet,
    Over,
}

/// One invalidation, as it was asked for.
struct Asked {
    part: Arc<Part>,
    pasid: Pasid,
    range: AlignedRange,
    at: At,
}

impl Asked {
    fn is_covered_by(&self, request: &InvalidationRequest) -> bool {
        let (mine, named) = (self.range, request.range);
        request.pasid.is_none_or(|pasid| pasid == self.pasid)
            && named.first() <= mine.first()
            && mine.last() <= named.last()
    }

    fn pages(&self) -> impl Iterator<Item = (u32, u64)> {
        let pasid = self.pasid.get();
        (self.range.first() >> 12..=self.range.last() >> 12).map(move |page| (pasid, page))
    }
}

/// A part that is to be completed once.
struct Part(Countdown);

impl Part {
    fn new() -> Arc<Self> {
        Arc::new(Self(Countdown::new(1)))
    }

    fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl Completion for Part {
    fn step(self: Arc<Self>) {
        assert!(self.0.step(), "completed twice");
    }
}

fn waiter(part: &Arc<Part>) -> Waiter {
    let part: Waiter = Arc::downgrade(part) as _;
    part
}

/// The invalidator, with what its caller has: the gate of translated requests and the clock.
struct World {
    invalidator: InvalidationQueue,
    waiters: Vec<Asked>,
    /// More invalidations have waited at a time than messages may, since none did: what is sent
    /// may name more than was asked for.
    crowded: bool,
    sent: Vec<InvalidationRequest>,
    serials: BTreeSet<u64>,
    now: Duration,
    inside: usize,
    open: bool,
    counts: InvalidationCounts,
}

impl World {
    fn new() -> Self {
        Self {
            invalidator: InvalidationQueue::new(LIMIT, TRIES),
            waiters: Vec::new(),
            crowded: false,
            sent: Vec::new(),
            serials: BTreeSet::new(),
            now: Duration::ZERO,
            inside: 0,
            open: false,
            counts: InvalidationCounts::default(),
        }
    }

    fn drained(&self) -> bool {
        !self.open && self.inside == 0
    }

    fn in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        let flies =
            |(n, asked): (usize, &Asked)| matches!(asked.at, At::InFlight { .. }).then_some(n);
        self.waiters.iter().enumerate().filter_map(flies)
    }

    fn serial_of(&self, waiter: usize) -> Option<u64> {
        if let At::InFlight { serial, .. } = self.waiters[waiter].at { Some(serial) } else { None }
    }

    /// Makes a step and checks all that follows from it. `over`: whose wait it ends.
    fn then(
        &mut self,
        over: BTreeSet<usize>,
        change: impl FnOnce(&mut InvalidationQueue, &mut InvalidationActions),
    ) {
        let mut actions = InvalidationActions::default();
        change(&mut self.invalidator, &mut actions);
        let mut finished = BTreeSet::new();
        for waiter in actions.completed {
            let waiter = waiter.upgrade().expect("the test keeps them all");
            let is_it =
                |known: &Asked| std::ptr::addr_eq(Arc::as_ptr(&known.part), Arc::as_ptr(&waiter));
            let n = self.waiters.iter().position(is_it).expect("one of the test's");
            waiter.step();
            assert!(finished.insert(n));
            self.waiters[n].at = At::Over;
        }
        assert_eq!(finished, over);
        for request in actions.send {
            self.note_sent(request);
        }
        let flights: BTreeSet<u64> = self.in_flight().filter_map(|n| self.serial_of(n)).collect();
        let tag_of =
            |n: usize| if let At::InFlight { tag, .. } = self.waiters[n].at { tag } else { 0 };
        let tags: BTreeSet<u8> = self.in_flight().map(tag_of).collect();
        assert_eq!(tags.len(), flights.len(), "each has a tag of its own");
        let waiting = self.waiting();
        assert!(
            waiting == 0 || flights.len() == Itag::COUNT,
            "one waits for nothing else than a tag"
        );
        let messages = self.invalidator.backlog.messages();
        assert!(messages <= BACKLOG.min(waiting), "{messages} for {waiting}");
        self.crowded &= waiting > 0;
        let outstanding = self.waiters.iter().filter(|asked| asked.at != At::Over).count();
        let InvalidationCounts { joined, widened, .. } = self.invalidator.counts;
        assert!(self.crowded || widened == self.counts.widened);
        (self.counts.joined, self.counts.widened) = (joined, widened);
        assert_eq!(
            (self.invalidator.outstanding(), self.invalidator.counts),
            (outstanding, self.counts)
        );
    }

    fn waiting(&self) -> usize {
        self.waiters.iter().filter(|asked| asked.at == At::Waiting).count()
    }

    fn note_sent(&mut self, request: InvalidationRequest) {
        assert!(!self.invalidator.is_blocked(), "it could not answer");
        assert!(self.serials.insert(request.serial), "used before");
        self.counts.sent += 1;
        let again: Vec<usize> =
            self.in_flight().filter(|n| matches!(self.waiters[*n].at, At::InFlight { tag, .. } if tag == request.tag.get())).collect();
        let (sent, tries) = match again.first().map(|n| self.waiters[*n].at) {
            Some(At::InFlight { serial, due, tries, .. }) => {
                assert!(due <= self.now && tries > 0, "it is not overdue");
                let earlier = self.sent.iter().find(|sent| sent.serial == serial).expect("sent");
                assert_eq!((request.pasid, request.range), (earlier.pasid, earlier.range));
                (again, tries - 1)
            }
            _ => (self.note_first(&request), TRIES - 1),
        };
        self.sent.push(request);
        let at = At::InFlight {
            tag: request.tag.get(),
            serial: request.serial,
            due: self.now + LIMIT,
            tries,
        };
        sent.into_iter().for_each(|n| self.waiters[n].at = at);
    }

    /// A message that has waited is for all that it covers, and for the one that has waited
    /// longest; it names nothing else unless too many waited.
    fn note_first(&self, request: &InvalidationRequest) -> Vec<usize> {
        let waits = |n: &usize| self.waiters[*n].at == At::Waiting;
        let all = 0..self.waiters.len();
        let covered: Vec<usize> =
            all.clone().filter(waits).filter(|n| self.waiters[*n].is_covered_by(request)).collect();
        assert_eq!(
            covered.first().copied(),
            all.clone().find(waits),
            "in the order in which they were started"
        );
        let asked: BTreeSet<(u32, u64)> =
            covered.iter().flat_map(|n| self.waiters[*n].pages()).collect();
        let named = 1u128 << (request.range.bits() - 12);
        assert!(
            self.crowded || request.pasid.is_some() && named == asked.len() as u128,
            "{request:?} for {asked:?}"
        );
        covered
    }

    /// Shuts the gate; answers whose wait ends by a step that blocks the device, and notes who
    /// waits until it is drained.
    fn block(&mut self) -> BTreeSet<usize> {
        self.open = false;
        let drained = self.drained();
        let mut over = BTreeSet::new();
        for (n, asked) in self.waiters.iter_mut().enumerate() {
            if matches!(asked.at, At::Waiting | At::InFlight { .. }) {
                self.counts.canceled += 1;
                if drained {
                    over.insert(n);
                } else {
                    asked.at = At::UntilQuiet;
                }
            }
        }
        over
    }

    /// As the caller settles the gate: nobody is inside and it is shut.
    fn settle(&mut self) {
        if self.drained() {
            let over = self
                .waiters
                .iter()
                .enumerate()
                .filter(|(_, asked)| asked.at == At::UntilQuiet)
                .map(|(n, _)| n)
                .collect();
            self.then(over, |invalidator, actions| {
                invalidator.translated_requests_drained(actions)
            });
            self.open = !self.invalidator.is_blocked();
        }
    }

    fn start(&mut self, pasid: Pasid, range: AlignedRange) {
        let (n, drained, now, part) = (self.waiters.len(), self.drained(), self.now, Part::new());
        let blocked = self.invalidator.is_blocked();
        self.counts.canceled += u64::from(blocked);
        let waiter = waiter(&part);
        self.waiters.push(Asked {
            part,
            pasid,
            range,
            at: if blocked { At::UntilQuiet } else { At::Waiting },
        });
        self.crowded |= self.waiting() > BACKLOG;
        let over = if blocked && drained { BTreeSet::from([n]) } else { BTreeSet::new() };
        let pending = PendingInvalidation::new(Some(pasid), range, waiter);
        self.then(over, |invalidator, actions| {
            invalidator.start(pending, drained, Some(now), actions)
        });
    }

    fn complete(&mut self, completion: InvalidationCompletion) {
        let fits = |n: &usize| matches!(self.waiters[*n].at, At::InFlight { tag, serial, .. } if (tag, serial) == (completion.tag.get(), completion.serial));
        let over: BTreeSet<usize> = self.in_flight().filter(fits).collect();
        self.counts.unexpected += u64::from(over.is_empty());
        self.counts.completed += over.len() as u64;
        let now = self.now;
        self.then(over, |invalidator, actions| {
            invalidator.complete(completion, actions);
            invalidator.send_backlog(Some(now), actions);
        });
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        let now = self.now;
        let late: BTreeMap<usize, u8> = self
            .in_flight()
            .filter_map(|n| {
                if let At::InFlight { due, tries, .. } = self.waiters[n].at {
                    (due <= now).then_some((n, tries))
                } else {
                    None
                }
            })
            .collect();
        self.counts.timed_out +=
            late.keys().filter_map(|n| self.serial_of(*n)).collect::<BTreeSet<u64>>().len() as u64;
        let mut hopeless = false;
        self.then(BTreeSet::new(), |invalidator, actions| {
            hopeless = invalidator.tick(now, actions)
        });
        assert_eq!(hopeless, late.values().any(|tries| *tries == 0));
        if hopeless {
            let over = self.block();
            let drained = self.drained();
            self.then(over, |invalidator, actions| invalidator.cut_off(drained, actions));
            assert!(self.invalidator.is_cut_off() && self.invalidator.is_halted());
        } else {
            let again = late.keys().all(
                |n| matches!(self.waiters[*n].at, At::InFlight { due, .. } if due == now + LIMIT),
            );
            assert!(again, "all that is late has been sent again");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start { pasid, page, bits } => {
                let range = AlignedRange::new(page << 12 >> bits << bits, bits).expect("aligned");
                self.start(Pasid::new(pasid).expect("small"), range);
            }
            Step::Complete { which } => {
                let flights: Vec<u64> =
                    self.in_flight().filter_map(|n| self.serial_of(n)).collect();
                let in_flight = flights
                    .get(which / 2 % flights.len().max(1))
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
            Step::Later { seconds } => self.later(Duration::from_secs(seconds)),
            Step::Enter => self.inside += usize::from(self.open),
            Step::Leave => {
                self.inside = self.inside.saturating_sub(1);
                self.settle();
            }
            Step::Enable => {
                if !self.invalidator.is_enabled() && !self.invalidator.is_halted() {
                    self.invalidator.enable();
                    self.settle();
                }
            }
            Step::Disable => {
                let over = self.block();
                let drained = self.drained();
                self.then(over, |invalidator, actions| invalidator.disable(drained, actions));
            }
            Step::BeginReset => {
                let over = self.block();
                let drained = self.drained();
                self.then(over, |invalidator, actions| invalidator.begin_reset(drained, actions));
            }
            Step::EndReset => {
                if self.invalidator.resets > 0 && self.invalidator.end_reset() {
                    assert!(!self.invalidator.is_cut_off());
                    self.settle();
                }
            }
            Step::Remove => {
                let over = self.block();
                let drained = self.drained();
                self.then(over, |invalidator, actions| invalidator.remove(drained, actions));
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        36 => (1..40u32, 0..64u64, 12..=14u8).prop_map(|(pasid, page, bits)| Step::Start { pasid, page, bits }),
        12 => (1..3u32, 0..64u64, 12..=14u8).prop_map(|(pasid, page, bits)| Step::Start { pasid, page, bits }),
        12 => (0..1000usize).prop_map(|which| Step::Complete { which }),
        2 => (0..32u8, 0..64u64).prop_map(|(tag, serial)| Step::CompleteWrong { tag, serial }),
        6 => (0..12u64).prop_map(|seconds| Step::Later { seconds }),
        4 => Just(Step::Enter),
        4 => Just(Step::Leave),
        4 => Just(Step::Enable),
        1 => Just(Step::Disable),
        1 => Just(Step::BeginReset),
        3 => Just(Step::EndReset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    // shows T2, U1
    #[test]
    fn every_waiter_is_finished_exactly_once_and_not_before_its_device_has_forgotten_or_is_blocked(
        steps in prop::collection::vec(steps(), 1..300)
    ) {
        let mut world = World::new();
        world.step(Step::Enable);
        for step in steps {
            world.step(step);
        }
        world.step(Step::Remove);
        while world.inside > 0 {
            world.step(Step::Leave);
        }
        assert!(world.waiters.iter().all(|asked| asked.part.is_over() && asked.at == At::Over));
        assert_eq!(world.invalidator.outstanding(), 0);
        let counts = world.invalidator.counts;
        assert_eq!(counts.completed + counts.canceled, world.waiters.len() as u64);
    }
}
