//! Waking worker threads for page requests.
//!
//! The counts change under the lock of the page requests and are read after it: a thread that is
//! not counted yet when a request has come looks for work after that, and finds it. So a request
//! wakes one idle worker, and supervisors only where no worker is idle; a fault that comes alone
//! costs one wake-up there and one back.

use sva_sync::Condvar;
use sva_sync::atomic::{AtomicUsize, Ordering};

/// The threads that wait for page requests. Each count changes under the lock of the page requests.
#[derive(Default)]
pub(super) struct WorkerWakeup {
    /// Signalled to one idle worker, when something is to be sorted or resolved.
    pub(super) work: Condvar,
    pub(super) idle: AtomicUsize,
    /// Signalled when something is to be done and no worker is idle.
    pub(super) backlog: Condvar,
    pub(super) supervisors: AtomicUsize,
}

impl WorkerWakeup {
    /// Something is to be done. With no lock held.
    pub(super) fn wake(&self) {
        if self.idle.load(Ordering::Relaxed) > 0 {
            self.work.notify_one();
        } else if self.supervisors.load(Ordering::Relaxed) > 0 {
            self.backlog.notify_all();
        }
    }
}
