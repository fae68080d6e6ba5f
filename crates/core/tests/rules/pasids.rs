//! The PASID allocator against its slow model (rules B1, U5, U6).

use std::collections::BTreeSet;

use proptest::prelude::*;
use sva_core::pasid::{Exhausted, PasidAllocator};
use sva_core::{Pasid, PasidTag, PasidWidth};
use sva_testkit::reference;

use crate::support::width;

#[derive(Debug, Clone)]
enum Step {
    Allocate(u8),
    Release(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u8..=8).prop_map(Step::Allocate),
        2 => any::<usize>().prop_map(Step::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    // shows U5, U6, B1
    #[test]
    fn the_allocator_does_what_the_slow_model_does(
        bits in 1u8..=7,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut allocator = PasidAllocator::new(width(bits));
        let mut model = reference::Pasids::default();
        let mut held: Vec<PasidTag> = Vec::new();
        let mut newest = None;
        for step in steps {
            match step {
                Step::Allocate(asked) => {
                    let asked = width(asked).min(width(bits));
                    match (allocator.allocate(asked), model.allocate(asked)) {
                        (Ok(tag), Some(number)) => {
                            prop_assert_eq!(tag.pasid.get(), number);
                            prop_assert!(
                                Some(tag.generation) > newest,
                                "generations never come again"
                            );
                            newest = Some(tag.generation);
                            held.push(tag);
                        }
                        (Err(exhausted), None) => {
                            let in_use = held.len() as u32;
                            prop_assert_eq!(exhausted, Exhausted { width: asked, in_use });
                        }
                        (real, expected) => {
                            prop_assert!(false, "{real:?} where the model has {expected:?}")
                        }
                    }
                }
                Step::Release(at) if !held.is_empty() => {
                    let tag = held.swap_remove(at % held.len());
                    allocator.release(tag);
                    prop_assert!(model.release(tag.pasid.get()));
                }
                Step::Release(_) => {}
            }
            prop_assert_eq!(allocator.in_use() as usize, model.taken());
            let taken: BTreeSet<Pasid> = held.iter().map(|tag| tag.pasid).collect();
            for number in 1..=width(bits).last() {
                let pasid = Pasid::new(number).expect("small");
                prop_assert_eq!(allocator.is_taken(pasid), taken.contains(&pasid));
            }
        }
    }
}

// shows B1, U5
#[test]
fn all_20_bits_are_given_once_and_come_again_in_the_order_of_their_release() {
    let mut allocator = PasidAllocator::new(PasidWidth::MAX);
    let mut tags: Vec<PasidTag> =
        (1..=Pasid::LAST).map(|_| allocator.allocate(PasidWidth::MAX).expect("free")).collect();
    assert!(tags.iter().zip(1..).all(|(tag, number)| tag.pasid.get() == number), "0 is reserved");
    assert_eq!(
        allocator.allocate(PasidWidth::MAX),
        Err(Exhausted { width: PasidWidth::MAX, in_use: Pasid::LAST })
    );
    assert_eq!(
        allocator.allocate(width(1)),
        Err(Exhausted { width: width(1), in_use: Pasid::LAST })
    );
    let mut random = fastrand::Rng::with_seed(7);
    random.shuffle(&mut tags);
    let mut freed: BTreeSet<u32> = BTreeSet::new();
    for tag in tags.drain(..1000) {
        allocator.release(tag);
        freed.insert(tag.pasid.get());
    }
    for number in freed {
        assert_eq!(
            allocator.allocate(PasidWidth::MAX).expect("free").pasid.get(),
            number,
            "cyclic, and none skipped"
        );
    }
    assert!(allocator.allocate(PasidWidth::MAX).is_err());
}

// shows U5
#[test]
fn a_released_pasid_is_not_given_again_before_all_others_of_its_width() {
    let mut allocator = PasidAllocator::new(PasidWidth::MAX);
    let first = allocator.allocate(width(4)).expect("free");
    allocator.release(first);
    for _ in 1..15 {
        let tag = allocator.allocate(width(4)).expect("free");
        assert_ne!(tag.pasid, first.pasid);
        allocator.release(tag);
    }
    assert_eq!(allocator.allocate(width(4)).expect("free").pasid, first.pasid);
    assert_eq!(
        allocator.allocate(PasidWidth::MAX).expect("free").pasid.get(),
        2,
        "a narrow width's turn is its own"
    );
}
