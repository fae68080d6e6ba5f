//! Why two functions are in one group, or are not.

use super::advice::{Advice, advise, separates};
use super::describe::{list, name};
use super::explain::explain;
use super::grouping::Grouping;
use super::isolation::Isolation;
use super::rules::Rules;
use super::step::{Reason, Step, StepKind, Untranslated};
use crate::machine::{ExpressKind, Machine};

/// A pair of functions, as indexes.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The first function.
    pub a: usize,
    /// The second function.
    pub b: usize,
    /// What joins or separates them.
    pub verdict: PairVerdict,
    /// What goes along when `a` is given away: the other members of its group.
    pub along_with_a: Vec<usize>,
    /// The same for `b`.
    pub along_with_b: Vec<usize>,
    /// What would put a pair of one group into two, and for which of them it would be done; tried
    /// as [`Advice`] is.
    pub advice: Vec<(usize, Advice)>,
    reasons: Vec<String>,
}

/// What joins or separates a pair.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PairVerdict {
    /// The pair is one function.
    Same,
    /// They are in one group.
    Together {
        /// The number of the group.
        group: u32,
        /// The links from `a`, then those from `b`, to where they meet.
        reasons: Vec<Reason>,
    },
    /// They are in two groups.
    Apart {
        /// The group of `a`.
        a: u32,
        /// The group of `b`.
        b: u32,
        /// What isolates `a`, then what isolates `b`, up to the way that they have in common.
        separated_by: Vec<Step>,
    },
    /// No IOMMU translates the function, so it is in no group.
    Untranslated {
        /// The function, as an index.
        function: usize,
        /// How that is known.
        why: Untranslated,
    },
    /// The index is not in the machine.
    Unknown(usize),
}

/// Says what joins or separates the functions `a` and `b`, indexes into the functions of `machine`,
/// of which `grouping` was computed.
pub fn why_not(machine: &Machine, grouping: &Grouping, a: usize, b: usize) -> Pair {
    let verdict = verdict(machine, grouping, a, b);
    let reasons = match &verdict {
        PairVerdict::Together { reasons, .. } => {
            reasons.iter().map(|reason| reason.describe(machine, grouping)).collect()
        }
        _ => Vec::new(),
    };
    let advice = match verdict {
        PairVerdict::Together { .. } => separating(machine, grouping, a, b),
        _ => Vec::new(),
    };
    Pair {
        a,
        b,
        verdict,
        along_with_a: grouping.others(a),
        along_with_b: grouping.others(b),
        advice,
        reasons,
    }
}

/// The advice for either that would separate them; what is the same for both is told once.
fn separating(machine: &Machine, grouping: &Grouping, a: usize, b: usize) -> Vec<(usize, Advice)> {
    let rules = Rules::new(machine, grouping.policy());
    let mut all: Vec<(usize, Advice)> = Vec::new();
    for (it, other) in [(a, b), (b, a)] {
        for advice in advise(&rules, grouping, it, &grouping.others(it)) {
            if separates(&rules, &advice, it, other) && all.iter().all(|(_, told)| *told != advice)
            {
                all.push((it, advice));
            }
        }
    }
    if all.is_empty() { vec![(a, Advice::Nothing)] } else { all }
}

fn verdict(machine: &Machine, grouping: &Grouping, a: usize, b: usize) -> PairVerdict {
    let known = machine.functions().len().min(grouping.state().rank.len());
    if let Some(unknown) = [a, b].into_iter().find(|function| *function >= known) {
        return PairVerdict::Unknown(unknown);
    }
    if a == b {
        return PairVerdict::Same;
    }
    for function in [a, b] {
        if let Some(why) = grouping.untranslated(function) {
            return PairVerdict::Untranslated { function, why };
        }
    }
    match (grouping.of(a), grouping.of(b)) {
        (Some(group), Some(other)) if group == other => {
            PairVerdict::Together { group, reasons: links(grouping, a, b) }
        }
        (Some(group), Some(other)) => PairVerdict::Apart {
            a: group,
            b: other,
            separated_by: separated_by(machine, grouping, a, b),
        },
        // Every function that is translated has a group.
        (None, _) => PairVerdict::Unknown(a),
        (_, None) => PairVerdict::Unknown(b),
    }
}

/// The links of both to the founder, without the part that is common.
fn links(grouping: &Grouping, a: usize, b: usize) -> Vec<Reason> {
    let mut from_a: Vec<Reason> = grouping.chain(a).copied().collect();
    let mut from_b: Vec<Reason> = grouping.chain(b).copied().collect();
    while let (Some(last_a), Some(last_b)) = (from_a.last(), from_b.last())
        && last_a.member == last_b.member
    {
        from_a.pop();
        from_b.pop();
    }
    from_a.extend(from_b);
    from_a
}

/// The steps of both decisions that isolate, below the first bridge that is above both.
fn separated_by(machine: &Machine, grouping: &Grouping, a: usize, b: usize) -> Vec<Step> {
    let above_b: Vec<usize> = machine.bridges_above(b).collect();
    let common: Vec<usize> =
        machine.bridges_above(a).filter(|bridge| above_b.contains(bridge)).collect();
    let isolates = |step: &Step| match step.kind {
        StepKind::Hop(verdict) | StepKind::Function(verdict) => verdict.given,
        StepKind::Bus(isolation) => isolation == Isolation::Isolated,
        StepKind::RootBus => true,
        _ => false,
    };
    let steps = [a, b].into_iter().flat_map(|function| explain(machine, grouping, function).steps);
    steps.filter(|step| isolates(step) && !common.contains(&step.at)).collect()
}

impl Pair {
    /// The answer in words.
    pub fn lines(&self, machine: &Machine) -> Vec<String> {
        let known = |function: usize| {
            machine
                .functions()
                .get(function)
                .map_or_else(|| "?".to_owned(), |_| name(machine, function))
        };
        let (a, b) = (known(self.a), known(self.b));
        let mut lines = match &self.verdict {
            PairVerdict::Same => vec![format!("both addresses name {a}; name two functions")],
            PairVerdict::Together { group, .. } => {
                vec![format!("{a} and {b} are together, in group {group}:")]
            }
            PairVerdict::Apart { a: group, b: other, .. } => {
                vec![format!(
                    "{a} is in group {group}, {b} in group {other}; what keeps them apart:"
                )]
            }
            PairVerdict::Untranslated { function, why } => {
                vec![format!("{} {why}", known(*function))]
            }
            PairVerdict::Unknown(_) => vec!["no such function".to_owned()],
        };
        lines.extend(self.reasons.iter().cloned());
        if let PairVerdict::Apart { separated_by, .. } = &self.verdict {
            if separated_by.is_empty() {
                lines.push("nothing that the rules look at joins them".to_owned());
            }
            lines.extend(separated_by.iter().map(|step| step.describe(machine)));
        }
        lines.extend(
            self.advice
                .iter()
                .map(|(it, advice)| format!("{}: {}", known(*it), advice.describe(machine))),
        );
        let along = [(self.a, &self.along_with_a), (self.b, &self.along_with_b)];
        let shown = if matches!(self.verdict, PairVerdict::Apart { .. }) { 2 } else { 1 };
        lines.extend(
            along
                .into_iter()
                .take(shown)
                .filter(|(_, others)| !others.is_empty())
                .map(|(it, others)| goes_along(machine, it, others)),
        );
        lines
    }
}

/// VFIO asks for every endpoint of a group; ports and bridges stay with the host.
fn goes_along(machine: &Machine, function: usize, others: &[usize]) -> String {
    let port = |other: &usize| {
        let kind = machine.functions()[*other].express.value.map(|express| express.kind);
        machine.functions()[*other].bridge().is_some()
            || matches!(
                kind,
                Some(ExpressKind::RootPort | ExpressKind::Downstream | ExpressKind::Upstream)
            )
    };
    let (ports, endpoints): (Vec<usize>, Vec<usize>) = others.iter().partition(|other| port(other));
    let it = name(machine, function);
    match (endpoints.is_empty(), ports.is_empty()) {
        (true, _) => format!(
            "nothing goes along when {it} is given away; {} of its group stay with the host, as \
             ports and bridges",
            list(machine, &ports)
        ),
        (false, true) => format!("when {it} is given away, {} go along", list(machine, &endpoints)),
        (false, false) => format!(
            "when {it} is given away, {} go along; the ports and bridges {} stay with the host",
            list(machine, &endpoints),
            list(machine, &ports)
        ),
    }
}
