//! Batches: a list of descriptors, fetched once.

use sva_core::port::DmaCause;
use zerocopy::IntoBytes;

use super::decode::Place;
use super::outcome::{Outcome, fault};
use super::{Abandoned, DataMover};
use crate::access::{Halt, JobPort};
use crate::in_flight::Run;
use crate::spec::{CompletionRecord, Descriptor, Status};

impl DataMover {
    /// Fetches `count` descriptors, which the configuration bounds, and executes those that could
    /// be read, in order (section 3.8).
    ///
    /// A fenced descriptor after one that did not succeed abandons itself and the rest.
    pub(super) fn batch(&self, run: &Run<'_>, list: u64, count: u32) -> Result<Outcome, Abandoned> {
        let mut descriptors = vec![Descriptor::default(); count as usize];
        let fetch = JobPort::resolving(run).read(list, descriptors.as_mut_bytes());
        let fetched = fetch.done / Descriptor::SIZE;
        let mut done = 0;
        let mut failed = false;
        let mut fenced = false;
        for descriptor in &descriptors[..fetched] {
            fenced = failed && descriptor.flags().fence();
            if fenced {
                break;
            }
            let completion =
                self.complete(run, descriptor, Place::Batch).map_err(|_| Abandoned { done })?;
            failed |= !completion.is_success();
            done += 1;
        }
        match fetch.halt {
            Some(Halt::Stopped) => Err(Abandoned { done }),
            Some(Halt::Dma(cause)) if !fenced => Ok(ended(done, failed, Some(cause))),
            _ => Ok(ended(done, failed, None)),
        }
    }
}

fn ended(done: u32, failed: bool, cause: Option<DmaCause>) -> Outcome {
    let status = if failed { Status::BATCH_FAIL } else { Status::SUCCESS };
    let mut record = CompletionRecord {
        status,
        result: failed.into(),
        bytes_completed: done.into(),
        ..CompletionRecord::default()
    };
    if let Some(cause) = &cause {
        fault(&mut record, cause, Status::BATCH_PAGE_FAULT);
    }
    Outcome { record, cause }
}
