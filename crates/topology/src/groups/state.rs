//! What has been decided so far, and one decision.

use super::step::Because;
use crate::machine::Source;

/// Who is in which group, and since when. Linux decides function by function and never comes back
/// to one; a decision sees what earlier ones made.
///
/// Kept so that any decision can be taken again as it was: a view at `now` shows what was decided
/// before.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// When each function is decided, 0..n.
    pub(super) rank: Vec<usize>,
    /// The group of each function.
    pub(super) of: Vec<Option<u32>>,
    /// For each group the rank of the decision from which on everything below its members belongs
    /// to it.
    pub(super) spreads: Vec<Option<usize>>,
}

impl State {
    pub(super) fn new(rank: Vec<usize>) -> Self {
        Self { of: vec![None; rank.len()], spreads: Vec::new(), rank }
    }

    /// The group of `function` as the decision of rank `now` sees it.
    pub(super) fn group(&self, function: usize, now: usize) -> Option<u32> {
        self.of[function].filter(|_| self.rank[function] < now)
    }

    /// Whether all that is below the members of `group` belongs to it, as the decision of rank
    /// `now` sees it.
    pub(super) fn spreads(&self, group: u32, now: usize) -> bool {
        self.spreads[group as usize].is_some_and(|since| since < now)
    }
}

/// A decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decision {
    /// Whose group the function joins, and why; `None` for a new group.
    pub(super) joins: Option<(usize, Because)>,
    /// The weakest fact that the decision rests on.
    pub(super) source: Source,
    /// Whether everything below the members of the group belongs to it from now on.
    pub(super) spreads: bool,
}

impl Decision {
    pub(super) fn join(with: usize, because: Because, source: Source) -> Self {
        Self { joins: Some((with, because)), source, spreads: false }
    }

    pub(super) fn found(source: Source) -> Self {
        Self { joins: None, source, spreads: false }
    }
}
