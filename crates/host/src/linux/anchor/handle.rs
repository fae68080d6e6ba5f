//! The owner of an anchor.

use std::time::Duration;

use super::select::TargetThread;
use super::tracer_thread::TracerThread;
use crate::error::AttachError;
use crate::linux::inject::SyscallSite;
use crate::linux::sys::{self, ForkMark, Tid};

/// An anchor that has not been reaped: its number belongs to it. Dropping it kills and reaps it.
///
/// Whoever uses the number shares the ownership (`Arc`) for that time, so the number cannot be
/// reused meanwhile.
#[derive(Debug)]
pub(crate) struct Anchor {
    tid: Tid,
    tracer: TracerThread,
    mark: ForkMark,
}

impl Anchor {
    /// Makes an anchor by way of the thread `target` of process `pid`. Returns it, and for how long
    /// the thread was stopped. Blocks; see [`TracerThread`].
    pub(crate) fn make(
        pid: Tid,
        target: TargetThread,
        site: SyscallSite,
        tracer: &TracerThread,
        mark: ForkMark,
    ) -> Result<(Self, Duration), AttachError> {
        let (tid, stopped) = tracer.make(pid, target, site)?;
        Ok((Self { tid, tracer: tracer.clone(), mark }, stopped))
    }

    /// The anchor's number.
    pub(crate) fn tid(&self) -> Tid {
        self.tid
    }

    /// Kills the anchor and so frees the process's memory, without waiting until nobody uses the
    /// number any more. The number stays the anchor's.
    pub(crate) fn kill(&self) {
        if self.mark.is_set() {
            let _ = sys::kill(self.tid);
        }
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // A child made by fork has a copy of this value, and the anchor is not the child's.
        if self.mark.is_set() {
            self.tracer.kill_and_reap(self.tid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Anchor, ForkMark, TracerThread, sys};

    #[test]
    fn an_anchor_is_reaped_when_its_last_user_has_gone_and_no_earlier() {
        // Any child that lives long enough stands for an anchor: the tracer thread may reap it.
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let tid = child.id() as sys::Tid;
        let (tracer, mark) = (TracerThread::start().unwrap(), ForkMark::new().unwrap());
        let owner = Arc::new(Anchor { tid, tracer, mark });
        let user = Arc::clone(&owner);
        owner.kill();
        drop(owner);
        while sys::is_alive(tid) {
            std::thread::yield_now();
        }
        // The tracer thread would need about a millisecond.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(sys::wait(tid).unwrap(), sys::WaitStatus::Zombie, "the user is still there");
        drop(user);
        let reaped = || sys::wait(tid).unwrap() == sys::WaitStatus::NotWaitable;
        while !reaped() {
            std::thread::yield_now();
        }
        drop(child);
    }
}
