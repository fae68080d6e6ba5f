//! One round: a world with its threads, from the first space to the last look at its memory.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sva_core::{Bdf, Capabilities, Device, DeviceSpec, Iommu, IommuConfig, PasidWidth, Plug};
use sva_sync::atomic::Ordering;
use sva_testkit::FlatTopology;

use crate::device::DeviceThread;
use crate::owner::OwnerThread;
use crate::page::THREADS;
use crate::tally::Tally;
use crate::world::World;

/// Without an access, or a thread that ends when it is told to, for so long, something hangs.
const STUCK: Duration = Duration::from_secs(60);
/// Between two lines that tell how far it is.
const TELL: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// Who takes part.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Of all accesses.
    pub(crate) percent: u64,
    pub(crate) owners: usize,
    /// Threads that access, each with a port of its own; two have a device together where there
    /// are more than two.
    pub(crate) threads: usize,
    /// At each a space at any time.
    pub(crate) sites: usize,
    /// Of each site, that devices access.
    pub(crate) pages: usize,
    pub(crate) iotlb_bytes: usize,
    /// Of 256 accesses so many begin, and read, later than others see.
    pub(crate) late: u8,
    /// Whether threads give up their turns where it matters.
    pub(crate) dawdles: bool,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owners, threads, sites, pages, iotlb_bytes, late, dawdles, .. } = self;
        write!(
            f,
            "owners: {owners}, threads that access: {threads}, spaces: {sites}, pages of each: \
             {pages}, late: {late}/256, table: {iotlb_bytes} bytes"
        )?;
        if *dawdles { f.write_str(", with pauses where it matters") } else { Ok(()) }
    }
}

/// See the module.
pub(crate) struct Round {
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
    pub(crate) accesses: u64,
    pub(crate) until: Instant,
}

impl Round {
    /// Answers what was done, and how many changes were made.
    pub(crate) fn run(self, begun: Instant) -> (Tally, u64) {
        let Shape { owners, threads, sites, late, dawdles, .. } = self.shape;
        assert!(threads <= THREADS, "a page has room for {THREADS} threads");
        let world = Arc::new(self.world());
        let seed = |thread: usize| self.seed << 8 | thread as u64;
        let owners: Vec<_> = (0..owners)
            .map(|n| {
                let world = Arc::clone(&world);
                let seed = seed(threads + n);
                thread::spawn(move || {
                    OwnerThread::new(world, (n..sites).step_by(owners), seed, dawdles).run()
                })
            })
            .collect();
        let devices: Vec<_> = (0..threads)
            .map(|n| {
                let world = Arc::clone(&world);
                let seed = seed(n);
                thread::spawn(move || DeviceThread::new(world, n, late, seed).run())
            })
            .collect();
        self.watch(&world, begun, || {
            devices.iter().any(|thread| thread.is_finished())
                || owners.iter().any(|thread| thread.is_finished())
        });
        world.devices_over.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        join(devices, &world).into_iter().for_each(|one| tally += one);
        world.owners_over.store(true, Ordering::Relaxed);
        let found: u64 = join(owners, &world).into_iter().sum();
        if let Some(defect) = world.defect() {
            panic!("{defect}\nafter {:.1} s; {tally}", begun.elapsed().as_secs_f64());
        }
        assert_eq!(found, tally.added, "what is in the ledgers is what was added to them");
        (tally, world.changes.load(Ordering::Relaxed))
    }

    fn world(&self) -> World {
        let Shape { threads, sites, pages, iotlb_bytes, .. } = self.shape;
        // So few PASIDs that a number soon has another owner.
        let width = PasidWidth::new((2 * sites as u32).ilog2() as u8 + 2).expect("1 to 20 bits");
        let config = IommuConfig::default().iotlb_bytes(iotlb_bytes).pasid_width(width);
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), config);
        let devices = (0..threads.div_ceil(if threads > 2 { 2 } else { 1 }))
            .map(|n| plug(&iommu, n, width))
            .collect();
        World::new(iommu, devices, sites, pages, threads)
    }

    /// Until there are as many accesses as there are to be, or the time is over, or a thread has
    /// ended, which then says why.
    fn watch(&self, world: &World, begun: Instant, ended: impl Fn() -> bool) {
        let (mut told, mut moved, mut last) = (Instant::now(), Instant::now(), 0);
        loop {
            thread::sleep(TICK);
            let (now, accesses) = (Instant::now(), world.accesses());
            if accesses >= self.accesses || now >= self.until || world.defect().is_some() || ended()
            {
                return;
            }
            if accesses > last {
                (last, moved) = (accesses, now);
            }
            assert!(
                now - moved < STUCK,
                "no access has been made for {} s: something hangs",
                STUCK.as_secs()
            );
            if now - told >= TELL {
                told = now;
                let changes = world.changes.load(Ordering::Relaxed);
                println!(
                    "  {:4.0} s: {accesses} of {} accesses, {changes} changes",
                    begun.elapsed().as_secs_f64(),
                    self.accesses
                );
            }
        }
    }
}

fn plug(iommu: &Iommu, number: usize, width: PasidWidth) -> Device {
    let bdf = Bdf::new(0, 1 + number as u8, 0, 0).expect("a function");
    let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(width, 8) };
    iommu.plug(Plug::new(spec)).expect("free").device
}

/// What the threads answer, which have been told to end.
fn join<T>(threads: Vec<JoinHandle<T>>, world: &World) -> Vec<T> {
    let told = Instant::now();
    while !threads.iter().all(|thread| thread.is_finished()) {
        assert!(
            told.elapsed() < STUCK,
            "a thread does not end; defect found so far: {:?}",
            world.defect()
        );
        thread::sleep(TICK);
    }
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}
