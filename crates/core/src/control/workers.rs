//! Threads that sort and resolve page requests.
//!
//! Groups of one space are resolved one at a time, so a slow space occupies at most one thread. A
//! supervisor starts additional threads while slow spaces occupy all threads and a group of another
//! space waits, up to a limit. An additional thread ends when it has been idle for a while. Both
//! the number of permanent threads and the limit are settings.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sva_sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use sva_sync::{Condvar, Mutex};

use crate::api::error::{ConfigError, in_bounds};
use crate::api::event::Event;
use crate::table::Iommu;

/// A thread is added when a group waits, all threads are busy, and none has finished a group for
/// this long.
const STALL_LIMIT: Duration = Duration::from_millis(5);
/// An additional thread ends after it has been idle for this long.
const IDLE_LIMIT: Duration = Duration::from_millis(500);

/// The greatest number of threads of a pool.
const MAX_THREADS: u64 = 4096;

/// Settings of [`Workers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// The number of permanent threads, 1 to 4096.
    pub threads: usize,
    /// The largest number of threads, up to 4096, including those that are added while slow spaces
    /// occupy the others. Less than `threads` means as many.
    pub max_threads: usize,
}

impl WorkerConfig {
    /// Checks that both numbers are in their bounds.
    fn check(&self) -> Result<(), ConfigError> {
        in_bounds("threads", self.threads as u64, 1, MAX_THREADS)?;
        in_bounds("max_threads", self.max_threads as u64, 0, MAX_THREADS)
    }

    /// Sets [`threads`](Self#structfield.threads).
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Sets [`max_threads`](Self#structfield.max_threads).
    pub fn max_threads(self, max_threads: usize) -> Self {
        Self { max_threads, ..self }
    }
}

impl Default for WorkerConfig {
    /// Two permanent threads, and at most 64.
    fn default() -> Self {
        Self { threads: 2, max_threads: 64 }
    }
}

/// Threads that sort and resolve the page requests of an [`Iommu`]. The drop waits for the groups
/// that are being resolved and ends the threads; other page requests then wait for another caller
/// of [`next_page_request_job`](Iommu::next_page_request_job).
#[must_use = "its drop ends the threads"]
pub struct Workers {
    pool: Arc<Pool>,
    supervisor: Option<JoinHandle<()>>,
}

/// The state that the threads share.
struct Pool {
    iommu: Iommu,
    config: WorkerConfig,
    is_stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The number of threads that run now.
    running: AtomicUsize,
    /// The number of groups that have been resolved.
    resolved: AtomicU64,
    /// Used with the lock of `threads`. Signalled when `is_stopping` has been set.
    stopping: Condvar,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// A setting is out of its bounds ([`ConfigError`]), and no thread was started. Or the system
    /// could not start a thread; the threads that were started have ended.
    pub fn start(iommu: &Iommu, config: WorkerConfig) -> io::Result<Self> {
        config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let threads = config.threads;
        let config = WorkerConfig { threads, max_threads: config.max_threads.max(threads) };
        let pool = Arc::new(Pool {
            iommu: iommu.clone(),
            config,
            is_stopping: AtomicBool::new(false),
            threads: Mutex::default(),
            running: AtomicUsize::new(0),
            resolved: AtomicU64::new(0),
            stopping: Condvar::new(),
        });
        let mut workers = Self { pool: Arc::clone(&pool), supervisor: None };
        for _ in 0..threads {
            pool.start_thread(None)?;
        }
        workers.supervisor = Some(
            thread::Builder::new()
                .name("sva-supervisor".to_owned())
                .spawn(move || pool.run_supervisor())?,
        );
        Ok(workers)
    }

    /// Returns how many threads run now.
    pub fn threads(&self) -> usize {
        self.pool.running.load(Ordering::Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool.is_stopping.store(true, Ordering::Release);
        self.pool.iommu.wake_all_workers();
        self.pool.wake_supervisor();
        // The supervisor is joined first: once it has ended, no thread is started.
        let supervisor = self.supervisor.take();
        let threads =
            supervisor.into_iter().chain(std::iter::from_fn(|| self.pool.threads.lock().pop()));
        for thread in threads {
            // A value that a thread of the pool drops can hold the `Workers`. The thread cannot
            // join itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Pool {
    /// Starts a thread. With `idle_limit` it ends after it has been idle for that long.
    fn start_thread(self: &Arc<Self>, idle_limit: Option<Duration>) -> io::Result<()> {
        let pool = Arc::clone(self);
        self.running.fetch_add(1, Ordering::Relaxed);
        let started = thread::Builder::new().name("sva-worker".to_owned()).spawn(move || {
            pool.run_worker(idle_limit);
            pool.running.fetch_sub(1, Ordering::Relaxed);
            // The thread counted as idle until now, so a request that came meanwhile can have woken
            // this thread and no other.
            pool.iommu.wake_worker();
        });
        match started {
            Ok(thread) => {
                let mut threads = self.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
                Ok(())
            }
            Err(error) => {
                self.running.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Sorts and resolves page requests until the pool stops or the idle limit has passed.
    fn run_worker(&self, idle_limit: Option<Duration>) {
        while !self.is_stopping() {
            while self.iommu.sort_page_request() {}
            if let Some(job) = self.iommu.next_page_request_job() {
                // Another group can wait. This wakes an idle worker for it, or the supervisor if
                // no worker is idle.
                self.iommu.wake_worker();
                // If a provider panics, the drop of the job answers the group. The thread goes
                // on with the groups of other spaces.
                if catch_unwind(AssertUnwindSafe(|| job.run())).is_err() {
                    tracing::error!(
                        "a page request was answered as invalid: its resolver panicked"
                    );
                }
                self.resolved.fetch_add(1, Ordering::Relaxed);
            } else if !self.iommu.await_page_work(idle_limit, || self.is_stopping())
                && idle_limit.is_some()
            {
                return;
            }
        }
    }

    /// Starts a thread each time that all threads are busy with slow spaces and a group waits.
    fn run_supervisor(self: &Arc<Self>) {
        let mut is_exhaustion_logged = false;
        while !self.is_stopping() {
            self.iommu.await_backlog(|| self.is_stopping());
            let before = self.resolved.load(Ordering::Relaxed);
            self.wait_for_stall();
            if self.resolved.load(Ordering::Relaxed) != before {
                continue;
            }
            // All workers are busy, so the supervisor sorts the queue: a request of another space
            // can be behind those of a slow one.
            while self.iommu.sort_page_request() {}
            if !self.iommu.has_stuck_work() || self.is_stopping() {
                continue;
            }
            let running = self.running.load(Ordering::Relaxed);
            if running < self.config.max_threads && self.start_thread(Some(IDLE_LIMIT)).is_ok() {
                tracing::debug!(
                    threads = running + 1,
                    "slow spaces occupy all workers: a thread was added"
                );
            } else if !std::mem::replace(&mut is_exhaustion_logged, true) {
                tracing::warn!(
                    threads = running,
                    "slow spaces occupy all workers: other page requests wait"
                );
                self.iommu.log(Event::WorkersExhausted { threads: running });
            }
        }
    }

    /// Waits for the stall limit, or until the pool stops.
    fn wait_for_stall(&self) {
        let threads = self.threads.lock();
        if !self.is_stopping() {
            let _ = self.stopping.wait_timeout(threads, STALL_LIMIT);
        }
    }

    fn wake_supervisor(&self) {
        let _threads = self.threads.lock();
        self.stopping.notify_all();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("threads", &self.threads())
            .field("config", &self.pool.config)
            .finish_non_exhaustive()
    }
}
