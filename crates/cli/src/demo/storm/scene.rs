//! The scene of the storm: devices with ATS and PRI, in-memory spaces and a process, a bond of each
//! device with each space, and a runner for each bond.

use std::sync::Arc;

use sva_core::pri::WorkerConfig;
use sva_core::{AddressSpace, Bind, Bond, Device, IommuConfig, Pasid, Workers};
use sva_sync::atomic::{AtomicU64, Ordering};
use sva_testkit::{MemorySpace, PAGE, Protection};

use super::gate::Gate;
use super::runner::{Ground, PAGES, Runner};
use super::table::BondTimes;
use super::{BASE, live};
use crate::demo::Stage;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};

/// Requests that a device may have outstanding.
pub(super) const CREDIT: u32 = 32;
/// Requests that the queue holds: fewer than all devices together may send.
const QUEUE: usize = 64;
const DEVICES: [&str; 3] = ["01:00.0", "02:00.0", "03:00.0"];

/// The spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    Slow,
    Ends,
    Unbound,
    Process,
}

const IN_MEMORY: [Place; 4] = [Place::Memory, Place::Slow, Place::Ends, Place::Unbound];

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Slow => "slow",
            Self::Ends => "ending",
            Self::Unbound => "unbound",
            Self::Process => "process",
        }
    }
}

/// Each device alone below a root port.
fn toml() -> String {
    let ports = (1..=DEVICES.len()).map(|n| {
        format!(
            r#"{{ id = "rp{n}", parent = "rc", kind = "root-port", bdf = "00:0{n}.0", secondary = {n}, acs = ["SV", "RR", "CR", "UF"] }},"#
        )
    });
    let devices = DEVICES.iter().zip(1..).map(|(bdf, n)| {
        format!(r#"{{ parent = "rp{n}", bdf = "{bdf}", pasid = {{ width = 20 }}, ats = true, pri = {CREDIT}, page_faults = true }},"#)
    });
    let bridge =
        r#"host_bridge = [{ id = "rc", windows = [{ address = "0x80000000", size = "1M" }] }]"#;
    format!(
        "{bridge}\nport = [{}]\ndevice = [{}]",
        ports.collect::<String>(),
        devices.collect::<String>()
    )
}

/// A bond and its runner.
pub(super) struct Tie {
    pub(super) device: Device,
    pub(super) place: Place,
    pub(super) pasid: Pasid,
    // Before the bond: a runner that is ended finds its pages.
    pub(super) runner: Runner,
    pub(super) bond: Option<Bond<()>>,
}

impl Tie {
    /// The times of its faults so far.
    pub(super) fn times(&self) -> Option<BondTimes> {
        let bond = self.bond.as_ref()?;
        Some(BondTimes::new(
            self.device.bdf().to_string(),
            self.place.name(),
            self.pasid,
            &bond.fault_times(),
        ))
    }
}

/// An in-memory space that can be made slow.
pub(super) struct Memory {
    place: Place,
    pub(super) space: Arc<MemorySpace>,
    pub(super) gate: Arc<Gate>,
}

/// See the module. Opens all gates and ends all threads when it is dropped.
pub(super) struct Scene {
    pub(super) machine: Machine,
    memories: Vec<Memory>,
    pub(super) ties: Vec<Tie>,
    pub(super) process: Process,
    pub(super) buffer: Buffer,
    pub(super) written: u64,
    /// Exit handlers of [`Place::Ends`] that have run.
    pub(super) exits: Arc<AtomicU64>,
    /// Last: runners wait for what it answers.
    workers: Option<Workers>,
}

impl Scene {
    /// Sets it up and lets it loose.
    pub(super) fn new(stage: &mut Stage) -> Result<Self, Failure> {
        let config = IommuConfig::default().page_queue(QUEUE);
        let machine = Machine::timed(&toml(), config)?;
        let memories: Vec<Memory> = IN_MEMORY.into_iter().map(Memory::new).collect();
        let (mut process, space) = stage.process()?;
        let buffer = process.fresh(1024 * DEVICES.len() as u64 * PAGE)?;
        let (written, exits) = (stage.seed(), Arc::new(AtomicU64::new(0)));
        let mut scene = Self {
            machine,
            memories,
            ties: Vec::new(),
            process,
            buffer,
            written,
            exits,
            workers: None,
        };
        scene.work()?;
        for (slot, bdf) in DEVICES.into_iter().enumerate() {
            let device = scene.machine.device(bdf)?.clone();
            device.enable_ats()?;
            device.enable_pri()?;
            for place in IN_MEMORY {
                let memory = scene.memory(place)?.space.clone();
                scene.tie(
                    stage,
                    &device,
                    slot as u64,
                    place,
                    &memory.handle(),
                    Ground::Memory(memory.clone()),
                )?;
            }
            let ground = Ground::Process { buffer, runners: DEVICES.len() as u64, seed: written };
            scene.tie(stage, &device, slot as u64, Place::Process, &space, ground)?;
        }
        Ok(scene)
    }

    fn tie(
        &mut self,
        stage: &mut Stage,
        device: &Device,
        slot: u64,
        place: Place,
        space: &Arc<dyn AddressSpace>,
        ground: Ground,
    ) -> Result<(), Failure> {
        let mut bind = Bind::new(());
        if place == Place::Ends {
            let exits = Arc::clone(&self.exits);
            bind = bind.on_exit(move |_, ()| {
                exits.fetch_add(1, Ordering::Relaxed);
            });
        }
        let bond = self.machine.iommu.bind_device(device, space, bind)?;
        let pasid = bond.pasid();
        let runner = Runner::start(device.ats_port(), pasid, slot, ground, stage.rng.fork());
        self.ties.push(Tie { device: device.clone(), place, pasid, runner, bond: Some(bond) });
        Ok(())
    }

    /// Has threads sort and resolve.
    pub(super) fn work(&mut self) -> Result<(), Failure> {
        self.workers = Some(
            Workers::start(&self.machine.iommu, WorkerConfig::default())
                .map_err(Failure::Workers)?,
        );
        Ok(())
    }

    /// Has nobody sort and resolve any more.
    pub(super) fn rest(&mut self) {
        self.workers = None;
    }

    pub(super) fn memory(&self, place: Place) -> Result<&Memory, Failure> {
        let found = self.memories.iter().find(|memory| memory.place == place);
        found.ok_or_else(|| Failure::Missing { what: format!("space `{}`", place.name()) })
    }

    pub(super) fn of(&self, place: Place) -> impl Iterator<Item = &Tie> {
        self.ties.iter().filter(move |tie| tie.place == place)
    }

    /// One of each device.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.of(Place::Memory).map(|tie| &tie.device)
    }

    pub(super) fn accesses(&self) -> u64 {
        self.ties.iter().map(|tie| tie.runner.accesses()).sum()
    }

    /// Runners that are not over.
    pub(super) fn running(&self) -> usize {
        self.ties.iter().filter(|tie| !tie.runner.is_over()).count()
    }

    /// Groups that devices wait for.
    pub(super) fn waiting(&self) -> usize {
        self.devices().map(Device::groups_waiting).sum()
    }

    pub(super) fn until(
        &self,
        stage: &Stage,
        what: &'static str,
        done: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let now = || {
            let counts = self.machine.iommu.page_counts();
            format!(
                "{} accesses, {} groups, {} wait, {} overflows",
                self.accesses(),
                counts.groups,
                self.waiting(),
                counts.overflows
            )
        };
        live::wait_until(stage, what, now, done)
    }

    /// Waits until each runner of these spaces has made `more` accesses, or has come to its end.
    pub(super) fn advance(
        &self,
        stage: &Stage,
        what: &'static str,
        more: u64,
        which: impl Fn(Place) -> bool,
    ) -> Result<u64, Failure> {
        let runners: Vec<_> = self
            .ties
            .iter()
            .filter(|tie| which(tie.place))
            .map(|tie| (&tie.runner, tie.runner.accesses()))
            .collect();
        self.until(stage, what, || {
            runners
                .iter()
                .all(|(runner, before)| runner.accesses() >= before + more || runner.is_over())
        })?;
        Ok(runners.iter().map(|(runner, before)| runner.accesses() - before).sum())
    }
}

impl Memory {
    fn new(place: Place) -> Self {
        let (space, gate) = (Arc::new(MemorySpace::new()), Arc::new(Gate::default()));
        space.map(BASE, PAGES * PAGE, Protection::READ_WRITE);
        let passed = Arc::clone(&gate);
        space.on_resolve(move |_| {
            passed.pass();
            true
        });
        Self { place, space, gate }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.memories.iter().for_each(|memory| memory.gate.open());
        if self.workers.is_none() {
            // Runners wait for answers; where there is no room for threads they wait for as long as
            // devices do.
            let _ = self.work();
        }
        self.ties.iter().for_each(|tie| tie.runner.stop());
    }
}
