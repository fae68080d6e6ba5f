//! The state machine against a slow reference that keeps one list of all requests and looks at all
//! of them.

mod bench;
mod stubs;

use proptest::prelude::*;

use super::*;
use bench::Bench;

const DEVICES: u64 = 3;
/// Bound PASIDs of each device: 1..=SPACES. One more is bound to nothing.
const SPACES: u32 = 2;
const ALLOCATION: u32 = 3;
const CAPACITY: usize = 5;

/// One step. Numbers choose among what there is, modulo how many there are.
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
    /// Whoever resolves answers, or hands the group to its owner.
    Finish {
        which: usize,
        code: Option<ResponseCode>,
    },
    /// An owner answers; also groups that are answered already.
    Answer {
        which: usize,
        code: ResponseCode,
    },
    Drain {
        device: u64,
        what: Option<Option<Pasid>>,
    },
    End {
        pasid: Pasid,
    },
    Forget {
        device: u64,
    },
    Reception {
        device: u64,
        on: bool,
    },
}

fn pasid(number: u32) -> Pasid {
    Pasid::new(number).expect("small")
}

fn steps() -> impl Strategy<Value = Step> {
    let device = 0..DEVICES;
    let code = prop_oneof![6 => Just(ResponseCode::Success), 2 => Just(ResponseCode::InvalidRequest), 1 => Just(ResponseCode::ResponseFailure)];
    let bound = (1..=SPACES).prop_map(pasid);
    let pasids = prop_oneof![8 => bound.clone().prop_map(Some), 1 => Just(Some(pasid(SPACES + 1))), 3 => Just(None)];
    let index = (0..3u16).prop_map(|index| PrgIndex::new(index).expect("small"));
    let drained = prop_oneof![1 => Just(None), 3 => bound.clone().prop_map(|pasid| Some(Some(pasid))), 2 => Just(Some(None))];
    let which = 0..1000usize;
    prop_oneof![
        16 => (device.clone(), pasids, index, any::<bool>()).prop_map(|(device, pasid, index, last)| Step::Receive { device, pasid, index, last }),
        2 => (device.clone(), bound.clone()).prop_map(|(device, pasid)| Step::Stop { device, pasid }),
        8 => Just(Step::Sort),
        6 => Just(Step::Next),
        6 => (which.clone(), prop::option::weighted(0.7, code.clone())).prop_map(|(which, code)| Step::Finish { which, code }),
        4 => (which, code).prop_map(|(which, code)| Step::Answer { which, code }),
        2 => (device.clone(), drained).prop_map(|(device, what)| Step::Drain { device, what }),
        1 => bound.prop_map(|pasid| Step::End { pasid }),
        1 => device.clone().prop_map(|device| Step::Forget { device }),
        1 => (device, prop::bool::weighted(0.7)).prop_map(|(device, on)| Step::Reception { device, on }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    // shows F1, F3, U1, U6, S3
    #[test]
    fn it_does_what_the_slow_reference_does_answers_each_group_once_and_is_empty_at_the_end(steps in prop::collection::vec(steps(), 1..250)) {
        let mut bench = Bench::new();
        steps.iter().for_each(|step| bench.step(step));
        bench.end();
    }
}

// shows B4
#[test]
fn a_request_that_meets_an_entry_before_its_publication_is_answered_invalid() {
    let mut bench = Bench::new();
    bench.devices[0].bound(pasid(1)).is_published.set(false);
    let mut out = Actions::default();
    let (address, index) = (0, PrgIndex::new(7).expect("small"));
    let request = PageRequest {
        pasid: Some(pasid(1)),
        address,
        read: true,
        write: false,
        execute: false,
        privileged: false,
        index,
        last: true,
    };
    let device = bench.devices[0].clone();
    bench.queue.receive(&device, request, None, &mut out);
    assert!(bench.queue.sort(None, &mut out) && bench.queue.next_group().is_none());
    assert_eq!(out.responses[0].response.code, ResponseCode::InvalidRequest);
    assert_eq!((bench.queue.outstanding(), bench.queue.shares[&0].outstanding), ((0, 0), 0));
}
