//! Who waits for page requests: the threads of [`Workers`](crate::workers::Workers) that have
//! nothing to do, and their supervisors.
//!
//! The counts change under the lock of the page requests and are read after it: whoever is not
//! counted yet when a request has come looks after that, and finds it. So a request wakes one
//! thread that is idle, and only where there is none a supervisor; a fault that comes alone costs
//! one wake-up there and one back.

use std::time::Duration;

use super::Iommu;
use crate::pri::queue::PageRequests;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, MutexGuard};

/// See the module. Each count changes under the lock of the page requests.
#[derive(Default)]
pub(super) struct Attendance {
    /// Woken one at a time, when something is to be sorted or resolved.
    work: Condvar,
    idle: AtomicUsize,
    /// Woken when something is to be done and nobody is idle.
    backlog: Condvar,
    supervisors: AtomicUsize,
}

impl Attendance {
    /// Something is to be done. With no lock held.
    pub(super) fn call(&self) {
        if self.idle.load(Ordering::Relaxed) > 0 {
            self.work.notify_one();
        } else if self.supervisors.load(Ordering::Relaxed) > 0 {
            self.backlog.notify_all();
        }
    }
}

fn is_there_work(pages: &PageRequests) -> bool {
    pages.has_work() || pages.has_unsorted()
}

impl Iommu {
    /// Has a thread look, where something is left to be done.
    pub(crate) fn call_worker(&self) {
        let pages = self.0.pages.lock();
        if is_there_work(&pages) {
            drop(pages);
            self.0.attendance.call();
        }
    }

    /// Has all that wait look again: something else has changed that they wait for.
    pub(crate) fn wake_workers(&self) {
        // With the lock, so that it comes before or after the look of one that is about to wait.
        let _pages = self.0.pages.lock();
        self.0.attendance.work.notify_all();
        self.0.attendance.backlog.notify_all();
    }

    /// Waits until there is something to sort or to resolve, or `stop`. False where that took
    /// longer than the limit.
    pub(crate) fn await_page_work(&self, limit: Option<Duration>, stop: impl Fn() -> bool) -> bool {
        let attendance = &self.0.attendance;
        let mut pages = self.0.pages.lock();
        attendance.idle.fetch_add(1, Ordering::Relaxed);
        let mut in_time = true;
        while in_time && !is_there_work(&pages) && !stop() {
            (pages, in_time) = wait(&attendance.work, pages, limit);
        }
        attendance.idle.fetch_sub(1, Ordering::Relaxed);
        in_time || is_there_work(&pages)
    }

    /// Waits until something is to be done and no thread is idle, or `stop`.
    pub(crate) fn await_backlog(&self, stop: impl Fn() -> bool) {
        let attendance = &self.0.attendance;
        let mut pages = self.0.pages.lock();
        attendance.supervisors.fetch_add(1, Ordering::Relaxed);
        while !self.is_backlogged(&pages) && !stop() {
            pages = attendance.backlog.wait(pages);
        }
        attendance.supervisors.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a group waits to be resolved and no thread is idle.
    pub(crate) fn has_stuck_work(&self) -> bool {
        let pages = self.0.pages.lock();
        pages.has_work() && self.is_backlogged(&pages)
    }

    fn is_backlogged(&self, pages: &PageRequests) -> bool {
        is_there_work(pages) && self.0.attendance.idle.load(Ordering::Relaxed) == 0
    }
}

/// Waits for a change, up to the limit. True where it came in time.
fn wait<'a>(
    change: &Condvar,
    pages: MutexGuard<'a, PageRequests>,
    limit: Option<Duration>,
) -> (MutexGuard<'a, PageRequests>, bool) {
    match limit {
        None => (change.wait(pages), true),
        Some(limit) => {
            let (pages, timed_out) = change.wait_timeout(pages, limit);
            (pages, !timed_out)
        }
    }
}
