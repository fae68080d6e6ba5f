//! From the progress of a kernel to the completion record.

use sva_core::port::DmaCause;
use sva_core::{Access, FaultReason};

use super::completion::Aborted;
use super::decode::Rejection;
use crate::job::TransferCause;
use crate::spec::{CompletionRecord, Status};

/// How a kernel ended.
#[derive(Debug)]
pub(super) enum End {
    Success,
    FalsePredicate,
    Failed(Status),
    /// A transfer ended early.
    Incomplete(TransferCause),
}

/// How far a kernel came.
#[derive(Debug)]
pub(super) struct Progress {
    /// For the record's `bytes_completed`.
    pub(super) done: u32,
    /// For the record's field of that name.
    pub(super) result: u8,
    /// For the record's field of that name.
    pub(super) value: u32,
    pub(super) end: End,
}

impl Progress {
    pub(super) fn success(done: u32) -> Self {
        Self { done, result: 0, value: 0, end: End::Success }
    }

    pub(super) fn failed(done: u32, status: Status) -> Self {
        Self { end: End::Failed(status), ..Self::success(done) }
    }

    /// Success, unless a transfer ended early.
    pub(super) fn up_to(done: u32, cause: Option<TransferCause>) -> Self {
        Self { end: cause.map_or(End::Success, End::Incomplete), ..Self::success(done) }
    }

    /// The completion record, or an error where the job was stopped.
    pub(super) fn into_outcome(self, block_on_fault: bool) -> Result<Outcome, Aborted> {
        let mut record = CompletionRecord {
            result: self.result,
            bytes_completed: self.done.into(),
            value: self.value.into(),
            ..CompletionRecord::default()
        };
        let mut cause = None;
        match self.end {
            End::Success => record.status = Status::SUCCESS,
            End::FalsePredicate => record.status = Status::SUCCESS_FALSE_PREDICATE,
            End::Failed(status) => record.status = status,
            End::Incomplete(TransferCause::Stopped) => return Err(Aborted { done: self.done }),
            End::Incomplete(TransferCause::Dma(dma)) => {
                let page_fault =
                    if block_on_fault { Status::PAGE_FAULT_UNRESOLVED } else { Status::PAGE_FAULT };
                set_fault(&mut record, &dma, page_fault);
                cause = Some(dma);
            }
        }
        Ok(Outcome { record, cause })
    }
}

/// Sets status and fault address for a failed transaction: `page_fault` where the address is at
/// fault.
///
/// The border is that of ATS. A page fault is what a translation request answers with neither read
/// nor write permission. A PASID without an entry, or a right that the bond does not grant, fails
/// the translation itself. The rest are failed requests.
pub(super) fn set_fault(record: &mut CompletionRecord, cause: &DmaCause, page_fault: Status) {
    use FaultReason as Reason;
    record.status = Status::HARDWARE;
    let DmaCause::Fault(fault) = cause else { return };
    record.fault_address = fault.address.into();
    record.status = match fault.reason {
        Reason::NotMapped
        | Reason::NotPresent
        | Reason::Denied
        | Reason::SpaceEnded
        | Reason::NoDomainMapping => {
            if fault.access == Access::WRITE {
                page_fault.on_write()
            } else {
                page_fault
            }
        }
        Reason::NotBound | Reason::CannotIssuePasid | Reason::NotGranted | Reason::Wraps => {
            Status::TRANSLATION
        }
        _ => Status::HARDWARE,
    };
}

/// The outcome of a descriptor, before its completion record is written.
pub(super) struct Outcome {
    pub(super) record: CompletionRecord,
    pub(super) cause: Option<DmaCause>,
}

impl From<Rejection> for Outcome {
    fn from(rejection: Rejection) -> Self {
        let record = CompletionRecord {
            status: rejection.status,
            value: rejection.flags.into_bits().into(),
            ..CompletionRecord::default()
        };
        Self { record, cause: None }
    }
}
