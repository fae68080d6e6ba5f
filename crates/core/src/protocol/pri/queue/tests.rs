//! The queue against a slow reference, which has one list of all requests and searches all of it.

mod harness;
mod reference;
mod stubs;

use proptest::prelude::*;

use super::*;
use harness::Harness;

const DEVICES: u64 = 3;
/// The bound PASIDs of each device are 1..=SPACES. One more is used and not bound.
const SPACES: u32 = 2;
const ALLOCATION: u32 = 3;
const CAPACITY: usize = 5;

/// One step. `which` selects one of the candidates, modulo the number of them.
#[derive(Debug, Clone)]
enum Step {
    Receive {
        device: u64,
        pasid: Option<Pasid>,
        index: PrgIndex,
        last: bool,
    },
    Stop {
        device: u64,
        pasid: Pasid,
    },
    Sort,
    Next,
    /// A worker answers the group that it resolves, or hands it actions if there is no code.
    Finish {
        which: usize,
        code: Option<ResponseCode>,
    },
    /// A handler answers a group, possibly one that has been answered.
    Answer {
        which: usize,
        code: ResponseCode,
    },
    Drain {
        device: u64,
        /// All groups, or those of a PASID or of the domain.
        scope: Option<Option<Pasid>>,
    },
    End {
        pasid: Pasid,
    },
    Reset {
        device: u64,
    },
    Reception {
        device: u64,
        is_on: bool,
    },
}

fn pasid(number: u32) -> Pasid {
    Pasid::new(number).expect("small")
}

/// A request to read.
fn request(pasid: Option<Pasid>, address: u64, index: PrgIndex, last: bool) -> PageRequest {
    let (read, write, execute, privileged) = (true, false, false, false);
    PageRequest { pasid, address, read, write, execute, privileged, index, last }
}

fn steps() -> impl Strategy<Value = Step> {
    let device = 0..DEVICES;
    let code = prop_oneof![
        6 => Just(ResponseCode::Success),
        2 => Just(ResponseCode::InvalidRequest),
        1 => Just(ResponseCode::ResponseFailure),
    ];
    let bound = (1..=SPACES).prop_map(pasid);
    let pasids = prop_oneof![
        8 => bound.clone().prop_map(Some),
        1 => Just(Some(pasid(SPACES + 1))),
        3 => Just(None),
    ];
    let index = (0..3u16).prop_map(|index| PrgIndex::new(index).expect("small"));
    let scopes = prop_oneof![
        1 => Just(None),
        3 => bound.clone().prop_map(|pasid| Some(Some(pasid))),
        2 => Just(Some(None)),
    ];
    let which = 0..1000usize;
    prop_oneof![
        16 => (device.clone(), pasids, index, any::<bool>())
            .prop_map(|(device, pasid, index, last)| Step::Receive { device, pasid, index, last }),
        2 => (device.clone(), bound.clone())
            .prop_map(|(device, pasid)| Step::Stop { device, pasid }),
        8 => Just(Step::Sort),
        6 => Just(Step::Next),
        6 => (which.clone(), prop::option::weighted(0.7, code.clone()))
            .prop_map(|(which, code)| Step::Finish { which, code }),
        4 => (which, code).prop_map(|(which, code)| Step::Answer { which, code }),
        2 => (device.clone(), scopes).prop_map(|(device, scope)| Step::Drain { device, scope }),
        1 => bound.prop_map(|pasid| Step::End { pasid }),
        1 => device.clone().prop_map(|device| Step::Reset { device }),
        1 => (device, prop::bool::weighted(0.7))
            .prop_map(|(device, is_on)| Step::Reception { device, is_on }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]

    // shows F1, F3, U1, U6, S3
    #[test]
    fn the_queue_does_what_the_slow_reference_does_answers_each_group_once_and_ends_empty(
        steps in prop::collection::vec(steps(), 1..250),
    ) {
        let mut harness = Harness::new();
        steps.iter().for_each(|step| harness.step(step));
        harness.end();
    }
}

// shows B4
#[test]
fn a_request_for_an_entry_that_is_not_published_is_answered_as_invalid() {
    let mut harness = Harness::new();
    harness.reference.devices[0].bound(pasid(1)).is_published.set(false);
    let mut actions = QueueActions::default();
    let request = request(Some(pasid(1)), 0, PrgIndex::new(7).expect("small"), true);
    let device = harness.reference.devices[0].clone();
    harness.queue.receive(&device, request, None, &mut actions);
    assert!(harness.queue.sort(None, &mut actions) && harness.queue.next_group().is_none());
    assert_eq!(actions.responses[0].response.code, ResponseCode::InvalidRequest);
    assert_eq!((harness.queue.outstanding(), harness.queue.shares[&0].outstanding), ((0, 0), 0));
}
