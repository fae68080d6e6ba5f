//! The state that all spaces of this program share.

use std::io;
use std::time::Duration;

use sva_sync::{Condvar, Mutex};

use crate::linux::sys::{ForkMark, UnreadablePage};

/// The state that all spaces of this program share.
#[derive(Debug)]
pub(crate) struct Context {
    /// Set in the process that the spaces belong to, and not in its children made by fork.
    pub(crate) mark: ForkMark,
    /// The source of writes that are only to fault.
    pub(super) unreadable: UnreadablePage,
    /// Has the monitor look at all spaces at once.
    pub(crate) monitor: WakeUp,
}

impl Context {
    pub(crate) fn new() -> io::Result<Self> {
        let (mark, unreadable) = (ForkMark::new()?, UnreadablePage::new()?);
        Ok(Self { mark, unreadable, monitor: WakeUp::default() })
    }
}

/// A request to wake up. It stays set until a wait has seen it.
#[derive(Debug, Default)]
pub(crate) struct WakeUp {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl WakeUp {
    /// Requests it. Does not block.
    pub(crate) fn request(&self) {
        *self.requested.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for a request.
    pub(crate) fn wait(&self) {
        let mut requested = self.requested.lock();
        while !*requested {
            requested = self.changed.wait(requested);
        }
        *requested = false;
    }

    /// Waits for a request, and for `limit` at most.
    pub(crate) fn wait_timeout(&self, limit: Duration) {
        let mut requested = self.requested.lock();
        if !*requested {
            requested = self.changed.wait_timeout(requested, limit).0;
        }
        *requested = false;
    }
}
