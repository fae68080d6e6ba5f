//! The cache against a slow reference, which keeps plain lists and searches all of them.

mod reference;

use proptest::prelude::*;

use super::*;
use crate::api::ats::{Itag, Translation, TranslationCompletion};
use reference::Reference;

const PAGE: u64 = 4096;
/// Pages that the steps use; the largest translation covers all of them.
const PAGES: u64 = 16;
const LARGEST: u8 = 16;

/// One step. `which` selects one of the candidates, modulo the number of them.
#[derive(Debug, Clone)]
enum Step {
    Request { pasid: Option<Pasid>, page: u64, access: Access },
    Complete { which: usize, reply: Reply, bits: u8, permissions: Permissions },
    Answer { which: usize },
    Abandon { which: usize },
    Invalidate { pasid: Option<Pasid>, range: AlignedRange, global: bool, tag: Itag, serial: u64 },
    BeginAccess { pasid: Option<Pasid>, address: u64, access: Access },
    EndAccess { which: usize },
    Reset,
}

/// The content of a completion.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reply {
    /// A frame for the requested address.
    Frame,
    /// A frame for another page.
    OtherPage,
    Untranslated,
    Refused,
}

fn around(address: u64, bits: u8) -> AlignedRange {
    AlignedRange::new(address >> bits << bits, bits).expect("aligned")
}

fn pasids() -> impl Strategy<Value = Option<Pasid>> + Clone {
    prop_oneof![Just(None), Just(Pasid::new(1)), Just(Pasid::new(2))]
}

fn accesses() -> impl Strategy<Value = Access> {
    let kinds =
        prop_oneof![4 => Just(Access::READ), 2 => Just(Access::WRITE), 1 => Just(Access::EXECUTE)];
    let accesses = (kinds, prop::bool::weighted(0.1));
    accesses.prop_map(
        |(kind, privileged)| {
            if privileged { kind | Access::PRIVILEGED } else { kind }
        },
    )
}

fn permissions() -> impl Strategy<Value = Permissions> {
    let random = any::<u8>().prop_map(Permissions::from_bits_truncate);
    prop_oneof![3 => Just(Permissions::READ_WRITE), 1 => random]
}

fn steps() -> impl Strategy<Value = Step> {
    let replies = prop_oneof![
        8 => Just(Reply::Frame),
        1 => Just(Reply::OtherPage),
        1 => Just(Reply::Untranslated),
        1 => Just(Reply::Refused),
    ];
    let addresses = 0..PAGES * PAGE;
    let ranges =
        (addresses.clone(), 12..=LARGEST).prop_map(|(address, bits)| around(address, bits));
    // Few, so that a tag is used again while its last use waits for accesses.
    let tags = (0..4u8).prop_map(|tag| Itag::new(tag).expect("0..=31"));
    let which = 0..1000usize;
    prop_oneof![
        4 => (pasids(), 0..PAGES, accesses())
            .prop_map(|(pasid, page, access)| Step::Request { pasid, page, access }),
        5 => (which.clone(), replies, 12..=LARGEST, permissions())
            .prop_map(|(which, reply, bits, permissions)| {
                Step::Complete { which, reply, bits, permissions }
            }),
        2 => which.clone().prop_map(|which| Step::Answer { which }),
        1 => which.clone().prop_map(|which| Step::Abandon { which }),
        3 => (pasids(), ranges, prop::bool::weighted(0.1), tags, 0..64u64)
            .prop_map(|(pasid, range, global, tag, serial)| {
                Step::Invalidate { pasid, range, global, tag, serial }
            }),
        4 => (pasids(), addresses, accesses())
            .prop_map(|(pasid, address, access)| Step::BeginAccess { pasid, address, access }),
        3 => which.prop_map(|which| Step::EndAccess { which }),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    // shows T3, T4
    #[test]
    fn the_cache_does_what_the_slow_reference_does(
        capacity in 1..6usize,
        allowed in 1..6usize,
        steps in prop::collection::vec(steps(), 1..200),
    ) {
        let mut atc = Atc::new(capacity, allowed);
        let mut reference = Reference::new(capacity, allowed);
        for step in &steps {
            reference.step(&mut atc, step);
            reference.compare(&atc);
        }
        while !reference.accesses.is_empty() {
            reference.step(&mut atc, &Step::EndAccess { which: 0 });
        }
        assert!(atc.invalidations.is_empty(), "every invalidation has been completed");
        reference.step(&mut atc, &Step::Reset);
        assert_eq!((atc.len(), atc.outstanding()), (0, 0));
    }
}

#[test]
fn an_entry_that_is_referenced_before_each_eviction_is_not_evicted() {
    let mut atc = Atc::new(4, 1);
    let pasid = Pasid::new(1);
    let fill = |atc: &mut Atc, page: u64| {
        let request =
            atc.request(pasid, page * PAGE, Access::READ).expect("the last request was collected");
        let range = AlignedRange::page(page * PAGE);
        let translation = Translation {
            range,
            frame: Some(Frame(page << 32)),
            permissions: Permissions::READ_WRITE,
            global: false,
        };
        atc.complete(TranslationCompletion {
            id: request.id,
            result: Ok(translation),
            privileged: false,
            owner: None,
        });
        assert_eq!(atc.answer(request.id), Ok(Some(TranslationAnswer::Cached)));
    };
    for page in 0..5 {
        fill(&mut atc, page);
    }
    // An entry that has survived the first round; from here on it is referenced before each
    // eviction.
    let hot = atc.contents().first().expect("it is full").range.first();
    for page in 100..200 {
        let access = atc.begin_access(pasid, hot, Access::READ).expect("it is still cached");
        atc.end_access(access.id);
        fill(&mut atc, page);
    }
}
