//! The progress bar: only on a terminal, only when the work turns out to be long, and gone when it
//! ends.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows nothing.
const LONG: Duration = Duration::from_millis(500);

/// Shows how far the work is.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    /// Hidden until the work has become long: its rate is then that of all of it.
    bar: Option<ProgressBar>,
    shown: bool,
}

impl Progress {
    /// Shows nothing.
    pub(crate) fn none() -> Self {
        Self { begun: Instant::now(), bar: None, shown: false }
    }

    /// Of `total` bytes, where that is known; begun now.
    pub(crate) fn of(total: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::none();
        }
        let template = match total {
            Some(_) => {
                "{wide_bar} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  \
                 {eta} left"
            }
            None => "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar =
            ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_style(style);
        Self { begun: Instant::now(), bar: Some(bar), shown: false }
    }

    /// `done` bytes are done.
    pub(crate) fn set(&mut self, done: u64) {
        let Some(bar) = &self.bar else { return };
        if !self.shown && self.begun.elapsed() >= LONG {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
