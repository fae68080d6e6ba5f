//! The ports of one device model, for any number of threads.
//!
//! A port is for one thread at a time and remembers what it has accessed. Each piece of work has
//! one for itself, pinned to an owner, and leaves it here for the next one of that owner.

use sva_core::{DmaPort, Pasid, PasidTag};
use sva_sync::Mutex;

/// Ports that are kept for later.
const IDLE: usize = 8;

pub(crate) struct Ports {
    /// What all others are made from.
    first: Mutex<DmaPort>,
    /// The one that was used last is the last.
    idle: Mutex<Vec<DmaPort>>,
}

impl Ports {
    pub(crate) fn new(first: DmaPort) -> Self {
        Self { first: Mutex::new(first), idle: Mutex::new(Vec::new()) }
    }

    /// The owner that a PASID has now.
    pub(crate) fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        self.first.lock().owner_of(pasid)
    }

    /// A port whose transactions reach this owner and no later one.
    pub(crate) fn take(&self, owner: Option<PasidTag>) -> DmaPort {
        let mut idle = self.idle.lock();
        let known = idle.iter().rposition(|port| port.owner() == owner).map(|at| idle.remove(at));
        drop(idle);
        known.unwrap_or_else(|| {
            let first = self.first.lock();
            owner.map_or_else(|| first.clone(), |owner| first.for_owner(owner))
        })
    }

    /// Takes a port back, in the place of the one that has not been used for longest where there
    /// are enough.
    pub(crate) fn give_back(&self, port: DmaPort) {
        let mut idle = self.idle.lock();
        let oldest = (idle.len() >= IDLE).then(|| idle.remove(0));
        idle.push(port);
        drop(idle);
        // What it holds on to may be the last of a space, whose drop is foreign code.
        drop(oldest);
    }
}
