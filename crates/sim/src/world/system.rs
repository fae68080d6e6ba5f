//! The world's state, and how it is built.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sva_core::topology::SharedBecause;
use sva_core::{Bdf, Iommu, IommuConfig, PasidWidth};
use sva_sync::Mutex;
use sva_testkit::{FlatTopology, PAGE};

use super::clock::ScheduleClock;
use super::config::{BASE, LIMIT, WorldConfig, capabilities};
use super::model::{Bound, ContainerSlot, Group, PendingEnd, Slot, SpaceSlot, StartedWork};
use super::owner::{Owner, OwnerId};
use crate::choices::Choices;
use crate::device::DeviceModel;
use crate::link::ScheduledLink;
use crate::races::{Race, Races};
use crate::subject::Subject;
use crate::well_behaved::WellBehaved;

type MakeModel = Box<dyn Fn(usize) -> Box<dyn DeviceModel>>;

/// A whole system under a schedule, with an oracle that judges every access.
pub struct World {
    pub(super) config: WorldConfig,
    pub(super) iommu: Iommu,
    pub(super) clock: Arc<ScheduleClock>,
    pub(super) make_model: MakeModel,
    pub(super) slots: Vec<Slot>,
    pub(super) groups: Vec<Group>,
    pub(super) spaces: Vec<SpaceSlot>,
    /// Spaces that there have been.
    pub(super) spaces_made: u64,
    pub(super) bound: Vec<Bound>,
    pub(super) containers: Vec<ContainerSlot>,
    pub(super) owners: BTreeMap<OwnerId, Owner>,
    pub(super) next_owner: OwnerId,
    pub(super) unbindings: Vec<PendingEnd>,
    pub(super) works: Vec<StartedWork>,
    /// Links of devices that are gone, with messages that are late.
    pub(super) old_links: Vec<Arc<ScheduledLink>>,
    pub(super) races: Races,
    /// What the oracle found.
    pub(super) violation: Option<String>,
    pub(super) steps: u64,
    pub(super) accesses: u64,
    pub(super) lines: Option<Vec<String>>,
}

impl World {
    /// A world whose devices behave well.
    pub fn new(config: WorldConfig) -> Self {
        Self::with_devices(config, |_| Box::new(WellBehaved::new()))
    }

    /// A world whose devices do what `make_model` makes; it gets the number of the device's place.
    pub fn with_devices(
        config: WorldConfig,
        make_model: impl Fn(usize) -> Box<dyn DeviceModel> + 'static,
    ) -> Self {
        let bus = FlatTopology::new();
        let bdf = |number: u8| Bdf::new(0, 1, number, 0).expect("a device number below 32");
        bus.share(&[bdf(0), bdf(1)], SharedBecause::NoAcs { port: bdf(30) });
        let clock = Arc::new(ScheduleClock::default());
        let width = PasidWidth::new(config.pasid_bits).expect("1 to 20 bits");
        // The devices give up by themselves, so the limit of responses is never reached.
        let settings = IommuConfig::default()
            .pasid_width(width)
            .event_capacity(4)
            .page_queue(3)
            .atc_entries(3)
            .invalidation_limit(LIMIT)
            .invalidation_tries(2)
            .response_limit(Duration::MAX);
        let iommu = Iommu::with_clock(Arc::new(bus), settings, clock.clone());
        let slots = (0..config.devices).map(|number| Slot {
            bdf: bdf(number),
            capabilities: capabilities(&config, number + 1 == config.devices),
            device: None,
            plugged: 0,
            model: Arc::new(Mutex::new(make_model(usize::from(number)))),
            link: ScheduledLink::new(),
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
                .map(|_| ContainerSlot::new(iommu.create_container()))
                .collect(),
            owners: BTreeMap::new(),
            next_owner: 0,
            config,
            iommu,
            clock,
            make_model: Box::new(make_model),
            bound: Vec::new(),
            unbindings: Vec::new(),
            works: Vec::new(),
            old_links: Vec::new(),
            races: Races::default(),
            violation: None,
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
    pub(super) fn pages(&self) -> Vec<u64> {
        (0..=self.config.pages).map(|page| BASE + page * PAGE).collect()
    }

    /// Counts the races that were reached.
    pub(super) fn note(&mut self, races: impl IntoIterator<Item = (Race, bool)>) {
        races
            .into_iter()
            .filter(|(_, reached)| *reached)
            .for_each(|(race, _)| self.races.reached(race));
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    pub(super) fn verdict(&mut self) -> Result<(), String> {
        self.violation.take().map_or(Ok(()), Err)
    }
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
