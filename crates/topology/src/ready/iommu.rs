//! The gates that the IOMMU keeps: that it is there, in use, translates the device, takes PASIDs
//! and walks process page tables.

use super::check::Check;
use super::finding::Finding;
use super::gate::Gate;
use super::kernel::disabling_option;
use super::survey::Survey;
use crate::machine::{Basis, Fact, Host, IommuKind, PciFunction, Source};

/// What was not said rests on nothing: this stands for it.
pub(super) const NOT_SAID: Source = Source::Assumed(Basis::NotPrinted);

/// The options that make a kernel use no IOMMU at all.
const OFF: [(&str, &str); 3] = [("intel_iommu", "off"), ("amd_iommu", "off"), ("iommu", "off")];

/// The gates up to [`Gate::FirstStage`].
pub(super) fn checks(survey: &Survey, index: usize, function: &PciFunction) -> Vec<Check> {
    let host = survey.machine.host();
    let kind = survey.kind_of(function);
    let in_use = survey.in_use;
    let mut checks = vec![present(survey, kind)];
    if matches!(
        checks[0].finding,
        Finding::NoIommu | Finding::NoIommuDescribed | Finding::IommuWithoutSva(_)
    ) {
        return checks;
    }
    checks.push(used(host, kind, in_use));
    if in_use.is_some_and(|fact| !fact.value) {
        return checks;
    }
    checks.extend(translated(survey, index, function));
    checks.push(pasid(survey, function, kind));
    checks.push(first_stage(survey, function));
    checks
}

fn present(survey: &Survey, kind: Option<Fact<IommuKind>>) -> Check {
    let check = |finding, source| Check { gate: Gate::Iommu, finding, source };
    if let Some(Fact {
        value: value @ (IommuKind::Virtio | IommuKind::Smmu | IommuKind::RiscV),
        source,
    }) = kind
    {
        return check(Finding::IommuWithoutSva(value), source);
    }
    let found = kind.map(|kind| kind.value);
    let host = survey.machine.host();
    let told_off = OFF.iter().any(|(option, word)| disabling_option(host, option, word).is_some());
    // Many kernels are built not to use VT-d unless told to, and then show none of it.
    let not_told =
        found == Some(IommuKind::VtD) && disabling_option(host, "intel_iommu", "on").is_none();
    let described = host.iommu_described.is_some_and(|fact| fact.value);
    match survey.in_use {
        _ if survey.absent => check(Finding::NoIommuDescribed, Source::Read),
        _ if survey.seen || described => check(Finding::Iommu(found), Source::Read),
        Some(Fact { value: true, source }) => check(Finding::Iommu(found), source),
        Some(Fact { value: false, source }) if !told_off && !not_told => {
            check(Finding::NoIommu, source)
        }
        _ => check(Finding::IommuNotSeen, NOT_SAID),
    }
}

fn used(host: &Host, kind: Option<Fact<IommuKind>>, in_use: Option<Fact<bool>>) -> Check {
    let blocker = OFF.iter().find_map(|(option, word)| disabling_option(host, option, word));
    let kind = kind.map(|kind| kind.value);
    let (finding, source) = match (in_use, blocker) {
        (Some(Fact { value: true, source }), _) => (Finding::InUse, source),
        (Some(Fact { value: false, source }), blocker) => {
            (Finding::NotInUse { kind, blocker }, source)
        }
        (None, Some(blocker)) => (Finding::NotInUse { kind, blocker: Some(blocker) }, Source::Read),
        (None, None) => (Finding::UseNotSeen, NOT_SAID),
    };
    Check { gate: Gate::InUse, finding, source }
}

fn translated(survey: &Survey, index: usize, function: &PciFunction) -> Option<Check> {
    let source = if function.kernel_group.is_some() {
        Source::Read
    } else {
        Source::Inferred(Basis::Position)
    };
    let finding = survey.grouping.of(index).map_or(Finding::NotTranslated, Finding::Translated);
    Some(Check { gate: Gate::Translated, finding, source })
}

fn pasid(survey: &Survey, function: &PciFunction, kind: Option<Fact<IommuKind>>) -> Check {
    let check = |finding, source| Check { gate: Gate::IommuPasid, finding, source };
    let vt_d = kind.is_some_and(|kind| kind.value == IommuKind::VtD);
    if let Some(blocker) =
        disabling_option(survey.machine.host(), "intel_iommu", "sm_off").filter(|_| vt_d)
    {
        return check(Finding::ScalableModeOff(blocker), Source::Read);
    }
    match survey.unit_fact(function, |unit| unit.pasid_width) {
        Some(Fact { value: 0, source }) => check(Finding::IommuNoPasid, source),
        Some(Fact { value, source }) => check(Finding::IommuPasidWidth(value), source),
        None => check(Finding::IommuPasidNotSeen, NOT_SAID),
    }
}

fn first_stage(survey: &Survey, function: &PciFunction) -> Check {
    let (finding, source) = match survey.unit_fact(function, |unit| unit.first_stage) {
        Some(Fact { value: true, source }) => (Finding::FirstStage, source),
        Some(Fact { value: false, source }) => (Finding::NoFirstStage, source),
        None => (Finding::FirstStageNotSeen, NOT_SAID),
    };
    Check { gate: Gate::FirstStage, finding, source }
}
