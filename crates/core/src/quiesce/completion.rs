//! Completions: an operation that waits for several steps, and continues after the last one.

use std::sync::{Arc, Weak};

use sva_sync::atomic::{AtomicU32, Ordering};

/// Counts steps down to zero, once. The call that makes the last step returns true.
pub(crate) struct Countdown(AtomicU32);

impl Countdown {
    /// Makes a countdown with `steps` steps left.
    pub(crate) fn new(steps: u32) -> Self {
        Self(AtomicU32::new(steps))
    }

    /// Adds steps. Only valid before the last step has been made.
    pub(crate) fn extend(&self, steps: u32) {
        self.0.fetch_add(steps, Ordering::Relaxed);
    }

    /// Makes one step; returns true if it is the last.
    #[must_use = "the last step does what comes after"]
    pub(crate) fn step(&self) -> bool {
        // Release: everything done before this step happens before the last step. Acquire: the
        // last step sees it.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether all steps have been made.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// An operation that waits for accesses, pins, invalidations or drains. Each of them makes one step
/// when it has ended; the last step continues the operation.
pub(crate) trait Completion: Send + Sync {
    /// Makes one step. Called with no lock held; may take the control lock.
    fn step(self: Arc<Self>);
}

/// A reference to a completion, stored where a step of it will be made. It is weak: when the
/// operation has been dropped, nothing waits for it any more.
pub(crate) type Waiter = Weak<dyn Completion>;

/// The IOMMU, as a change of a space uses it.
pub(crate) trait InvalidationHost: Send + Sync {
    /// Wakes the threads that wait for a change.
    fn wake(self: Arc<Self>);

    /// Blocks until the countdown is at zero. Where the system has a clock, invalidations that are
    /// overdue are repeated meanwhile.
    fn wait_for(self: Arc<Self>, steps: &Countdown);
}

/// A change of a space, with a count of the invalidations and pins that it waits for.
pub(crate) struct Change {
    steps: Countdown,
    host: Arc<dyn InvalidationHost>,
}

impl Change {
    /// Makes a change with one step, which [`seal`](Self::seal) makes: the change cannot be over
    /// before all its waiters have been added.
    pub(crate) fn new(host: Arc<dyn InvalidationHost>) -> Arc<Self> {
        Arc::new(Self { steps: Countdown::new(1), host })
    }

    /// Adds one step and returns the reference by which it will be made.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter {
        self.steps.extend(1);
        let this: Waiter = Arc::downgrade(self) as _;
        this
    }

    /// Ends the addition of waiters. Returns true if steps are left.
    pub(crate) fn seal(&self) -> bool {
        !self.steps.step()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.steps.is_over()
    }

    /// Blocks until all steps have been made.
    pub(crate) fn wait(&self) {
        if !self.is_over() {
            Arc::clone(&self.host).wait_for(&self.steps);
        }
    }
}

impl Completion for Change {
    fn step(self: Arc<Self>) {
        if self.steps.step() {
            Arc::clone(&self.host).wake();
        }
    }
}

/// Makes one step of each completion that still exists. To be called with no lock held.
pub(crate) fn complete(waiters: Vec<Waiter>) {
    waiters.iter().filter_map(Waiter::upgrade).for_each(Completion::step);
}
