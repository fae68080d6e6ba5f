//! What ends the demonstration when a chapter does not: every wait in a chapter is bounded, but a
//! defect of what it shows could be an endless one.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use crate::error::exit;
use crate::output::Output;

/// What is counted. One wait for the whole time was rejected: a demonstration that was stopped
/// (Ctrl-Z) and goes on would be late at once, and so loses one tick.
const TICK: Duration = Duration::from_secs(1);

/// The ticks that a chapter may take; it takes less than one.
const TICKS: u32 = 30;

/// Watches over one chapter, until it is dropped.
#[must_use = "dropped at once it watches nothing"]
pub(super) struct Watchdog {
    /// Nothing is sent: the watching thread's wait ends when this is gone.
    _over: Sender<()>,
}

impl Watchdog {
    /// From now on. A chapter that takes too long is named, and the program ended with the code of
    /// a claim that did not hold. The children see their input closed and end, as they do
    /// whenever their parent is gone.
    pub(super) fn over(chapter: &'static str, output: Output) -> Self {
        let (over, ended) = mpsc::channel();
        thread::spawn(move || {
            if is_late(&ended, TICK, TICKS) {
                output.refuse(
                    "host",
                    &format!(
                        "chapter {chapter} does not end within {} s; report this",
                        TICK.as_secs() * u64::from(TICKS)
                    ),
                );
                std::process::exit(exit::FAULT.into());
            }
        });
        Self { _over: over }
    }
}

/// Waits for the other side to go away; whether that took all the ticks.
fn is_late(ended: &Receiver<()>, tick: Duration, ticks: u32) -> bool {
    (0..ticks).all(|_| ended.recv_timeout(tick) == Err(RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_is_late_only_while_it_goes_on() {
        let (over, ended) = mpsc::channel();
        assert!(is_late(&ended, Duration::from_millis(1), 3), "it goes on");
        let watching = thread::spawn(move || is_late(&ended, Duration::from_secs(10), 3));
        drop(over);
        assert!(!watching.join().expect("it ends"), "it has ended");
    }
}
