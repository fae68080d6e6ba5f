//! A machine for a chapter: a fabric, an IOMMU on it, and its devices plugged in.

use std::sync::Arc;

use sva_core::{Bdf, Device, DeviceOps, GroupId, Iommu, IommuConfig, PasidWidth, Plug};
use sva_devices::{DataMover, DataMoverConfig, JobTracker, Walker, WalkerConfig};
use sva_host::MonotonicClock;
use sva_pci::Fabric;

use super::failure::Failure;

/// A fabric, an IOMMU on it, and its devices.
pub(crate) struct Machine {
    /// The bus.
    pub(crate) fabric: Arc<Fabric>,
    /// The IOMMU.
    pub(crate) iommu: Iommu,
    devices: Vec<(Device, Arc<JobTracker>)>,
}

impl Machine {
    /// The command's built-in fabric (`sva fabric` draws it).
    pub(crate) fn built_in() -> Result<Self, Failure> {
        Self::new(sva_pci::DEFAULT_TOML)
    }

    /// The fabric that `toml` describes.
    pub(crate) fn new(toml: &str) -> Result<Self, Failure> {
        Self::with(toml, IommuConfig::default())
    }

    /// The built-in fabric with an IOMMU that has PASIDs of `bits` bits only: numbers are reused
    /// soon.
    pub(crate) fn narrow(bits: u8) -> Result<Self, Failure> {
        let pasid_width = PasidWidth::new(bits)
            .ok_or_else(|| Failure::Missing { what: format!("PASID of {bits} bits") })?;
        Self::with(sva_pci::DEFAULT_TOML, IommuConfig::default().pasid_width(pasid_width))
    }

    /// The fabric that `toml` describes, with a clock.
    pub(crate) fn timed(toml: &str, config: IommuConfig) -> Result<Self, Failure> {
        let fabric = Arc::new(Fabric::from_toml(toml)?);
        let iommu = Iommu::with_clock(fabric.clone(), config, Arc::new(MonotonicClock::new()));
        Self::populated(fabric, iommu)
    }

    fn with(toml: &str, config: IommuConfig) -> Result<Self, Failure> {
        let fabric = Arc::new(Fabric::from_toml(toml)?);
        let iommu = Iommu::new(fabric.clone(), config);
        Self::populated(fabric, iommu)
    }

    fn populated(fabric: Arc<Fabric>, iommu: Iommu) -> Result<Self, Failure> {
        let mut devices = Vec::new();
        for spec in fabric.devices() {
            let jobs = JobTracker::new();
            devices.push((
                iommu.plug(Plug::new(spec).model(jobs.clone() as Arc<dyn DeviceOps>))?.device,
                jobs,
            ));
        }
        Ok(Self { fabric, iommu, devices })
    }

    fn find(&self, bdf: &str) -> Result<&(Device, Arc<JobTracker>), Failure> {
        let found = bdf
            .parse::<Bdf>()
            .ok()
            .and_then(|bdf| self.devices.iter().find(|(device, _)| device.bdf() == bdf));
        found.ok_or_else(|| Failure::Missing { what: format!("device {bdf}") })
    }

    /// The device at `bdf`.
    pub(crate) fn device(&self, bdf: &str) -> Result<&Device, Failure> {
        self.find(bdf).map(|(device, _)| device)
    }

    /// The group of the device at `bdf`.
    pub(crate) fn group(&self, bdf: &str) -> Result<GroupId, Failure> {
        self.device(bdf).map(Device::group)
    }

    /// A data mover at `bdf`.
    pub(crate) fn mover(&self, bdf: &str) -> Result<DataMover, Failure> {
        let (device, jobs) = self.find(bdf)?;
        Ok(DataMover::new(device.port(), jobs.clone(), DataMoverConfig::default()))
    }

    /// A walker at `bdf`.
    pub(crate) fn walker(&self, bdf: &str) -> Result<Walker, Failure> {
        let (device, jobs) = self.find(bdf)?;
        Ok(Walker::new(device.port(), jobs.clone(), WalkerConfig::default()))
    }
}
