//! The groups of a machine, made function by function.

use super::acs::{AcsVerdict, acs_verdict};
use super::decide::decide;
use super::policy::Policy;
use super::rules::Rules;
use super::state::{Decision, State};
use super::step::{Reason, Untraced, Untranslated};
use crate::acs::AcsBits;
use crate::machine::{Machine, Source};

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
            let decision = decide(&rules, &state, function, &mut Untraced);
            sources[function] = decision.source;
            enter(&mut groups, &mut state, function, decision);
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
        known.unwrap_or_else(|| acs_verdict(machine, function, AcsBits::ISOLATION, self.policy))
    }

    /// Why `function` (an index) is in its group; none for the founder.
    pub fn reason(&self, function: usize) -> Option<&Reason> {
        self.groups.get(self.of(function)? as usize)?.reasons.get((*self.reasons.get(function)?)?)
    }

    /// The weakest fact that the membership of `function` (an index) rests on.
    pub fn source(&self, function: usize) -> Source {
        self.sources.get(function).copied().unwrap_or(Source::Read)
    }

    /// The reasons from `function` (an index) to the founder of its group.
    pub(super) fn chain(&self, function: usize) -> impl Iterator<Item = &Reason> {
        // Each reason leads to a function that was decided before, so this ends.
        std::iter::successors(self.reason(function), |reason| self.reason(reason.with))
    }

    /// The members of the group of `function` (an index) without itself.
    pub(super) fn others(&self, function: usize) -> Vec<usize> {
        let group = self.of(function).and_then(|id| self.groups.get(id as usize));
        group
            .map(|group| {
                group.members.iter().copied().filter(|member| *member != function).collect()
            })
            .unwrap_or_default()
    }

    /// The state in which each decision was taken.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

/// Puts a function where its decision says.
fn enter(groups: &mut Vec<Group>, state: &mut State, function: usize, decision: Decision) {
    let reason = |with, rule| Reason { member: function, with, rule, source: decision.source };
    let joined =
        decision.joins.and_then(|(with, rule)| Some((state.of[with]?, reason(with, rule))));
    let id = match joined {
        Some((id, reason)) => {
            groups[id as usize].reasons.push(reason);
            id
        }
        None => {
            let id = groups.len() as u32;
            groups.push(Group { id, members: Vec::new(), reasons: Vec::new() });
            state.whole_subtree.push(None);
            id
        }
    };
    groups[id as usize].members.push(function);
    state.of[function] = Some(id);
    if decision.whole_subtree {
        state.whole_subtree[id as usize].get_or_insert(state.rank[function]);
    }
}
