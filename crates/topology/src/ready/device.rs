//! The gates that the device itself keeps, some of them together with the IOMMU: PASID, ATS, page
//! requests, who else is in the group, what is switched on.

use super::check::Check;
use super::finding::Finding;
use super::gate::Gate;
use super::iommu::NOT_SAID;
use super::kernel::{disabling_option, refuses_mixed_groups};
use super::survey::{Survey, physical};
use crate::machine::{Fact, IommuKind, PciFunction, Source};

/// Drivers that give a device away, so that the kernel cannot bind it to a process.
const GIVES_AWAY: [&str; 5] = ["vfio-pci", "pci-stub", "xen-pciback", "uio_pci_generic", "igb_uio"];

/// A capability, told apart from one of which nobody knows.
enum Capability<T> {
    Has(T, Source),
    Lacks(Source),
    Unknown(Source),
}

impl<T: Copy> Capability<T> {
    fn of(fact: &Fact<Option<T>>) -> Self {
        match (fact.value, fact.source) {
            (Some(value), source) => Self::Has(value, source),
            (None, source @ Source::Assumed(_)) => Self::Unknown(source),
            (None, source) => Self::Lacks(source),
        }
    }
}

/// [`Gate::Pasid`].
pub(super) fn pasid(survey: &Survey, function: &PciFunction) -> Check {
    let owner = physical(survey.machine, function);
    let shared = (owner.bdf != function.bdf).then_some(owner.bdf);
    let (finding, source) = match Capability::of(&owner.pasid) {
        Capability::Has(pasid, source) => match (pasid.width.value, pasid.width.source) {
            (_, Source::Assumed(_)) => (Finding::Pasid { width: None, shared }, source),
            (0, _) => (Finding::PasidOfNoBits, source),
            (width, of_width) => {
                (Finding::Pasid { width: Some(width), shared }, source.weaker(of_width))
            }
        },
        Capability::Lacks(source) => (Finding::NoPasid, source),
        Capability::Unknown(source) => (Finding::PasidNotSeen, source),
    };
    Check { gate: Gate::Pasid, finding, source }
}

/// [`Gate::Ats`]: VT-d's driver binds no device without; the others have no use for it here.
pub(super) fn ats(survey: &Survey, function: &PciFunction) -> Check {
    let check = |finding, source| Check { gate: Gate::Ats, finding, source };
    let kind = survey.kind_of(function);
    let wanted = kind.map(|kind| kind.value == IommuKind::VtD);
    let unit = survey.unit_fact(function, |unit| unit.device_tlb);
    if wanted != Some(false)
        && let Some(blocker) = disabling_option(survey.machine.host(), "pci", "noats")
    {
        return check(Finding::AtsOff(blocker), Source::Read);
    }
    match (Capability::of(&function.ats), wanted) {
        (Capability::Has(_, source), Some(true)) => match unit {
            Some(Fact { value: false, source: of_unit }) => {
                check(Finding::IommuNoAts, source.weaker(of_unit))
            }
            _ => check(Finding::Ats, source),
        },
        (Capability::Has(_, source), _) => check(Finding::Ats, source),
        (Capability::Lacks(source) | Capability::Unknown(source), Some(false)) => {
            check(Finding::AtsNotWanted, source)
        }
        (Capability::Lacks(source), Some(true)) => check(Finding::NoAts, source),
        (Capability::Lacks(source) | Capability::Unknown(source), _) => {
            check(Finding::AtsNotSeen, source)
        }
    }
}

/// [`Gate::PageRequests`]. Linux binds a device that makes none and leaves its faults to its
/// driver. SMMUv3's driver takes none.
pub(super) fn page_requests(survey: &Survey, function: &PciFunction) -> Check {
    let check = |finding, source| Check { gate: Gate::PageRequests, finding, source };
    let kind = survey.kind_of(function).map(|kind| kind.value);
    let unit = survey.unit_fact(function, |unit| unit.page_requests);
    if let (Some(IommuKind::AmdVi), Some(Fact { value: false, source })) = (kind, unit) {
        return check(Finding::IommuNoPageRequests, source);
    }
    match (Capability::of(&physical(survey.machine, function).pri), unit) {
        (Capability::Lacks(source), _) => check(Finding::NoPageRequests, source),
        (Capability::Has(_, source), _) if kind == Some(IommuKind::SmmuV3) => {
            check(Finding::PageRequestsNotTaken, source)
        }
        (Capability::Has(_, source), Some(Fact { value: false, .. })) => {
            check(Finding::PageRequestsNotTaken, source)
        }
        (Capability::Has(pri, source), Some(Fact { value: true, source: of_unit })) => {
            check(Finding::PageRequests { capacity: pri.capacity }, source.weaker(of_unit))
        }
        (Capability::Has(..), None) => check(Finding::PageRequestsNotSeen, NOT_SAID),
        (Capability::Unknown(source), _) => check(Finding::PageRequestsNotSeen, source),
    }
}

/// [`Gate::Group`], for a device that is in one.
pub(super) fn group(survey: &Survey, index: usize, function: &PciFunction) -> Option<Check> {
    let group_pasids = survey.group_pasids(survey.grouping.of(index)?)?;
    let itself = usize::from(physical(survey.machine, function).pasid.value.is_some());
    let capable = group_pasids.capable - itself;
    let incapable = group_pasids.members - 1 - capable;
    let finding = if capable > 0 {
        let some = group_pasids
            .first
            .iter()
            .copied()
            .filter(|other| *other != function.bdf)
            .take(4)
            .collect();
        Finding::Shared { others: capable, some }
    } else if incapable > 0 && refuses_mixed_groups(survey.machine.host()) {
        Finding::SharedWithIncapable { others: incapable }
    } else {
        Finding::Alone { others: incapable }
    };
    Some(Check { gate: Gate::Group, finding, source: group_pasids.source })
}

/// [`Gate::Enabled`], for a device with the capability.
pub(super) fn enabled(survey: &Survey, function: &PciFunction) -> Option<Check> {
    let check = |finding, source| Some(Check { gate: Gate::Enabled, finding, source });
    let driver = function.driver.as_deref();
    if let Some(driver) = GIVES_AWAY.into_iter().find(|name| driver == Some(name)) {
        return check(Finding::GivenAway { driver }, Source::Read);
    }
    let pasid = physical(survey.machine, function).pasid.value?;
    let kind = survey.kind_of(function).map(|kind| kind.value);
    match pasid.enabled {
        Fact { source: source @ Source::Assumed(_), .. } => check(Finding::EnabledNotSeen, source),
        Fact { value: true, source } => check(Finding::Enabled, source),
        Fact { value: false, source } => check(Finding::NotEnabled { kind }, source),
    }
}
