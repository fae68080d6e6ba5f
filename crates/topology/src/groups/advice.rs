//! What would make a function's group smaller. Each advice has been tried: the machine is changed
//! accordingly and grouped again, and only what helps is given.

use super::acs::{AcsRule, acs_option};
use super::alias::is_vmd;
use super::describe::{list, name};
use super::grouping::Grouping;
use super::policy::Policy;
use super::rules::Rules;
use super::step::JoinRule;
use crate::acs::AcsBits;
use crate::machine::{AcsCapability, ExpressKind, Fact, Header, Machine, PciFunction};

/// A change that would make a group smaller. `left` is how many others would still share the group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// These functions implement ACS services that are not enabled: enable them.
    EnableAcs {
        /// Which, as indexes.
        functions: Vec<usize>,
        /// The option of the kernel's command line that keeps them off.
        kept_off_by: Option<String>,
        /// Others left.
        left: usize,
    },
    /// These ports show no ACS capability; some firmware hides it, together with AER.
    ShowAcs {
        /// Which, as indexes.
        ports: Vec<usize>,
        /// Others left.
        left: usize,
    },
    /// Below these ports the device would be isolated from other devices.
    OtherSlot {
        /// Ports that isolate, those with nothing below first; as indexes.
        ports: Vec<usize>,
        /// How many of them have nothing below.
        free: usize,
        /// Others left: functions of the same device.
        left: usize,
    },
    /// The bridge takes ownership of requests: only a PCI Express device in place of what is behind
    /// it helps.
    ReplaceBridge {
        /// The bridge, as an index.
        bridge: usize,
    },
    /// The VMD function issues the requests of its domain; switched off in the firmware's setup,
    /// what is behind it sits below ordinary ports.
    LeaveVmd {
        /// The VMD function, as an index.
        vmd: usize,
        /// Others left.
        left: usize,
    },
    /// The out-of-tree override would split the group. It declares isolated what is not known to
    /// be.
    Override {
        /// Others left.
        left: usize,
    },
    /// Nothing that the rules look at would help.
    Nothing,
}

/// Ports that are named in an advice.
const MOST_PORTS: usize = 4;

pub(super) fn advise(
    rules: &Rules<'_>,
    grouping: &Grouping,
    function: usize,
    others: &[usize],
) -> Vec<Advice> {
    if others.is_empty() {
        return Vec::new();
    }
    let machine = rules.machine;
    let mut advice = Vec::new();
    let suspects = suspects(rules, function, others);
    let switched_off: Vec<usize> = suspects
        .iter()
        .copied()
        .filter(|it| !rules.verdicts[*it].rule.missing().is_empty())
        .collect();
    if let Some(left) = tried(rules, function, others, &switched_off, enable) {
        advice.push(Advice::EnableAcs {
            functions: switched_off,
            kept_off_by: acs_option(machine.host()).cloned(),
            left,
        });
    }
    let bare = |it: &usize| {
        matches!(
            rules.verdicts[*it].rule,
            AcsRule::NoCapability(ExpressKind::RootPort | ExpressKind::Downstream)
        )
    };
    let hidden: Vec<usize> = suspects.into_iter().filter(bare).collect();
    if let Some(left) = tried(rules, function, others, &hidden, show) {
        advice.push(Advice::ShowAcs { ports: hidden, left });
    }
    advice.extend(other_slot(rules, function, others));
    if let Some(bridge) = grouping.chain(function).find_map(|reason| {
        matches!(reason.rule, JoinRule::BridgeTakesOwnership { .. }).then_some(reason.with)
    }) {
        advice.push(Advice::ReplaceBridge { bridge });
    }
    let vmd = rules.issuer(function);
    if vmd != function
        && let Some(left) = tried(rules, function, others, &vmd_functions(rules.machine), leave_vmd)
    {
        advice.push(Advice::LeaveVmd { vmd, left });
    }
    if rules.policy == Policy::Linux {
        let left = Grouping::compute(machine, Policy::Override).others(function).len();
        if left < others.len() {
            advice.push(Advice::Override { left });
        }
    }
    if advice.is_empty() {
        advice.push(Advice::Nothing);
    }
    advice
}

/// Functions of the group, and ports above the function, that do not isolate.
fn suspects(rules: &Rules<'_>, function: usize, others: &[usize]) -> Vec<usize> {
    let above = rules.machine.bridges_above(rules.issuer(function));
    let mut all: Vec<usize> = others
        .iter()
        .copied()
        .chain([function])
        .chain(above)
        .filter(|it| !rules.verdicts[*it].given)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// How many others would be left if `functions` were changed, where that is less than now.
fn tried(
    rules: &Rules<'_>,
    function: usize,
    others: &[usize],
    functions: &[usize],
    change: Change,
) -> Option<usize> {
    if functions.is_empty() {
        return None;
    }
    let left = changed(rules, functions, change).others(function).len();
    (left < others.len()).then_some(left)
}

type Change = fn(&mut PciFunction);

/// The groups if `functions` were changed.
fn changed(rules: &Rules<'_>, functions: &[usize], change: Change) -> Grouping {
    let mut all = rules.machine.functions().to_vec();
    functions.iter().for_each(|it| change(&mut all[*it]));
    Grouping::compute(&Machine::new(all, rules.machine.host().clone()), rules.policy)
}

/// Whether following `advice` for the one would put two functions of one group into two.
pub(super) fn separates(rules: &Rules<'_>, advice: &Advice, a: usize, b: usize) -> bool {
    let apart = |grouping: Grouping| grouping.of(a) != grouping.of(b);
    let one_device = rules.machine.slot_of(a).any(|function| function == b);
    match advice {
        Advice::EnableAcs { functions, .. } => apart(changed(rules, functions, enable)),
        Advice::ShowAcs { ports, .. } => apart(changed(rules, ports, show)),
        Advice::Override { .. } => apart(Grouping::compute(rules.machine, Policy::Override)),
        Advice::OtherSlot { .. } => {
            !one_device || rules.verdicts[a].given || rules.verdicts[b].given
        }
        Advice::ReplaceBridge { .. } => !one_device,
        Advice::LeaveVmd { .. } => apart(changed(rules, &vmd_functions(rules.machine), leave_vmd)),
        Advice::Nothing => false,
    }
}

fn enable(it: &mut PciFunction) {
    if let Some(acs) = &mut it.acs.value {
        acs.enabled.value = acs.enabled.value | (acs.implemented.value & AcsBits::ISOLATION);
        acs.dwords = acs.dwords.map(|[implemented, control]| {
            [implemented, control | (implemented & u32::from(AcsBits::ISOLATION.bits()))]
        });
    }
}

fn show(it: &mut PciFunction) {
    it.acs.value = Some(AcsCapability {
        implemented: Fact::read(AcsBits::ISOLATION),
        enabled: Fact::read(AcsBits::ISOLATION),
        dwords: None,
    });
}

/// All of them: which domain is whose goes by their order, so with one of them left the others
/// would be taken for each other's.
fn vmd_functions(machine: &Machine) -> Vec<usize> {
    (0..machine.functions().len()).filter(|index| is_vmd(&machine.functions()[*index])).collect()
}

/// Model and driver tell that a function has a VMD domain.
fn leave_vmd(it: &mut PciFunction) {
    (it.ids, it.driver) = (None, None);
}

/// Ports below which the device would be alone, for a plug-in device that shares its group with
/// others.
fn other_slot(rules: &Rules<'_>, function: usize, others: &[usize]) -> Option<Advice> {
    let machine = rules.machine;
    let it = &machine.functions()[function];
    let own: Vec<usize> = machine.slot_of(function).collect();
    let pluggable = machine.bus_of(function).bridge.is_some()
        && it.header.value == Header::Endpoint
        && it.physical_function.is_none();
    if !pluggable
        || rules.issuer(function) != function
        || others.iter().all(|other| own.contains(other))
    {
        return None;
    }
    let above: Vec<usize> = machine.bridges_above(function).collect();
    let isolates = |port: &usize| {
        let kind = machine.functions()[*port].express.value.map(|express| express.kind);
        matches!(kind, Some(ExpressKind::RootPort | ExpressKind::Downstream))
            && rules.blocked[*port].is_none()
            && !above.contains(port)
    };
    let empty = |port: &usize| machine.below(*port).is_none_or(|bus| bus.functions.is_empty());
    let (mut ports, used): (Vec<usize>, Vec<usize>) =
        (0..machine.functions().len()).filter(isolates).partition(empty);
    let free = ports.len().min(MOST_PORTS);
    ports.extend(used);
    ports.truncate(MOST_PORTS);
    // Functions of one device that are not isolated from each other move together.
    let left = own
        .iter()
        .filter(|other| {
            **other != function && !rules.verdicts[**other].given && !rules.verdicts[function].given
        })
        .count();
    (!ports.is_empty() && left < others.len()).then_some(Advice::OtherSlot { ports, free, left })
}

impl Advice {
    /// The advice in words.
    pub fn describe(&self, machine: &Machine) -> String {
        match self {
            Self::EnableAcs { kept_off_by: Some(option), left, .. } => {
                format!(
                    "to change it: remove {} from the kernel's command line; {}",
                    option.escape_debug().take(80).collect::<String>(),
                    leaves(*left)
                )
            }
            Self::EnableAcs { functions, left, .. } => format!(
                "to change it: enable ACS on {}: Linux does so where it uses an IOMMU; if it did \
                 not, pci=config_acs=xx111x1@{} does (6.11 and later); {}",
                list(machine, functions),
                functions.first().map(|function| name(machine, *function)).unwrap_or_default(),
                leaves(*left)
            ),
            Self::ShowAcs { ports, left } => format!(
                "to change it: look in the firmware's setup for ACS or AER: {} would have to show \
                 the ACS capability; {}",
                list(machine, ports),
                leaves(*left)
            ),
            Self::OtherSlot { ports, free, left } => format!(
                "to change it: another slot, below {}{}; {}",
                list(machine, ports),
                if *free == 0 { " (all have devices now)" } else { "" },
                leaves(*left)
            ),
            Self::ReplaceBridge { bridge } => {
                format!(
                    "to change it: a PCI Express device in place of what is behind bridge {}, \
                     which takes the requests of all of it",
                    name(machine, *bridge)
                )
            }
            Self::LeaveVmd { vmd, left } => format!(
                "to change it: switch VMD off in the firmware's setup (it can be called RST or \
                 RAID there); without {} {}",
                name(machine, *vmd),
                leaves(*left)
            ),
            Self::Override { left } => format!(
                "the out-of-tree pcie_acs_override=downstream,multifunction would split the group \
                 without isolating anything; {}",
                leaves(*left)
            ),
            Self::Nothing => "to change it: nothing that the rules look at would help".to_owned(),
        }
    }
}

fn leaves(left: usize) -> String {
    match left {
        0 => "it would be alone then".to_owned(),
        1 => "one other would still share its group".to_owned(),
        n => format!("{n} others would still share its group"),
    }
}
