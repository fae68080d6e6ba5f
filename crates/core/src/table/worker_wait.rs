//! How worker threads wait for page requests that can be sorted or resolved.

use std::time::Duration;

use sva_sync::atomic::Ordering;
use sva_sync::{Condvar, MutexGuard};

use super::iommu::Iommu;
use super::page_target::PageQueue;

fn has_work(pages: &PageQueue) -> bool {
    pages.has_ready() || pages.has_unsorted()
}

impl Iommu {
    /// Wakes a worker if there are page requests to sort or groups to resolve.
    pub(crate) fn wake_worker(&self) {
        let pages = self.0.pages.lock();
        if has_work(&pages) {
            drop(pages);
            self.0.workers.wake();
        }
    }

    /// Wakes all waiting workers and supervisors, so that they call their `stop` again.
    pub(crate) fn wake_all_workers(&self) {
        // Under the lock, so that it comes before or after the check of a thread that starts to
        // wait, and not between the check and the wait.
        let _pages = self.0.pages.lock();
        self.0.workers.work.notify_all();
        self.0.workers.backlog.notify_all();
    }

    /// Waits until there is a page request to sort or a group to resolve, or `stop` returns true.
    /// Returns false if `limit` has passed and there is still no work.
    pub(crate) fn await_page_work(&self, limit: Option<Duration>, stop: impl Fn() -> bool) -> bool {
        let workers = &self.0.workers;
        let mut pages = self.0.pages.lock();
        workers.idle.fetch_add(1, Ordering::Relaxed);
        let mut in_time = true;
        while in_time && !has_work(&pages) && !stop() {
            (pages, in_time) = wait(&workers.work, pages, limit);
        }
        workers.idle.fetch_sub(1, Ordering::Relaxed);
        in_time || has_work(&pages)
    }

    /// Waits until there is work and no worker is idle, or `stop` returns true.
    pub(crate) fn await_backlog(&self, stop: impl Fn() -> bool) {
        let workers = &self.0.workers;
        let mut pages = self.0.pages.lock();
        workers.supervisors.fetch_add(1, Ordering::Relaxed);
        while !self.is_backlogged(&pages) && !stop() {
            pages = workers.backlog.wait(pages);
        }
        workers.supervisors.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a group waits to be resolved and no worker is idle.
    pub(crate) fn has_stuck_work(&self) -> bool {
        let pages = self.0.pages.lock();
        pages.has_ready() && self.is_backlogged(&pages)
    }

    fn is_backlogged(&self, pages: &PageQueue) -> bool {
        has_work(pages) && self.0.workers.idle.load(Ordering::Relaxed) == 0
    }
}

/// Waits for a change, at most for `limit`. Returns true if it was woken before.
fn wait<'a>(
    changed: &Condvar,
    pages: MutexGuard<'a, PageQueue>,
    limit: Option<Duration>,
) -> (MutexGuard<'a, PageQueue>, bool) {
    match limit {
        None => (changed.wait(pages), true),
        Some(limit) => {
            let (pages, timed_out) = changed.wait_timeout(pages, limit);
            (pages, !timed_out)
        }
    }
}
