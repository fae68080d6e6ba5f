//! A system with one data mover.

use std::error::Error;
use std::sync::Arc;

use sva_core::{AddressSpace, Bind, Bond, Device, Features, Iommu, IommuConfig, PasidWidth, Plug};
use sva_devices::{DataMover, DataMoverConfig, JobTracker};
use sva_testkit::FlatTopology;

use crate::device::spec;

/// A system with one data mover, bound to a space.
pub(super) struct BoundMover {
    pub(super) mover: DataMover,
    pub(super) bond: Bond<()>,
    pub(super) device: Device,
}

impl BoundMover {
    pub(super) fn new(space: &Arc<dyn AddressSpace>) -> Result<Self, Box<dyn Error>> {
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
