//! A process bound to a data mover of a fabric: what every `sva dma` needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::Topology;
use sva_core::bond::GroupBond;
use sva_core::error::BindError;
use sva_core::event::Overlap;
use sva_core::topology::PathPolicy;
use sva_core::{
    AddrRange, AddressSpace, Bdf, Bind, Bond, Device, Event, Features, Iommu, IommuConfig, Pasid,
    Plug,
};
use sva_devices::{DataMover, DataMoverConfig, JobTracker};
use sva_host::HostSpace;
use sva_pci::Fabric;

use crate::args::Target;
use crate::error::Error;
use crate::interrupt::Interrupts;

/// The name that a fabric file gives to functions that are data movers.
const MODEL: &str = "data-mover";

/// The bond of a device or of its whole group.
enum Binding {
    Device(Bond<()>),
    Group(GroupBond<()>),
}

/// A bound process. Dropping it unbinds and lets the process go.
pub(crate) struct Session {
    binding: Binding,
    device: Bdf,
    iommu: Iommu,
    /// The bus master that does the work.
    pub(crate) mover: DataMover,
    space: Arc<HostSpace>,
}

impl Session {
    /// Builds the fabric, attaches the process, binds it. Blocks while the process is attached, for
    /// as long as `sva_host::attach` states; a signal that comes meanwhile is seen afterwards.
    ///
    /// # Errors
    /// Any of the steps is refused.
    pub(crate) fn open(
        target: &Target,
        fabric: Fabric,
        interrupts: &Interrupts,
    ) -> Result<Self, Error> {
        let fabric = Arc::new(fabric);
        let iommu = Iommu::new(fabric.clone(), IommuConfig::default());
        // All devices are plugged in, for groups are made of what is there; only the movers have a
        // model behind them.
        let mut movers = Vec::new();
        for spec in fabric.devices() {
            if fabric
                .function(spec.bdf)
                .is_some_and(|function| function.model.as_deref() == Some(MODEL))
            {
                let jobs = JobTracker::new();
                movers.push((iommu.plug(Plug::new(spec).model(jobs.clone()))?.device, jobs));
            } else {
                let _ = iommu.plug(spec)?;
            }
        }
        let (device, jobs) = choose(&iommu, &fabric, movers, target)?;
        interrupts.check()?;
        let space = sva_host::attach(target.pid)?;
        interrupts.check()?;
        let binding =
            bind(&iommu, &device, &(space.clone() as Arc<dyn AddressSpace>), target.group)?;
        let mover = DataMover::new(device.port(), jobs, DataMoverConfig::default());
        Ok(Self { binding, device: device.bdf(), iommu, mover, space })
    }

    /// The device that works.
    pub(crate) fn device(&self) -> Bdf {
        self.device
    }

    /// Its PASID for the process.
    pub(crate) fn pasid(&self) -> Pasid {
        match &self.binding {
            Binding::Device(bond) => bond.pasid(),
            Binding::Group(bond) => bond.pasid(),
        }
    }

    /// Memory of the process that the device cannot reach.
    pub(crate) fn overlaps(&self) -> &[Overlap] {
        match &self.binding {
            Binding::Device(bond) => bond.overlaps(),
            Binding::Group(bond) => bond.overlaps(),
        }
    }

    /// The addresses of the mapping with this name: the first, and how many bytes.
    ///
    /// # Errors
    /// No mapping has the name, or several have it; or the space has ended.
    pub(crate) fn region(&self, name: &str) -> Result<(u64, u64), Error> {
        let regions = self.space.regions()?;
        let range = sva_host::find_region(&regions, name)?.range;
        Ok((range.first(), range.len()))
    }

    /// Which peers have caught transactions before they reached the process, since the last call.
    pub(crate) fn misrouted(&self) -> Misrouted {
        let mut caught: BTreeMap<Bdf, (AddrRange, u64)> = BTreeMap::new();
        let drained = self.iommu.drain_events();
        for event in drained.events {
            if let Event::Misrouted { decoder, range, .. } = event {
                caught.entry(decoder).or_insert((range, 0)).1 += 1;
            }
        }
        Misrouted { caught, incomplete: drained.lost > 0 }
    }
}

/// Transactions that peers caught.
#[derive(Debug)]
pub(crate) struct Misrouted {
    /// For each peer the addresses of the first one that is known, and how many are.
    caught: BTreeMap<Bdf, (AddrRange, u64)>,
    /// The log, which keeps the newest, has lost some: neither the numbers nor the first ones are
    /// known.
    incomplete: bool,
}

impl Misrouted {
    /// How many there were, at least.
    pub(crate) fn count(&self) -> u64 {
        self.caught.values().map(|(_, count)| count).sum()
    }

    /// A sentence for each peer.
    pub(crate) fn sentences(&self) -> impl Iterator<Item = String> {
        let (least, one) =
            if self.incomplete { ("at least ", "one of them") } else { ("", "the first") };
        self.caught.iter().map(move |(decoder, (range, count))| {
            format!(
                "{least}{count} transactions, {one} at {range}, were caught by {decoder} and never \
                 reached the process"
            )
        })
    }
}

type Mover = (Device, Arc<JobTracker>);

/// The named data mover, or the first one whose place on the bus permits the bind.
fn choose(
    iommu: &Iommu,
    fabric: &Fabric,
    mut movers: Vec<Mover>,
    target: &Target,
) -> Result<Mover, Error> {
    let position = match target.device {
        None if movers.is_empty() => return Err(Error::NoMoverAtAll),
        Some(bdf) => {
            let found = movers.iter().position(|(device, _)| device.bdf() == bdf);
            found.ok_or_else(|| not_a_mover(fabric, &movers, bdf))?
        }
        None => {
            let sound = |device: &Device| {
                fabric.policy() == PathPolicy::Permissive
                    || fabric.path_defect(device.bdf()).is_none()
            };
            let alone = |device: &Device| {
                iommu.group(device.group()).is_some_and(|group| group.members.len() == 1)
            };
            let fits = |device: &Device| {
                device.capabilities().pasid.is_some()
                    && sound(device)
                    && (target.group || alone(device))
            };
            movers.iter().position(|(device, _)| fits(device)).ok_or(Error::NoMover)?
        }
    };
    Ok(movers.swap_remove(position))
}

fn not_a_mover(fabric: &Fabric, movers: &[Mover], device: Bdf) -> Error {
    match (fabric.function(device), movers) {
        (None, _) => Error::NoSuchDevice { device },
        (Some(_), []) => Error::NoMoverAtAll,
        (Some(_), movers) => Error::NotAMover {
            device,
            movers: movers.iter().map(|(device, _)| device.bdf()).collect(),
        },
    }
}

fn bind(
    iommu: &Iommu,
    device: &Device,
    space: &Arc<dyn AddressSpace>,
    group: bool,
) -> Result<Binding, Error> {
    let terms = Bind::new(()).features(Features { page_faults: true, ..Features::default() });
    if !group {
        return iommu.bind_device(device, space, terms).map(Binding::Device).map_err(|refusal| {
            match refusal {
                BindError::NotSingleton { .. } => Error::BindShared(refusal),
                _ => Error::Bind(refusal),
            }
        });
    }
    let bond = iommu.bind_group(device.group(), space, terms)?;
    if bond.members().contains(&device.bdf()) {
        return Ok(Binding::Group(bond));
    }
    Err(Error::LeftOut { device: device.bdf(), why: bond.left_out().to_vec() })
}
