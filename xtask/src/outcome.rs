//! What a step came to.

use std::time::Duration;

/// What a step came to.
pub(crate) enum Outcome {
    /// It found nothing wrong.
    Passed,
    /// The same, with what it counted.
    Figures(String),
    /// It could not be run here; why.
    Skipped(String),
    /// What was wrong.
    Failed(String),
}

pub(crate) const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}
