//! From how far a kernel came to what its completion record says.

use sva_core::port::DmaCause;
use sva_core::{Access, FaultReason};

use super::Abandoned;
use super::decode::Rejection;
use crate::access::Halt;
use crate::spec::{CompletionRecord, Status};

/// How a kernel ended.
#[derive(Debug)]
pub(super) enum End {
    Success,
    FalsePredicate,
    Failed(Status),
    Halted(Halt),
}

/// How far a kernel came.
#[derive(Debug)]
pub(super) struct Progress {
    /// For the record's `bytes_completed`.
    pub(super) done: u32,
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

    /// Through, unless something halted it.
    pub(super) fn up_to(done: u32, halt: Option<Halt>) -> Self {
        Self { end: halt.map_or(End::Success, End::Halted), ..Self::success(done) }
    }

    /// The record; an error where the PASID was stopped.
    pub(super) fn conclude(self, block_on_fault: bool) -> Result<Outcome, Abandoned> {
        let mut record = CompletionRecord {
            result: self.result,
            bytes_completed: self.done.into(),
            value: self.value.into(),
            ..CompletionRecord::default()
        };
        let cause = match self.end {
            End::Success => status(&mut record, Status::SUCCESS),
            End::FalsePredicate => status(&mut record, Status::SUCCESS_FALSE_PREDICATE),
            End::Failed(failed) => status(&mut record, failed),
            End::Halted(Halt::Stopped) => return Err(Abandoned { done: self.done }),
            End::Halted(Halt::Dma(cause)) => {
                let page_fault =
                    if block_on_fault { Status::PAGE_FAULT_UNRESOLVED } else { Status::PAGE_FAULT };
                fault(&mut record, &cause, page_fault);
                Some(cause)
            }
        };
        Ok(Outcome { record, cause })
    }
}

fn status(record: &mut CompletionRecord, status: Status) -> Option<DmaCause> {
    record.status = status;
    None
}

/// Enters a failed transaction: `page_fault` where the address is at fault, else what else went
/// wrong.
///
/// A page fault is what an ATS translation answers with neither read nor write permission; a PASID
/// without an entry, or a right that the bond does not grant, fails the translation itself; the
/// rest are failed requests.
pub(super) fn fault(record: &mut CompletionRecord, cause: &DmaCause, page_fault: Status) {
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

/// What a descriptor came to, before anybody is told.
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
