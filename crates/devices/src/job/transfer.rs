//! How far the transfers of a job come, and why they end early.

use sva_core::port::DmaCause;

/// Why a transfer ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferCause {
    /// A transaction failed.
    #[error(transparent)]
    Dma(DmaCause),
    /// The job was stopped, because its PASID is being unbound or had no owner.
    #[error("the PASID is being unbound; bind again and transfer the rest")]
    Stopped,
}

/// A transfer that ended early.
#[derive(Debug, thiserror::Error)]
#[error("after {done} bytes: {cause}")]
pub struct TransferError {
    /// Bytes transferred, exactly. Of several pieces: counted over all of them in order.
    pub done: u64,
    /// Why no more.
    #[source]
    pub cause: TransferCause,
}

/// How far a transfer came.
#[derive(Debug)]
#[must_use]
pub(crate) struct Transferred {
    /// Bytes done, counted over all pieces in order.
    pub(crate) done: usize,
    /// Why no more.
    pub(crate) cause: Option<TransferCause>,
}

impl Transferred {
    /// Everything that was asked for.
    pub(crate) fn all(done: usize) -> Self {
        Self { done, cause: None }
    }

    /// All or nothing, for a transfer that is of no use in part.
    pub(crate) fn all_or_nothing(self) -> Result<(), TransferCause> {
        self.cause.map_or(Ok(()), Err)
    }

    pub(super) fn into_result(self) -> Result<(), TransferError> {
        let done = self.done as u64;
        self.cause.map_or(Ok(()), |cause| Err(TransferError { done, cause }))
    }
}
