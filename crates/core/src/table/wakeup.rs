//! Wake-up of worker threads for page requests.
//!
//! The counts change under the lock of the page requests, and are read after it has been released.
//! A thread that is not counted yet when a request arrives looks for work afterwards and finds the
//! request. So a request wakes one idle worker, or the supervisors if no worker is idle. A single
//! fault costs one wake-up of a worker and one of the device.

use sva_sync::Condvar;
use sva_sync::atomic::{AtomicUsize, Ordering};

/// The threads that wait for page requests. Each count changes under the lock of the page requests.
#[derive(Default)]
pub(super) struct WorkerWakeup {
    /// Signalled to one idle worker when there is a request to sort or a group to resolve.
    pub(super) work: Condvar,
    pub(super) idle: AtomicUsize,
    /// Signalled when there is work and no worker is idle.
    pub(super) backlog: Condvar,
    pub(super) supervisors: AtomicUsize,
}

impl WorkerWakeup {
    /// Wakes one idle worker, or the supervisors if no worker is idle. The caller holds no lock.
    pub(super) fn wake(&self) {
        if self.idle.load(Ordering::Relaxed) > 0 {
            self.work.notify_one();
        } else if self.supervisors.load(Ordering::Relaxed) > 0 {
            self.backlog.notify_all();
        }
    }
}
