//! Which work is under way, so that an unbind can stop it (rule U1), and for whom, so that it
//! reaches nobody else (rules U5, U6).
//!
//! Work is pinned to the owner that its PASID has when it begins: its transactions reach that owner
//! or nobody, however often the number changes hands. The first step of an unbind asks the device
//! to stop issuing the PASID. The owner's work that is under way is marked and looks at its mark
//! before every transaction; the access that it may be inside of is the core's to wait for. Work
//! that begins later is not refused here: it meets an empty table entry. Rejected: waiting here for
//! marked work to end. The unbind may come from inside of that very work, by way of a resolver
//! (rule U3).
//!
//! One lock, held for a few instructions, never over a call of anything else.

use std::sync::Arc;

use sva_core::DeviceOps;
use sva_core::{DmaPort, Pasid, PasidTag};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, Ordering};

use crate::ports::Ports;

/// The work that one device has under way. To be plugged in with the device and given to what
/// issues its transactions.
#[derive(Default)]
pub struct InFlight {
    runs: Mutex<Vec<Arc<Mark>>>,
}

struct Mark {
    owner: Option<PasidTag>,
    stopped: AtomicBool,
}

impl InFlight {
    /// Nothing under way.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// How many pieces of work are under way.
    pub fn count(&self) -> usize {
        self.runs.lock().len()
    }

    /// Begins a piece of work behind one of `ports`; it ends when the answer is dropped.
    pub(crate) fn begin<'a>(&'a self, ports: &'a Ports, pasid: Option<Pasid>) -> Run<'a> {
        let owner = pasid.and_then(|pasid| ports.owner_of(pasid));
        let port = ports.take(owner);
        let mark = Arc::new(Mark { owner, stopped: AtomicBool::new(false) });
        self.runs.lock().push(mark.clone());
        Run { table: self, mark, ports, port, pasid }
    }
}

impl DeviceOps for InFlight {
    fn stop_pasid(&self, tag: PasidTag) {
        for mark in self.runs.lock().iter().filter(|mark| mark.owner == Some(tag)) {
            mark.stopped.store(true, Ordering::Release);
        }
    }
}

/// One piece of work.
pub(crate) struct Run<'a> {
    table: &'a InFlight,
    mark: Arc<Mark>,
    ports: &'a Ports,
    port: DmaPort,
    pasid: Option<Pasid>,
}

impl Run<'_> {
    /// Pinned to the owner, where there is one.
    pub(crate) fn port(&self) -> &DmaPort {
        &self.port
    }

    pub(crate) fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    /// The PASID had no owner when the work began.
    pub(crate) fn is_unowned(&self) -> bool {
        self.pasid.is_some() && self.mark.owner.is_none()
    }

    /// No further transaction.
    pub(crate) fn stop(&self) {
        self.mark.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.mark.stopped.load(Ordering::Acquire)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut runs = self.table.runs.lock();
        if let Some(at) = runs.iter().position(|mark| Arc::ptr_eq(mark, &self.mark)) {
            runs.swap_remove(at);
        }
        drop(runs);
        // A clone remembers nothing.
        let forgetful = self.port.clone();
        self.ports.give_back(std::mem::replace(&mut self.port, forgetful));
    }
}
