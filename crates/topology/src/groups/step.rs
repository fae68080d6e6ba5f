//! What a decision leaves behind: why a function joined a group, and the steps that led there.

use std::fmt;

use super::acs::AcsVerdict;
use super::alias::{AliasQuirk, RequesterThrough};
use super::isolation::Isolation;
use crate::machine::Source;

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
