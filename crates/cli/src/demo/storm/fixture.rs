//! The fixture of the storm: devices with ATS and PRI, in-memory spaces and a process, a bond of
//! each device with each space, and a runner for each bond.

use std::sync::Arc;

use sva_core::pri::WorkerConfig;
use sva_core::space::SpaceHandle;
use sva_core::{Bind, Bond, Device, IommuConfig, Pasid, Workers};
use sva_sync::atomic::{AtomicU64, Ordering};
use sva_testkit::{MemorySpace, PAGE, Protection};

use super::gate::Gate;
use super::live;
use super::runner::{BASE, PAGES, Runner, Workload};
use crate::demo::context::Context;
use crate::demo::failure::Failure;
use crate::demo::machine::Machine;
use crate::demo::process::{Buffer, Process};
use crate::demo::times::BondTimes;

/// Requests that a device may have outstanding.
pub(super) const CREDIT: u32 = 32;
/// Requests that the queue holds: fewer than all devices together may send.
const QUEUE: usize = 64;
const DEVICES: [&str; 3] = ["01:00.0", "02:00.0", "03:00.0"];

/// The spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpaceName {
    Memory,
    Slow,
    Ends,
    Unbound,
    Process,
}

const IN_MEMORY: [SpaceName; 4] =
    [SpaceName::Memory, SpaceName::Slow, SpaceName::Ends, SpaceName::Unbound];

impl SpaceName {
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
    let below = DEVICES.iter().zip(1..).map(|(bdf, n)| {
        format!(
            r#"
            [[port]]
            id = "rp{n}"
            parent = "rc"
            kind = "root-port"
            bdf = "00:0{n}.0"
            secondary = {n}
            acs = ["SV", "RR", "CR", "UF"]

            [[device]]
            parent = "rp{n}"
            bdf = "{bdf}"
            pasid = {{ width = 20 }}
            ats = true
            pri = {CREDIT}
            page_faults = true
            "#
        )
    });
    let bridge =
        r#"host_bridge = [{ id = "rc", windows = [{ address = "0x80000000", size = "1M" }] }]"#;
    format!("{bridge}\n{}", below.collect::<String>())
}

/// A bond and its runner.
pub(super) struct Binding {
    pub(super) device: Device,
    pub(super) space_name: SpaceName,
    pub(super) pasid: Pasid,
    // Before the bond: a runner that is ended finds its pages.
    pub(super) runner: Runner,
    pub(super) bond: Option<Bond<()>>,
}

impl Binding {
    /// The times of its faults so far.
    pub(super) fn times(&self) -> Option<BondTimes> {
        let bond = self.bond.as_ref()?;
        Some(BondTimes::new(
            self.device.bdf().to_string(),
            self.space_name.name(),
            self.pasid,
            &bond.fault_times(),
        ))
    }
}

/// An in-memory space that can be made slow.
pub(super) struct Memory {
    space_name: SpaceName,
    pub(super) space: Arc<MemorySpace>,
    pub(super) gate: Arc<Gate>,
}

/// Devices, spaces, bonds and their runners. Opens all gates and ends all threads when it is
/// dropped.
pub(super) struct Fixture {
    pub(super) machine: Machine,
    memories: Vec<Memory>,
    pub(super) bindings: Vec<Binding>,
    pub(super) process: Process,
    pub(super) buffer: Buffer,
    pub(super) written: u64,
    /// Exit handlers of [`SpaceName::Ends`] that have run.
    pub(super) exits: Arc<AtomicU64>,
    /// Last: runners wait for what it answers.
    workers: Option<Workers>,
}

impl Fixture {
    /// Sets it up and lets it loose.
    pub(super) fn new(context: &mut Context) -> Result<Self, Failure> {
        let config = IommuConfig::default().page_queue(QUEUE);
        let machine = Machine::timed(&toml(), config)?;
        let memories: Vec<Memory> = IN_MEMORY.into_iter().map(Memory::new).collect();
        let (mut process, space) = context.process()?;
        let buffer = process.fresh(1024 * DEVICES.len() as u64 * PAGE)?;
        let (written, exits) = (context.seed(), Arc::new(AtomicU64::new(0)));
        let mut fixture = Self {
            machine,
            memories,
            bindings: Vec::new(),
            process,
            buffer,
            written,
            exits,
            workers: None,
        };
        fixture.start_workers()?;
        for (slot, bdf) in DEVICES.into_iter().enumerate() {
            let device = fixture.machine.device(bdf)?.clone();
            device.enable_ats()?;
            device.enable_pri()?;
            for space_name in IN_MEMORY {
                let memory = fixture.memory(space_name)?.space.clone();
                fixture.binding(
                    context,
                    &device,
                    slot as u64,
                    space_name,
                    &memory.handle(),
                    Workload::Memory(memory.clone()),
                )?;
            }
            let workload =
                Workload::Process { buffer, runners: DEVICES.len() as u64, seed: written };
            fixture.binding(context, &device, slot as u64, SpaceName::Process, &space, workload)?;
        }
        Ok(fixture)
    }

    fn binding(
        &mut self,
        context: &mut Context,
        device: &Device,
        slot: u64,
        space_name: SpaceName,
        space: &impl SpaceHandle,
        workload: Workload,
    ) -> Result<(), Failure> {
        let mut bind = Bind::new(());
        if space_name == SpaceName::Ends {
            let exits = Arc::clone(&self.exits);
            bind = bind.on_exit(move |_, ()| {
                exits.fetch_add(1, Ordering::Relaxed);
            });
        }
        let bond = self.machine.iommu.bind_device(device, space, bind)?;
        let pasid = bond.pasid();
        let runner = Runner::start(device.ats_port(), pasid, slot, workload, context.rng.fork());
        self.bindings.push(Binding {
            device: device.clone(),
            space_name,
            pasid,
            runner,
            bond: Some(bond),
        });
        Ok(())
    }

    /// Has threads sort and resolve.
    pub(super) fn start_workers(&mut self) -> Result<(), Failure> {
        self.workers = Some(
            Workers::start(&self.machine.iommu, WorkerConfig::default())
                .map_err(Failure::Workers)?,
        );
        Ok(())
    }

    /// Has nobody sort and resolve any more.
    pub(super) fn stop_workers(&mut self) {
        self.workers = None;
    }

    pub(super) fn memory(&self, space_name: SpaceName) -> Result<&Memory, Failure> {
        let found = self.memories.iter().find(|memory| memory.space_name == space_name);
        found.ok_or_else(|| Failure::Missing { what: format!("space `{}`", space_name.name()) })
    }

    pub(super) fn of(&self, space_name: SpaceName) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| binding.space_name == space_name)
    }

    /// One of each device.
    pub(super) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.of(SpaceName::Memory).map(|binding| &binding.device)
    }

    pub(super) fn accesses(&self) -> u64 {
        self.bindings.iter().map(|binding| binding.runner.accesses()).sum()
    }

    /// Runners that are not over.
    pub(super) fn running(&self) -> usize {
        self.bindings.iter().filter(|binding| !binding.runner.is_over()).count()
    }

    /// Groups that devices wait for.
    pub(super) fn waiting(&self) -> usize {
        self.devices().map(Device::groups_waiting).sum()
    }

    pub(super) fn until(
        &self,
        context: &Context,
        what: &'static str,
        done: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let now = || {
            let counts = self.machine.iommu.page_queue_counts();
            format!(
                "{} accesses, {} groups, {} wait, {} overflows",
                self.accesses(),
                counts.groups,
                self.waiting(),
                counts.overflows
            )
        };
        live::wait_until(context, what, now, done)
    }

    /// Waits until each runner of these spaces has made `more` accesses, or has come to its end.
    pub(super) fn advance(
        &self,
        context: &Context,
        what: &'static str,
        more: u64,
        which: impl Fn(SpaceName) -> bool,
    ) -> Result<u64, Failure> {
        let runners: Vec<_> = self
            .bindings
            .iter()
            .filter(|binding| which(binding.space_name))
            .map(|binding| (&binding.runner, binding.runner.accesses()))
            .collect();
        self.until(context, what, || {
            runners
                .iter()
                .all(|(runner, before)| runner.accesses() >= before + more || runner.is_over())
        })?;
        Ok(runners.iter().map(|(runner, before)| runner.accesses() - before).sum())
    }
}

impl Memory {
    fn new(space_name: SpaceName) -> Self {
        let (space, gate) = (Arc::new(MemorySpace::new()), Arc::new(Gate::default()));
        space.map(BASE, PAGES * PAGE, Protection::READ_WRITE);
        let passed = Arc::clone(&gate);
        space.on_resolve(move |_| {
            passed.pass();
            true
        });
        Self { space_name, space, gate }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.memories.iter().for_each(|memory| memory.gate.open());
        if self.workers.is_none() {
            // Runners wait for answers; where there is no room for threads they wait for as long as
            // devices do.
            let _ = self.start_workers();
        }
        self.bindings.iter().for_each(|binding| binding.runner.stop());
    }
}
