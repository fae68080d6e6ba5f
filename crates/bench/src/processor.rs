//! Which processors a thread runs on. Left to the scheduler, one and the same program has ratios
//! that differ tenfold.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors that this thread may run on, as it found them.
pub struct Allowed(CpuSet);

impl Allowed {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn now() -> io::Result<Self> {
        Ok(Self(sched_getaffinity(Pid::from_raw(0))?))
    }

    /// Their numbers, in order.
    pub fn processors(&self) -> impl Iterator<Item = usize> {
        (0..CpuSet::count()).filter(|processor| self.0.is_set(*processor).unwrap_or(false))
    }

    /// Lets this thread, and those that it starts from now on, run on all of them again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore(&self) -> io::Result<()> {
        Ok(sched_setaffinity(Pid::from_raw(0), &self.0)?)
    }
}

/// Has this thread, and those that it starts from now on, run on one processor.
///
/// # Errors
/// The kernel's: there is no such processor, or this thread may not use it.
pub fn run_on(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
