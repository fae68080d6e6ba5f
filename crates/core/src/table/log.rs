//! The event log: bounded, with a count of lost events.

use std::collections::VecDeque;
use std::sync::Arc;

use sva_sync::Mutex;

use crate::api::event::{DrainedEvents, Event};
use crate::quiesce::callback::InCallback;

/// The function that is called after an event was logged.
type Notify = Arc<dyn Fn() + Send + Sync>;

/// The event log. When it is full, the oldest event is dropped and counted. Its locks are leaf
/// locks, each held for one step.
pub(super) struct EventLog {
    capacity: usize,
    ring: Mutex<Ring>,
    notify: Mutex<Option<Notify>>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    /// The number of events that were dropped since the last drain.
    lost: u64,
}

impl EventLog {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default(), notify: Mutex::default() }
    }

    /// Appends an event and calls the notify function. The caller holds no lock, since that
    /// function is foreign code.
    pub(super) fn push(&self, event: Event) {
        {
            let mut ring = self.ring.lock();
            while ring.events.len() >= self.capacity.max(1) {
                ring.events.pop_front();
                ring.lost += 1;
            }
            ring.events.push_back(event);
        }
        let notify = self.notify.lock().clone();
        if let Some(notify) = notify {
            let _callback = InCallback::enter();
            notify();
        }
    }

    /// Replaces the notify function and returns the previous one, whose drop is foreign code.
    pub(super) fn set_notify(&self, notify: Option<Notify>) -> Option<Notify> {
        std::mem::replace(&mut *self.notify.lock(), notify)
    }

    pub(super) fn drain(&self) -> DrainedEvents {
        let mut ring = self.ring.lock();
        DrainedEvents {
            events: std::mem::take(&mut ring.events).into(),
            lost: std::mem::take(&mut ring.lost),
        }
    }
}
