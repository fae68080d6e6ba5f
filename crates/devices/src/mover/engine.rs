//! The engine: what executes descriptors (section 3.4).

use std::sync::Arc;

use sva_core::{DmaPort, Pasid};
use zerocopy::IntoBytes;

use super::completion::{Aborted, Completion, RecordWrite};
use super::config::DataMoverConfig;
use super::decode::{Origin, decode};
use super::operation::Operation;
use super::outcome::{Outcome, Progress};
use super::scratch::ScratchPool;
use super::{batch, kernels};
use crate::job::{Job, JobAccess, JobTracker, PAGE, PortPool, TransferCause};
use crate::spec::{CompletionRecord, Descriptor};

/// A bus master that executes descriptors. Any number of threads may submit at once.
pub struct DataMover {
    pub(super) ports: PortPool,
    pub(super) jobs: Arc<JobTracker>,
    config: DataMoverConfig,
    scratch: ScratchPool,
}

impl DataMover {
    /// A data mover that issues its transactions through `port`, which is the port of the device
    /// that `jobs` was plugged in with.
    pub fn new(port: DmaPort, jobs: Arc<JobTracker>, config: DataMoverConfig) -> Self {
        let chunk = config.chunk.clamp(1, 1 << 30).next_multiple_of(PAGE as usize);
        let scratch = ScratchPool::new(chunk);
        Self { ports: PortPool::new(port), jobs, config, scratch }
    }

    /// Executes one descriptor and returns when it is complete. May block to resolve page faults.
    ///
    /// `pasid` is the submission's, as in a dedicated work queue; the descriptor's own field is not
    /// read. Without a PASID the addresses are IOVAs of the device's domain.
    ///
    /// # Errors
    /// The PASID was unbound meanwhile. Everything else is a completion, a malformed descriptor
    /// included.
    pub fn execute(
        &self,
        pasid: Option<Pasid>,
        descriptor: &Descriptor,
    ) -> Result<Completion, Aborted> {
        let job = self.jobs.begin(&self.ports, pasid);
        self.complete(&job, descriptor, Origin::WorkQueue)
    }

    /// Decodes and performs a descriptor, writes its completion record, raises its interrupt.
    fn complete(
        &self,
        job: &Job<'_>,
        descriptor: &Descriptor,
        origin: Origin,
    ) -> Result<Completion, Aborted> {
        let outcome = match decode(descriptor, origin, &self.config) {
            Ok(operation) => self.perform(job, &operation, descriptor.flags().block_on_fault())?,
            Err(rejection) => rejection.into(),
        };
        let record_write = write_record(job, descriptor, &outcome);
        self.raise_interrupt(descriptor);
        Ok(Completion { record: outcome.record, cause: outcome.cause, record_write })
    }

    fn perform(
        &self,
        job: &Job<'_>,
        operation: &Operation,
        block_on_fault: bool,
    ) -> Result<Outcome, Aborted> {
        let progress = match *operation {
            Operation::NoOp => Progress::success(0),
            Operation::Batch { list, count } => {
                return batch::execute(job, list, count, |descriptor| {
                    self.complete(job, descriptor, Origin::Batch)
                });
            }
            _ => {
                let access = JobAccess::new(job, block_on_fault);
                let mut scratch = self.scratch.take();
                let progress = kernels::perform(operation, &access, &mut scratch);
                self.scratch.put_back(scratch);
                progress
            }
        };
        progress.into_outcome(block_on_fault)
    }

    fn raise_interrupt(&self, descriptor: &Descriptor) {
        let handle = descriptor.interrupt.get();
        if let Some(on_interrupt) = &self.config.on_interrupt
            && descriptor.flags().request_interrupt()
            && handle < self.config.interrupt_handles
        {
            on_interrupt(handle);
        }
    }
}

/// Writes the completion record where one is due: first everything but the status, then the status,
/// so that a process that polls the status sees a complete record (section 3.6).
fn write_record(job: &Job<'_>, descriptor: &Descriptor, outcome: &Outcome) -> RecordWrite {
    let flags = descriptor.flags();
    let address = descriptor.completion.get();
    let due = flags.completion_valid()
        && (flags.request_completion() || !outcome.record.status.is_success());
    if !due || !address.is_multiple_of(CompletionRecord::SIZE as u64) {
        return RecordWrite::NotDue;
    }
    let access = JobAccess::resolving(job);
    let (status, rest) = outcome.record.as_bytes().split_at(1);
    let written = access
        .write(address + 1, rest)
        .all_or_nothing()
        .and_then(|()| access.write(address, status).all_or_nothing());
    match written {
        Ok(()) => RecordWrite::Written,
        Err(TransferCause::Dma(cause)) => RecordWrite::Failed(cause),
        Err(TransferCause::Stopped) => RecordWrite::Stopped,
    }
}
