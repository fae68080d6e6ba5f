//! Completions: what several parts have to be over for, and what happens then.

use std::sync::{Arc, Weak};

use sva_sync::atomic::{AtomicU32, Ordering};

/// Counts down once to zero; whoever makes the last step is told so.
pub(crate) struct Countdown(AtomicU32);

impl Countdown {
    /// `steps` are left.
    pub(crate) fn new(steps: u32) -> Self {
        Self(AtomicU32::new(steps))
    }

    /// Adds steps, before the last one is made.
    pub(crate) fn extend(&self, steps: u32) {
        self.0.fetch_add(steps, Ordering::Relaxed);
    }

    /// Makes one step; true for the last.
    #[must_use = "the last step does what comes after"]
    pub(crate) fn step(&self) -> bool {
        // Release: what was done before a step is seen by the one that makes the last; acquire:
        // that one sees it.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether all steps have been made.
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// Waits for a number of parts: accesses, pins, invalidations, drains. Each part makes one step
/// when it is over, and the last step does what comes after.
pub(crate) trait Completion: Send + Sync {
    /// One part is over. Called with no lock held; may take the control lock.
    fn step(self: Arc<Self>);
}

/// A completion as a part holds it. One that is gone is a change that nobody waits for any more.
pub(crate) type Waiter = Weak<dyn Completion>;

/// The IOMMU, as changes of a space need it.
pub(crate) trait InvalidationHost: Send + Sync {
    /// Wakes whoever waits for a change.
    fn wake(self: Arc<Self>);

    /// Blocks until the countdown is over. Repeats what is overdue meanwhile, where the system has
    /// a clock.
    fn wait_for(self: Arc<Self>, left: &Countdown);
}

/// A change of a space, with the parts that it waits for.
pub(crate) struct Change {
    left: Countdown,
    host: Arc<dyn InvalidationHost>,
}

impl Change {
    /// One step is left, which is the maker's own: it is made when all parts have been found, so
    /// that the change is not over before.
    pub(crate) fn new(host: Arc<dyn InvalidationHost>) -> Arc<Self> {
        Arc::new(Self { left: Countdown::new(1), host })
    }

    /// One more part to wait for, as it holds this.
    pub(crate) fn part(self: &Arc<Self>) -> Waiter {
        self.left.extend(1);
        let this: Waiter = Arc::downgrade(self) as _;
        this
    }

    /// All parts have been found. True where some are not over.
    pub(crate) fn all_found(&self) -> bool {
        !self.left.step()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left.is_over()
    }

    /// Blocks until all parts are over.
    pub(crate) fn wait(&self) {
        if !self.is_over() {
            Arc::clone(&self.host).wait_for(&self.left);
        }
    }
}

impl Completion for Change {
    fn step(self: Arc<Self>) {
        if self.left.step() {
            Arc::clone(&self.host).wake();
        }
    }
}

/// Makes one step of each completion that is still waited for. With no lock held.
pub(crate) fn complete(waiters: Vec<Waiter>) {
    waiters.iter().filter_map(Waiter::upgrade).for_each(Completion::step);
}
