//! Batches: a descriptor list, fetched once and executed in order.

use sva_core::port::DmaCause;
use zerocopy::IntoBytes;

use super::completion::{Aborted, Completion};
use super::outcome::{Outcome, set_fault};
use crate::job::{Job, JobAccess, TransferCause};
use crate::spec::{CompletionRecord, Descriptor, Status};

/// Fetches `count` descriptors at `list` and has those that could be read executed, in order
/// (section 3.8). The configuration bounds `count`.
///
/// A fenced descriptor after one that did not succeed ends the batch: neither it nor any later one
/// is executed.
pub(super) fn execute(
    job: &Job<'_>,
    list: u64,
    count: u32,
    mut execute: impl FnMut(&Descriptor) -> Result<Completion, Aborted>,
) -> Result<Outcome, Aborted> {
    let mut descriptors = vec![Descriptor::default(); count as usize];
    let fetch = JobAccess::resolving(job).read(list, descriptors.as_mut_bytes());
    let fetched = fetch.done / Descriptor::SIZE;
    let mut done = 0;
    let mut failed = false;
    let mut fenced = false;
    for descriptor in &descriptors[..fetched] {
        fenced = failed && descriptor.flags().fence();
        if fenced {
            break;
        }
        let completion = execute(descriptor).map_err(|_| Aborted { done })?;
        failed |= !completion.is_success();
        done += 1;
    }
    match fetch.cause {
        Some(TransferCause::Stopped) => Err(Aborted { done }),
        Some(TransferCause::Dma(cause)) if !fenced => Ok(outcome(done, failed, Some(cause))),
        _ => Ok(outcome(done, failed, None)),
    }
}

fn outcome(done: u32, failed: bool, cause: Option<DmaCause>) -> Outcome {
    let status = if failed { Status::BATCH_FAIL } else { Status::SUCCESS };
    let mut record = CompletionRecord {
        status,
        result: failed.into(),
        bytes_completed: done.into(),
        ..CompletionRecord::default()
    };
    if let Some(cause) = &cause {
        set_fault(&mut record, cause, Status::BATCH_PAGE_FAULT);
    }
    Outcome { record, cause }
}
