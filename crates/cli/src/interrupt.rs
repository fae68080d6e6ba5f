//! Signals that would end the command end the work between two chunks instead, so that the bond is
//! dropped and nothing is left in the target.
//!
//! Rejected: the signal's default action, which can end the command while the host provider has the
//! target stopped with foreign registers. A second signal ends the command at once nevertheless: an
//! access can wait for as long as the target likes (userfaultfd, FUSE).

use std::io;
use std::sync::Arc;

use std::sync::atomic::Ordering;
#[expect(clippy::disallowed_types, reason = "signal-hook stores into this type and no other")]
use std::sync::atomic::{AtomicBool, AtomicUsize};

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};

/// A signal asked to end the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by {}", name(*.signal))]
pub(crate) struct Interrupted {
    /// Its number.
    pub(crate) signal: i32,
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// All signals that end a program by default and that somebody may send to it.
const FATAL: [i32; 8] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU];

/// The signal that came last; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts {
    #[expect(clippy::disallowed_types, reason = "as above")]
    seen: Arc<AtomicUsize>,
}

impl Interrupts {
    /// From now on the signals are noted and do nothing else. One that was ignored at the start
    /// (nohup, a shell's background job) stays ignored.
    ///
    /// # Errors
    /// The kernel refused a handler.
    pub(crate) fn install() -> io::Result<Self> {
        let interrupts = Self { seen: Arc::default() };
        let ignored = ignored_signals();
        #[expect(clippy::disallowed_types, reason = "as above")]
        let again = Arc::new(AtomicBool::new(false));
        for signal in FATAL {
            if ignored & 1 << (signal - 1) == 0 {
                // In this order: the first signal finds the flag clear and sets it.
                signal_hook::flag::register_conditional_shutdown(
                    signal,
                    128 + signal,
                    Arc::clone(&again),
                )?;
                signal_hook::flag::register(signal, Arc::clone(&again))?;
                signal_hook::flag::register_usize(
                    signal,
                    Arc::clone(&interrupts.seen),
                    signal.unsigned_abs() as usize,
                )?;
            }
        }
        Ok(interrupts)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Interrupted`] once a signal came.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        match i32::try_from(self.seen.load(Ordering::Relaxed)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(signal) => Err(Interrupted { signal }),
        }
    }
}

/// The mask of ignored signals, bit 0 for signal 1; none where the kernel does not say.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
