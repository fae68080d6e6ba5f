//! A gate in the resolver of an in-memory space, which makes the space slow.

use sva_sync::{Condvar, Mutex};

/// Lets everybody through, or holds them until it is opened again.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    shut: bool,
    inside: usize,
}

impl Gate {
    /// Goes through; blocks while it is shut.
    pub(super) fn pass(&self) {
        let mut state = self.state.lock();
        state.inside += 1;
        while state.shut {
            state = self.changed.wait(state);
        }
        state.inside -= 1;
    }

    /// Whoever comes from now on waits.
    pub(super) fn shut(&self) {
        self.state.lock().shut = true;
    }

    /// Everybody goes on.
    pub(super) fn open(&self) {
        self.state.lock().shut = false;
        self.changed.notify_all();
    }

    /// Whether it is shut and somebody waits.
    pub(super) fn holds_somebody(&self) -> bool {
        let state = self.state.lock();
        state.shut && state.inside > 0
    }
}
