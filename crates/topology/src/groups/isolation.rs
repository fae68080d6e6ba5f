//! How far a bus isolates, for [`Policy::ReachableSet`](super::Policy::ReachableSet).

use std::fmt;

use super::acs::AcsVerdict;
use super::alias;
use crate::machine::{Bus, ExpressKind, Machine};

/// How far a bus isolates what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// What goes up from here goes on up.
    Isolated,
    /// The bus inside a switch: a downstream port turns requests back to its siblings.
    SwitchPorts,
    /// Functions on the bus reach each other and the bridge or port above.
    WithBridge,
    /// A conventional bus whose bridge has no memory of its own to reach.
    ConventionalBus,
    /// A conventional bus, with its bridge.
    ConventionalWithBridge,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Isolated => "what goes up from its bus goes on up",
            Self::SwitchPorts => {
                "a downstream port of its switch turns requests back to the others"
            }
            Self::WithBridge => {
                "its bus lets requests reach the functions on it and the port above"
            }
            Self::ConventionalBus => {
                "it sits on a conventional bus, where every function hears every other"
            }
            Self::ConventionalWithBridge => {
                "it sits on a conventional bus, where every function hears every other and the \
                 bridge"
            }
        })
    }
}

/// How far `bus` isolates (pci_bus_isolated). `verdicts` are those of all functions for SV, RR, CR
/// and UF; `aliased` says whether a function's requests carry other requester IDs too.
pub(super) fn of_bus(
    machine: &Machine,
    verdicts: &[AcsVerdict],
    aliased: impl Fn(usize) -> bool,
    bus: &Bus,
) -> Isolation {
    let Some(bridge) = bus.bridge else { return Isolation::Isolated };
    let it = &machine.functions()[bridge];
    let Some(express) = it.express.value else {
        return if alias::disguised(machine, bridge) {
            conventional(machine, bridge)
        } else {
            Isolation::ConventionalWithBridge
        };
    };
    match express.kind {
        ExpressKind::RootPort if it.acs.value.is_some() && !verdicts[bridge].given => {
            Isolation::WithBridge
        }
        ExpressKind::RootPort | ExpressKind::Downstream => Isolation::Isolated,
        ExpressKind::Upstream => inside_switch(machine, verdicts, aliased, bus),
        ExpressKind::PcieToPci => conventional(machine, bridge),
        _ => Isolation::ConventionalWithBridge,
    }
}

fn conventional(machine: &Machine, bridge: usize) -> Isolation {
    if machine.functions()[bridge].bars.is_empty() {
        Isolation::ConventionalBus
    } else {
        Isolation::ConventionalWithBridge
    }
}

/// The first port that does not isolate decides. Whether it lets requests reach the upstream port's
/// memory is said by ACS Enhanced, which few devices have; Linux takes it that a port with ACS does
/// not, and one without may.
fn inside_switch(
    machine: &Machine,
    verdicts: &[AcsVerdict],
    aliased: impl Fn(usize) -> bool,
    bus: &Bus,
) -> Isolation {
    for &port in &bus.functions {
        let it = &machine.functions()[port];
        let downstream =
            it.express.value.is_some_and(|express| express.kind == ExpressKind::Downstream);
        if !downstream || aliased(port) {
            return Isolation::WithBridge;
        }
        if !verdicts[port].given {
            return if it.acs.value.is_some() {
                Isolation::SwitchPorts
            } else {
                Isolation::WithBridge
            };
        }
    }
    Isolation::Isolated
}
