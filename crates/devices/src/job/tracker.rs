//! The jobs that a device has in flight, and how an unbind stops them.
//!
//! An unbind begins by asking the device to stop issuing the PASID. The tracker sets a flag in
//! every job of that owner; a job reads its flag before each transaction. The access that a job may
//! be inside of at that moment is the core's to wait for. A job that begins later is not refused
//! here: the PASID has no table entry by then, and its first transaction faults.
//!
//! Rejected: to have `stop_pasid` wait until the flagged jobs have ended. The unbind may come from
//! inside one of them, by way of the resolution of a page fault, and would wait for itself.
//!
//! The list of jobs is behind one lock, which is held for a few instructions and never while other
//! code is called.

use std::sync::Arc;

use sva_core::{Access, DeviceOps, DmaError, DmaPort, Pasid, PasidTag, Port, Segment};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::ports::PortPool;
use super::transfer::{TransferCause, TransferError, Transferred};

/// Tracks the jobs of one device, each with the owner of its PASID, and stops those of an owner
/// that is being unbound.
///
/// Plug it in with the device ([`Plug::model`](sva_core::Plug::model)), then begin a job for each
/// piece of work that the device executes. A device model with state of its own to stop implements
/// [`DeviceOps`] itself and passes [`stop_pasid`](DeviceOps::stop_pasid) on to its tracker.
#[derive(Default)]
pub struct JobTracker {
    jobs: Mutex<Vec<Arc<JobState>>>,
}

struct JobState {
    owner: Option<PasidTag>,
    stopped: AtomicBool,
}

impl JobTracker {
    /// A tracker without jobs.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// How many jobs are in flight.
    pub fn count(&self) -> usize {
        self.jobs.lock().len()
    }

    /// Begins a job for the owner that `pasid` has now; it ends when the job is dropped. Never
    /// blocks on other jobs.
    ///
    /// `ports` are those of the device that this tracker was plugged in with. Without a PASID the
    /// job's addresses are IOVAs of the device's domain, and no unbind stops it.
    ///
    /// A PASID without an owner is not refused: the job issues one transaction, so that its fault
    /// is logged, and is stopped then. Should the PASID get an owner in between, that transaction
    /// reaches the owner, as it would if the job had begun a moment later.
    pub fn begin<'a, P: Port + Clone>(
        &'a self,
        ports: &'a PortPool<P>,
        pasid: Option<Pasid>,
    ) -> Job<'a, P> {
        let owner = pasid.and_then(|pasid| ports.owner_of(pasid));
        let port = ports.take(owner);
        let state = Arc::new(JobState { owner, stopped: AtomicBool::new(false) });
        self.jobs.lock().push(state.clone());
        Job { tracker: self, state, ports, port, pasid }
    }
}

impl DeviceOps for JobTracker {
    fn stop_pasid(&self, tag: PasidTag) {
        for job in self.jobs.lock().iter().filter(|job| job.owner == Some(tag)) {
            job.stopped.store(true, Ordering::Release);
        }
    }
}

/// A job in flight: access to the memory of its owner, and whether it was stopped.
///
/// Its transfers look whether the job was stopped before they issue a transaction, and report how
/// far they came. They may block to resolve page faults. A job is used by one thread at a time and
/// may be moved to another.
pub struct Job<'a, P: Port + Clone = DmaPort> {
    tracker: &'a JobTracker,
    state: Arc<JobState>,
    ports: &'a PortPool<P>,
    port: P,
    pasid: Option<Pasid>,
}

impl<P: Port + Clone> Job<'_, P> {
    /// The PASID that the job was begun with.
    pub fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    /// The owner that the PASID had when the job began.
    pub fn owner(&self) -> Option<PasidTag> {
        self.state.owner
    }

    /// The port that the job's transactions go through, pinned to the owner.
    ///
    /// For what the transfers of a job do not offer, such as atomic operations. The port does not
    /// know of the job: look at [`is_stopped`](Self::is_stopped) before each transaction.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Stops the job, as an unbind of its owner does: no further transfer.
    pub fn stop(&self) {
        self.state.stopped.store(true, Ordering::Release);
    }

    /// Whether the job was stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.stopped.load(Ordering::Acquire)
    }

    /// Reads `buf.len()` bytes at `address`.
    ///
    /// # Errors
    /// [`TransferError`] at the first byte that could not be read; all bytes before it are in
    /// `buf`.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), TransferError> {
        self.transfer(buf.len(), |port| port.read(self.pasid, address, buf)).into_result()
    }

    /// Writes `data` at `address`.
    ///
    /// # Errors
    /// [`TransferError`] at the first byte that could not be written; all bytes before it are in
    /// memory.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), TransferError> {
        self.transfer(data.len(), |port| port.write(self.pasid, address, data)).into_result()
    }

    /// Reads the pieces one after the other into `buf`, whose length is the sum of theirs. With
    /// [`PRESENT_ONLY`](Access::PRESENT_ONLY) in `access` an absent page ends the transfer.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn gather(
        &self,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), TransferError> {
        self.gather_some(pieces, buf, access).into_result()
    }

    /// Writes `data` to the pieces one after the other; its length is the sum of theirs. With
    /// [`PRESENT_ONLY`](Access::PRESENT_ONLY) in `access` an absent page ends the transfer.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn scatter(
        &self,
        pieces: &[Segment],
        data: &[u8],
        access: Access,
    ) -> Result<(), TransferError> {
        self.scatter_some(pieces, data, access).into_result()
    }

    /// [`gather`](Self::gather), with the count of what was done in any case.
    pub(super) fn gather_some(
        &self,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Transferred {
        self.transfer(buf.len(), |port| port.gather(self.pasid, pieces, buf, access))
    }

    /// [`scatter`](Self::scatter), with the count of what was done in any case.
    pub(super) fn scatter_some(
        &self,
        pieces: &[Segment],
        data: &[u8],
        access: Access,
    ) -> Transferred {
        self.transfer(data.len(), |port| port.scatter(self.pasid, pieces, data, access))
    }

    /// Issues a transaction of `len` bytes, unless the job was stopped.
    fn transfer(&self, len: usize, issue: impl FnOnce(&P) -> Result<(), DmaError>) -> Transferred {
        if self.is_stopped() {
            return Transferred { done: 0, cause: Some(TransferCause::Stopped) };
        }
        let outcome = issue(&self.port);
        let is_unowned = self.pasid.is_some() && self.state.owner.is_none();
        if is_unowned {
            self.stop();
        }
        match outcome {
            Ok(()) => {
                Transferred { done: len, cause: is_unowned.then_some(TransferCause::Stopped) }
            }
            // The count becomes an index into the caller's buffer: it is bounded here.
            Err(error) => Transferred {
                done: usize::try_from(error.done).map_or(len, |done| done.min(len)),
                cause: Some(TransferCause::Dma(error.cause)),
            },
        }
    }
}

impl Job<'_> {
    /// Reads a structure at `address`, which need not be aligned. As
    /// [`DmaPort::read_obj`]: an aligned word of up to 8 bytes in memory that is accessed in place
    /// is read at once, anything else may change while it is read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_obj<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T, TransferError> {
        let mut value = T::new_zeroed();
        let read = self.transfer(size_of::<T>(), |port| {
            value = port.read_obj(self.pasid, address)?;
            Ok(())
        });
        read.into_result().map(|()| value)
    }

    /// Writes a structure at `address`, as [`read_obj`](Self::read_obj) reads one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_obj<T: IntoBytes + Immutable>(
        &self,
        address: u64,
        value: T,
    ) -> Result<(), TransferError> {
        let len = size_of::<T>();
        self.transfer(len, |port| port.write_obj(self.pasid, address, value)).into_result()
    }
}

impl<P: Port + Clone> Drop for Job<'_, P> {
    fn drop(&mut self) {
        let mut jobs = self.tracker.jobs.lock();
        if let Some(at) = jobs.iter().position(|job| Arc::ptr_eq(job, &self.state)) {
            jobs.swap_remove(at);
        }
        drop(jobs);
        // What takes the port's place is a clone, whose caches are empty.
        let empty = self.port.clone();
        self.ports.put_back(std::mem::replace(&mut self.port, empty));
    }
}
