//! The comparison of two machines, and of two policies over one.

#[path = "common/parts.rs"]
mod parts;

use parts::{DEVICE, DOWNSTREAM, Parts, ROOT_PORT, acs, bdf, function};
use sva_topology::AcsBits;
use sva_topology::diff::{Difference, Membership, Side};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{Basis, ExpressKind, Fact, Ids};
use sva_topology::ready::{Gate, Verdict};

fn difference(before: &Parts, after: &Parts, policies: (Policy, Policy)) -> Difference {
    let (before, after) = (before.machine(), after.machine());
    let groupings = (Grouping::compute(&before, policies.0), Grouping::compute(&after, policies.1));
    Difference::between(
        Side { machine: &before, grouping: &groupings.0 },
        Side { machine: &after, grouping: &groupings.1 },
    )
}

const LINUX: (Policy, Policy) = (Policy::Linux, Policy::Linux);

#[test]
fn a_machine_does_not_differ_from_itself_whatever_its_groups_are_called() {
    let before = Parts::new();
    assert_eq!(difference(&before, &before, LINUX), Difference::default());
    // A device in front takes the first number; the partition of the others is the same.
    let mut after = before.clone();
    after.functions.push(function("00:00.0", ExpressKind::IntegratedEndpoint));
    let difference = difference(&before, &after, LINUX);
    assert_eq!(difference, Difference { added: vec![bdf("00:00.0")], ..Difference::default() });
}

// shows G1
#[test]
fn a_flipped_acs_bit_is_named_with_whom_it_regroups_and_whose_readiness_it_ends() {
    let before = Parts::new();
    let mut after = before.clone();
    after.functions[DOWNSTREAM].acs =
        acs(AcsBits::ISOLATION, AcsBits::SV | AcsBits::CR | AcsBits::UF);
    let difference = difference(&before, &after, LINUX);
    assert_eq!(difference.acs.len(), 1);
    assert_eq!(difference.acs[0].function, bdf("02:00.0"));
    assert_eq!(difference.acs[0].before, Some((AcsBits::ISOLATION, AcsBits::ISOLATION)));
    assert_eq!(difference.readiness.len(), 1);
    assert_eq!(
        (difference.readiness[0].before, difference.readiness[0].after),
        (Verdict::Ready, Verdict::SwitchedOff(Gate::Redirect))
    );
    let device = difference
        .regrouped
        .iter()
        .find(|piece| piece.members == [bdf("03:00.0")])
        .expect("the device shares its group with others");
    assert_eq!(device.before.as_ref().map(|membership| membership.others), Some(0));
    assert!(
        matches!(&device.after, Some(Membership { some, .. }) if some.contains(&bdf("02:00.0"))),
        "{device:?}"
    );
}

#[test]
fn an_assumption_that_differs_is_no_change_of_the_machine() {
    let before = Parts::new();
    let mut after = before.clone();
    after.functions[DOWNSTREAM].acs = Fact::assumed(None, Basis::CapabilitiesHidden);
    assert!(difference(&before, &after, LINUX).acs.is_empty());
    after.functions[DOWNSTREAM].acs = Fact::inferred(None, Basis::CompleteList);
    assert_eq!(difference(&before, &after, LINUX).acs.len(), 1);
}

#[test]
fn what_is_gone_or_something_else_is_named() {
    let before = Parts::new();
    let mut after = before.clone();
    after.functions[DEVICE].ids = Some(Fact::read(Ids { vendor: 0x1234, device: 1 }));
    after.functions.remove(ROOT_PORT);
    let difference = difference(&before, &after, LINUX);
    assert_eq!(
        (difference.removed, difference.replaced),
        (vec![bdf("00:01.0")], vec![bdf("03:00.0")])
    );
}

// shows G1
#[test]
fn two_policies_over_one_machine_differ_where_they_should() {
    let mut parts = Parts::new();
    parts.functions[ROOT_PORT].acs = Fact::read(None);
    let regrouped = difference(&parts, &parts, (Policy::Linux, Policy::Override)).regrouped;
    assert!(!regrouped.is_empty(), "the override declares the root port isolated");
    assert_eq!(difference(&parts, &parts, LINUX), Difference::default());
}
