//! The gates of every device, in order.

use super::check::{Check, Verdict};
use super::finding::Outcome;
use super::gate::Gate;
use super::survey::Survey;
use super::{device, iommu, kernel, path};
use crate::groups::Grouping;
use crate::machine::{Class, ExpressKind, Header, Machine, PciFunction};

/// What a device can do, gate by gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// The device, as an index into [`Machine::functions`].
    pub function: usize,
    /// The gates in order. Those that say nothing about this device are left out: the running
    /// kernel in a dump without one, and all behind [`Gate::Iommu`] that are about an IOMMU
    /// which is not there.
    pub checks: Vec<Check>,
}

impl Readiness {
    /// What all gates together say. A failed gate outweighs one that a setting shuts, which
    /// outweighs one that is unknown.
    pub fn verdict(&self) -> Verdict {
        let first = |outcome| {
            self.checks.iter().find(|check| check.outcome() == outcome).map(|check| check.gate)
        };
        if let Some(gate) = first(Outcome::Fail) {
            Verdict::Fails(gate)
        } else if let Some(gate) = first(Outcome::Off) {
            Verdict::SwitchedOff(gate)
        } else if let Some(gate) = first(Outcome::Unknown) {
            Verdict::Unknown(gate)
        } else {
            Verdict::Ready
        }
    }

    /// The check of a gate, if it says something about this device.
    pub fn check(&self, gate: Gate) -> Option<&Check> {
        self.checks.iter().find(|check| check.gate == gate)
    }

    /// The check that the verdict rests on; none where every gate is passed.
    pub fn decisive(&self) -> Option<&Check> {
        self.verdict().gate().and_then(|gate| self.check(gate))
    }
}

/// The readiness of every device that could issue requests, in the order of addresses: of bridges,
/// host bridges, IOMMUs and event collectors none. Takes time in proportion to the devices and the
/// length of their paths.
pub fn readiness(machine: &Machine, grouping: &Grouping) -> Vec<Readiness> {
    let survey = Survey::new(machine, grouping);
    (0..machine.functions().len()).filter_map(|function| of(&survey, function)).collect()
}

fn of(survey: &Survey, index: usize) -> Option<Readiness> {
    let function =
        survey.machine.functions().get(index).filter(|function| issues_requests(function))?;
    let kind = survey.kind_of(function).map(|kind| kind.value);
    let mut checks = iommu::checks(survey, index, function);
    checks.push(device::pasid(survey, function));
    checks.push(path::prefix(survey, index, function));
    checks.push(path::redirect(survey, index, function));
    checks.push(device::ats(survey, function));
    checks.push(device::page_requests(survey, function));
    checks.extend(device::group(survey, index, function));
    checks.extend(kernel::check(survey.machine.host(), kind));
    checks.extend(device::enabled(survey, function));
    Some(Readiness { function: index, checks })
}

/// Whether a function issues requests of its own that a process could ask for.
fn issues_requests(function: &PciFunction) -> bool {
    let kind = function.express.value.map(|express| express.kind);
    let class = function.class.map(|class| class.value.code());
    matches!(function.header.value, Header::Endpoint)
        && kind != Some(ExpressKind::EventCollector)
        && !matches!(class, Some(Class::HOST_BRIDGE | Class::IOMMU))
}
