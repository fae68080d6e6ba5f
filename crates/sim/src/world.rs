//! A whole system under a schedule: devices on links that hold their messages, spaces that change
//! and end, binds, unbinds, resets, removals; and an oracle that judges every access.
//!
//! The world keeps a model of its own of who may reach what: which device has which PASID for which
//! space, which device is blocked. An access that goes through is to be permitted by the model and
//! by the space's [audit](sva_testkit::MemorySpace::audit) at that instant; one that the model permits is
//! not to be refused without a reason.

mod act;
mod bonds;
mod containers;
mod devices;
mod domains;
mod end;
mod model;
mod oracle;
mod owners;
mod spaces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sva_core::sync::Mutex;
use sva_core::sync::atomic::{AtomicU64, Ordering};
use sva_core::{
    Bdf, Capabilities, Clock, Iommu, IommuConfig, PasidCapability, PasidWidth, SharedBecause,
};

use crate::choices::Choices;
use crate::driver::{Driver, WellBehaved};
use crate::explore::Subject;
use crate::link::HeldLink;
use crate::races::{Race, Races};
use containers::ContainerSlot;
use model::{Bound, Group, Slot, SpaceSlot, UnderWay, Working};
use owners::{Owner, OwnerId};
use sva_testkit::FlatTopology;
use sva_testkit::PAGE;

pub(crate) use oracle::Eyes;

/// Where the memory of every space begins: the same in all, as it is in processes.
const BASE: u64 = 0x10_0000;
/// For how long an invalidation is awaited.
const LIMIT: Duration = Duration::from_millis(10);

/// How large a world is, and what may happen in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldConfig {
    /// Devices; the first two share a group. The last one can neither execute nor be privileged.
    pub devices: u8,
    /// Containers at a time, that groups join and leave; 0: none.
    pub containers: u8,
    /// Spaces at a time.
    pub spaces: u8,
    /// Pages of each space: 8 or more.
    pub pages: u64,
    /// PASID bits: few, so that numbers come again soon.
    pub pasid_bits: u8,
    /// One message in so many of those that can is lost, doubled or corrupted; 0: none.
    pub message_faults: u32,
    /// Devices are reset, removed and plugged in. Without it only those are reset that were cut
    /// off, which nothing else ends.
    pub device_faults: bool,
    /// Spaces end.
    pub exits: bool,
    /// Memory is mapped for transactions without PASID.
    pub mappings: bool,
    /// Bonds and domains have owners who answer page requests.
    pub owners: bool,
}

impl Default for WorldConfig {
    /// Four devices, two containers, three spaces of eight pages, three PASIDs; everything happens.
    fn default() -> Self {
        Self {
            devices: 4,
            containers: 2,
            spaces: 3,
            pages: 8,
            pasid_bits: 2,
            message_faults: 10,
            device_faults: true,
            exits: true,
            mappings: true,
            owners: true,
        }
    }
}

/// Time that passes when the schedule says so.
#[derive(Default)]
struct ScheduleClock(AtomicU64);

impl Clock for ScheduleClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

type MakeDriver = Box<dyn Fn(usize) -> Box<dyn Driver>>;

/// See the module.
pub struct World {
    config: WorldConfig,
    iommu: Iommu,
    clock: Arc<ScheduleClock>,
    make_driver: MakeDriver,
    slots: Vec<Slot>,
    groups: Vec<Group>,
    spaces: Vec<SpaceSlot>,
    /// Spaces that there have been.
    spaces_made: u64,
    bound: Vec<Bound>,
    containers: Vec<ContainerSlot>,
    owners: BTreeMap<OwnerId, Owner>,
    next_owner: OwnerId,
    unbindings: Vec<UnderWay>,
    works: Vec<Working>,
    /// Links of devices that are gone, with messages that are late.
    old_links: Vec<Arc<HeldLink>>,
    races: Races,
    /// What the oracle found.
    wrong: Option<String>,
    steps: u64,
    accesses: u64,
    lines: Option<Vec<String>>,
}

impl World {
    /// A world whose devices behave well.
    pub fn new(config: WorldConfig) -> Self {
        Self::with_drivers(config, |_| Box::new(WellBehaved::new()))
    }

    /// A world whose devices do what `make_driver` makes; it gets the number of the device's place.
    pub fn with_drivers(
        config: WorldConfig,
        make_driver: impl Fn(usize) -> Box<dyn Driver> + 'static,
    ) -> Self {
        let bus = FlatTopology::new();
        let bdf = |number: u8| Bdf::new(0, 1, number, 0).expect("a device number below 32");
        bus.share(&[bdf(0), bdf(1)], SharedBecause::NoAcs { port: bdf(30) });
        let clock = Arc::new(ScheduleClock::default());
        let settings = IommuConfig {
            pasid_width: PasidWidth::new(config.pasid_bits).expect("1 to 20 bits"),
            event_capacity: 4,
            page_queue: 3,
            atc_entries: 3,
            invalidation_limit: LIMIT,
            invalidation_tries: 2,
            // The driver's own business here.
            response_limit: Duration::MAX,
            ..IommuConfig::default()
        };
        let iommu = Iommu::with_clock(Arc::new(bus), settings, clock.clone());
        let slots = (0..config.devices).map(|number| Slot {
            bdf: bdf(number),
            capabilities: capabilities(&config, number + 1 == config.devices),
            device: None,
            plugged: 0,
            driver: Arc::new(Mutex::new(make_driver(usize::from(number)))),
            link: HeldLink::new(),
            bonds: BTreeMap::new(),
            resets: Vec::new(),
            ats_on: false,
            lost_responses: 0,
        });
        let mut world = Self {
            slots: slots.collect(),
            groups: (0..config.devices.saturating_sub(1).max(1))
                .map(|_| Group::default())
                .collect(),
            spaces: (0..config.spaces)
                .map(|number| SpaceSlot::new(config.pages, u64::from(number)))
                .collect(),
            spaces_made: u64::from(config.spaces),
            containers: (0..config.containers)
                .map(|_| ContainerSlot::new(iommu.container()))
                .collect(),
            owners: BTreeMap::new(),
            next_owner: 0,
            config,
            iommu,
            clock,
            make_driver: Box::new(make_driver),
            bound: Vec::new(),
            unbindings: Vec::new(),
            works: Vec::new(),
            old_links: Vec::new(),
            races: Races::default(),
            wrong: None,
            steps: 0,
            accesses: 0,
            lines: None,
        };
        (0..world.slots.len()).for_each(|at| world.plug(at));
        world
    }

    /// The races that it has reached.
    pub fn races(&self) -> &Races {
        &self.races
    }

    /// Steps that it has made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Accesses that the oracle has seen go through.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// The system itself, for its counts.
    pub fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// The addresses that devices are told of: one more than is mapped.
    fn pages(&self) -> Vec<u64> {
        (0..=self.config.pages).map(|page| BASE + page * PAGE).collect()
    }

    /// Counts the races that were reached.
    fn note(&mut self, races: impl IntoIterator<Item = (Race, bool)>) {
        races
            .into_iter()
            .filter(|(_, reached)| *reached)
            .for_each(|(race, _)| self.races.reached(race));
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    fn verdict(&mut self) -> Result<(), String> {
        self.wrong.take().map_or(Ok(()), Err)
    }
}

/// What a device can do: everything; or all but execute and be privileged.
fn capabilities(config: &WorldConfig, plain: bool) -> Capabilities {
    let width = PasidWidth::new(config.pasid_bits).expect("1 to 20 bits");
    let pasid = PasidCapability { width, execute: !plain, privileged: !plain };
    Capabilities { pasid: Some(pasid), ..Capabilities::translating(width, 4) }
}

impl Subject for World {
    fn step(&mut self, choices: &mut Choices) -> Result<(), String> {
        self.steps += 1;
        self.act(choices);
        self.verdict()
    }

    fn finish(&mut self) -> Result<(), String> {
        self.take_down()
    }

    fn trace(&mut self) {
        self.lines = Some(Vec::new());
    }

    fn lines(&self) -> Vec<String> {
        self.lines.clone().unwrap_or_default()
    }
}
