//! The event log: bounded, with a count of what was lost.

use std::collections::VecDeque;

use sva_sync::Mutex;

use crate::api::event::{DrainedEvents, Event};

/// The log; when it is full the oldest event goes. Its lock is a leaf: held for a push or a drain
/// only.
pub(crate) struct EventLog {
    capacity: usize,
    ring: Mutex<(VecDeque<Event>, u64)>,
}

impl EventLog {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::new((VecDeque::new(), 0)) }
    }

    pub(crate) fn push(&self, event: Event) {
        let mut ring = self.ring.lock();
        while ring.0.len() >= self.capacity.max(1) {
            ring.0.pop_front();
            ring.1 += 1;
        }
        ring.0.push_back(event);
    }

    pub(crate) fn drain(&self) -> DrainedEvents {
        let mut ring = self.ring.lock();
        DrainedEvents {
            events: std::mem::take(&mut ring.0).into(),
            lost: std::mem::take(&mut ring.1),
        }
    }
}
