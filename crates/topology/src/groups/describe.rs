//! Reasons and steps in words.

use super::acs::AcsRule;
use super::alias::BridgeRequesterId;
use super::grouping::Grouping;
use super::step::{JoinRule, Reason, Step, StepKind};
use crate::machine::{Machine, Source};

impl Reason {
    /// The reason in words, such as `0000:01:00.0 with 0000:00:1c.0: 0000:00:1c.0 is a root port
    /// without the ACS capability`.
    pub fn describe(&self, machine: &Machine, grouping: &Grouping) -> String {
        let (member, with) = (name(machine, self.member), name(machine, self.with));
        let why = match self.rule {
            JoinRule::IssuedBy => format!("{with} is the VMD function that issues its requests"),
            JoinRule::BridgeTakesOwnership { requester_id } => {
                format!("its requests {} {with}", requests(requester_id))
            }
            JoinRule::PathNotIsolated { port } => {
                format!("{} {}", name(machine, port), grouping.verdict(machine, port))
            }
            JoinRule::Alias { quirk } => {
                format!("they share requester IDs ({}, {})", quirk.what, quirk.kernel)
            }
            JoinRule::Multifunction => {
                format!(
                    "functions of one device that are not isolated: {member} {}",
                    grouping.verdict(machine, self.member)
                )
            }
            JoinRule::WholeSubtree => format!("all that is below {with} is in its group"),
            JoinRule::BusNotIsolated { isolation } => format!("{isolation}"),
            JoinRule::SharedBus { isolation } => format!("{isolation}"),
            JoinRule::Reachable => {
                "functions of one device that has ACS and does not isolate all of them".to_owned()
            }
        };
        format!("{member} with {with}: {why}")
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
            StepKind::BridgeRequesterId(requester_id) => {
                format!("{it}: requests from below {}", passing(requester_id))
            }
            StepKind::Hop(verdict) => format!("{it} {verdict}"),
            StepKind::Function(verdict) => match verdict.rule {
                AcsRule::SingleFunction => format!("{it} {verdict}"),
                _ if verdict.given => {
                    format!("{it} is isolated from the other functions of its device: it {verdict}")
                }
                _ => format!(
                    "{it} is not isolated from functions of its device that are not either: it \
                     {verdict}"
                ),
            },
            StepKind::Bus(isolation) => format!("{it}: {isolation}"),
            StepKind::RootBus => {
                format!("{it} sits on a root bus: its requests reach the IOMMU at once")
            }
            StepKind::Joined { with, rule } => match rule {
                JoinRule::PathNotIsolated { port } => {
                    format!(
                        "{it} joins {}, for {} does not isolate",
                        name(machine, with),
                        name(machine, port)
                    )
                }
                JoinRule::IssuedBy => format!(
                    "{it} joins {}, the VMD function that issues its requests",
                    name(machine, with)
                ),
                JoinRule::BridgeTakesOwnership { .. } => {
                    format!("{it} joins {}, which takes its requests", name(machine, with))
                }
                JoinRule::Alias { quirk } => format!(
                    "{it} joins {}: shared requester IDs ({})",
                    name(machine, with),
                    quirk.kernel
                ),
                JoinRule::Multifunction | JoinRule::Reachable => {
                    format!("{it} joins {}, a function of the same device", name(machine, with))
                }
                JoinRule::WholeSubtree => format!(
                    "{it} joins {}, to whose group all below it belongs",
                    name(machine, with)
                ),
                JoinRule::BusNotIsolated { .. } => {
                    format!("{it} joins {}, the bridge above", name(machine, with))
                }
                JoinRule::SharedBus { .. } => {
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

fn requests(requester_id: BridgeRequesterId) -> &'static str {
    match requester_id {
        BridgeRequesterId::SecondaryBus | BridgeRequesterId::Bridge => {
            "may carry the requester ID of the bridge"
        }
        BridgeRequesterId::Preserved | BridgeRequesterId::Translated => {
            "keep their requester ID behind"
        }
    }
}

fn passing(requester_id: BridgeRequesterId) -> &'static str {
    match requester_id {
        BridgeRequesterId::Preserved => "keep their requester ID",
        BridgeRequesterId::SecondaryBus => {
            "may carry the requester ID of the bus below, device 0, function 0"
        }
        BridgeRequesterId::Bridge => "may carry its own requester ID",
        BridgeRequesterId::Translated => "keep their requester ID, and are translated here",
    }
}

/// Addresses in a row; many are counted, not listed.
pub(super) fn list(machine: &Machine, functions: &[usize]) -> String {
    const MOST: usize = 16;
    let mut text = functions
        .iter()
        .take(MOST)
        .map(|function| name(machine, *function))
        .collect::<Vec<_>>()
        .join(", ");
    if functions.len() > MOST {
        text.push_str(&format!(" and {} more", functions.len() - MOST));
    }
    text
}
