//! The whole system at once, on real processes: binds, unbinds, DMA, MAP, UNMAP, kill, exec and
//! hotplug from several threads, at random from a seed, with an oracle in every byte.
//!
//! All processes are laid out alike. Devices write into the inner pages of a region, each process's
//! own value; its outer pages are canaries. A byte of another value, a changed canary, or a new
//! image that differs from what was made shows a wrong write.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Target, traced_by, until};
use sva_core::error::{BindError, Refusal, SpaceRefusal};
use sva_core::port::DmaCause;
use sva_core::{
    AddressSpace, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, DmaPort, GroupId, Iommu,
    IommuConfig, MapRequest, Pasid, PasidWidth, Permissions, Removal,
};
use sva_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
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

/// One process and all that is bound to it.
struct Slot {
    system: Arc<System>,
    seed: u64,
    value: u8,
    target: Target,
    region: u64,
    /// `None` where a new image has not been attached yet.
    space: Option<Arc<dyn AddressSpace>>,
    bonds: Vec<Bond<Arc<AtomicU32>>>,
    /// Group, IOVA.
    mappings: Vec<(GroupId, u64)>,
    random: fastrand::Rng,
}

impl Slot {
    fn new(system: Arc<System>, value: u8, seed: u64) -> Self {
        let target = Target::start("fixed");
        let random = fastrand::Rng::with_seed(seed ^ u64::from(value));
        let mut slot = Self {
            system,
            seed,
            value,
            target,
            region: 0,
            space: None,
            bonds: Vec::new(),
            mappings: Vec::new(),
            random,
        };
        slot.lay_out();
        slot
    }

    fn inner(&self) -> u64 {
        self.region + PAGE
    }

    /// Makes the region of a new image: nobody but the image itself may have written to it.
    fn lay_out(&mut self) {
        let seed = self.seed;
        self.region = self.target.map("private", REGION);
        for canary in [self.region, self.region + REGION - PAGE] {
            self.target.poke(canary, PAGE, CANARY);
        }
        assert!(
            self.contents().iter().all(|&byte| byte == 0),
            "seed {seed}: a device wrote into an image that it is not bound to"
        );
        let own = self.target.canary;
        assert!(
            self.target.peek(own, 4096).iter().all(|&byte| byte == CANARY),
            "seed {seed}: a device wrote into a new image"
        );
    }

    fn contents(&mut self) -> Vec<u8> {
        let inner = self.inner();
        self.target.peek(inner, INNER as usize)
    }

    fn check(&mut self) {
        let (seed, value) = (self.seed, self.value);
        for canary in [self.region, self.region + REGION - PAGE] {
            assert!(
                self.target.peek(canary, PAGE as usize).iter().all(|&byte| byte == CANARY),
                "seed {seed}: a canary was overwritten"
            );
        }
        let strange = self.contents().into_iter().find(|&byte| byte != 0 && byte != value);
        assert_eq!(strange, None, "seed {seed}: process {value} has a byte of another");
    }

    fn space(&mut self) -> Arc<dyn AddressSpace> {
        let target = &self.target;
        Arc::clone(self.space.get_or_insert_with(|| target.attach()))
    }

    fn bind(&mut self) {
        let (space, device) = (self.space(), self.system.device(&mut self.random));
        let runs = Arc::new(AtomicU32::new(0));
        let bind = Bind::new(runs).on_exit(|_, runs| {
            runs.fetch_add(1, SeqCst);
        });
        match self.system.iommu.bind_device(&device, &space, bind) {
            Ok(bond) => {
                let port = device.port().for_owner(bond.tag());
                self.system.load(Shot {
                    port,
                    pasid: Some(bond.pasid()),
                    address: self.inner(),
                    value: self.value,
                });
                self.bonds.push(bond);
            }
            Err(BindError::Device(
                Refusal::AlreadyBound { .. } | Refusal::DeviceRemoved { .. },
            )) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn map(&mut self) {
        let (space, device) = (self.space(), self.system.device(&mut self.random));
        let iova = u64::from(self.value) << 32;
        let address = self.inner();
        let request = MapRequest::new(iova, INNER, &space, address, Permissions::READ_WRITE);
        // Mapped before, or the device has just been pulled out and its group with it.
        if self.system.iommu.map(device.group(), &request).is_ok() {
            self.mappings.push((device.group(), iova));
            self.system.load(Shot {
                port: device.port(),
                pasid: None,
                address: iova,
                value: self.value,
            });
        }
    }

    fn unmap(&mut self, at: usize) {
        let (group, iova) = self.mappings.swap_remove(at);
        let unmapped = self
            .system
            .iommu
            .unmap(group, iova, INNER)
            .expect("a group stays while it has mappings");
        assert_eq!(unmapped.bytes, INNER, "seed {}", self.seed);
    }

    fn unbind(&mut self, at: usize) {
        let bond = self.bonds.swap_remove(at);
        let runs = Arc::clone(bond.drvdata());
        let report = bond.unbind();
        let ran = runs.load(SeqCst);
        assert_eq!(ran, u32::from(report.handler_ran), "seed {}: {report:?}", self.seed);
        assert!(
            report.already_ended || report.handler_ran == report.space_ended,
            "seed {}: {report:?}",
            self.seed
        );
        std::thread::yield_now();
        assert_eq!(runs.load(SeqCst), ran, "seed {}: a handler ran after the unbind", self.seed);
    }

    /// Unbinds everything. From then on no device writes.
    fn let_go(&mut self) {
        while !self.bonds.is_empty() {
            self.unbind(0);
        }
        while !self.mappings.is_empty() {
            self.unmap(0);
        }
        self.space = None;
    }

    fn stands_still(&mut self) {
        self.let_go();
        let before = self.contents();
        std::thread::sleep(Duration::from_millis(2));
        assert!(before == self.contents(), "seed {}: a device wrote after its unbind", self.seed);
        self.check();
    }

    /// Replaces the image or the process in the middle of DMA.
    fn replace(&mut self, kill: bool) {
        let ended = self.space.clone();
        if kill {
            self.target = Target::start("fixed");
        } else {
            self.target.tell("exec serve");
            self.target.canary = self.target.ready();
        }
        self.lay_out();
        if let Some(space) = ended {
            until("the end is noticed", || space.ended().is_some());
            let late = self.system.iommu.bind_device(
                &self.system.device(&mut self.random),
                &space,
                Bind::new(()),
            );
            assert!(
                matches!(
                    late,
                    Err(BindError::Space(SpaceRefusal::Ended(_))
                        | BindError::Device(Refusal::DeviceRemoved { .. }))
                ),
                "seed {}",
                self.seed
            );
        }
        self.let_go();
    }

    fn run(mut self) {
        for _ in 0..ROUNDS {
            match self.random.u32(..16) {
                0..=5 => self.bind(),
                6..=7 if !self.bonds.is_empty() => {
                    let at = self.random.usize(..self.bonds.len());
                    self.unbind(at);
                }
                8..=9 => self.map(),
                10 if !self.mappings.is_empty() => {
                    let at = self.random.usize(..self.mappings.len());
                    self.unmap(at);
                }
                11 => self.stands_still(),
                12 => self.replace(true),
                13 => self.replace(false),
                _ => self.check(),
            }
        }
        self.stands_still();
    }
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
