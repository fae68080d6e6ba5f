//! Readiness, and who is in the same group.

#[path = "common/parts.rs"]
mod parts;

use parts::{DEVICE, Parts, accelerator, bdf, port};
use sva_core::Bdf;
use sva_topology::diff::{Difference, Side};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{Basis, ExpressKind, Fact, Host, Machine, PciFunction, Source};
use sva_topology::ready::{Finding, Gate, readiness};

#[test]
fn siblings_that_get_the_access_are_named() {
    let mut parts = Parts::new();
    for at in ["03:00.1", "03:00.2"] {
        parts.functions.push(PciFunction { multifunction: Fact::read(true), ..accelerator(at) });
    }
    parts.functions[DEVICE].multifunction = Fact::read(true);
    parts.functions[5].pasid = Fact::read(None);
    let machine = parts.machine();
    let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
    let finding = |row: usize| rows[row].check(Gate::Group).map(|check| check.finding.clone());
    assert_eq!(finding(0), Some(Finding::Shared { others: 1, some: vec![bdf("03:00.1")] }));
    assert_eq!(
        finding(2),
        Some(Finding::Shared { others: 2, some: vec![bdf("03:00.0"), bdf("03:00.1")] })
    );
    // A sibling of which nobody knows makes it no better than assumed.
    assert!(
        rows[0].check(Gate::Group).is_some_and(|check| check.source == Source::Read),
        "{rows:#?}"
    );
    parts.functions[5].pasid = Fact::assumed(None, Basis::CapabilitiesHidden);
    let machine = parts.machine();
    let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
    assert!(
        rows[0].check(Gate::Group).is_some_and(|check| matches!(check.source, Source::Assumed(_))),
        "{rows:#?}"
    );
}

/// A chain of conventional bridges with full buses: one group of them all.
fn crowd(buses: u8) -> Machine {
    let mut functions = vec![port("00:01.0", ExpressKind::PcieToPci, 1, buses)];
    for bus in 1..=buses {
        let last = if bus < buses { 31 } else { 32 };
        for (device, number) in
            (0..last).flat_map(|device| (0..8).map(move |number| (device, number)))
        {
            functions.push(accelerator(
                &Bdf::new(0, bus, device, number).expect("in range").to_string(),
            ));
        }
        if bus < buses {
            let at = Bdf::new(0, bus, 31, 0).expect("in range").to_string();
            functions.push(PciFunction {
                express: Fact::read(None),
                ..port(&at, ExpressKind::PcieToPci, bus + 1, buses)
            });
        }
    }
    Machine::new(functions, Host::default())
}

// shows S2
#[test]
fn one_group_of_many_devices_takes_time_in_proportion() {
    let begun = std::time::Instant::now();
    let machine = crowd(120);
    let grouping = Grouping::compute(&machine, Policy::Linux);
    let made = begun.elapsed();
    let begun = std::time::Instant::now();
    let rows = readiness(&machine, &grouping);
    let side = Side { machine: &machine, grouping: &grouping };
    let difference = Difference::between(side, side);
    let took = begun.elapsed();
    assert!(rows.len() > 29_000 && difference.is_empty());
    assert!(
        rows.iter()
            .filter_map(|row| row.check(Gate::Group))
            .filter(|check| {
                matches!(&check.finding, Finding::Shared { some, .. } if some.len() == 4)
            })
            .count()
            == rows.len()
    );
    assert!(took.as_secs() < 20, "grouping {made:?}, readiness {took:?}");
}
