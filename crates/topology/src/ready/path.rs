//! The gates on the way from a device to the root: the TLP prefix that carries a PASID, and
//! redirection by ACS.

use super::check::Check;
use super::finding::Finding;
use super::gate::Gate;
use super::kernel::ignores_acs_of_path;
use super::survey::{Survey, physical};
use crate::acs::AcsBits;
use crate::groups::{AcsRule, Policy, acs_verdict};
use crate::machine::{ExpressKind, PciFunction, Source};

/// What Linux wants of every hop before it enables PASIDs.
const REDIRECTION: AcsBits = AcsBits::RR.union(AcsBits::UF);

/// Devices that send PASIDs without a TLP prefix although they have the capability (Linux:
/// quirk_huawei_pcie_sva; it looks at the revision too, which is not part of what is known here).
const NO_PREFIX_NEEDED: (u16, [u16; 6]) =
    (0x19e5, [0xa250, 0xa251, 0xa255, 0xa256, 0xa258, 0xa259]);

/// [`Gate::Prefix`], as Linux looks at it: a root port and an integrated endpoint speak for
/// themselves, everything else needs the port above it as well.
pub(super) fn prefix(survey: &Survey, index: usize, function: &PciFunction) -> Check {
    let check = |finding, source| Check { gate: Gate::Prefix, finding, source };
    let owner = physical(survey.machine, function);
    let quirk = owner.ids.is_some_and(|ids| {
        ids.value.vendor == NO_PREFIX_NEEDED.0 && NO_PREFIX_NEEDED.1.contains(&ids.value.device)
    });
    if quirk {
        return check(Finding::PrefixNotNeeded, owner.ids.map_or(Source::Read, |ids| ids.source));
    }
    let mut source = Source::Read;
    let functions = survey.machine.functions();
    let path = std::iter::once(owner)
        .chain(survey.machine.bridges_above(index).filter_map(|port| functions.get(port)));
    for (ports, hop) in path.enumerate() {
        source = source.weaker(hop.express.source);
        let Some(express) = hop.express.value else {
            let known = !matches!(hop.express.source, Source::Assumed(_));
            return if known {
                check(Finding::NotExpress { at: hop.bdf }, source)
            } else {
                check(Finding::PrefixNotSeen { at: hop.bdf }, source)
            };
        };
        source = source.weaker(express.end_to_end_prefix.source);
        match (express.end_to_end_prefix.value, express.end_to_end_prefix.source) {
            (_, Source::Assumed(_)) => {
                return check(Finding::PrefixNotSeen { at: hop.bdf }, source);
            }
            (false, _) => return check(Finding::NoPrefix { at: hop.bdf }, source),
            (true, _)
                if matches!(
                    express.kind,
                    ExpressKind::RootPort | ExpressKind::IntegratedEndpoint
                ) =>
            {
                return check(Finding::Prefix { ports }, source);
            }
            (true, _) => {}
        }
    }
    check(Finding::NoRootPort, source)
}

/// [`Gate::Redirect`]: the device itself and every port above it redirect requests, as Linux asks
/// of the path (`pci_acs_path_enabled`) before it enables PASIDs. Linux's quirks count.
pub(super) fn redirect(survey: &Survey, index: usize, function: &PciFunction) -> Check {
    let check = |finding, source| Check { gate: Gate::Redirect, finding, source };
    if let Some(release) = ignores_acs_of_path(survey.machine.host()) {
        return check(Finding::RedirectNotWanted { release }, Source::Read);
    }
    let owner = physical(survey.machine, function).bdf;
    let first = survey.machine.find(owner).unwrap_or(index);
    let (mut source, mut hops) = (Source::Read, 0);
    for hop in std::iter::once(first).chain(survey.machine.bridges_above(index)) {
        let Some(at) = survey.machine.functions().get(hop).map(|function| function.bdf) else {
            continue;
        };
        let verdict = acs_verdict(survey.machine, hop, REDIRECTION, Policy::Linux);
        source = source.weaker(verdict.source);
        hops += 1;
        match (verdict.given, verdict.rule) {
            (true, _) => {}
            (false, _) if matches!(verdict.source, Source::Assumed(_)) => {
                return check(Finding::RedirectNotSeen { at }, source);
            }
            (false, AcsRule::Capability { missing, .. }) => {
                return check(Finding::RedirectOff { at, off: missing }, source);
            }
            (false, _) => return check(Finding::NoRedirect { at }, source),
        }
    }
    check(Finding::Redirect { hops }, source)
}
