//! Threads that sort and resolve page requests.
//!
//! The number is a setting. Groups of one space are resolved one at a time, so a slow space holds
//! one thread at the most; where slow spaces hold all of them and others wait, more threads are
//! started, up to a bound that is a setting too (rule S3). They end when they have had nothing to
//! do for a while.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sva_sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use sva_sync::{Condvar, Mutex};

use crate::api::event::Event;
use crate::table::Iommu;

/// For how long no group may be finished, while all threads are busy and a group waits, before
/// another thread is started.
const STUCK: Duration = Duration::from_millis(5);
/// After how long an additional thread that has nothing to do ends.
const IDLE: Duration = Duration::from_millis(500);

/// Settings of [`Workers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// Threads that are always there: 1 or more.
    pub threads: usize,
    /// Threads that there may be while slow spaces hold the others.
    pub most: usize,
}

impl WorkerConfig {
    /// Sets [`threads`](Self#structfield.threads).
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Sets [`most`](Self#structfield.most).
    pub fn most(self, most: usize) -> Self {
        Self { most, ..self }
    }
}

impl Default for WorkerConfig {
    /// Two threads, and 64 at the most.
    fn default() -> Self {
        Self { threads: 2, most: 64 }
    }
}

/// Threads that work for an [`Iommu`]. Dropping it has them finish what they are at, and ends them;
/// page requests then wait for somebody else to resolve them.
#[must_use = "dropping it ends the threads"]
pub struct Workers {
    pool: Arc<Pool>,
    supervisor: Option<JoinHandle<()>>,
}

struct Pool {
    iommu: Iommu,
    config: WorkerConfig,
    stop: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    running: AtomicUsize,
    finished: AtomicU64,
    /// With `threads`: it is time to end.
    over: Condvar,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no room for a thread; those that were started have ended.
    pub fn start(iommu: &Iommu, config: WorkerConfig) -> io::Result<Self> {
        let threads = config.threads.max(1);
        let config = WorkerConfig { threads, most: config.most.max(threads) };
        let pool = Arc::new(Pool {
            iommu: iommu.clone(),
            config,
            stop: AtomicBool::new(false),
            threads: Mutex::default(),
            running: AtomicUsize::new(0),
            finished: AtomicU64::new(0),
            over: Condvar::new(),
        });
        let mut workers = Self { pool: Arc::clone(&pool), supervisor: None };
        for _ in 0..threads {
            pool.add(None)?;
        }
        workers.supervisor = Some(
            thread::Builder::new()
                .name("sva-supervisor".to_owned())
                .spawn(move || pool.supervise())?,
        );
        Ok(workers)
    }

    /// Threads that there are now.
    pub fn threads(&self) -> usize {
        self.pool.running.load(Ordering::Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool.stop.store(true, Ordering::Release);
        self.pool.iommu.wake_all_workers();
        self.pool.end_pause();
        // First the supervisor, which starts no thread any more once it has ended.
        let supervisor = self.supervisor.take();
        let threads =
            supervisor.into_iter().chain(std::iter::from_fn(|| self.pool.threads.lock().pop()));
        for thread in threads {
            // What a thread of the pool drops may hold the pool: it cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Pool {
    /// Starts a thread; one with a limit ends after it has been idle for so long.
    fn add(self: &Arc<Self>, idle: Option<Duration>) -> io::Result<()> {
        let pool = Arc::clone(self);
        self.running.fetch_add(1, Ordering::Relaxed);
        let started = thread::Builder::new().name("sva-worker".to_owned()).spawn(move || {
            pool.work(idle);
            pool.running.fetch_sub(1, Ordering::Relaxed);
            // It counted as idle until now: what came meanwhile may have been left to it.
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

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn work(&self, idle: Option<Duration>) {
        while !self.is_over() {
            while self.iommu.sort_page_request() {}
            if let Some(work) = self.iommu.next_page_request_job() {
                // Others have their turn meanwhile, or a supervisor learns that there is nobody for
                // it.
                self.iommu.wake_worker();
                // A provider that panics has had its turn: the drop of the work has answered its
                // group, and the thread goes on for the others (rule S3).
                if catch_unwind(AssertUnwindSafe(|| work.run())).is_err() {
                    tracing::error!(
                        "a page request was answered as invalid: its resolver panicked"
                    );
                }
                self.finished.fetch_add(1, Ordering::Relaxed);
            } else if !self.iommu.await_page_work(idle, || self.is_over()) && idle.is_some() {
                return;
            }
        }
    }

    /// Starts threads while all are stuck and somebody waits.
    fn supervise(self: &Arc<Self>) {
        let mut told = false;
        while !self.is_over() {
            self.iommu.await_backlog(|| self.is_over());
            let before = self.finished.load(Ordering::Relaxed);
            self.pause();
            if self.finished.load(Ordering::Relaxed) != before {
                continue;
            }
            // Nobody else does: what is queued behind a slow space may be another's.
            while self.iommu.sort_page_request() {}
            if !self.iommu.has_stuck_work() || self.is_over() {
                continue;
            }
            let running = self.running.load(Ordering::Relaxed);
            if running < self.config.most && self.add(Some(IDLE)).is_ok() {
                tracing::debug!(threads = running + 1, "slow spaces hold all workers: one more");
            } else if !std::mem::replace(&mut told, true) {
                tracing::warn!(threads = running, "slow spaces hold all workers: the others wait");
                self.iommu.log(Event::WorkersExhausted { threads: running });
            }
        }
    }

    /// Gives the threads time to get on.
    fn pause(&self) {
        let threads = self.threads.lock();
        if !self.is_over() {
            let _ = self.over.wait_timeout(threads, STUCK);
        }
    }

    fn end_pause(&self) {
        let _threads = self.threads.lock();
        self.over.notify_all();
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
