//! Everything at once from several threads, with oracles that look at bytes (rules U2, U4, U6, B8,
//! G5, T2).
//!
//! Each device writes only to its own page of a space, so that a byte tells who wrote it. Each
//! binding thread has devices of its own: once it has unbound one from a space, nobody
//! may write that device's page there until it binds it again. A space carries its mark in a page
//! that nobody writes: a read through one owner's tag that succeeds must find that owner's mark.

use std::sync::Arc;

use sva_core::event::ObjectCounts;
use sva_core::{
    Bind, Device, DeviceSpec, EndReason, Event, FaultReason, Iommu, IommuConfig, PasidTag, Removal,
};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use sva_testkit::{FlatTopology, MemorySpace, PAGE};

use crate::support::*;

const BINDERS: u8 = 2;
const DEVICES_EACH: u8 = 2;
const DEVICES: u8 = BINDERS * DEVICES_EACH;
const SPACES: usize = 3;
const ROUNDS: usize = 600;
/// Holds the mark of the space; no device writes here.
const MARK: u64 = BASE + 8 * PAGE;

fn page_of(device: u8) -> u64 {
    BASE + u64::from(device) * PAGE
}

/// A space whose mark is its own number, and a canary behind it.
struct Marked {
    memory: MemorySpace,
    mark: u64,
}

struct System {
    iommu: Iommu,
    devices: Vec<Mutex<Device>>,
    spaces: Vec<Mutex<Arc<Marked>>>,
    /// Owners that were seen, with their marks; late transactions are issued for all of them.
    owners: Mutex<Vec<(PasidTag, u64)>>,
    marks: AtomicU64,
    stop: AtomicBool,
    reads: AtomicU64,
}

impl System {
    fn new() -> Self {
        // Few PASIDs, so that numbers come again at once.
        let config = IommuConfig::default().pasid_width(width(3));
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), config);
        let marks = AtomicU64::new(1);
        let devices = (1..=DEVICES).map(|number| Mutex::new(plug(&iommu, number))).collect();
        let spaces = (0..SPACES).map(|_| Mutex::new(fresh(&marks))).collect();
        let (owners, stop, reads) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        Self { iommu, devices, spaces, owners, marks, stop, reads }
    }

    fn device(&self, number: u8) -> Device {
        self.devices[usize::from(number) - 1].lock().clone()
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Binds and unbinds its own devices, and looks for writes after the unbind.
    fn binder(&self, which: u8, random: &mut fastrand::Rng) {
        for _ in 0..ROUNDS {
            let number = which * DEVICES_EACH + random.u8(1..=DEVICES_EACH);
            let (device, space) =
                (self.device(number), self.spaces[random.usize(..SPACES)].lock().clone());
            let runs = Arc::new(AtomicU32::new(0));
            let bind = Bind::new(runs.clone()).on_exit(|_, runs| {
                runs.fetch_add(1, Ordering::Relaxed);
            });
            let Ok(bond) = self.iommu.bind_device(&device, &space.memory.handle(), bind) else {
                continue;
            };
            self.owners.lock().push((bond.tag(), space.mark));
            for _ in 0..random.u32(..4) {
                let _ = device.port().write(Some(bond.pasid()), page_of(number), &[0xff; 32]);
                std::thread::yield_now();
            }
            let tag = bond.tag();
            let report = bond.unbind();
            assert!(!report.deferred);
            assert_eq!(
                runs.load(Ordering::Relaxed),
                u32::from(report.handler_ran),
                "once, or never, and before unbind has returned"
            );
            space.memory.poke(page_of(number), &[0; 32]);
            let late =
                device.port().for_owner(tag).write(Some(tag.pasid), page_of(number), &[0xff; 32]);
            assert!(late.is_err(), "a transaction for an owner that is gone");
            std::thread::yield_now();
            assert_eq!(
                space.memory.peek(page_of(number), 32),
                [0; 32],
                "device {number} wrote after its unbind"
            );
            assert_eq!(runs.load(Ordering::Relaxed), u32::from(report.handler_ran));
        }
    }

    /// Issues reads and writes for owners old and new.
    fn master(&self, random: &mut fastrand::Rng) {
        while self.running() {
            let number = random.u8(1..=DEVICES);
            let owner = {
                let owners = self.owners.lock();
                let recent = owners.len().saturating_sub(8);
                (!owners.is_empty()).then(|| owners[random.usize(recent..owners.len())])
            };
            let Some((tag, mark)) = owner else { continue };
            let port = self.device(number).port().for_owner(tag);
            let mut found = [0; 8];
            if port.read(Some(tag.pasid), MARK, &mut found).is_ok() {
                assert_eq!(
                    u64::from_le_bytes(found),
                    mark,
                    "device {number} read another owner's memory"
                );
                self.reads.fetch_add(1, Ordering::Relaxed);
            }
            let _ = port.write(Some(tag.pasid), page_of(number), &[0xff; 32]);
        }
    }

    /// Ends spaces and puts others in their place.
    fn reaper(&self, random: &mut fastrand::Rng) {
        for _ in 0..ROUNDS / 4 {
            let slot = &self.spaces[random.usize(..SPACES)];
            let old = std::mem::replace(&mut *slot.lock(), fresh(&self.marks));
            old.memory.end(EndReason::Exited);
            if let Some(tag) = self.iommu.pasid_of(old.memory.handle().id()) {
                for number in 1..=DEVICES {
                    let port = self.device(number).port().for_owner(tag);
                    assert!(
                        port.read(Some(tag.pasid), MARK, &mut [0; 8]).is_err(),
                        "an ended space was read"
                    );
                }
            }
            old.check_canaries();
            std::thread::yield_now();
        }
    }

    /// Removes devices and plugs others in at their addresses.
    fn plugger(&self, random: &mut fastrand::Rng) {
        for round in 0..ROUNDS / 4 {
            let number = random.u8(1..=DEVICES);
            let removal = if random.bool() { Removal::Surprise } else { Removal::Orderly };
            let mut slot = self.devices[usize::from(number) - 1].lock();
            self.iommu.remove(&slot, removal).expect("plugged, and by nobody else removed");
            let after = slot.port().read(None, 0, &mut [0]);
            assert_eq!(reason(after), Some(FaultReason::DeviceRemoved), "round {round}");
            *slot = plug(&self.iommu, number);
            drop(slot);
            std::thread::yield_now();
        }
    }

    /// Maps and unmaps for a group of its own whose device reads all the time.
    fn mapper(&self, random: &mut fastrand::Rng) {
        let space = space();
        for page in 0..PAGES {
            space.poke(BASE + page * PAGE, &[page as u8 + 1; 8]);
        }
        let device = plug(&self.iommu, DEVICES + 1);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = device.port().write(None, 0x1008, &[0xff; 8]);
                }
            });
            for _ in 0..ROUNDS {
                let page = random.u64(..PAGES);
                self.iommu
                    .map(device.group(), &mapping(0x1000, 1, &space, BASE + page * PAGE))
                    .expect("free");
                let mut found = [0; 8];
                device.port().read(None, 0x1000, &mut found).expect("mapped");
                assert_eq!(found, [page as u8 + 1; 8]);
                assert_eq!(
                    self.iommu.unmap(device.group(), 0, 1 << 30).expect("no split").bytes,
                    PAGE
                );
                space.poke(BASE + page * PAGE + 8, &[0; 8]);
                std::thread::yield_now();
                assert_eq!(
                    space.peek(BASE + page * PAGE + 8, 8),
                    [0; 8],
                    "written after its unmap (T2)"
                );
                assert_eq!(
                    reason(device.port().read(None, 0x1000, &mut found)),
                    Some(FaultReason::NoDomainMapping)
                );
            }
            done.store(true, Ordering::Relaxed);
        });
        self.iommu.remove(&device, Removal::Orderly).expect("plugged");
    }
}

impl Marked {
    /// What no device may touch is as it was.
    fn check_canaries(&self) {
        let mut page = vec![0; PAGE as usize];
        page[..8].copy_from_slice(&self.mark.to_le_bytes());
        assert_eq!(self.memory.peek(MARK, PAGE as usize), page);
        assert_eq!(
            self.memory.peek(BASE, PAGE as usize),
            vec![0; PAGE as usize],
            "no device has page 0"
        );
    }
}

fn fresh(marks: &AtomicU64) -> Arc<Marked> {
    let (memory, mark) = (space(), marks.fetch_add(1, Ordering::Relaxed));
    memory.poke(MARK, &mark.to_le_bytes());
    Arc::new(Marked { memory, mark })
}

fn plug(iommu: &Iommu, number: u8) -> Device {
    iommu.plug(DeviceSpec { bdf: bdf(number), capabilities: everything() }).expect("free").device
}

// shows U2, U4, U5, U6, B8, G5, T2
#[test]
fn a_hammer_of_binds_ends_removals_and_dma_never_lets_a_byte_through_that_it_should_not() {
    let seed =
        std::env::var("SVA_HAMMER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
    println!("seed {seed}; another one with SVA_HAMMER_SEED");
    watched(move || {
        let system = System::new();
        let random = |which: u64| fastrand::Rng::with_seed(seed ^ which << 32);
        std::thread::scope(|scope| {
            let masters: Vec<_> = (0..2)
                .map(|which| {
                    scope.spawn({
                        let system = &system;
                        move || system.master(&mut random(which))
                    })
                })
                .collect();
            let mut others = Vec::new();
            for which in 0..BINDERS {
                let system = &system;
                others.push(
                    scope.spawn(move || system.binder(which, &mut random(10 + u64::from(which)))),
                );
            }
            others.push(scope.spawn(|| system.reaper(&mut random(20))));
            others.push(scope.spawn(|| system.plugger(&mut random(21))));
            others.push(scope.spawn(|| system.mapper(&mut random(22))));
            let ended: Vec<_> = others.into_iter().map(|thread| thread.join()).collect();
            system.stop.store(true, Ordering::Relaxed);
            for thread in ended.into_iter().chain(masters.into_iter().map(|thread| thread.join())) {
                if let Err(panic) = thread {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        for number in 1..=DEVICES {
            system.iommu.remove(&system.device(number), Removal::Orderly).expect("plugged");
        }
        assert_eq!(system.iommu.object_counts(), ObjectCounts::default());
        for space in &system.spaces {
            space.lock().check_canaries();
            assert_eq!(space.lock().memory.watches(), 0);
        }
        assert!(
            system.reads.load(Ordering::Relaxed) > 0,
            "the masters reached what they may reach"
        );
        let drained = system.iommu.drain_events();
        assert!(drained.events.len() <= system.iommu.config().event_capacity && drained.lost > 0);
        assert!(drained.events.iter().all(|event| !matches!(event, Event::HandlerPanicked { .. })));
    });
}
