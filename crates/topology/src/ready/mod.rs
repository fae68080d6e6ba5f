//! Whether a device of a real machine can do shared virtual addressing under Linux, and where not,
//! which gate it fails.
//!
//! A device passes through [`Gate`]s in a fixed order; each answers with a [`Check`]: what was
//! found ([`Finding`]), how that is known ([`Source`]), and what it means ([`Outcome`]). The
//! [`Verdict`] is read off the checks: a gate that fails for good outweighs one that is only
//! switched off, and that one outweighs a gate that nobody could look at. Rejected: to stop at the
//! first gate that is not passed. A dump hardly ever tells what the IOMMU can do, and a device that
//! has no PASID capability is better told so than that nothing is known.
//!
//! The rules are those of Linux 6.x and 7.x: `pci_enable_pasid()` for capability, TLP prefix and
//! ACS; the drivers of VT-d, AMD-Vi and SMMUv3 for what they want besides. docs/design/topology.md
//! says which is which.

mod device;
mod finding;
mod iommu;
mod kernel;
mod path;
mod survey;

use std::fmt;

use crate::groups::Grouping;
use crate::machine::{Class, ExpressKind, Header, Machine, PciFunction, Source};

pub use finding::{Blocker, Finding, Outcome};
use survey::Survey;

/// What has to hold, in the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Gate {
    /// There is an IOMMU that Linux has shared virtual addressing for.
    Iommu,
    /// The kernel uses it.
    InUse,
    /// It translates this device.
    Translated,
    /// It takes PASIDs, as far as the device can send them.
    IommuPasid,
    /// It walks a process's page tables.
    FirstStage,
    /// The device has the PASID capability, with a width.
    Pasid,
    /// Device and ports forward the TLP prefix that carries the PASID.
    Prefix,
    /// ACS redirects requests at each hop to the root: RR and UF.
    Redirect,
    /// The device can ask for translations, where the IOMMU's driver wants that.
    Ats,
    /// Faults can be resolved: the device has page requests, and the IOMMU takes them.
    PageRequests,
    /// Who else gets the access.
    Group,
    /// The running kernel has shared virtual addressing for this IOMMU.
    Kernel,
    /// PASIDs are switched on in the device.
    Enabled,
}

impl Gate {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Iommu,
        Self::InUse,
        Self::Translated,
        Self::IommuPasid,
        Self::FirstStage,
        Self::Pasid,
        Self::Prefix,
        Self::Redirect,
        Self::Ats,
        Self::PageRequests,
        Self::Group,
        Self::Kernel,
        Self::Enabled,
    ];

    /// A stable word for programs, such as `iommu-pasid`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Iommu => "iommu",
            Self::InUse => "in-use",
            Self::Translated => "translated",
            Self::IommuPasid => "iommu-pasid",
            Self::FirstStage => "first-stage",
            Self::Pasid => "pasid",
            Self::Prefix => "tlp-prefix",
            Self::Redirect => "redirect",
            Self::Ats => "ats",
            Self::PageRequests => "page-requests",
            Self::Group => "group",
            Self::Kernel => "kernel",
            Self::Enabled => "enabled",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iommu => "IOMMU",
            Self::InUse => "IOMMU in use",
            Self::Translated => "translated",
            Self::IommuPasid => "IOMMU takes PASIDs",
            Self::FirstStage => "IOMMU walks process page tables",
            Self::Pasid => "PASID capability",
            Self::Prefix => "TLP prefix on the path",
            Self::Redirect => "ACS RR and UF on the path",
            Self::Ats => "ATS",
            Self::PageRequests => "page requests",
            Self::Group => "group",
            Self::Kernel => "kernel",
            Self::Enabled => "PASID enabled",
        })
    }
}

/// One gate, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which.
    pub gate: Gate,
    /// What was found.
    pub finding: Finding,
    /// How that is known; the weakest of all that it rests on.
    pub source: Source,
}

impl Check {
    /// What it means.
    pub fn outcome(&self) -> Outcome {
        self.finding.outcome()
    }
}

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

/// All in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every gate is passed.
    Ready,
    /// It could, but this gate is shut by a setting.
    SwitchedOff(Gate),
    /// It cannot: this is the first gate that it fails.
    Fails(Gate),
    /// Nothing speaks against it, but this gate could not be looked at.
    Unknown(Gate),
}

impl Verdict {
    /// A stable word for programs: `ready`, `switched-off`, `fails` or `unknown`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::SwitchedOff(_) => "switched-off",
            Self::Fails(_) => "fails",
            Self::Unknown(_) => "unknown",
        }
    }

    /// The gate that decides, if it is not passed.
    pub const fn gate(self) -> Option<Gate> {
        match self {
            Self::Ready => None,
            Self::SwitchedOff(gate) | Self::Fails(gate) | Self::Unknown(gate) => Some(gate),
        }
    }
}

impl Readiness {
    /// All in all: see the module for what outweighs what.
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
