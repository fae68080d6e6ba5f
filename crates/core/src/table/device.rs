//! The public handle of a device.

use std::fmt;
use std::sync::Arc;

use super::iommu::Iommu;
use super::records::DeviceRecord;
use crate::api::device::Capabilities;
use crate::types::ids::{Bdf, GroupId, RequesterId};

/// A handle of a device that has been plugged in. After the device has been removed, operations
/// through the handle fail with errors.
#[derive(Clone)]
pub struct Device {
    iommu: Iommu,
    record: Arc<DeviceRecord>,
}

impl Device {
    pub(crate) fn new(iommu: Iommu, record: Arc<DeviceRecord>) -> Self {
        Self { iommu, record }
    }

    pub(crate) fn record(&self) -> &Arc<DeviceRecord> {
        &self.record
    }

    pub(crate) fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// The bus, device and function number of the device.
    pub fn bdf(&self) -> Bdf {
        self.record.bdf()
    }

    /// The requester ID that its transactions carry when they reach the IOMMU. It differs from the
    /// BDF if a bridge replaces it.
    pub fn requester(&self) -> RequesterId {
        self.record.requester.id
    }

    /// The capabilities of the device.
    pub fn capabilities(&self) -> Capabilities {
        self.record.spec.capabilities
    }

    /// The group that the device belongs to.
    pub fn group(&self) -> GroupId {
        self.record.group_id
    }

    /// Whether the device has been removed.
    pub fn is_removed(&self) -> bool {
        self.record.gate.is_closed()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("bdf", &self.bdf()).field("group", &self.group()).finish()
    }
}
