//! A device that writes again and again, for what is to happen in the middle of DMA.

use std::sync::Arc;
use std::thread::JoinHandle;

use sva_core::{DmaError, DmaPort, Fault, Pasid};
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::failure::Failure;
use super::process::Buffer;
use super::wait::{Late, wait_until};

/// Bytes in a write. Small: an unsound provider errs between its check and its write, and that is
/// to be most of the time.
const CHUNK: usize = 4096;

/// A thread that writes to a buffer, from its beginning to its end and again, until a write is
/// aborted. Dropping it ends it.
pub(crate) struct WriteLoop {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    thread: Option<JoinHandle<Option<DmaError>>>,
}

/// How the writes ended.
pub(crate) struct Aborted {
    /// Writes that were done.
    pub(crate) writes: u64,
    /// What aborted the last one.
    pub(crate) fault: Fault,
}

impl WriteLoop {
    /// Begins to write everywhere in `buffer`, never the same bytes twice; returns when all of it
    /// has been written once.
    ///
    /// # Errors
    /// That took too long.
    pub(crate) fn start(port: DmaPort, pasid: Pasid, buffer: Buffer) -> Result<Self, Failure> {
        let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), writes.clone());
        let write = move || {
            let mut data = vec![0x5c; CHUNK];
            let places = (buffer.address..=buffer.last()).step_by(CHUNK).cycle();
            for address in places.take_while(|_| !stopped.load(Ordering::Relaxed)) {
                let len = CHUNK.min((buffer.last() - address) as usize + 1);
                data[..8].copy_from_slice(&counted.load(Ordering::Relaxed).to_ne_bytes());
                if let Err(error) = port.write(Some(pasid), address, &data[..len]) {
                    return Some(error);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            None
        };
        let writer = Self { stop, writes, thread: Some(std::thread::spawn(write)) };
        let round = buffer.len.div_ceil(CHUNK as u64);
        wait_until("one round of writes", || writer.writes() > round || writer.is_over())?;
        Ok(writer)
    }

    /// Writes so far.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until a write is aborted.
    ///
    /// # Errors
    /// None is, or one failed for another reason.
    pub(crate) fn wait(mut self) -> Result<Aborted, Failure> {
        wait_until("the end of the writes", || self.is_over())?;
        let error = self.thread.take().and_then(|thread| thread.join().ok()).flatten();
        let error = error.ok_or(Late { what: "the abort of a write" })?;
        let fault = error.fault().ok_or(error)?;
        Ok(Aborted { writes: self.writes(), fault })
    }
}

impl Drop for WriteLoop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It looks at the flag between two writes, and cannot panic.
            let _ = thread.join();
        }
    }
}
