//! What a decision leaves behind: why a function joined a group, and the steps that led there.

use std::fmt;

use super::acs::{AcsRule, AcsVerdict};
use super::alias::{AliasQuirk, RequesterThrough};
use super::reachable::Isolation;
use crate::machine::{Machine, Source};

/// Why a function is in the group of another one. Numbers are indexes into [`Machine::functions`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Because {
    /// The other function issues its requests: a VMD domain's devices are seen as the VMD function.
    IssuedBy,
    /// The other function is a bridge that takes ownership of its requests.
    BridgeTakesRequests {
        /// What the bridge does with requester IDs.
        through: RequesterThrough,
    },
    /// Between it and the root `port` does not isolate.
    PathNotIsolated {
        /// The function that fails.
        port: usize,
    },
    /// They share requester IDs.
    Alias {
        /// The quirk.
        quirk: &'static AliasQuirk,
    },
    /// They are functions of one device, and neither is isolated from the other.
    Multifunction,
    /// The bridge above is in a group to which everything below belongs
    /// ([`Policy::ReachableSet`](super::Policy::ReachableSet)).
    GroupSpreads,
    /// The bus below the other function does not isolate (`ReachableSet`).
    BusNotIsolated {
        /// How far.
        isolation: Isolation,
    },
    /// Both sit on a bus whose functions reach each other (`ReachableSet`).
    SharedBus {
        /// How far.
        isolation: Isolation,
    },
    /// They are functions of one device, one of which has ACS and does not isolate
    /// (`ReachableSet`).
    Reachable,
}

/// Why a member is in its group.
#[derive(Debug, Clone, Copy)]
pub struct Reason {
    /// The member, as an index.
    pub member: usize,
    /// Whose group it joined, as an index.
    pub with: usize,
    /// Why.
    pub because: Because,
    /// The weakest fact that this rests on.
    pub source: Source,
}

impl Reason {
    /// The reason in words, such as `0000:01:00.0 with 0000:00:1c.0: 0000:00:1c.0 is a root port
    /// without the ACS capability`.
    pub fn describe(&self, machine: &Machine, grouping: &super::Grouping) -> String {
        let (member, with) = (name(machine, self.member), name(machine, self.with));
        let why = match self.because {
            Because::IssuedBy => format!("{with} is the VMD function that issues its requests"),
            Because::BridgeTakesRequests { through } => {
                format!("its requests {} {with}", requests(through))
            }
            Because::PathNotIsolated { port } => {
                format!("{} {}", name(machine, port), grouping.verdict(machine, port))
            }
            Because::Alias { quirk } => {
                format!("they share requester IDs ({}, {})", quirk.what, quirk.kernel)
            }
            Because::Multifunction => {
                format!(
                    "functions of one device that are not isolated: {member} {}",
                    grouping.verdict(machine, self.member)
                )
            }
            Because::GroupSpreads => format!("all that is below {with} is in its group"),
            Because::BusNotIsolated { isolation } => format!("{isolation}"),
            Because::SharedBus { isolation } => format!("{isolation}"),
            Because::Reachable => {
                "functions of one device that has ACS and does not isolate all of them".to_owned()
            }
        };
        format!("{member} with {with}: {why}")
    }
}

/// One step of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The function that was looked at, as an index.
    pub at: usize,
    /// What was found.
    pub kind: StepKind,
    /// The weakest fact that this rests on.
    pub source: Source,
}

/// What a step found.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum StepKind {
    /// No IOMMU translates the function.
    Untranslated(Untranslated),
    /// Its requests carry other numbers of its bus too.
    Aliases(&'static AliasQuirk),
    /// What the bridge does to the requester IDs of requests from below.
    Through(RequesterThrough),
    /// Whether the bridge or port keeps what is below it from its peers, on the way up.
    Hop(AcsVerdict),
    /// Whether the function is isolated from the other functions of its device.
    Function(AcsVerdict),
    /// How far the bus that the function sits on isolates (`ReachableSet`).
    Bus(Isolation),
    /// It sits on a root bus: nothing between it and the IOMMU.
    RootBus,
    /// It joined the group of another function.
    Joined {
        /// Whose group.
        with: usize,
        /// Why.
        because: Because,
    },
    /// Nothing joins it to a function before it: a group of its own, which later functions may
    /// join.
    Founded,
}

/// How it is known that no IOMMU translates a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untranslated {
    /// It is an IOMMU.
    IsIommu,
    /// The kernel put others into groups, and not this one.
    KernelHasNone,
}

impl fmt::Display for Untranslated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IsIommu => "is an IOMMU itself; nothing translates its requests",
            Self::KernelHasNone => "has no group in the kernel that made groups for others; nothing translates its requests",
        })
    }
}

impl Step {
    /// The step in words, one line; what was not read says so.
    pub fn describe(&self, machine: &Machine) -> String {
        let it = name(machine, self.at);
        let text = match self.kind {
            StepKind::Untranslated(why) => format!("{it} {why}"),
            StepKind::Aliases(quirk) => {
                format!(
                    "{it} issues requests under other numbers of its bus too: {} ({})",
                    quirk.what, quirk.kernel
                )
            }
            StepKind::Through(through) => format!("{it}: requests from below {}", passing(through)),
            StepKind::Hop(verdict) => format!("{it} {verdict}"),
            StepKind::Function(verdict) => match verdict.rule {
                AcsRule::SingleFunction => format!("{it} {verdict}"),
                _ if verdict.given => {
                    format!("{it} is isolated from the other functions of its device: it {verdict}")
                }
                _ => format!(
                    "{it} is not isolated from functions of its device that are not either: it {verdict}"
                ),
            },
            StepKind::Bus(isolation) => format!("{it}: {isolation}"),
            StepKind::RootBus => {
                format!("{it} sits on a root bus: its requests reach the IOMMU at once")
            }
            StepKind::Joined { with, because } => match because {
                Because::PathNotIsolated { port } => {
                    format!(
                        "{it} joins {}, for {} does not isolate",
                        name(machine, with),
                        name(machine, port)
                    )
                }
                Because::IssuedBy => format!(
                    "{it} joins {}, the VMD function that issues its requests",
                    name(machine, with)
                ),
                Because::BridgeTakesRequests { .. } => {
                    format!("{it} joins {}, which takes its requests", name(machine, with))
                }
                Because::Alias { quirk } => format!(
                    "{it} joins {}: shared requester IDs ({})",
                    name(machine, with),
                    quirk.kernel
                ),
                Because::Multifunction | Because::Reachable => {
                    format!("{it} joins {}, a function of the same device", name(machine, with))
                }
                Because::GroupSpreads => format!(
                    "{it} joins {}, to whose group all below it belongs",
                    name(machine, with)
                ),
                Because::BusNotIsolated { .. } => {
                    format!("{it} joins {}, the bridge above", name(machine, with))
                }
                Because::SharedBus { .. } => {
                    format!("{it} joins {}, on the same bus", name(machine, with))
                }
            },
            StepKind::Founded => format!("{it} founds a group"),
        };
        match self.source {
            Source::Read => text,
            source => format!("{text} [{source}]"),
        }
    }
}

pub(super) fn name(machine: &Machine, function: usize) -> String {
    machine.functions()[function].bdf.to_string()
}

fn requests(through: RequesterThrough) -> &'static str {
    match through {
        RequesterThrough::BusBelow | RequesterThrough::Own => {
            "may carry the requester ID of the bridge"
        }
        RequesterThrough::Kept | RequesterThrough::Translated => "keep their requester ID behind",
    }
}

fn passing(through: RequesterThrough) -> &'static str {
    match through {
        RequesterThrough::Kept => "keep their requester ID",
        RequesterThrough::BusBelow => {
            "may carry the requester ID of the bus below, device 0, function 0"
        }
        RequesterThrough::Own => "may carry its own requester ID",
        RequesterThrough::Translated => "keep their requester ID, and are translated here",
    }
}

/// Where steps go: nowhere while all groups are made, into a list when one decision is explained.
/// So the explanation is the decision itself.
pub(super) trait Trace {
    fn note(&mut self, step: impl FnOnce() -> Step);
    /// Whether steps are kept, for those that take a walk to find.
    fn keeps(&self) -> bool;
}

/// Keeps nothing.
pub(super) struct Untraced;

impl Trace for Untraced {
    fn note(&mut self, _step: impl FnOnce() -> Step) {}
    fn keeps(&self) -> bool {
        false
    }
}

impl Trace for Vec<Step> {
    fn note(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
    fn keeps(&self) -> bool {
        true
    }
}
