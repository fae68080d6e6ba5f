//! The whole system at once, on real processes: binds, unbinds, DMA, MAP, UNMAP, kill, exec and
//! hotplug from several threads, at random from a seed, with an oracle in every byte.
//!
//! All processes are laid out alike. Devices write into the inner pages of a region, each process's
//! own value; its outer pages are canaries. A byte of another value, a changed canary, or a new
//! image that differs from what was made shows a wrong write.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod slot;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use slot::Slot;
use support::{traced_by, until};
use sva_core::port::DmaCause;
use sva_core::{
    Bdf, Capabilities, Device, DeviceSpec, DmaPort, Iommu, IommuConfig, Pasid, PasidWidth, Removal,
};
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use sva_sync::{Mutex, RwLock};
use sva_testkit::FlatTopology;

const PAGE: u64 = 4096;
/// A canary page, the pages that devices may write, and a canary page.
const REGION: u64 = 16 * PAGE;
const INNER: u64 = 14 * PAGE;
const SLOTS: usize = 3;
const DEVICES: u8 = 4;
const ROUNDS: u32 = 60;
const CANARY: u8 = 0xc5;
/// A run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// A way for a device to write into a process; it may be stale.
#[derive(Clone)]
struct Shot {
    port: DmaPort,
    pasid: Option<Pasid>,
    address: u64,
    value: u8,
}

struct System {
    iommu: Iommu,
    devices: RwLock<Vec<Device>>,
    shots: Mutex<Vec<Shot>>,
    over: AtomicBool,
    landed: AtomicU64,
    aborted: AtomicU64,
}

impl System {
    fn new() -> Arc<Self> {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let devices = RwLock::new((0..DEVICES).map(|n| plug(&iommu, n)).collect());
        let (shots, over) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self {
            iommu,
            devices,
            shots,
            over,
            landed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
        })
    }

    fn device(&self, random: &mut fastrand::Rng) -> Device {
        let devices = self.devices.read();
        devices[random.usize(..devices.len())].clone()
    }

    /// Adds a shot. Old ones stay for a while, also where they are stale.
    fn load(&self, shot: Shot) {
        let mut shots = self.shots.lock();
        shots.push(shot);
        if shots.len() > 48 {
            shots.remove(0);
        }
    }

    /// Fires until the end.
    fn fire(&self, mut random: fastrand::Rng) {
        while !self.over.load(SeqCst) {
            let shot = {
                let shots = self.shots.lock();
                (!shots.is_empty()).then(|| shots[random.usize(..shots.len())].clone())
            };
            let Some(Shot { port, pasid, address, value }) = shot else {
                std::thread::yield_now();
                continue;
            };
            let at = random.u64(..INNER);
            let data = vec![value; random.u64(1..=(INNER - at).min(3 * PAGE)) as usize];
            match port.write(pasid, address + at, &data) {
                Ok(()) => self.landed.fetch_add(1, SeqCst),
                Err(error) => {
                    assert!(!matches!(error.cause, DmaCause::Host(_)), "{error}");
                    self.aborted.fetch_add(1, SeqCst)
                }
            };
        }
    }

    /// Unplugs devices and plugs them in again until the end.
    fn pull(&self, mut random: fastrand::Rng) {
        while !self.over.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(random.u64(5..30)));
            let at = random.usize(..usize::from(DEVICES));
            let device = self.devices.read()[at].clone();
            let how = if random.bool() { Removal::Surprise } else { Removal::Orderly };
            self.iommu.remove(&device, how).expect("nobody else removes it");
            let back = plug(&self.iommu, at as u8);
            self.devices.write()[at] = back;
        }
    }
}

fn plug(iommu: &Iommu, n: u8) -> Device {
    let bdf = Bdf::new(0, n, 0, 0).expect("an address");
    iommu
        .plug(DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) })
        .expect("free")
        .device
}

/// Ends the whole program where the run hangs. A panic in one thread would leave the others
/// waiting.
fn watch_over(over: &Arc<AtomicBool>, seed: u64) {
    let over = Arc::clone(over);
    std::thread::spawn(move || {
        let begin = Instant::now();
        while !over.load(SeqCst) {
            if begin.elapsed() > LIMIT {
                eprintln!("seed {seed}: still running after {LIMIT:?}");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

// shows U2, U4, U5, U6, U7, B3, B8, G5, T8
#[test]
fn a_hammer_on_real_processes_never_writes_a_byte_that_it_should_not() {
    let seed = std::env::var("SVA_HAMMER_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (SVA_HAMMER_SEED={seed} repeats the choices)");
    let finished = Arc::new(AtomicBool::new(false));
    watch_over(&finished, seed);
    let system = System::new();
    let spawn = |n: u64, work: fn(&System, fastrand::Rng)| {
        let system = Arc::clone(&system);
        std::thread::spawn(move || work(&system, fastrand::Rng::with_seed(seed.wrapping_add(n))))
    };
    let helpers = [spawn(1, System::fire), spawn(2, System::fire), spawn(3, System::pull)];
    let slots: Vec<_> =
        (1..=SLOTS as u8).map(|value| Slot::new(Arc::clone(&system), value, seed)).collect();
    let slots: Vec<_> =
        slots.into_iter().map(|slot| std::thread::spawn(move || slot.run())).collect();
    let outcomes: Vec<_> = slots.into_iter().map(std::thread::JoinHandle::join).collect();
    system.over.store(true, SeqCst);
    let helped =
        helpers.into_iter().map(std::thread::JoinHandle::join).all(|outcome| outcome.is_ok());
    assert!(helped && outcomes.iter().all(Result::is_ok), "seed {seed}: see above");
    system.shots.lock().clear();
    let census = system.iommu.object_counts();
    assert_eq!(
        (census.bonds, census.spaces, census.pasids, census.devices),
        (0, 0, 0, usize::from(DEVICES)),
        "seed {seed}"
    );
    until("the anchors are gone", || traced_by(std::process::id()).is_empty());
    let (landed, aborted) = (system.landed.load(SeqCst), system.aborted.load(SeqCst));
    println!("{landed} writes landed, {aborted} were aborted");
    assert!(
        landed > 0 && aborted > 0,
        "seed {seed}: the hammer missed ({landed} landed, {aborted} aborted)"
    );
    finished.store(true, SeqCst);
}
