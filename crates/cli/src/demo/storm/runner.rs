//! Threads of devices that fault: each access is to a page that was just taken away, or that was
//! never there.

use std::sync::Arc;
use std::thread::JoinHandle;

use fastrand::Rng;
use sva_core::{AtsPort, DmaError, Fault, Pasid};
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_testkit::{MemorySpace, PAGE};

use crate::demo::failure::Failure;
use crate::demo::process::Buffer;

/// Where the in-memory spaces have their memory.
pub(super) const BASE: u64 = 0x7000_0000_0000;
/// Pages of an in-memory space.
pub(super) const PAGES: u64 = 64;
/// Bytes in a page that each device has for itself.
const SLOT: u64 = 64;

/// What a runner works on.
pub(super) enum Workload {
    /// Pages of which the runner has one taken away before each access.
    Memory(Arc<MemorySpace>),
    /// Memory of a process that nobody has touched; the runner goes through its part of it once.
    Process {
        /// All of it.
        buffer: Buffer,
        /// How many runners share it.
        runners: u64,
        /// Where what is written comes from.
        seed: u64,
    },
}

/// What is at the beginning of a page of the process when all runners have gone through.
pub(super) fn word(seed: u64, page: u64) -> u64 {
    Rng::with_seed(seed.wrapping_add(page)).u64(1..)
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accesses: AtomicU64,
    wrong: AtomicU64,
}

/// A thread of the `slot`th device. Dropping it ends it; whatever it waits for has to be on its
/// way.
pub(super) struct Runner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), DmaError>>>,
}

impl Runner {
    pub(super) fn start(
        port: AtsPort,
        pasid: Pasid,
        slot: u64,
        workload: Workload,
        rng: Rng,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let run = Run { port, pasid, slot, shared: Arc::clone(&shared) };
        let thread = std::thread::spawn(move || match workload {
            Workload::Memory(space) => run.memory(&space, rng),
            Workload::Process { buffer, runners, seed } => run.process(&buffer, runners, seed),
        });
        Self { shared, thread: Some(thread) }
    }

    /// Accesses that have succeeded.
    pub(super) fn accesses(&self) -> u64 {
        self.shared.accesses.load(Ordering::Relaxed)
    }

    /// Reads that did not find what was there.
    pub(super) fn wrong(&self) -> u64 {
        self.shared.wrong.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it after its next access.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// What aborted its last access; nothing where it came to its end or was stopped. Blocks until
    /// it is over.
    pub(super) fn fault(&mut self) -> Result<Option<Fault>, Failure> {
        let Some(thread) = self.thread.take() else { return Ok(None) };
        match thread.join() {
            Ok(Ok(())) => Ok(None),
            Ok(Err(error)) => error.fault().map(Some).ok_or(Failure::Dma(error)),
            Err(_) => {
                Err(Failure::Missing { what: "device thread any more: it panicked".to_owned() })
            }
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Run {
    port: AtsPort,
    pasid: Pasid,
    slot: u64,
    shared: Arc<Shared>,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    fn read(&self, address: u64, expected: u64) -> Result<(), DmaError> {
        let mut found = [0; 8];
        self.port.read(Some(self.pasid), address, &mut found)?;
        self.shared
            .wrong
            .fetch_add(u64::from(u64::from_ne_bytes(found) != expected), Ordering::Relaxed);
        self.shared.accesses.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, address: u64, value: u64) -> Result<(), DmaError> {
        self.port.write(Some(self.pasid), address, &value.to_ne_bytes())?;
        self.shared.accesses.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads its words of a page and writes another value there; the page is absent before
    /// each.
    fn memory(&self, space: &MemorySpace, mut rng: Rng) -> Result<(), DmaError> {
        let mut there = [0; PAGES as usize];
        while self.goes_on() {
            let page = rng.usize(..there.len());
            let first = BASE + page as u64 * PAGE;
            space.absent(first, PAGE);
            self.read(first + self.slot * SLOT, there[page])?;
            there[page] = rng.u64(..);
            space.absent(first, PAGE);
            self.write(first + self.slot * SLOT, there[page])?;
        }
        Ok(())
    }

    /// Every so many pages from its own on, a page that the process has not made yet.
    fn process(&self, buffer: &Buffer, runners: u64, seed: u64) -> Result<(), DmaError> {
        for page in
            (self.slot..buffer.len / PAGE).step_by(runners as usize).take_while(|_| self.goes_on())
        {
            let address = buffer.address + page * PAGE;
            self.write(address, word(seed, page))?;
            self.read(address, word(seed, page))?;
        }
        Ok(())
    }
}
