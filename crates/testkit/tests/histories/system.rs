//! Threads that access and change one space, and write down when each call began and ended.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use sva_core::{
    Access, AddressSpace, Bdf, Bind, Bond, Capabilities, DeviceSpec, DmaError, DmaPort,
    FaultReason, Iommu, IommuConfig, Pasid, PasidWidth, Plug, Segment, StopCause,
};
use sva_sync::atomic::{AtomicUsize, Ordering};
use sva_testkit::{ArenaSpace, FlatTopology, Forwarding, PAGE, Protection};

use crate::dawdling::{Clock, Dawdling};
use crate::reference::{Call, Operation, Outcome, PAGES, Word};

const BASE: u64 = 0x7000_0000_0000;
const ALL: u64 = PAGES as u64 * PAGE;
/// Each with a port of its own.
const DEVICES: usize = 3;
const OWNERS: usize = 2;
const CALLS_OF_A_DEVICE: usize = 6;
const CALLS_OF_AN_OWNER: usize = 4;
/// Turns that a thread gives up at the start, until the others are there.
const TURNS: usize = 1000;

pub(crate) struct System {
    /// First, so that it is gone before the space is.
    bond: Bond<()>,
    ports: Vec<DmaPort>,
    _iommu: Iommu,
    pub(crate) space: ArenaSpace,
    handle: Arc<Forwarding<Dawdling>>,
}

impl System {
    /// A table of the least size, and so little memory that what is freed is soon used again: for
    /// what is mapped, what each owner takes, and what each has taken away and not freed.
    pub(crate) fn new() -> Self {
        let space = ArenaSpace::new((PAGES + 2 * OWNERS * PAGES) as u64 * PAGE).poisoning();
        let iommu =
            Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default().iotlb_bytes(0));
        let spec = DeviceSpec {
            bdf: Bdf::new(0, 1, 0, 0).expect("a function"),
            capabilities: Capabilities::translating(PasidWidth::MAX, 8),
        };
        let device = iommu.plug(Plug::new(spec)).expect("free").device;
        let handle = Arc::new(Forwarding(Dawdling::new(space.handle())));
        let foreign: Arc<dyn AddressSpace> = handle.clone();
        let bond = iommu.bind_device(&device, &foreign, Bind::new(())).expect("free");
        Self {
            bond,
            ports: (0..DEVICES).map(|_| device.port()).collect(),
            _iommu: iommu,
            space,
            handle,
        }
    }

    /// One history from a space of zeros, whose operations the seed decides. Ports keep their
    /// caches from one history to the next.
    pub(crate) fn history(&mut self, seed: u64) -> Vec<Call> {
        self.space.map(BASE, ALL, Protection::READ_WRITE);
        let (space, handle, pasid, waiting) =
            (&self.space, &*self.handle, self.bond.pasid(), AtomicUsize::new(DEVICES + OWNERS));
        let owner = Owner { space, handle };
        let run = |thread: usize, calls: usize, does: &mut dyn FnMut(&Operation) -> Outcome| {
            // The thread's own, from which the dawdling takes its chances too.
            fastrand::seed(seed << 8 | thread as u64);
            let mut seen = 0;
            let planned: Vec<_> = (0..calls)
                .map(|n| {
                    if thread < DEVICES {
                        device_operation(thread, n)
                    } else {
                        owner_operation(thread, n)
                    }
                })
                .collect();
            waiting.fetch_sub(1, Ordering::Relaxed);
            (0..TURNS)
                .take_while(|_| waiting.load(Ordering::Relaxed) > 0)
                .for_each(|_| thread::yield_now());
            planned
                .into_iter()
                .map(|operation| {
                    call(&handle.clock, thread, likely(operation, seen), does, &mut seen)
                })
                .collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let (run, owner) = (&run, &owner);
            let ports = self.ports.iter_mut().enumerate();
            let devices = ports.map(|(thread, port)| {
                scope.spawn(move || {
                    run(thread, CALLS_OF_A_DEVICE, &mut |operation| by_port(port, pasid, operation))
                })
            });
            let devices: Vec<_> = devices.collect();
            let owners = (0..OWNERS).map(|n| {
                scope.spawn(move || {
                    run(DEVICES + n, CALLS_OF_AN_OWNER, &mut |operation| owner.does(operation))
                })
            });
            let owners: Vec<_> = owners.collect();
            devices
                .into_iter()
                .chain(owners)
                .flat_map(|thread| thread.join().expect("no panic"))
                .collect()
        })
    }

    /// Accesses that were made in place so far.
    pub(crate) fn in_place(&self) -> u64 {
        self.handle.in_place.load(Ordering::Relaxed)
    }
}

fn call(
    clock: &Clock,
    thread: usize,
    operation: Operation,
    does: &mut dyn FnMut(&Operation) -> Outcome,
    seen: &mut u64,
) -> Call {
    let called = clock.now();
    let outcome = does(&operation);
    let returned = clock.now();
    if let Outcome::Value(value) = outcome {
        *seen = value;
    }
    Call { thread, operation, called, outcome, returned }
}

/// A value that nobody else writes.
fn value(thread: usize, n: usize) -> u64 {
    (thread as u64 + 1) << 32 | (n as u64 + 1) << 16
}

fn device_operation(thread: usize, n: usize) -> Operation {
    let word = match fastrand::u8(0..8) {
        0..=2 => Word::Read,
        3..=4 => Word::Write(value(thread, n)),
        5..=6 => Word::Add(1 << (4 * thread)),
        _ => Word::CompareExchange { expected: 0, new: value(thread, n) },
    };
    Operation::Device { page: fastrand::usize(0..PAGES), word }
}

/// Half of the compare-exchanges expect what the thread has seen last.
fn likely(operation: Operation, seen: u64) -> Operation {
    match operation {
        Operation::Device { page, word: Word::CompareExchange { new, .. } } if fastrand::bool() => {
            Operation::Device { page, word: Word::CompareExchange { expected: seen, new } }
        }
        other => other,
    }
}

fn owner_operation(thread: usize, n: usize) -> Operation {
    let page = fastrand::usize(0..PAGES);
    let pages = page..fastrand::usize(page + 1..=PAGES);
    let protection =
        [Protection::READ_WRITE, Protection::READ_WRITE, Protection::READ, Protection::NONE]
            [fastrand::usize(0..4)];
    match fastrand::u8(0..10) {
        0 => Operation::Owner { page, word: Word::Read },
        1 => Operation::Owner { page, word: Word::Write(value(thread, n)) },
        2..=3 => Operation::Map { pages, protection },
        4 => Operation::Unmap { pages },
        5 => Operation::Protect { pages, protection },
        6 => Operation::Absent { pages },
        7..=8 => Operation::Replace { pages },
        _ => Operation::Remap { from: page, to: (page + 1) % PAGES },
    }
}

/// As a device's accesses are aligned, so that one word is one access of the processor.
#[repr(align(8))]
struct Aligned([u8; 8]);

fn address(page: usize) -> u64 {
    BASE + page as u64 * PAGE
}

fn by_port(port: &DmaPort, pasid: Pasid, operation: &Operation) -> Outcome {
    let Operation::Device { page, word } = operation else { panic!("a device changes nothing") };
    let (pasid, address) = (Some(pasid), address(*page));
    let done = match *word {
        Word::Read => {
            let mut buf = Aligned([0xaa; 8]);
            port.read(pasid, address, &mut buf.0)
                .map(|()| Outcome::Value(u64::from_ne_bytes(buf.0)))
        }
        Word::Write(value) => {
            port.write(pasid, address, &Aligned(value.to_ne_bytes()).0).map(|()| Outcome::Done)
        }
        Word::Add(value) => port.fetch_add(pasid, address, value).map(Outcome::Value),
        Word::CompareExchange { expected, new } => {
            port.compare_exchange(pasid, address, expected, new).map(|was| {
                let (Ok(value) | Err(value)) = was;
                assert_eq!(
                    was.is_ok(),
                    value == expected,
                    "it replaces what it expected and nothing else"
                );
                Outcome::Value(value)
            })
        }
    };
    done.unwrap_or_else(|error: DmaError| {
        Outcome::Fault(error.fault().expect("no host failure").reason)
    })
}

/// Whose space it is: changes it, and accesses it by the table.
struct Owner<'a> {
    space: &'a ArenaSpace,
    handle: &'a Forwarding<Dawdling>,
}

impl Owner<'_> {
    fn does(&self, operation: &Operation) -> Outcome {
        let range = |pages: &Range<usize>| (address(pages.start), pages.len() as u64 * PAGE);
        match operation {
            Operation::Owner { page, word } => return self.access(*page, *word),
            Operation::Map { pages, protection } => {
                self.space.map(range(pages).0, range(pages).1, *protection)
            }
            Operation::Unmap { pages } => self.space.unmap(range(pages).0, range(pages).1),
            Operation::Protect { pages, protection } => {
                self.space.protect(range(pages).0, range(pages).1, *protection)
            }
            Operation::Absent { pages } => self.space.absent(range(pages).0, range(pages).1),
            Operation::Replace { pages } => self.space.replace(range(pages).0, range(pages).1),
            Operation::Remap { from, to } => self.space.remap(address(*from), PAGE, address(*to)),
            Operation::Device { .. } => panic!("an owner has no port"),
        }
        Outcome::Done
    }

    fn access(&self, page: usize, word: Word) -> Outcome {
        let piece = [Segment { address: address(page), len: 8 }];
        let done = match word {
            Word::Read => {
                let mut buf = Aligned([0xaa; 8]);
                self.handle
                    .read(&piece, &mut buf.0, Access::READ)
                    .map(|()| Outcome::Value(u64::from_ne_bytes(buf.0)))
            }
            Word::Write(value) => self
                .handle
                .write(&piece, &Aligned(value.to_ne_bytes()).0, Access::WRITE)
                .map(|()| Outcome::Done),
            Word::Add(_) | Word::CompareExchange { .. } => panic!("an owner reads and writes"),
        };
        done.unwrap_or_else(|stopped| match stopped.cause {
            StopCause::NotMapped => Outcome::Fault(FaultReason::NotMapped),
            StopCause::Denied => Outcome::Fault(FaultReason::Denied),
            other => panic!("{other}"),
        })
    }
}
