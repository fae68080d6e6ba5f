//! How the storm goes, on a terminal, while something is waited for.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::wait::{Late, PATIENCE};

/// Waits until `done` holds; `now` says how things are.
///
/// # Errors
/// It took longer than [`PATIENCE`], or a signal came.
pub(super) fn wait_until(
    context: &Context,
    what: &'static str,
    now: impl Fn() -> String,
    mut done: impl FnMut() -> bool,
) -> Result<(), Failure> {
    let begun = Instant::now();
    // Draws on standard error, and nothing where that is no terminal.
    let bar = if context.is_silent() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let outcome = loop {
        if done() {
            break Ok(());
        }
        if let Err(interrupted) = context.interrupts.check() {
            break Err(interrupted.into());
        }
        if begun.elapsed() > PATIENCE {
            break Err(Late { what }.into());
        }
        bar.set_message(format!("{what}: {}", now()));
        bar.tick();
        std::thread::sleep(Duration::from_millis(1));
    };
    bar.finish_and_clear();
    outcome
}
