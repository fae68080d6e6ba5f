//! Random sequences of all that can happen to invalidations: every waiter is finished exactly once, not too early and not too late.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
const TRIES: u8 = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Start,
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

/// The invalidator, with what its caller has: the gate of translated requests and the clock.
struct World {
    invalidator: Invalidator,
    waiters: Vec<(Arc<Countdown>, At)>,
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
            invalidator: Invalidator::new(LIMIT, TRIES),
            waiters: Vec::new(),
            sent: Vec::new(),
            serials: BTreeSet::new(),
            now: Duration::ZERO,
            inside: 0,
            open: false,
            counts: InvalidationCounts::default(),
        }
    }

    fn quiet(&self) -> bool {
        !self.open && self.inside == 0
    }

    fn in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        let flies = |(n, (_, at)): (usize, &(_, At))| matches!(at, At::InFlight { .. }).then_some(n);
        self.waiters.iter().enumerate().filter_map(flies)
    }

    fn serial_of(&self, waiter: usize) -> Option<u64> {
        if let At::InFlight { serial, .. } = self.waiters[waiter].1 { Some(serial) } else { None }
    }

    /// Makes a step and checks all that follows from it. `over`: whose wait it ends.
    fn then(&mut self, over: BTreeSet<usize>, change: impl FnOnce(&mut Invalidator, &mut Todo)) {
        let mut todo = Todo::default();
        change(&mut self.invalidator, &mut todo);
        let mut finished = BTreeSet::new();
        for waiter in todo.finished {
            let Waiter::Change(left) = waiter else { panic!("the test started changes only") };
            let n = self.waiters.iter().position(|(known, _)| Arc::ptr_eq(known, &left)).expect("one of the test's");
            assert!(left.step(), "finished twice");
            assert!(finished.insert(n));
            self.waiters[n].1 = At::Over;
        }
        assert_eq!(finished, over);
        for request in todo.send {
            self.note_sent(request);
        }
        let flights: Vec<usize> = self.in_flight().collect();
        let tags: BTreeSet<u8> = flights.iter().map(|n| if let At::InFlight { tag, .. } = self.waiters[*n].1 { tag } else { 0 }).collect();
        assert_eq!(tags.len(), flights.len(), "each has a tag of its own");
        let waiting = self.waiters.iter().filter(|(_, at)| *at == At::Waiting).count();
        assert!(waiting == 0 || flights.len() == Itag::COUNT, "one waits for nothing else than a tag");
        let under_way = self.waiters.iter().filter(|(_, at)| *at != At::Over).count();
        assert_eq!((self.invalidator.under_way(), self.invalidator.counts), (under_way, self.counts));
    }

    fn note_sent(&mut self, request: InvalidationRequest) {
        assert!(!self.invalidator.is_blocked(), "it could not answer");
        let n = (request.range.first() >> 12) as usize;
        let tries = match self.waiters[n].1 {
            At::Waiting => {
                assert!(self.waiters[..n].iter().all(|(_, at)| *at != At::Waiting), "in the order in which they were started");
                TRIES - 1
            }
            At::InFlight { due, tries, .. } => {
                assert!(due <= self.now && tries > 0, "it is not overdue");
                tries - 1
            }
            other => panic!("sent while {other:?}"),
        };
        assert!(self.serials.insert(request.serial), "used before");
        self.counts.sent += 1;
        self.sent.push(request);
        let due = self.now + LIMIT;
        self.waiters[n].1 = At::InFlight { tag: request.tag.get(), serial: request.serial, due, tries };
    }

    /// Shuts the gate; answers whose wait ends by a step that blocks the device, and notes who waits until it is quiet.
    fn block(&mut self) -> BTreeSet<usize> {
        self.open = false;
        let quiet = self.quiet();
        let mut over = BTreeSet::new();
        for (n, (_, at)) in self.waiters.iter_mut().enumerate() {
            if matches!(at, At::Waiting | At::InFlight { .. }) {
                self.counts.moot += 1;
                if quiet {
                    over.insert(n);
                } else {
                    *at = At::UntilQuiet;
                }
            }
        }
        over
    }

    /// As the caller settles the gate: nobody is inside and it is shut.
    fn settle(&mut self) {
        if self.quiet() {
            let over = self.waiters.iter().enumerate().filter(|(_, (_, at))| *at == At::UntilQuiet).map(|(n, _)| n).collect();
            self.then(over, |invalidator, todo| invalidator.is_quiet_now(todo));
            self.open = !self.invalidator.is_blocked();
        }
    }

    fn start(&mut self) {
        let (n, quiet, now, left) = (self.waiters.len(), self.quiet(), self.now, Arc::new(Countdown::new(1)));
        let range = AlignedRange::page((n as u64) << 12);
        let blocked = self.invalidator.is_blocked();
        self.counts.moot += u64::from(blocked);
        self.waiters.push((Arc::clone(&left), if blocked { At::UntilQuiet } else { At::Waiting }));
        let over = if blocked && quiet { BTreeSet::from([n]) } else { BTreeSet::new() };
        let job = Job { pasid: None, range, waiter: Waiter::Change(left) };
        self.then(over, |invalidator, todo| invalidator.start(job, quiet, Some(now), todo));
    }

    fn complete(&mut self, completion: InvalidationCompletion) {
        let fits = |n: &usize| matches!(self.waiters[*n].1, At::InFlight { tag, serial, .. } if (tag, serial) == (completion.tag.get(), completion.serial));
        let over: BTreeSet<usize> = self.in_flight().filter(fits).collect();
        *(if over.is_empty() { &mut self.counts.unexpected } else { &mut self.counts.completed }) += 1;
        let now = self.now;
        self.then(over, |invalidator, todo| {
            invalidator.complete(completion, todo);
            invalidator.send_waiting(Some(now), todo);
        });
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        let now = self.now;
        let late: BTreeMap<usize, u8> = self
            .in_flight()
            .filter_map(|n| if let At::InFlight { due, tries, .. } = self.waiters[n].1 { (due <= now).then_some((n, tries)) } else { None })
            .collect();
        self.counts.timed_out += late.len() as u64;
        let mut hopeless = false;
        self.then(BTreeSet::new(), |invalidator, todo| hopeless = invalidator.tick(now, todo));
        assert_eq!(hopeless, late.values().any(|tries| *tries == 0));
        if hopeless {
            let over = self.block();
            let quiet = self.quiet();
            self.then(over, |invalidator, todo| invalidator.cut_off(quiet, todo));
            assert!(self.invalidator.is_cut_off() && self.invalidator.stands_still());
        } else {
            let again = late.keys().all(|n| matches!(self.waiters[*n].1, At::InFlight { due, .. } if due == now + LIMIT));
            assert!(again, "all that is late has been sent again");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start => self.start(),
            Step::Complete { which } => {
                let flights: Vec<u64> = self.in_flight().filter_map(|n| self.serial_of(n)).collect();
                let in_flight = flights.get(which / 2 % flights.len().max(1)).filter(|_| which.is_multiple_of(2));
                let wanted = in_flight.and_then(|serial| self.sent.iter().find(|request| request.serial == *serial));
                let Some(request) = wanted.or_else(|| self.sent.get(which % self.sent.len().max(1))) else { return };
                self.complete(InvalidationCompletion { tag: request.tag, serial: request.serial });
            }
            Step::CompleteWrong { tag, serial } => self.complete(InvalidationCompletion { tag: Itag::new(tag).expect("0..=31"), serial }),
            Step::Later { seconds } => self.later(Duration::from_secs(seconds)),
            Step::Enter => self.inside += usize::from(self.open),
            Step::Leave => {
                self.inside = self.inside.saturating_sub(1);
                self.settle();
            }
            Step::Enable => {
                if !self.invalidator.is_enabled() && !self.invalidator.stands_still() {
                    self.invalidator.enable();
                    self.settle();
                }
            }
            Step::Disable => {
                let over = self.block();
                let quiet = self.quiet();
                self.then(over, |invalidator, todo| invalidator.disable(quiet, todo));
            }
            Step::BeginReset => {
                let over = self.block();
                let quiet = self.quiet();
                self.then(over, |invalidator, todo| invalidator.begin_reset(quiet, todo));
            }
            Step::EndReset => {
                if self.invalidator.is_in_reset() && self.invalidator.end_reset() {
                    assert!(!self.invalidator.is_cut_off());
                    self.settle();
                }
            }
            Step::Remove => {
                let over = self.block();
                let quiet = self.quiet();
                self.then(over, |invalidator, todo| invalidator.remove(quiet, todo));
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => Just(Step::Start),
        12 => (0..1000usize).prop_map(|which| Step::Complete { which }),
        2 => (0..32u8, 0..64u64).prop_map(|(tag, serial)| Step::CompleteWrong { tag, serial }),
        6 => (0..12u64).prop_map(|seconds| Step::Later { seconds }),
        4 => Just(Step::Enter),
        4 => Just(Step::Leave),
        4 => Just(Step::Enable),
        1 => Just(Step::Disable),
        2 => Just(Step::BeginReset),
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
        assert!(world.waiters.iter().all(|(left, at)| left.is_over() && *at == At::Over));
        assert_eq!(world.invalidator.under_way(), 0);
        let counts = world.invalidator.counts;
        assert_eq!(counts.completed + counts.moot, world.waiters.len() as u64);
    }
}
