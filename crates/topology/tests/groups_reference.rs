//! The fast grouping against the literal reference, over random topologies and all policies.

#[path = "common/layouts.rs"]
mod layouts;
#[path = "common/machines.rs"]
mod machines;

use layouts::{Device, build, device};
use proptest::prelude::*;
use sva_testkit::iommu_groups::{self, Rules};
use sva_topology::groups::{Grouping, Policy, explain, why_not};
use sva_topology::machine::Machine;

fn partition<T: Copy + PartialEq>(of: &[Option<T>]) -> Vec<Option<usize>> {
    of.iter()
        .map(|group| {
            group.map(|group| of.iter().position(|other| *other == Some(group)).expect("itself"))
        })
        .collect()
}

fn compare(devices: &[Device], below_vmd: &[Device]) -> Result<(), TestCaseError> {
    let (machine, reference) = build(devices, below_vmd);
    if !reference.iter().any(|it| it.translated) {
        return Ok(());
    }
    // The machine sorts by address; the reference keeps the order of the list.
    let place: Vec<usize> = reference
        .iter()
        .map(|it| {
            machine.functions().iter().position(|f| {
                (f.bdf.segment(), f.bdf.bus(), f.bdf.device() << 3 | f.bdf.function())
                    == (it.segment, it.bus, it.devfn)
            })
        })
        .map(|place| place.expect("both have it"))
        .collect();
    for (policy, rules) in [
        (Policy::Linux, Rules::Linux),
        (Policy::ReachableSet, Rules::ReachableSet),
        (Policy::Override, Rules::Override),
    ] {
        let grouping = Grouping::compute(&machine, policy);
        let fast: Vec<Option<u32>> = place.iter().map(|place| grouping.of(*place)).collect();
        let slow = iommu_groups::groups(&reference, rules);
        let names: Vec<String> =
            place.iter().map(|place| machine.functions()[*place].bdf.to_string()).collect();
        prop_assert_eq!(
            partition(&fast),
            partition(&slow),
            "{} over {:?}\n{:#?}",
            policy,
            names,
            reference
        );
        explained(&machine, &grouping)?;
    }
    Ok(())
}

/// Every explanation ends in the group that was computed, and every pair has an answer.
fn explained(machine: &Machine, grouping: &Grouping) -> Result<(), TestCaseError> {
    use sva_topology::groups::{PairVerdict, StepKind};
    // A sample: each explanation looks at the whole machine.
    let count = machine.functions().len();
    for function in (0..count).step_by(count / 6 + 1) {
        let explanation = explain(machine, grouping, function);
        match explanation.steps.last().map(|step| step.kind) {
            Some(StepKind::Joined { with, .. }) => {
                prop_assert_eq!(grouping.of(with), grouping.of(function))
            }
            Some(StepKind::Founded) => prop_assert!(grouping.reason(function).is_none()),
            Some(StepKind::Untranslated(_)) => prop_assert_eq!(grouping.of(function), None),
            other => prop_assert!(false, "the last step of {function} is {other:?}"),
        }
        prop_assert_eq!(explanation.advice.is_empty(), explanation.others.is_empty());
        prop_assert!(!explanation.lines(machine).is_empty());
        let pair = why_not(machine, grouping, 0, function);
        match (&pair.verdict, grouping.of(0), grouping.of(function)) {
            (PairVerdict::Same, ..) => prop_assert_eq!(function, 0),
            (PairVerdict::Untranslated { .. }, a, b) => prop_assert!(a.is_none() || b.is_none()),
            (PairVerdict::Together { reasons, .. }, a, b) => {
                prop_assert!(a == b && !reasons.is_empty())
            }
            (PairVerdict::Apart { .. }, a, b) => prop_assert_ne!(a, b),
            other => prop_assert!(false, "{other:?}"),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    // shows G1
    #[test]
    fn the_fast_groups_are_those_of_the_literal_rules(
        devices in prop::collection::vec(device(), 1..5),
        below_vmd in prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(device(), 1..3)],
    ) {
        compare(&devices, &below_vmd)?;
    }
}
