//! What has been decided so far, and one decision.

use super::step::JoinRule;
use crate::machine::Source;

/// The group of each function, and the order of the decisions. Linux decides function by function
/// and never comes back to one; a decision sees what earlier ones made.
///
/// Any decision can be taken again as it was: a look-up as of the rank `now` sees only what was
/// decided before.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// When each function is decided, 0..n.
    pub(super) rank: Vec<usize>,
    /// The group of each function.
    pub(super) of: Vec<Option<u32>>,
    /// For each group the rank of the decision from which on everything below its members belongs
    /// to it.
    pub(super) whole_subtree: Vec<Option<usize>>,
}

impl State {
    pub(super) fn new(rank: Vec<usize>) -> Self {
        Self { of: vec![None; rank.len()], whole_subtree: Vec::new(), rank }
    }

    /// The group of `function` as the decision of rank `now` sees it.
    pub(super) fn group(&self, function: usize, now: usize) -> Option<u32> {
        self.of[function].filter(|_| self.rank[function] < now)
    }

    /// Whether all that is below the members of `group` belongs to it, as the decision of rank
    /// `now` sees it.
    pub(super) fn has_whole_subtree(&self, group: u32, now: usize) -> bool {
        self.whole_subtree[group as usize].is_some_and(|since| since < now)
    }
}

/// The decision about one function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    /// Whose group the function joins, and why; `None` for a new group.
    pub(super) joins: Option<(usize, JoinRule)>,
    /// The weakest fact that the decision rests on.
    pub(super) source: Source,
    /// Whether everything below the members of the group belongs to it from now on.
    pub(super) whole_subtree: bool,
}

impl Decision {
    pub(super) fn join(with: usize, rule: JoinRule, source: Source) -> Self {
        Self { joins: Some((with, rule)), source, whole_subtree: false }
    }

    pub(super) fn found(source: Source) -> Self {
        Self { joins: None, source, whole_subtree: false }
    }
}
