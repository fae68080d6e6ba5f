//! Does my driver survive? A system of one's own under every order of its events: a driver that
//! lends a buffer to a device, takes it back and uses it for something else.
//!
//! Two drivers run. One waits until the device has forgotten the buffer, the other one does not.
//! The schedule finds an order in which that matters, and makes it as short as it gets.
//!
//! `cargo run --release -p sva-sim --example subject`

use std::sync::Arc;

use sva_core::ats::{RequestId, TranslationAnswer, TranslationGuard};
use sva_core::event::ObjectCounts;
use sva_core::{
    Access, AtsPort, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, Iommu, IommuConfig,
    PasidWidth, Plug, Removal,
};
use sva_sim::{Choices, Exploration, Fate, ScheduledLink, Subject};
use sva_testkit::{Change, FlatTopology, MemorySpace, PAGE, Protection};

/// Where the buffer is.
const BUFFER: u64 = 0x10_0000;

/// The driver, and the device that it drives.
struct Lender {
    /// The mistake: it does not wait for the end of the unmap.
    hasty: bool,
    iommu: Iommu,
    device: Device,
    port: AtsPort,
    link: Arc<ScheduledLink>,
    space: MemorySpace,
    bond: Option<Bond<()>>,
    /// What the device has asked for, and the translation that it uses.
    asked: Option<RequestId>,
    held: Option<TranslationGuard>,
    /// The unmap of the buffer, while it is under way.
    unmap: Option<Change>,
    /// The memory of the buffer serves something else.
    reused: bool,
    lines: Vec<String>,
}

impl Lender {
    fn new(hasty: bool) -> Self {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let (link, space) = (ScheduledLink::new(), MemorySpace::new());
        space.map(BUFFER, PAGE, Protection::READ_WRITE);
        let bdf = Bdf::new(0, 1, 0, 0).expect("a device number below 32");
        let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
        let device = iommu.plug(Plug::new(spec).link(link.clone())).expect("free").device;
        device.enable_ats().expect("it has ATS");
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("alive");
        let port = device.ats_port();
        Self {
            hasty,
            iommu,
            device,
            port,
            link,
            space,
            bond: Some(bond),
            asked: None,
            held: None,
            unmap: None,
            reused: false,
            lines: Vec::new(),
        }
    }

    /// The device asks for a translation, takes it, writes by it, or forgets it.
    fn device_step(&mut self, choices: &mut Choices) -> Result<(), String> {
        let pasid = self.bond.as_ref().map(Bond::pasid);
        if let Some(held) = self.held.take() {
            if choices.one_in(3) {
                self.lines.push("the device forgets the translation".to_owned());
                return Ok(());
            }
            let written = held.write(&[7; 8]).is_ok();
            self.held = Some(held);
            self.lines.push(format!("the device writes to the buffer: {written}"));
            if written && self.reused {
                return Err("the device wrote to memory that serves something else".to_owned());
            }
        } else if let Some(request) = self.asked {
            let Some(answer) = self.port.translation(request) else { return Ok(()) };
            self.asked = None;
            self.lines.push(format!("the device has its answer: {answer:?}"));
            if answer == TranslationAnswer::Cached {
                self.held = self.port.use_translation(pasid, BUFFER, Access::WRITE);
            }
        } else {
            self.asked = self.port.request_translation(pasid, BUFFER, Access::WRITE).ok();
            self.lines.push("the device asks for a translation".to_owned());
        }
        Ok(())
    }

    /// The driver takes the buffer back, uses it for something else, or lends it again.
    fn driver_step(&mut self) {
        match self.unmap.take() {
            None => {
                self.unmap = Some(self.space.begin_unmap(BUFFER, PAGE));
                self.lines.push("the driver begins to unmap the buffer".to_owned());
            }
            Some(unmap) if unmap.is_over() => {
                unmap.finish();
                self.space.map(BUFFER, PAGE, Protection::READ_WRITE);
                self.reused = false;
                self.lines.push("the driver lends the buffer again".to_owned());
            }
            Some(unmap) => {
                self.unmap = Some(unmap);
                if self.hasty && !self.reused {
                    self.reused = true;
                    self.lines.push("the driver uses the memory for something else".to_owned());
                }
            }
        }
    }

    /// A message comes to its receiver.
    fn deliver(&mut self, choices: &mut Choices) {
        let Some(&at) = choices.pick(&self.link.deliverable()) else { return };
        if let Some(message) = self.link.release(at, Fate::Deliver, choices) {
            self.lines.push(format!("{message} is delivered"));
        }
    }
}

impl Subject for Lender {
    fn step(&mut self, choices: &mut Choices) -> Result<(), String> {
        match choices.below(5) {
            0 | 1 => self.device_step(choices)?,
            2 | 3 => self.deliver(choices),
            _ => self.driver_step(),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.held = None;
        let unbinding = self.bond.take().map(Bond::begin_unbind);
        if !self.link.settle(100) {
            return Err("the device and the IOMMU send messages for ever".to_owned());
        }
        if unbinding.is_some_and(|unbinding| !unbinding.is_over()) {
            return Err("the unbind does not come to an end".to_owned());
        }
        self.unmap.take().into_iter().for_each(Change::finish);
        self.iommu.remove(&self.device, Removal::Orderly).map_err(|error| error.to_string())?;
        match self.iommu.object_counts() {
            census if census == ObjectCounts::default() => Ok(()),
            census => Err(format!("something is left: {census:?}")),
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }
}

fn main() {
    let exploration = Exploration::default().seeds(0..500).steps(200);
    for (name, hasty) in [("the hasty driver", true), ("the patient driver", false)] {
        let mut events = 0;
        match exploration.run(|| Lender::new(hasty), |_, lender| events += lender.lines.len()) {
            Ok(()) => {
                println!("{name} survives {} schedules, {events} events", exploration.seeds.end)
            }
            Err(failure) => println!("{name} does not survive:\n{failure}\n"),
        }
    }
}
