//! Settings of a data mover.

use std::fmt;
use std::sync::Arc;

/// Called for each completion interrupt with its handle, on the submitter's thread and with no lock
/// held. Only that submitter waits for it.
pub type InterruptHandler = dyn Fn(u16) + Send + Sync;

/// Settings of a data mover.
#[derive(Clone)]
#[non_exhaustive]
pub struct DataMoverConfig {
    /// The largest transfer size in bytes (GENCAP, Maximum Supported Transfer Size). Default: 2^31.
    pub max_transfer: u32,
    /// The most descriptors in a batch (GENCAP, Maximum Supported Batch Size). Default: 1024.
    pub max_batch: u32,
    /// Bytes that are moved at a time, 1 to 2^30, rounded up to a page. A stop of the PASID is
    /// noticed between two chunks. Default: 256 KiB.
    pub chunk: usize,
    /// The number of completion interrupts: handles are `0..interrupt_handles`. Default: 0.
    pub interrupt_handles: u16,
    /// Takes the completion interrupts. Default: none.
    pub on_interrupt: Option<Arc<InterruptHandler>>,
}

impl Default for DataMoverConfig {
    fn default() -> Self {
        Self {
            max_transfer: 1 << 31,
            max_batch: 1024,
            chunk: 256 << 10,
            interrupt_handles: 0,
            on_interrupt: None,
        }
    }
}

impl DataMoverConfig {
    /// Sets the largest transfer size in bytes.
    pub fn max_transfer(self, bytes: u32) -> Self {
        Self { max_transfer: bytes, ..self }
    }

    /// Sets the most descriptors in a batch.
    pub fn max_batch(self, descriptors: u32) -> Self {
        Self { max_batch: descriptors, ..self }
    }

    /// Sets how many bytes are moved at a time.
    pub fn chunk(self, bytes: usize) -> Self {
        Self { chunk: bytes, ..self }
    }

    /// Provides the completion interrupts `0..handles`, which `handler` takes.
    pub fn interrupts(self, handles: u16, handler: impl Fn(u16) + Send + Sync + 'static) -> Self {
        Self { interrupt_handles: handles, on_interrupt: Some(Arc::new(handler)), ..self }
    }
}

impl fmt::Debug for DataMoverConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataMoverConfig")
            .field("max_transfer", &self.max_transfer)
            .field("max_batch", &self.max_batch)
            .field("chunk", &self.chunk)
            .field("interrupt_handles", &self.interrupt_handles)
            .finish_non_exhaustive()
    }
}
