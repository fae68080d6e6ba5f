//! Notices a step that does not end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sva_sync::Mutex;

/// Aborts the program if a step takes longer than its time-out.
pub(crate) struct Watchdog {
    state: Arc<Mutex<Watched>>,
}

struct Watched {
    seed: u64,
    step: usize,
    since: Instant,
    over: bool,
}

impl Watchdog {
    pub(crate) fn start(step_timeout: Duration) -> Self {
        let state =
            Arc::new(Mutex::new(Watched { seed: 0, step: 0, since: Instant::now(), over: false }));
        let watched = Arc::clone(&state);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(step_timeout.min(Duration::from_millis(200)));
                let watched = watched.lock();
                if watched.over {
                    return;
                }
                if watched.since.elapsed() > step_timeout {
                    eprintln!(
                        "seed {}: step {} has not ended after {step_timeout:?}: a deadlock",
                        watched.seed, watched.step
                    );
                    std::process::abort();
                }
            }
        });
        Self { state }
    }

    pub(crate) fn beat(&self, seed: u64, step: usize) {
        // The time is read now and then only: a step takes less than reading it.
        let mut watched = self.state.lock();
        (watched.seed, watched.step) = (seed, step);
        if step.is_multiple_of(64) {
            watched.since = Instant::now();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.lock().over = true;
    }
}
