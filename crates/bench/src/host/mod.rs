//! Binding, and the memory of live processes.

mod attach;
mod bind;
mod bulk;

use std::error::Error;
use std::sync::Arc;

use sva_bench::row::Rows;
use sva_core::{
    AddressSpace, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, Features, Iommu, IommuConfig,
    PasidWidth, Plug,
};
use sva_devices::{DataMover, DataMoverConfig, JobTracker};
use sva_testkit::FlatTopology;

/// Runs all of it.
pub(crate) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    bulk::run(quick, rows)?;
    bind::run(quick, rows)?;
    attach::run(quick, rows)
}

/// A system with one data mover, bound to a space.
struct Bound {
    mover: DataMover,
    bond: Bond<()>,
    device: Device,
}

impl Bound {
    fn to(space: &Arc<dyn AddressSpace>) -> Result<Self, Box<dyn Error>> {
        let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
        let jobs = Arc::new(JobTracker::default());
        let device =
            iommu.plug(Plug::new(spec(0, PasidWidth::MAX)?).model(Arc::clone(&jobs) as _))?.device;
        let bond =
            iommu.bind_device(&device, space, Bind::new(()).features(Features::default()))?;
        Ok(Self {
            mover: DataMover::new(device.port(), jobs, DataMoverConfig::default()),
            bond,
            device,
        })
    }
}

/// The `n`th of up to 65,536 devices, each on its own.
pub(crate) fn spec(n: u16, width: PasidWidth) -> Result<DeviceSpec, Box<dyn Error>> {
    let [high, low] = n.to_be_bytes();
    let bdf = Bdf::new(high.into(), low, 0, 0).ok_or("no such device")?;
    Ok(DeviceSpec { bdf, capabilities: Capabilities::sva(width) })
}
