//! The record of a decision: why a function joined a group, and the steps that led there.

use std::fmt;

use super::acs::AcsVerdict;
use super::alias::{AliasQuirk, BridgeRequesterId};
use super::isolation::Isolation;
use crate::machine::Source;

/// The rule by which a function joined the group of another one. Numbers are indexes into
/// [`Machine::functions`](crate::machine::Machine::functions).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum JoinRule {
    /// The other function issues its requests: a VMD domain's devices are seen as the VMD function.
    IssuedBy,
    /// The other function is a bridge that takes ownership of its requests.
    BridgeTakesOwnership {
        /// What the bridge does with requester IDs.
        requester_id: BridgeRequesterId,
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
    WholeSubtree,
    /// The bus below the other function does not isolate (`ReachableSet`).
    BusNotIsolated {
        /// How far the bus isolates.
        isolation: Isolation,
    },
    /// Both sit on a bus whose functions reach each other (`ReachableSet`).
    SharedBus {
        /// How far the bus isolates.
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
    /// The rule by which it joined.
    pub rule: JoinRule,
    /// The weakest fact that this rests on.
    pub source: Source,
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
    BridgeRequesterId(BridgeRequesterId),
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
        /// The function whose group it joined, as an index.
        with: usize,
        /// The rule by which it joined.
        rule: JoinRule,
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
            Self::KernelHasNone => {
                "has no group in the kernel that made groups for others; nothing translates its \
                 requests"
            }
        })
    }
}

/// Takes the steps of a decision: discards them while all groups are made, keeps them in a list
/// when one decision is explained. So an explanation is the decision itself, taken again.
pub(super) trait Trace {
    fn record(&mut self, step: impl FnOnce() -> Step);
    /// Whether steps are kept. Steps that take a walk to find are looked for only then.
    fn is_recording(&self) -> bool;
}

/// Discards all steps.
pub(super) struct Untraced;

impl Trace for Untraced {
    fn record(&mut self, _step: impl FnOnce() -> Step) {}
    fn is_recording(&self) -> bool {
        false
    }
}

impl Trace for Vec<Step> {
    fn record(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
    fn is_recording(&self) -> bool {
        true
    }
}
