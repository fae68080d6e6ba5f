//! What a submitter is told of its descriptor.

use sva_core::port::DmaCause;

use crate::spec::CompletionRecord;

/// What became of the completion record in the process's memory.
#[derive(Debug)]
pub enum RecordWrite {
    /// None was due: none was requested and the descriptor succeeded, or the completion address
    /// cannot hold one.
    NotDue,
    /// It was written.
    Written,
    /// It could not be written.
    Failed(DmaCause),
    /// It was not written, because the PASID is being unbound or was not bound.
    Stopped,
}

/// A descriptor that has been completed.
#[derive(Debug)]
pub struct Completion {
    /// The completion record.
    pub record: CompletionRecord,
    /// The fault or host failure that ended the descriptor early.
    pub cause: Option<DmaCause>,
    /// Whether the record was written to the process's memory as well.
    pub record_write: RecordWrite,
}

impl Completion {
    /// Whether the descriptor succeeded and its record, where one was due, was written.
    pub fn is_success(&self) -> bool {
        self.record.status.is_success()
            && matches!(self.record_write, RecordWrite::NotDue | RecordWrite::Written)
    }
}

/// The descriptor was aborted because its PASID is being unbound. There is no completion record and
/// no interrupt for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "aborted after {done} bytes (of a batch: descriptors): the PASID is being unbound; \
     bind again and submit the rest"
)]
pub struct Aborted {
    /// What was done, in the units of [`CompletionRecord::bytes_completed`].
    pub done: u32,
}
