//! A process that one thread has for itself: it binds, maps, kills and replaces it, and looks at
//! every byte of its region.

use std::sync::Arc;
use std::time::Duration;

use sva_core::error::{BindError, Refusal, SpaceRefusal};
use sva_core::{AddressSpace, Bind, Bond, GroupId, MapRequest, Permissions};
use sva_sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::support::{Target, until};
use crate::{CANARY, INNER, PAGE, REGION, ROUNDS, Shot, System};

/// One process and all that is bound to it.
pub(crate) struct Slot {
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
    pub(crate) fn new(system: Arc<System>, value: u8, seed: u64) -> Self {
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

    pub(crate) fn run(mut self) {
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
