//! Whether a function keeps requests from its peers: ACS as Linux judges it (drivers/pci/pci.c,
//! pci_acs_enabled).

use std::fmt;

use super::policy::Policy;
use super::quirks::{self, AcsEffect, AcsQuirk};
use crate::acs::AcsBits;
use crate::machine::{
    AcsCapability, Basis, ExpressKind, Fact, Host, IommuKind, Machine, PciFunction, Source,
};

/// Whether a function gives the ACS services that were asked for, by which rule, and what that
/// rests on.
#[derive(Debug, Clone, Copy)]
pub struct AcsVerdict {
    /// Whether all of `wanted` are given.
    pub given: bool,
    /// What was asked for.
    pub wanted: AcsBits,
    /// The rule that decided.
    pub rule: AcsRule,
    /// The weakest of the facts that the rule looked at.
    pub source: Source,
}

/// The rule that decided.
#[derive(Debug, Clone, Copy)]
pub enum AcsRule {
    /// Linux has a quirk for this model. What of the wanted services it does not give is in
    /// `missing`.
    Quirk {
        /// The row of the table.
        quirk: &'static AcsQuirk,
        /// What is missing.
        missing: AcsBits,
    },
    /// Conventional PCI: never isolated.
    Conventional,
    /// A PCIe-to-PCI bridge, its reverse, or an event collector: never isolated.
    Never(ExpressKind),
    /// The capability: services that are wanted, implemented, and not enabled are missing. What is
    /// not implemented counts as hard-wired on.
    Capability {
        /// The capability register, without what is known to be broken.
        implemented: AcsBits,
        /// The control register, as it would be with an IOMMU in use.
        enabled: AcsBits,
        /// What is missing.
        missing: AcsBits,
    },
    /// A port, or a function of a multifunction device, without the capability.
    NoCapability(ExpressKind),
    /// A single function that is no root or downstream port: it has no peer inside.
    SingleFunction,
    /// A type of device that the rules do not mention.
    Unmentioned(ExpressKind),
}

impl AcsRule {
    /// Services that are implemented and could be switched on.
    pub fn missing(&self) -> AcsBits {
        match self {
            Self::Quirk { missing, .. } | Self::Capability { missing, .. } => *missing,
            _ => AcsBits::NONE,
        }
    }
}

impl fmt::Display for AcsVerdict {
    /// Such as `lacks RR CR (implements SV RR CR UF, enabled SV UF)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            AcsRule::Quirk { quirk, missing } => match quirk.effect {
                AcsEffect::Denies => {
                    write!(f, "does not isolate: {} ({})", quirk.what, quirk.kernel)
                }
                _ if self.given => {
                    write!(f, "isolates by quirk: {} ({})", quirk.what, quirk.kernel)
                }
                _ => write!(f, "lacks {missing}: {} ({})", quirk.what, quirk.kernel),
            },
            AcsRule::Conventional => f.write_str("is conventional PCI, which never isolates"),
            AcsRule::Never(kind) => {
                write!(f, "is {} {}, which never isolates", article(kind), kind.name())
            }
            AcsRule::Capability { implemented, enabled, missing } if missing.is_empty() => {
                write!(f, "gives {} (implements {implemented}; enabled {enabled})", self.wanted)?;
                let wired = self.wanted & !implemented;
                if wired.is_empty() {
                    Ok(())
                } else {
                    write!(f, "; {wired} not implemented, which counts as given")
                }
            }
            AcsRule::Capability { implemented, enabled, missing } => {
                write!(f, "lacks {missing} (implements {implemented}; enabled {enabled})")
            }
            AcsRule::NoCapability(kind) => {
                write!(f, "is {} {} without the ACS capability", article(kind), kind.name())
            }
            AcsRule::SingleFunction => {
                f.write_str("is a single function, which has no peer inside its device")
            }
            AcsRule::Unmentioned(kind) => {
                write!(f, "is {} {}, of which the rules ask nothing", article(kind), kind.name())
            }
        }
    }
}

fn article(kind: ExpressKind) -> &'static str {
    if kind.name().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Judges one function. `function` is an index into [`Machine::functions`].
pub fn acs_verdict(
    machine: &Machine,
    function: usize,
    wanted: AcsBits,
    policy: Policy,
) -> AcsVerdict {
    let it = &machine.functions()[function];
    for quirk in quirks::rows(it) {
        if let Some((missing, source)) = quirk_answer(machine, function, quirk, wanted, policy) {
            let source = it.ids.map_or(Source::Read, |ids| ids.source).weaker(source);
            return AcsVerdict {
                given: missing.is_empty(),
                wanted,
                rule: AcsRule::Quirk { quirk, missing },
                source,
            };
        }
    }
    let (given, rule, source) = generic_answer(machine, it, wanted);
    AcsVerdict { given, wanted, rule, source: source.weaker(quirks::none_is_for(it)) }
}

/// What of `wanted` is missing according to a quirk; `None` where its conditions are not met.
fn quirk_answer(
    machine: &Machine,
    function: usize,
    quirk: &AcsQuirk,
    wanted: AcsBits,
    policy: Policy,
) -> Option<(AcsBits, Source)> {
    let it = &machine.functions()[function];
    let kind = it.express.source;
    match quirk.effect {
        AcsEffect::Gives(bits) => Some((wanted & !bits, kind)),
        AcsEffect::Denies => Some((wanted, kind)),
        AcsEffect::AmdSouthbridge => {
            if !it.multifunction.value || machine.bus_of(function).parent.is_some() {
                return None;
            }
            let asked = wanted & AcsBits::FUNCTION_ISOLATION.union(AcsBits::EC).union(AcsBits::DT);
            Some((
                asked & !AcsBits::FUNCTION_ISOLATION,
                it.multifunction.source.weaker(amd_iommu(machine)),
            ))
        }
        AcsEffect::IntelPch => {
            Some((wanted & !AcsBits::ISOLATION, kind.weaker(enabled_by_linux(machine))))
        }
        AcsEffect::IntelSunrisePoint => sunrise_point(machine, it.acs, wanted),
        AcsEffect::Override if policy == Policy::Override && overridden(it) => {
            Some((AcsBits::NONE, kind.weaker(it.multifunction.source)))
        }
        AcsEffect::Override => None,
    }
}

/// The two registers as dwords; where only the first words are known, Linux has switched on what is
/// implemented.
fn sunrise_point(
    machine: &Machine,
    acs: Fact<Option<AcsCapability>>,
    wanted: AcsBits,
) -> Option<(AcsBits, Source)> {
    let capability = acs.value?;
    if let Some([implemented, control]) = capability.dwords {
        let word = |dword: u32| AcsBits::from_bits((dword & 0xffff) as u16);
        let enabled = enabled_with_iommu(
            machine,
            word(implemented),
            Fact { value: word(control), source: acs.source },
        );
        return Some((asked(wanted, word(implemented)) & !enabled.value, enabled.source));
    }
    let enabled = capability.implemented.value & AcsBits::ISOLATION;
    let source = acs.source.weaker(capability.implemented.source).weaker(enabled_by_linux(machine));
    Some((asked(wanted, capability.implemented.value) & !enabled, source))
}

/// What of `wanted` has to be enabled: egress control in any case, of the others what is
/// implemented.
fn asked(wanted: AcsBits, implemented: AcsBits) -> AcsBits {
    wanted & (implemented | AcsBits::EC)
}

/// How sure it is that Linux has run its quirk: it does wherever it uses an IOMMU, and without one
/// there are no groups.
fn enabled_by_linux(machine: &Machine) -> Source {
    match machine.host().iommu_in_use {
        Some(Fact { value: true, .. }) => Source::Inferred(Basis::LinuxEnablesQuirk),
        _ => Source::Assumed(Basis::LinuxEnablesQuirk),
    }
}

/// The control register as it would be with an IOMMU in use. Linux leaves ACS alone without one, so
/// on a machine that is known to use none what is read as off says nothing of the groups that it
/// would have: Linux enables what is implemented when it uses one. Options that say otherwise are
/// not worked out: with one of them what was read stands.
fn enabled_with_iommu(
    machine: &Machine,
    implemented: AcsBits,
    read: Fact<AcsBits>,
) -> Fact<AcsBits> {
    let host = machine.host();
    let unused = host.iommu_in_use.is_some_and(|in_use| !in_use.value);
    let enabled = read.value | (implemented & AcsBits::ISOLATION);
    if !unused || enabled == read.value || acs_option(host).is_some() {
        return read;
    }
    Fact { value: enabled, source: read.source.weaker(Source::Inferred(Basis::LinuxEnablesAcs)) }
}

/// The option of the kernel's command line that says which ACS services are on.
pub(super) fn acs_option(host: &Host) -> Option<&String> {
    host.options
        .as_ref()?
        .iter()
        .find(|option| option.contains("disable_acs_redir") || option.contains("config_acs"))
}

/// How sure it is that the southbridge's machine has an AMD IOMMU: these chips sit in AMD machines
/// only, and without an IOMMU there are no groups.
fn amd_iommu(machine: &Machine) -> Source {
    if machine.host().iommus.iter().any(|iommu| iommu.kind == IommuKind::AmdVi) {
        Source::Read
    } else {
        Source::Assumed(Basis::Name)
    }
}

/// The out-of-tree override with `downstream,multifunction`.
fn overridden(it: &PciFunction) -> bool {
    let Some(express) = it.express.value else { return false };
    it.acs.value.is_none()
        && match express.kind {
            ExpressKind::RootPort | ExpressKind::Downstream => true,
            ExpressKind::Endpoint
            | ExpressKind::LegacyEndpoint
            | ExpressKind::Upstream
            | ExpressKind::IntegratedEndpoint => it.multifunction.value,
            _ => false,
        }
}

/// The rules without quirks.
fn generic_answer(machine: &Machine, it: &PciFunction, wanted: AcsBits) -> (bool, AcsRule, Source) {
    let source = it.express.source;
    let Some(express) = it.express.value else { return (false, AcsRule::Conventional, source) };
    let kind = express.kind;
    match kind {
        ExpressKind::PcieToPci | ExpressKind::PciToPcie | ExpressKind::EventCollector => {
            (false, AcsRule::Never(kind), source)
        }
        ExpressKind::RootPort | ExpressKind::Downstream => {
            by_capability(machine, it, kind, wanted, source)
        }
        ExpressKind::Endpoint
        | ExpressKind::LegacyEndpoint
        | ExpressKind::Upstream
        | ExpressKind::IntegratedEndpoint => {
            let source = source.weaker(it.multifunction.source);
            if it.multifunction.value {
                by_capability(machine, it, kind, wanted, source)
            } else {
                (true, AcsRule::SingleFunction, source)
            }
        }
        ExpressKind::Other(_) => (true, AcsRule::Unmentioned(kind), source),
    }
}

fn by_capability(
    machine: &Machine,
    it: &PciFunction,
    kind: ExpressKind,
    wanted: AcsBits,
    source: Source,
) -> (bool, AcsRule, Source) {
    let source = source.weaker(it.acs.source);
    let Some(acs) = it.acs.value else { return (false, AcsRule::NoCapability(kind), source) };
    let broken = if quirks::broken_source_validation(it) { AcsBits::SV } else { AcsBits::NONE };
    let implemented = acs.implemented.value & !broken;
    let enabled = enabled_with_iommu(machine, implemented, acs.enabled);
    let missing = asked(wanted, implemented) & !enabled.value;
    let rule = AcsRule::Capability { implemented, enabled: enabled.value, missing };
    (missing.is_empty(), rule, source.weaker(acs.implemented.source).weaker(enabled.source))
}
