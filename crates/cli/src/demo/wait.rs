//! Bounded waits.

use std::time::{Duration, Instant};

/// The longest that anything is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What has to happen did not.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not happen within {PATIENCE:?}")]
pub(super) struct Late {
    /// What was waited for.
    pub(super) what: &'static str,
}

/// Waits until `done` holds, looking every now and then.
///
/// # Errors
/// It took longer than [`PATIENCE`].
pub(super) fn wait_until(
    what: &'static str,
    mut done: impl FnMut() -> bool,
) -> Result<Duration, Late> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > PATIENCE {
            return Err(Late { what });
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(begun.elapsed())
}
