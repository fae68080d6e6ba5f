//! Which functions share an IOMMU group, and why.
//!
//! A group is the smallest set of functions whose requests cannot be kept apart before they reach
//! the IOMMU. [`Grouping::compute`] makes the groups of a machine by the rules of one [`Policy`];
//! [`explain()`] takes one function's decision again, by the same code, and keeps its steps;
//! [`why_not`] looks at a pair; [`self_check`] compares with what the machine's own kernel made.
//!
//! ```
//! use sva_topology::groups::{Grouping, Policy, explain};
//! use sva_topology::machine::{Host, Machine};
//!
//! let machine = Machine::new(Vec::new(), Host::default());
//! let grouping = Grouping::compute(&machine, Policy::Linux);
//! for group in grouping.groups() {
//!     for member in &group.members {
//!         println!("{}: {}", group.id, machine.functions()[*member].bdf);
//!         explain(&machine, &grouping, *member)
//!             .lines(&machine)
//!             .iter()
//!             .for_each(|line| println!("  {line}"));
//!     }
//! }
//! ```

mod acs;
mod advice;
mod alias;
mod check;
mod explain;
mod linux;
mod pair;
mod quirks;
mod reachable;
mod rules;
mod step;

use std::fmt;
use std::str::FromStr;

use crate::machine::{Machine, Source};

pub use acs::{AcsRule, AcsVerdict, acs_verdict};
pub use advice::Advice;
pub use alias::{AliasQuirk, RequesterThrough};
pub use check::{Difference, SelfCheck, self_check};
pub use explain::{Explanation, explain};
pub use pair::{Pair, PairVerdict, why_not};
pub use quirks::{AcsEffect, AcsQuirk};
pub use reachable::Isolation;
pub use step::{Because, Reason, Step, StepKind, Untranslated};

use rules::{Outcome, Rules, State};
use step::Untraced;

/// The rules to group by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// As Linux does, 6.x to 7.x.
    #[default]
    Linux,
    /// As the proposed rework would: ACS is egress only.
    ReachableSet,
    /// As Linux does with the out-of-tree ACS override,
    /// `pcie_acs_override=downstream,multifunction`: it declares isolated what is not known to be.
    Override,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Linux, Self::ReachableSet, Self::Override];

    /// The name that the command line takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::ReachableSet => "reachable-set",
            Self::Override => "override",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no grouping policy; the policies are linux, reachable-set and override", text.escape_debug().take(40).collect::<String>())]
pub struct UnknownPolicy {
    /// What was given.
    pub text: String,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| UnknownPolicy { text: text.to_owned() })
    }
}

/// One group.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its number: groups are numbered from 0 in the order in which they are founded. The kernel's
    /// numbers differ where it probes in another order.
    pub id: u32,
    /// Its members, as indexes into [`Machine::functions`], ascending.
    pub members: Vec<usize>,
    /// Why each member but the founder is in it, in the order in which they joined.
    pub reasons: Vec<Reason>,
}

/// The groups of a machine.
#[derive(Debug, Clone)]
pub struct Grouping {
    policy: Policy,
    groups: Vec<Group>,
    state: State,
    untranslated: Vec<Option<Untranslated>>,
    verdicts: Vec<AcsVerdict>,
    /// The place of each function's reason in its group's list.
    reasons: Vec<Option<usize>>,
    sources: Vec<Source>,
}

impl Grouping {
    /// Groups the functions of `machine`; takes time in proportion to their number.
    ///
    /// Groups are made as if an IOMMU were in use, also where the machine's kernel uses none.
    pub fn compute(machine: &Machine, policy: Policy) -> Self {
        let rules = Rules::new(machine, policy);
        let mut state = State::new(rules.ranks());
        let mut groups: Vec<Group> = Vec::new();
        let mut sources = vec![Source::Read; state.rank.len()];
        let untranslated: Vec<_> =
            (0..machine.functions().len()).map(|function| rules.untranslated(function)).collect();
        let mut order: Vec<usize> = (0..state.rank.len()).collect();
        order.sort_unstable_by_key(|function| state.rank[*function]);
        for function in order.into_iter().filter(|function| untranslated[*function].is_none()) {
            let outcome = rules.decide(&state, function, &mut Untraced);
            sources[function] = outcome.source;
            enter(&mut groups, &mut state, function, outcome);
        }
        groups.iter_mut().for_each(|group| group.members.sort_unstable());
        let mut reasons = vec![None; sources.len()];
        for group in &groups {
            group
                .reasons
                .iter()
                .enumerate()
                .for_each(|(at, reason)| reasons[reason.member] = Some(at));
        }
        Self { policy, groups, state, untranslated, verdicts: rules.verdicts, reasons, sources }
    }

    /// The rules that made them.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The groups, by number.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The number of the group of `function` (an index), which is its place in
    /// [`groups`](Self::groups); none where it is known that no IOMMU translates it.
    pub fn of(&self, function: usize) -> Option<u32> {
        self.state.of.get(function).copied().flatten()
    }

    /// How it is known that no IOMMU translates `function` (an index).
    pub fn untranslated(&self, function: usize) -> Option<Untranslated> {
        self.untranslated.get(function).copied().flatten()
    }

    /// Whether `function` (an index into `machine`'s) isolates by SV, RR, CR and UF, as these
    /// groups were made.
    pub fn verdict(&self, machine: &Machine, function: usize) -> AcsVerdict {
        let known = self.verdicts.get(function).copied();
        known.unwrap_or_else(|| {
            acs_verdict(machine, function, crate::AcsBits::ISOLATION, self.policy)
        })
    }

    /// Why `function` (an index) is in its group; none for the founder.
    pub fn reason(&self, function: usize) -> Option<&Reason> {
        self.groups.get(self.of(function)? as usize)?.reasons.get((*self.reasons.get(function)?)?)
    }

    /// The weakest fact that the membership of `function` (an index) rests on.
    pub fn source(&self, function: usize) -> Source {
        self.sources.get(function).copied().unwrap_or(Source::Read)
    }
}

/// Puts a function where its decision says.
fn enter(groups: &mut Vec<Group>, state: &mut State, function: usize, outcome: Outcome) {
    let reason = |with, because| Reason { member: function, with, because, source: outcome.source };
    let joined =
        outcome.joins.and_then(|(with, because)| Some((state.of[with]?, reason(with, because))));
    let id = match joined {
        Some((id, reason)) => {
            groups[id as usize].reasons.push(reason);
            id
        }
        None => {
            let id = groups.len() as u32;
            groups.push(Group { id, members: Vec::new(), reasons: Vec::new() });
            state.spreads.push(None);
            id
        }
    };
    groups[id as usize].members.push(function);
    state.of[function] = Some(id);
    if outcome.spreads {
        state.spreads[id as usize].get_or_insert(state.rank[function]);
    }
}
