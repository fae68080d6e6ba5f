//! Random sequences of the events of an invalidation queue: every waiter is completed exactly once,
//! neither too early nor too late.

mod waiting;
mod world;

use std::sync::Arc;

use proptest::prelude::*;

use super::super::backlog::BACKLOG;
use super::*;
use crate::api::ats::AlignedRange;
use crate::quiesce::{Countdown, Waiter};
use crate::types::ids::Pasid;
use world::{State, World};

const LIMIT: Duration = Duration::from_secs(10);
const TRIES: u8 = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Start {
        pasid: u32,
        page: u64,
        bits: u8,
    },
    /// The completion of a request in flight, or of any request ever sent.
    Complete {
        which: usize,
    },
    /// A completion with any tag and any serial number.
    CompleteWrong {
        tag: u8,
        serial: u64,
    },
    Advance {
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

/// A waiter of which one step is to be made.
struct TestWaiter(Countdown);

impl TestWaiter {
    fn new() -> Arc<Self> {
        Arc::new(Self(Countdown::new(1)))
    }

    fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

impl Waiter for TestWaiter {
    fn step(self: Arc<Self>) {
        assert!(self.0.step(), "completed twice");
    }
}

fn weak(waiter: &Arc<TestWaiter>) -> WeakWaiter {
    let weak: WeakWaiter = Arc::downgrade(waiter) as _;
    weak
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        36 => (1..40u32, 0..64u64, 12..=14u8)
            .prop_map(|(pasid, page, bits)| Step::Start { pasid, page, bits }),
        12 => (1..3u32, 0..64u64, 12..=14u8)
            .prop_map(|(pasid, page, bits)| Step::Start { pasid, page, bits }),
        12 => (0..1000usize).prop_map(|which| Step::Complete { which }),
        2 => (0..32u8, 0..64u64).prop_map(|(tag, serial)| Step::CompleteWrong { tag, serial }),
        6 => (0..12u64).prop_map(|seconds| Step::Advance { seconds }),
        4 => Just(Step::Enter),
        4 => Just(Step::Leave),
        4 => Just(Step::Enable),
        1 => Just(Step::Disable),
        1 => Just(Step::BeginReset),
        3 => Just(Step::EndReset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    // shows T2, U1
    #[test]
    fn every_waiter_is_completed_once_and_not_before_the_device_has_invalidated_or_is_blocked(
        steps in prop::collection::vec(steps(), 1..300)
    ) {
        let mut world = World::new();
        world.step(Step::Enable);
        for step in steps {
            world.step(step);
        }
        world.step(Step::Remove);
        while world.translated > 0 {
            world.step(Step::Leave);
        }
        for invalidation in &world.started {
            assert!(invalidation.waiter.is_over() && invalidation.state == State::Ended);
        }
        assert_eq!(world.queue.outstanding(), 0);
        let counts = world.queue.counts;
        assert_eq!(counts.completed + counts.canceled, world.started.len() as u64);
    }
}
