//! Waiters: operations that wait for several steps and continue after the last one.

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
pub(crate) trait Waiter: Send + Sync {
    /// Makes one step. Called with no lock held; may take the control lock.
    fn step(self: Arc<Self>);
}

/// A reference to a waiter, stored where a step of it will be made. It is weak: once the operation
/// has been dropped, the step is not needed any more.
pub(crate) type WeakWaiter = Weak<dyn Waiter>;

/// The threads that wait for a change of the IOMMU or of a space. The IOMMU implements it.
pub(crate) trait WaitQueue: Send + Sync {
    /// Wakes the waiting threads, each of which checks its condition again.
    fn wake(self: Arc<Self>);

    /// Blocks until the countdown is at zero. Where the system has a clock, invalidations that are
    /// overdue are repeated meanwhile.
    fn wait_for(self: Arc<Self>, steps: &Countdown);
}

/// The wait for invalidations of devices and for pins, such as that of a change of a space. It can
/// be polled or blocked on.
pub(crate) struct InvalidationWait {
    steps: Countdown,
    wait_queue: Arc<dyn WaitQueue>,
}

impl InvalidationWait {
    /// Makes a wait with one step, which [`seal`](Self::seal) makes: the wait cannot be over before
    /// all its steps have been added.
    pub(crate) fn new(wait_queue: Arc<dyn WaitQueue>) -> Arc<Self> {
        Arc::new(Self { steps: Countdown::new(1), wait_queue })
    }

    /// Adds one step and returns the reference by which it will be made.
    pub(crate) fn waiter(self: &Arc<Self>) -> WeakWaiter {
        self.steps.extend(1);
        let this: WeakWaiter = Arc::downgrade(self) as _;
        this
    }

    /// Ends the addition of steps. Returns true if steps are left.
    pub(crate) fn seal(&self) -> bool {
        !self.steps.step()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.steps.is_over()
    }

    /// Blocks until all steps have been made.
    pub(crate) fn wait(&self) {
        if !self.is_over() {
            Arc::clone(&self.wait_queue).wait_for(&self.steps);
        }
    }
}

impl Waiter for InvalidationWait {
    fn step(self: Arc<Self>) {
        if self.steps.step() {
            Arc::clone(&self.wait_queue).wake();
        }
    }
}

/// Makes one step of each waiter that still exists. To be called with no lock held.
pub(crate) fn step_all(waiters: Vec<WeakWaiter>) {
    waiters.iter().filter_map(WeakWaiter::upgrade).for_each(Waiter::step);
}
