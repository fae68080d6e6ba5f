//! Devices that translate for themselves, with everything at once from several threads (rules T2,
//! T3, U1, U2, U6, F1 to F4, F7).
//!
//! Every page of a space has a stamp: whose it is, where, and since which change. Whatever a device
//! reads has to be what the page held at an instant between the begin and the end of the read. Each
//! device writes to 32 bytes of its own in every page, and only who binds it says whether it may.
//! While a translation is [in use](sva_core::ats::TranslationGuard), the space is asked whether the
//! translation is still right: where it is not, what is done through it has to be refused. Some
//! messages come late, twice or never, and time runs.
//!
//! `SVA_HAMMER_SEED` chooses another seed, `SVA_HAMMER_SECONDS` a longer time, in rounds of two
//! seconds with a system and a seed of its own each.

mod late_link;
mod marked;
mod masters;
mod threads;

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use sva_core::bond::GroupBond;
use sva_core::event::ObjectCounts;
use sva_core::pri::WorkerConfig;
use sva_core::topology::SharedBecause;
use sva_core::{
    Bind, Bond, Capabilities, Clock, Device, DeviceSpec, Iommu, IommuConfig, PasidTag, Plug,
    Removal, UnbindReport, Workers,
};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_testkit::FlatTopology;

use crate::support::*;
use late_link::{LateLink, Packet};
use marked::{DATA, Marked, written_at};

/// The last two share a group; those with even numbers have a [`LateLink`].
const DEVICES: u8 = 5;
const SPACES: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

struct RunningClock(Instant);

impl Clock for RunningClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Owner = (u8, PasidTag, Arc<Marked>);

struct System {
    iommu: Iommu,
    devices: Vec<Mutex<Device>>,
    spaces: Vec<Mutex<Arc<Marked>>>,
    /// The latest bonds, for devices that use them longer than they should.
    owners: Mutex<Vec<Owner>>,
    marks: AtomicU64,
    stop: AtomicBool,
    seed: u64,
    courier: Sender<Packet>,
    counts: Counts,
}

/// What was reached; each is to be more than nothing in the end.
#[derive(Default, Debug)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    used: AtomicU64,
    stale: AtomicU64,
    binds: AtomicU64,
    changes: AtomicU64,
    resets: AtomicU64,
    switches: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn got(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A bond of a device or of a group.
enum Bound {
    Device(Bond<()>),
    Group(GroupBond<()>),
}

impl Bound {
    fn tag(&self) -> PasidTag {
        match self {
            Self::Device(bond) => bond.tag(),
            Self::Group(bond) => bond.tag(),
        }
    }

    fn unbind(self) -> UnbindReport {
        match self {
            Self::Device(bond) => bond.unbind(),
            Self::Group(bond) => bond.unbind(),
        }
    }

    fn begin_unbind(self, iommu: &Iommu) {
        let unbinding = match self {
            Self::Device(bond) => bond.begin_unbind(),
            Self::Group(bond) => bond.begin_unbind(),
        };
        eventually("an unbind that was begun is over", || {
            // The link loses invalidations, and who only looks repeats none.
            iommu.tick();
            unbinding.is_over()
        });
    }
}

impl System {
    fn new(seed: u64, courier: Sender<Packet>) -> Self {
        let bus = Arc::new(FlatTopology::new());
        bus.share(&[bdf(DEVICES - 1), bdf(DEVICES)], SharedBecause::NoAcs { port: bdf(30) });
        // Few of everything, so that all of it is used again at once; short limits, so that they
        // are met.
        let config = IommuConfig::default()
            .pasid_width(width(2))
            .page_queue(4)
            .atc_entries(4)
            .event_capacity(64)
            .invalidation_limit(Duration::from_millis(20))
            .response_limit(Duration::from_millis(50));
        let iommu = Iommu::with_clock(bus, config, Arc::new(RunningClock(Instant::now())));
        let devices =
            (1..=DEVICES).map(|number| Mutex::new(plug(&iommu, number, &courier, seed))).collect();
        let spaces = (1..=SPACES as u64).map(|mark| Mutex::new(Marked::new(mark))).collect();
        let (owners, marks, stop, counts) = (
            Mutex::default(),
            AtomicU64::new(SPACES as u64),
            AtomicBool::new(false),
            Counts::default(),
        );
        Self { iommu, devices, spaces, owners, marks, stop, seed, courier, counts }
    }

    fn device(&self, number: u8) -> Device {
        self.devices[usize::from(number) - 1].lock().clone()
    }

    fn any_space(&self, random: &mut fastrand::Rng) -> Arc<Marked> {
        self.spaces[random.usize(..SPACES)].lock().clone()
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Binds devices that nobody else binds, to several spaces at a time, and unbinds them.
    fn binder(&self, numbers: &[u8], random: &mut fastrand::Rng) {
        let mut bonds: Vec<(Bound, Device, Arc<Marked>)> = Vec::new();
        while self.running() {
            let (space, device) = (
                self.any_space(random),
                self.device(*random.choice(numbers).expect("a binder has devices")),
            );
            if bonds.len() < 2
                && let Some(bond) = self.bind(&device, &space)
            {
                let (tag, mut owners) = (bond.tag(), self.owners.lock());
                owners.extend(numbers.iter().map(|number| (*number, tag, Arc::clone(&space))));
                let old = owners.len().saturating_sub(16);
                owners.drain(..old);
                count(&self.counts.binds);
                bonds.push((bond, device, space));
            }
            for _ in 0..random.u32(..20) {
                let Some((bond, device, space)) = random.choice(&bonds) else { break };
                // A group keeps its bond when a member is replaced; a device's bond ends with it,
                // and its PASID may be another's at the next one.
                let device = match bond {
                    Bound::Device(_) => device.clone(),
                    Bound::Group(_) => {
                        self.device(*random.choice(numbers).expect("a binder has devices"))
                    }
                };
                self.access(&device, bond.tag(), space, true, random);
            }
            if random.u32(..3) == 0 && !bonds.is_empty() {
                let (bond, device, space) = bonds.swap_remove(random.usize(..bonds.len()));
                // Where the device was replaced, its successor may be bound to the same space.
                let alone = !bonds.iter().any(|(_, _, other)| Arc::ptr_eq(other, &space));
                self.unbind(&device, bond, alone.then_some(&*space), random);
            }
        }
        bonds.into_iter().for_each(|(bond, device, _)| self.unbind(&device, bond, None, random));
    }

    fn bind(&self, device: &Device, space: &Marked) -> Option<Bound> {
        let handle = space.memory.handle();
        if device.bdf().device() >= DEVICES - 1 {
            return self
                .iommu
                .bind_group(device.group(), &handle, Bind::new(()))
                .ok()
                .map(Bound::Group);
        }
        self.iommu.bind_device(device, &handle, Bind::new(())).ok().map(Bound::Device)
    }

    /// Unbinds; the device does nothing as the owner that it was any more, and writes no more to a
    /// space that no other bond of it has.
    fn unbind(
        &self,
        device: &Device,
        bond: Bound,
        alone: Option<&Marked>,
        random: &mut fastrand::Rng,
    ) {
        let (tag, page, number) = (bond.tag(), random.u64(..DATA), device.bdf().device());
        if random.u32(..4) == 0 {
            device.ats_port().send_stop_marker(tag.pasid);
        }
        match random.bool() {
            true => assert!(!bond.unbind().deferred),
            false => bond.begin_unbind(&self.iommu),
        }
        let late = device.port().for_owner(tag).write(
            Some(tag.pasid),
            written_at(page, number),
            &[0xff; 32],
        );
        assert!(late.is_err(), "a transaction for an owner that is gone");
        if let Some(space) = alone {
            space.stays_unwritten(page, number);
        }
    }

    /// Takes it down; nothing is left, and every group was answered.
    fn end(&self) {
        eventually("invalidations are over", || {
            self.iommu.tick();
            self.iommu.object_counts().invalidations == 0
        });
        let _workers = Workers::start(&self.iommu, WorkerConfig::default()).expect("threads");
        eventually("page requests are answered", || {
            let ObjectCounts { page_requests, page_groups, .. } = self.iommu.object_counts();
            (page_requests, page_groups) == (0, 0)
        });
        for number in 1..=DEVICES {
            self.iommu.remove(&self.device(number), Removal::Orderly).expect("plugged");
        }
        assert_eq!(self.iommu.object_counts(), ObjectCounts::default());
        for space in &self.spaces {
            let space = space.lock();
            // A worker that has ended the last bond takes the watch off after that.
            eventually("nobody watches", || {
                (space.memory.watches(), space.memory.changes_under_way()) == (0, 0)
            });
        }
        let counts = self.iommu.page_queue_counts();
        println!("{counts:?}\n{:?}", self.counts);
        // All groups are of one request here; markers that were refused are among the lost and the
        // dropped.
        let ended = counts.groups + counts.lost + counts.dropped;
        assert!(
            ended >= counts.requests && ended <= counts.requests + counts.stop_markers,
            "{counts:?}"
        );
        let answers = counts.succeeded + counts.invalid + counts.failed + counts.unanswerable;
        assert!(answers >= counts.groups && answers <= counts.requests, "{counts:?}");
        let Counts { reads, writes, used, binds, changes, resets, switches, .. } = &self.counts;
        for reached in [reads, writes, used, binds, changes, resets, switches] {
            assert!(got(reached) > 0, "{:?}", self.counts);
        }
    }
}

fn plug(iommu: &Iommu, number: u8, courier: &Sender<Packet>, seed: u64) -> Device {
    let spec =
        DeviceSpec { bdf: bdf(number), capabilities: Capabilities::translating(width(20), 6) };
    let plug = Plug::new(spec);
    let late = number.is_multiple_of(2);
    let plug = if late { plug.link(Arc::new(LateLink::new(courier.clone(), seed))) } else { plug };
    let device = iommu.plug(plug).expect("free").device;
    // Somebody may switch it already.
    let _ = device.enable_ats();
    let _ = device.enable_pri();
    device
}

fn round(seed: u64) {
    let (courier, packets) = channel();
    let system = System::new(seed, courier);
    let (system, end) = (&system, &AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(move || late_link::deliver(&packets, || end.load(Ordering::Relaxed)));
        let mut threads = Vec::new();
        let mut start = |body: Box<dyn FnOnce(&mut fastrand::Rng) + Send>| {
            let mut random = fastrand::Rng::with_seed(seed ^ (threads.len() as u64 + 1) << 32);
            threads.push(scope.spawn(move || body(&mut random)));
        };
        for numbers in [&[1][..], &[2], &[3], &[DEVICES - 1, DEVICES]] {
            start(Box::new(move |random| system.binder(numbers, random)));
        }
        for _ in 0..2 {
            start(Box::new(|random| system.master(random)));
            start(Box::new(|random| system.changer(random)));
            start(Box::new(|random| system.resetter(random)));
            start(Box::new(|random| system.switcher(random)));
        }
        start(Box::new(|random| system.reaper(random)));
        start(Box::new(|random| system.plugger(random)));
        start(Box::new(|random| system.foreman(random)));
        std::thread::sleep(ROUND);
        system.stop.store(true, Ordering::Relaxed);
        let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        let result = ended.into_iter().find_map(Result::err);
        let result = result.map_or_else(
            || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| system.end())),
            Err,
        );
        end.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

// shows T2, T3, U1, U2, U6, F1, F2, F3, F4, F7
#[test]
fn a_hammer_of_changes_resets_switches_and_dma_never_has_a_device_use_what_it_was_told_to_forget() {
    let seed = number_from("SVA_HAMMER_SEED").unwrap_or(0x5eed);
    println!("seed {seed}; another one with SVA_HAMMER_SEED, more with SVA_HAMMER_SECONDS");
    let limit = Duration::from_secs(number_from("SVA_HAMMER_SECONDS").unwrap_or(ROUND.as_secs()));
    let start = Instant::now();
    for seed in seed.. {
        println!("round with seed {seed}");
        watched(move || round(seed));
        if start.elapsed() >= limit {
            return;
        }
    }
}
