//! One function's decision, taken again with its steps kept.

use super::advice::{Advice, advise};
use super::decide::decide;
use super::describe::{list, name};
use super::grouping::Grouping;
use super::rules::Rules;
use super::step::{Reason, Step, StepKind};
use crate::machine::{Machine, Source};

/// Why a function is in its group.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The function, as an index.
    pub function: usize,
    /// The steps of its decision, one for each hop.
    pub steps: Vec<Step>,
    /// Why the function that it joined is in the group, and so on to the founder.
    pub chain: Vec<Reason>,
    /// Why others joined this function's group through it.
    pub joined_by: Vec<Reason>,
    /// The group's number; none where no IOMMU translates the function.
    pub group: Option<u32>,
    /// The other members of the group, as indexes.
    pub others: Vec<usize>,
    /// What would make the group smaller.
    pub advice: Vec<Advice>,
    links: Vec<String>,
}

/// Members that joined through a function, as far as they are told in lines.
const MOST_JOINED: usize = 16;

/// Explains the group of `function`, an index into the functions of `machine`, of which `grouping`
/// was computed.
///
/// An index that is not in the machine gives an explanation without steps.
pub fn explain(machine: &Machine, grouping: &Grouping, function: usize) -> Explanation {
    let mut it = Explanation {
        function,
        steps: Vec::new(),
        chain: Vec::new(),
        joined_by: Vec::new(),
        group: grouping.of(function),
        others: grouping.others(function),
        advice: Vec::new(),
        links: Vec::new(),
    };
    if function >= machine.functions().len()
        || grouping.state().rank.len() != machine.functions().len()
    {
        return it;
    }
    if let Some(why) = grouping.untranslated(function) {
        it.steps.push(Step {
            at: function,
            kind: StepKind::Untranslated(why),
            source: Source::Read,
        });
        return it;
    }
    let rules = Rules::new(machine, grouping.policy());
    decide(&rules, grouping.state(), function, &mut it.steps);
    it.chain = grouping.chain(function).skip(1).copied().collect();
    let group = it.group.and_then(|id| grouping.groups().get(id as usize));
    it.joined_by = group
        .map(|group| {
            group.reasons.iter().filter(|reason| reason.with == function).copied().collect()
        })
        .unwrap_or_default();
    let told = it.chain.iter().chain(it.joined_by.iter().take(MOST_JOINED));
    it.links = told.map(|reason| format!("and {}", reason.describe(machine, grouping))).collect();
    if it.joined_by.len() > MOST_JOINED {
        it.links.push(format!("and {} more through it", it.joined_by.len() - MOST_JOINED));
    }
    it.advice = advise(&rules, grouping, function, &it.others);
    it
}

impl Explanation {
    /// The weakest fact that the steps rest on.
    pub fn source(&self) -> Source {
        self.steps.iter().fold(Source::Read, |weakest, step| weakest.weaker(step.source))
    }

    /// The explanation in words: a line for each hop, for each link to the founder, for the result,
    /// for each advice.
    pub fn lines(&self, machine: &Machine) -> Vec<String> {
        let mut lines: Vec<String> = self.steps.iter().map(|step| step.describe(machine)).collect();
        lines.extend(self.links.iter().cloned());
        if let Some(group) = self.group {
            lines.push(match self.others.len() {
                0 => format!("result: {} is alone in group {group}", name(machine, self.function)),
                _ => format!(
                    "result: {} is in group {group} with {}",
                    name(machine, self.function),
                    list(machine, &self.others)
                ),
            });
        }
        lines.extend(self.advice.iter().map(|advice| advice.describe(machine)));
        lines
    }
}
