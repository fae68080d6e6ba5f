//! The data mover: executes descriptors against the memory of whatever is bound to their PASID.
//!
//! A descriptor goes through `decode`, which looks at nothing but its 64 bytes and answers an
//! operation whose ranges are sound, or the status that rejects it; then through its kernel, which
//! moves bytes in chunks through buffers of the mover's own; then its completion record is written,
//! status last. Nothing that was checked is read again from the process, so that a process which
//! changes its descriptors meanwhile, or has them overwritten by their own completion records,
//! changes nothing (rule S2).
//!
//! Submission is synchronous: [`DataMover::execute`] returns when the descriptor is done, and hands
//! the completion to the submitter too, so that a submitter outside of the process needs no memory
//! in it. Work is linear in the transfer size, buffers are bounded by [`DataMoverConfig::chunk`],
//! and a stop of the PASID is noticed between chunks.

mod batch;
mod compare;
mod copy;
mod crc;
mod decode;
mod delta;
mod outcome;
mod transfer;

use std::sync::Arc;

use sva_core::port::DmaCause;
use sva_core::{DmaPort, Pasid};
use sva_sync::Mutex;
use zerocopy::IntoBytes;

use crate::access::{Halt, JobPort};
use crate::in_flight::{InFlight, Run};
use crate::ports::Ports;
use crate::spec::{CompletionRecord, Descriptor, Status};
use decode::{Operation, Place};
use outcome::{End, Outcome, Progress};

pub use transfer::{TransferCause, TransferError};

/// Called for a completion interrupt, with its handle; holds up the descriptor's submitter only.
pub type Interrupts = dyn Fn(u16) + Send + Sync;

/// What a data mover can do.
#[derive(Clone)]
pub struct DataMoverConfig {
    /// The largest transfer size in bytes (GENCAP, Maximum Supported Transfer Size). 2^31 where
    /// nothing is said.
    pub max_transfer: u32,
    /// The most descriptors in a batch (GENCAP, Maximum Supported Batch Size). 1024 where nothing
    /// is said.
    pub max_batch: u32,
    /// Bytes that are moved at a time; rounded up to a page. 256 KiB where nothing is said.
    pub chunk: usize,
    /// How many completion interrupts there are: handles 0..n. None where nothing is said.
    pub interrupt_handles: u16,
    /// Takes the completion interrupts.
    pub on_interrupt: Option<Arc<Interrupts>>,
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

/// A bus master that executes descriptors. Any number of threads may submit at once.
pub struct DataMover {
    ports: Ports,
    in_flight: Arc<InFlight>,
    config: DataMoverConfig,
    /// Buffers that no descriptor uses now. Locked for a push or a pop only.
    idle: Mutex<Vec<Scratch>>,
}

/// The buffers of one descriptor under way, of one chunk each.
struct Scratch {
    first: Box<[u8]>,
    second: Box<[u8]>,
}

/// Buffers that are kept for later.
const IDLE_SCRATCH: usize = 4;

/// What became of the completion record in the process's memory.
#[derive(Debug)]
pub enum Delivery {
    /// None was asked for, or its address cannot hold one.
    NotRequested,
    /// It was written.
    Written,
    /// It could not be written.
    Failed(DmaCause),
    /// It was not written, because the PASID is being unbound, or was not bound.
    Stopped,
}

/// A descriptor that has been completed.
#[derive(Debug)]
pub struct Completion {
    /// What it came to.
    pub record: CompletionRecord,
    /// The fault or host failure that ended it early.
    pub cause: Option<DmaCause>,
    /// Whether the process has the record too.
    pub delivery: Delivery,
}

impl Completion {
    /// Whether all was done as asked and the record, where asked for, is where it should be.
    pub fn is_success(&self) -> bool {
        self.record.status.is_success()
            && matches!(self.delivery, Delivery::NotRequested | Delivery::Written)
    }
}

/// The descriptor was given up because its PASID is being unbound; there is no completion record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "abandoned after {done} bytes (of a batch: descriptors): the PASID is being unbound; bind again and submit the rest"
)]
pub struct Abandoned {
    /// What was done, as [`CompletionRecord::bytes_completed`] would say it.
    pub done: u32,
}

impl DataMover {
    /// A data mover behind `port`, which is the port of the device that `in_flight` was plugged in
    /// with.
    pub fn new(port: DmaPort, in_flight: Arc<InFlight>, config: DataMoverConfig) -> Self {
        let chunk = config.chunk.clamp(1, 1 << 30).next_multiple_of(crate::access::PAGE as usize);
        Self {
            ports: Ports::new(port),
            in_flight,
            config: DataMoverConfig { chunk, ..config },
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Executes one descriptor and returns when it is complete. May block to resolve pages.
    ///
    /// `pasid` is the submission's; the descriptor's own field is not looked at. Without a PASID
    /// the addresses are IOVAs of the device's domain.
    ///
    /// # Errors
    /// The PASID was stopped meanwhile. Everything else, also a bad descriptor, is a completion.
    pub fn execute(
        &self,
        pasid: Option<Pasid>,
        descriptor: &Descriptor,
    ) -> Result<Completion, Abandoned> {
        let run = self.in_flight.begin(&self.ports, pasid);
        self.complete(&run, descriptor, Place::Queue)
    }

    /// The descriptor in its place, to the end: decoded, performed, delivered, signalled.
    fn complete(
        &self,
        run: &Run<'_>,
        descriptor: &Descriptor,
        place: Place,
    ) -> Result<Completion, Abandoned> {
        let outcome = match decode::decode(descriptor, place, &self.config) {
            Ok(operation) => self.perform(run, &operation, descriptor.flags().block_on_fault())?,
            Err(rejection) => rejection.into(),
        };
        let delivery = self.deliver(run, descriptor, &outcome);
        self.signal(descriptor);
        Ok(Completion { record: outcome.record, cause: outcome.cause, delivery })
    }

    fn perform(
        &self,
        run: &Run<'_>,
        operation: &Operation,
        block_on_fault: bool,
    ) -> Result<Outcome, Abandoned> {
        let access = JobPort::new(run, block_on_fault);
        let progress = match *operation {
            Operation::NoOp => Progress::success(0),
            Operation::Batch { list, count } => return self.batch(run, list, count),
            _ => {
                let mut scratch = self.scratch();
                let progress = kernel(operation, &access, &mut scratch);
                self.give_back(scratch);
                progress
            }
        };
        progress.conclude(block_on_fault)
    }

    /// Writes the completion record where one is due: everything but the status, then the status
    /// (section 3.6).
    fn deliver(&self, run: &Run<'_>, descriptor: &Descriptor, outcome: &Outcome) -> Delivery {
        let flags = descriptor.flags();
        let address = descriptor.completion.get();
        let due = flags.completion_valid()
            && (flags.request_completion() || !outcome.record.status.is_success());
        if !due || !address.is_multiple_of(CompletionRecord::SIZE as u64) {
            return Delivery::NotRequested;
        }
        let access = JobPort::resolving(run);
        let (status, rest) = outcome.record.as_bytes().split_at(1);
        let written = access
            .write(address + 1, rest)
            .whole()
            .and_then(|()| access.write(address, status).whole());
        match written {
            Ok(()) => Delivery::Written,
            Err(Halt::Dma(cause)) => Delivery::Failed(cause),
            Err(Halt::Stopped) => Delivery::Stopped,
        }
    }

    fn signal(&self, descriptor: &Descriptor) {
        let handle = descriptor.interrupt.get();
        if let Some(interrupt) = &self.config.on_interrupt
            && descriptor.flags().request_interrupt()
            && handle < self.config.interrupt_handles
        {
            interrupt(handle);
        }
    }

    fn scratch(&self) -> Scratch {
        let buffer = || vec![0; self.config.chunk].into_boxed_slice();
        let idle = self.idle.lock().pop();
        idle.unwrap_or_else(|| Scratch { first: buffer(), second: buffer() })
    }

    fn give_back(&self, scratch: Scratch) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_SCRATCH {
            idle.push(scratch);
        }
    }
}

fn kernel(operation: &Operation, access: &JobPort<'_>, scratch: &mut Scratch) -> Progress {
    match *operation {
        // Both are the mover's own business.
        Operation::NoOp | Operation::Batch { .. } => {
            Progress::failed(0, Status::UNSUPPORTED_OPCODE)
        }
        Operation::Move { source, destination, len } => {
            copy::memory_move(access, scratch, source, destination, len)
        }
        Operation::Dualcast { source, destinations, len } => {
            copy::dualcast(access, scratch, source, destinations, len)
        }
        Operation::CopyCrc { source, destination, len, rule } => {
            crc::copy(access, scratch, source, destination, len, rule)
        }
        Operation::Crc { source, len, rule } => crc::generate(access, scratch, source, len, rule),
        Operation::Fill { pattern, destination, len } => {
            copy::fill(access, scratch, pattern, destination, len)
        }
        Operation::Compare { first, second, len, expected } => {
            compare::buffers(access, scratch, [first, second], len, expected)
        }
        Operation::ComparePattern { source, pattern, len, expected } => {
            compare::pattern(access, scratch, source, pattern, len, expected)
        }
        Operation::CreateDelta { sources, len, record, max, expected } => {
            delta::create(access, scratch, sources, len, delta::Room { record, max }, expected)
        }
        Operation::ApplyDelta { record, record_len, destination, len } => {
            delta::apply(access, scratch, record, record_len, destination, len)
        }
    }
}
