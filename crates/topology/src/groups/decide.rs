//! The decision about one function, by the rules of its policy.

use super::policy::Policy;
use super::rules::Rules;
use super::state::{Decision, State};
use super::step::{Step, StepKind, Trace};
use super::{linux, reachable};

/// Takes the decision of one function. The last step that `trace` gets is its result.
pub(super) fn decide(
    rules: &Rules<'_>,
    state: &State,
    function: usize,
    trace: &mut impl Trace,
) -> Decision {
    let decision = match rules.policy {
        Policy::Linux | Policy::Override => linux::decide(rules, state, function, trace),
        Policy::ReachableSet => reachable::decide(rules, state, function, trace),
    };
    trace.record(|| match decision.joins {
        Some((with, rule)) => {
            Step { at: function, kind: StepKind::Joined { with, rule }, source: decision.source }
        }
        None => Step { at: function, kind: StepKind::Founded, source: decision.source },
    });
    decision
}
