//! Threads that sort and resolve page requests.
//!
//! The number is a setting. Groups of one space are resolved one at a time, so a slow space holds one thread at the most; where slow spaces hold all of them and others wait, more
//! threads are started, up to a bound that is a setting too (rule S3). They end when they have had nothing to do for a while.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::event::Event;
use crate::iommu::Iommu;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// For how long no group may be finished, while all threads are busy and a group waits, before another thread is started.
const STUCK: Duration = Duration::from_millis(5);
/// After how long an additional thread that has nothing to do ends.
const IDLE: Duration = Duration::from_millis(500);

/// Settings of [`Workers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Threads that are always there: 1 or more.
    pub threads: usize,
    /// Threads that there may be while slow spaces hold the others.
    pub most: usize,
}

impl Default for WorkerConfig {
    /// Two threads, and 64 at the most.
    fn default() -> Self {
        Self { threads: 2, most: 64 }
    }
}

/// Threads that work for an [`Iommu`]. Dropping it has them finish what they are at, and ends them; page requests then wait for somebody else to resolve them.
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
    busy: AtomicUsize,
    finished: AtomicU64,
    /// With `threads`: all are busy, or it is time to end.
    attention: Condvar,
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
            busy: AtomicUsize::new(0),
            finished: AtomicU64::new(0),
            attention: Condvar::new(),
        });
        let mut workers = Self { pool: Arc::clone(&pool), supervisor: None };
        for _ in 0..threads {
            pool.add(None)?;
        }
        workers.supervisor = Some(thread::Builder::new().name("sva-supervisor".to_owned()).spawn(move || pool.supervise())?);
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
        self.pool.iommu.wake_workers();
        self.pool.call_supervisor();
        // First the supervisor, which starts no thread any more once it has ended.
        let supervisor = self.supervisor.take();
        let threads = supervisor.into_iter().chain(std::iter::from_fn(|| self.pool.threads.lock().pop()));
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
            // Those that are left may all be busy: nobody else would say so.
            pool.call_supervisor();
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

    fn work(&self, idle: Option<Duration>) {
        while !self.stop.load(Ordering::Acquire) {
            while self.iommu.sort_page_request() {}
            if let Some(work) = self.iommu.next_page_work() {
                self.now_busy();
                // A provider that panics has had its turn: the drop of the work has answered its group, and the thread goes on for the others (rule S3).
                if catch_unwind(AssertUnwindSafe(|| work.run())).is_err() {
                    tracing::error!("a page request was answered as invalid: its resolver panicked");
                }
                self.finished.fetch_add(1, Ordering::Relaxed);
                self.busy.fetch_sub(1, Ordering::Relaxed);
            } else if !self.iommu.await_page_work(idle, || self.stop.load(Ordering::Acquire)) && idle.is_some() {
                return;
            }
        }
    }

    fn now_busy(&self) {
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        if busy >= self.running.load(Ordering::Relaxed) {
            self.call_supervisor();
        } else if self.iommu.has_page_work() {
            self.iommu.wake_workers();
        }
    }

    /// Has the supervisor look.
    fn call_supervisor(&self) {
        let _threads = self.threads.lock();
        self.attention.notify_all();
    }

    fn all_are_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) >= self.running.load(Ordering::Relaxed)
    }

    /// Starts threads while all are stuck and somebody waits.
    fn supervise(self: &Arc<Self>) {
        let mut told = false;
        while !self.stop.load(Ordering::Acquire) {
            let mut threads = self.threads.lock();
            while !self.stop.load(Ordering::Acquire) && !self.all_are_busy() {
                threads = self.attention.wait(threads);
            }
            let before = self.finished.load(Ordering::Relaxed);
            let (threads, _) = self.attention.wait_timeout(threads, STUCK);
            drop(threads);
            if self.all_are_busy() {
                // Nobody else does: what is queued behind a slow space may be another's.
                while self.iommu.sort_page_request() {}
            }
            let stuck = self.finished.load(Ordering::Relaxed) == before && self.all_are_busy() && self.iommu.has_page_work();
            if !stuck || self.stop.load(Ordering::Acquire) {
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
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads()).field("config", &self.pool.config).finish_non_exhaustive()
    }
}
