//! A member of a space: a task that has the memory and is no anchor.

use crate::linux::procfs;
use crate::linux::sys::Tid;

/// A task that has the memory of a space, and its process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) tid: Tid,
    /// The process that the task belongs to.
    pub(super) process: Tid,
    /// The start time of the process; `None` where it has gone already.
    start_time: Option<u64>,
}

impl Member {
    /// A task of process `process`.
    pub(super) fn new(tid: Tid, process: Tid) -> Self {
        Self { tid, process, start_time: procfs::start_time(process).ok() }
    }

    /// Whether the process still runs, with any image.
    pub(super) fn process_runs(&self) -> bool {
        self.start_time.is_some()
            && procfs::start_time(self.process).ok() == self.start_time
            && procfs::status(self.process).is_ok_and(|status| !status.is_dead())
    }
}
