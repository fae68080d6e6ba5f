//! The ports of one device model, for any number of threads.

use sva_core::{DmaPort, Pasid, PasidTag, Port};
use sva_sync::Mutex;

/// How many idle ports are kept.
const MAX_IDLE: usize = 8;

/// The ports of one device model, shared by its threads.
///
/// A [`DmaPort`] is for one thread at a time and caches translations. Each job takes a port that is
/// pinned to its owner and returns it when it ends, so that the next job of that owner finds its
/// translations cached. A device that translates for itself has a pool of
/// [`AtsPort`](sva_core::AtsPort)s.
///
/// Up to eight idle ports are kept; the one that has been idle for longest gives way.
///
/// Both locks are held for a few instructions and never while other code is called.
pub struct PortPool<P = DmaPort> {
    /// All other ports are made from this one.
    template: Mutex<P>,
    /// Sorted by when they were returned, the latest last.
    idle: Mutex<Vec<P>>,
}

impl<P: Port + Clone> PortPool<P> {
    /// A pool of ports like `port`, which is the device's own, from
    /// [`port`](sva_core::Device::port) or [`ats_port`](sva_core::Device::ats_port).
    pub fn new(port: P) -> Self {
        Self { template: Mutex::new(port), idle: Mutex::new(Vec::new()) }
    }

    /// The owner that a PASID has now.
    pub(super) fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        self.template.lock().owner_of(pasid)
    }

    /// Takes a port whose transactions reach this owner and no later one.
    pub(super) fn take(&self, owner: Option<PasidTag>) -> P {
        let mut idle = self.idle.lock();
        let cached = idle.iter().rposition(|port| port.owner() == owner).map(|at| idle.remove(at));
        drop(idle);
        cached.unwrap_or_else(|| {
            let template = self.template.lock();
            owner.map_or_else(|| template.clone(), |owner| template.for_owner(owner))
        })
    }

    /// Takes a port back.
    pub(super) fn put_back(&self, port: P) {
        let mut idle = self.idle.lock();
        let replaced = (idle.len() >= MAX_IDLE).then(|| idle.remove(0));
        idle.push(port);
        drop(idle);
        // The port may hold the last reference to a space, whose drop is foreign code: the lock
        // must be free by then.
        drop(replaced);
    }
}
