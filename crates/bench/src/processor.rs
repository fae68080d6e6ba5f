//! Which processors a thread runs on. Left to the scheduler, one and the same program has ratios
//! that differ tenfold.

use std::io;

use crate::system::{affinity, set_affinity};

/// The processors that this thread may run on, as it found them.
pub struct Allowed(Vec<usize>);

impl Allowed {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn now() -> io::Result<Self> {
        affinity().map(Self)
    }

    /// Their numbers, in order.
    pub fn processors(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    /// Lets this thread, and those that it starts from now on, run on all of them again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore(&self) -> io::Result<()> {
        set_affinity(&self.0)
    }
}

/// Has this thread, and those that it starts from now on, run on one processor.
///
/// # Errors
/// The kernel's: there is no such processor, or this thread may not use it.
pub fn run_on(processor: usize) -> io::Result<()> {
    set_affinity(&[processor])
}
