//! A device of one's own: a byte counter with a doorbell, a descriptor ring and completion records,
//! and the part of its driver that submits to it.
//!
//! The ring, the buffers and the records lie in the memory of the process that the device is bound
//! to, and descriptors hold that process's own pointers. The device runs on a thread of its own. It
//! fetches each descriptor once and checks it. It begins a job for every doorbell, so that an
//! unbind stops it between two transactions, and so that it never reaches a later owner of the
//! PASID.
//!
//! `cargo run -p sva-devices --example doorbell`

use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use sva_core::port::DmaCause;
use sva_core::{Bdf, Bind, Capabilities, DeviceSpec, Iommu, IommuConfig, Pasid, PasidWidth, Plug};
use sva_devices::{Job, JobTracker, PortPool, TransferCause, TransferError};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A request to count a byte in a buffer, as the driver writes it into the ring.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Descriptor {
    /// The address of the completion record.
    completion: U64,
    buffer: U64,
    /// In bytes.
    len: U32,
    /// The byte to count.
    byte: u8,
    /// Must be zero.
    reserved: [u8; 11],
}

const DESCRIPTOR: u64 = size_of::<Descriptor>() as u64;

/// What the device answers.
#[derive(
    Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct CompletionRecord {
    /// One of the values below. The device writes it last.
    status: u8,
    reserved: [u8; 7],
    count: U64,
    /// For [`FAULT`]: the first address that could not be read.
    fault_address: U64,
}

const RECORD: u64 = size_of::<CompletionRecord>() as u64;

const PENDING: u8 = 0;
const SUCCESS: u8 = 1;
const FAULT: u8 = 2;
const INVALID: u8 = 3;

impl CompletionRecord {
    fn new(status: u8, count: u64, fault_address: u64) -> Self {
        Self { status, reserved: [0; 7], count: count.into(), fault_address: fault_address.into() }
    }
}

/// A work queue, as the driver has set it up: of one process, with a ring in its memory.
#[derive(Clone, Copy)]
struct WorkQueue {
    pasid: Pasid,
    ring: u64,
    /// Descriptors in the ring: a power of two.
    entries: u32,
}

/// The device model.
struct ByteCounter {
    jobs: Arc<JobTracker>,
    ports: PortPool,
    queue: WorkQueue,
    /// How many descriptors have been fetched; wraps.
    head: u32,
}

impl ByteCounter {
    /// The largest buffer in bytes.
    const MAX_LEN: u32 = 1 << 20;

    /// The device's thread: serves doorbells until the driver is gone.
    fn run(mut self, doorbell: Receiver<u32>) {
        for tail in doorbell {
            if let Err(error) = self.serve(tail) {
                println!("device: queue of PASID {} halted: {error}", self.queue.pasid);
                return;
            }
        }
    }

    /// Executes all descriptors up to `tail`, which is what the driver wrote to the doorbell.
    fn serve(&mut self, tail: u32) -> Result<(), TransferError> {
        // A tail beyond the ring would name the same descriptors again and again.
        let new = tail.wrapping_sub(self.head).min(self.queue.entries);
        let job = self.jobs.begin(&self.ports, Some(self.queue.pasid));
        for _ in 0..new {
            let slot = u64::from(self.head % self.queue.entries);
            let descriptor: Descriptor = job.read_obj(self.queue.ring + slot * DESCRIPTOR)?;
            self.head = self.head.wrapping_add(1);
            let record = Self::execute(&job, &descriptor)?;
            Self::complete(&job, descriptor.completion.get(), &record)?;
        }
        Ok(())
    }

    /// Counts. A fault is the process's mistake and is told to it; all else halts the queue.
    fn execute(job: &Job<'_>, descriptor: &Descriptor) -> Result<CompletionRecord, TransferError> {
        let (buffer, len) = (descriptor.buffer.get(), descriptor.len.get());
        let fits = len <= Self::MAX_LEN && buffer.checked_add(len.into()).is_some();
        if !fits || descriptor.reserved != [0; 11] {
            return Ok(CompletionRecord::new(INVALID, 0, 0));
        }
        // Bounded by the device's limit, not by what the process says.
        let mut bytes = vec![0; len as usize];
        match job.read(buffer, &mut bytes) {
            Ok(()) => {
                let count = bytes.iter().filter(|byte| **byte == descriptor.byte).count();
                Ok(CompletionRecord::new(SUCCESS, count as u64, 0))
            }
            Err(TransferError { cause: TransferCause::Dma(DmaCause::Fault(fault)), .. }) => {
                Ok(CompletionRecord::new(FAULT, 0, fault.address))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the record, status last: who sees the status sees the rest too.
    fn complete(
        job: &Job<'_>,
        address: u64,
        record: &CompletionRecord,
    ) -> Result<(), TransferError> {
        let (status, rest) = record.as_bytes().split_at(1);
        job.write(address.wrapping_add(1), rest)?;
        job.write(address, status)
    }
}

/// The driver's part in the process: fills the ring, rings the doorbell, polls the records.
struct Driver<'a> {
    process: &'a MemorySpace,
    queue: WorkQueue,
    /// The doorbell register. The device gets the number of descriptors written so far.
    doorbell: Sender<u32>,
    tail: u32,
    /// Where the completion records are, one for each entry of the ring.
    records: u64,
}

impl Driver<'_> {
    /// Submits a request and returns the address of its completion record.
    fn submit(&mut self, buffer: u64, len: u32, byte: u8) -> u64 {
        let slot = u64::from(self.tail % self.queue.entries);
        let completion = self.records + slot * RECORD;
        let pending = CompletionRecord::new(PENDING, 0, 0);
        self.process.poke(completion, pending.as_bytes());
        let descriptor = Descriptor {
            completion: completion.into(),
            buffer: buffer.into(),
            len: len.into(),
            byte,
            reserved: [0; 11],
        };
        self.process.poke(self.queue.ring + slot * DESCRIPTOR, descriptor.as_bytes());
        self.tail = self.tail.wrapping_add(1);
        // The device is gone if it has halted: the record stays pending then.
        let _ = self.doorbell.send(self.tail);
        completion
    }

    fn poll(&self, completion: u64) -> CompletionRecord {
        let bytes = self.process.peek(completion, RECORD as usize);
        CompletionRecord::read_from_bytes(&bytes).expect("as long as a record")
    }

    fn wait(&self, completion: u64) -> CompletionRecord {
        loop {
            let record = self.poll(completion);
            if record.status != PENDING {
                return record;
            }
            thread::yield_now();
        }
    }
}

const TEXT: &[u8] = b"shared virtual addressing for devices made of software";

/// Submits requests, good ones and bad ones, and checks their records.
fn use_device(driver: &mut Driver<'_>, text: u64) {
    let len = TEXT.len() as u32;
    let expected = |letter: u8| {
        let count = TEXT.iter().filter(|byte| **byte == letter).count() as u64;
        CompletionRecord::new(SUCCESS, count, 0)
    };
    // More requests than the ring has entries, one after the other.
    for letter in b'a'..=b'z' {
        let request = driver.submit(text, len, letter);
        assert_eq!(driver.wait(request), expected(letter));
    }
    // Several at a time: a bad pointer and a request that is too long do not harm the third.
    let requests = [
        driver.submit(text + PAGE - 4, len, b'a'),
        driver.submit(text, u32::MAX, b'a'),
        driver.submit(text, len, b'd'),
    ];
    let records = requests.map(|request| driver.wait(request));
    assert_eq!(records[0], CompletionRecord::new(FAULT, 0, text + PAGE));
    assert_eq!(records[1], CompletionRecord::new(INVALID, 0, 0));
    assert_eq!(records[2], expected(b'd'));
    println!("driver: 29 requests completed, one of them with a fault at {:#x}", text + PAGE);
}

fn main() -> Result<(), Box<dyn Error>> {
    // The machine: a bus, an IOMMU, the device. The IOMMU tells the device's tracker of unbinds.
    let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
    let bdf = Bdf::new(0, 1, 0, 0).ok_or("no such function")?;
    let spec = DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) };
    let jobs = JobTracker::new();
    let device = iommu.plug(Plug::new(spec).model(jobs.clone()))?.device;

    // The process: a page for the ring and the records, a page of text.
    let process = MemorySpace::new();
    let (ring, records, text) = (0x10_0000, 0x10_0800, 0x20_0000);
    process.map(ring, PAGE, Protection::READ_WRITE);
    process.map(text, PAGE, Protection::READ);
    process.poke(text, TEXT);
    let bond = iommu.bind_device(&device, &process.handle(), Bind::new(()))?;

    let queue = WorkQueue { pasid: bond.pasid(), ring, entries: 8 };
    let (doorbell, rings) = mpsc::channel();
    let ports = PortPool::new(device.port());
    let model = ByteCounter { jobs: jobs.clone(), ports, queue, head: 0 };
    let mut driver = Driver { process: &process, queue, doorbell, tail: 0, records };
    thread::scope(|scope| {
        let device = scope.spawn(move || model.run(rings));
        use_device(&mut driver, text);

        // From the return of the unbind on, the device does not touch the process.
        bond.unbind();
        let late = driver.submit(text, 1, b'a');
        device.join().expect("the device's thread does not panic");
        assert_eq!(driver.poll(late).status, PENDING);
    });
    for event in iommu.drain_events().events {
        println!("IOMMU: {event}");
    }
    assert_eq!(jobs.count(), 0);
    Ok(())
}
