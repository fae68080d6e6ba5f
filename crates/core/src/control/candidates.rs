//! The devices of one bind, and why one of them cannot be bound.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::api::device::{Feature, Features};
use crate::api::error::Refusal;
use crate::table::{DeviceRecord, Requester, SpaceDescription};
use crate::types::ids::{PasidTag, PasidWidth};

/// The devices of one bind: those that get a PASID entry, and those that cannot issue a PASID.
pub(super) struct Candidates {
    pub(super) capable: SmallVec<[Arc<DeviceRecord>; 1]>,
    pub(super) left_out: Vec<Refusal>,
}

impl Candidates {
    pub(super) fn of<'a>(devices: impl IntoIterator<Item = &'a Arc<DeviceRecord>>) -> Self {
        let mut found = Self { capable: SmallVec::new(), left_out: Vec::new() };
        for device in devices {
            match device.spec.capabilities.pasid {
                Some(_) => found.capable.push(Arc::clone(device)),
                None => found.left_out.push(Refusal::NoPasidCapability { device: device.bdf() }),
            }
        }
        found
    }

    /// The width of the widest PASID that all capable devices can issue.
    pub(super) fn width(&self) -> PasidWidth {
        let widths = self
            .capable
            .iter()
            .filter_map(|device| device.spec.capabilities.pasid)
            .map(|pasid| pasid.width);
        widths.min().unwrap_or(PasidWidth::MAX)
    }

    /// The requesters of the capable devices. Devices that share a requester ID share a PASID table
    /// and get one entry.
    pub(super) fn requesters(&self) -> SmallVec<[Arc<Requester>; 1]> {
        requesters_of(&self.capable)
    }

    /// Returns the first [`bind_refusal`] of the capable devices; `None` if all can be bound.
    pub(super) fn refusal(
        &self,
        space: SpaceDescription,
        features: Features,
        tag: Option<PasidTag>,
    ) -> Option<Refusal> {
        self.capable.iter().find_map(|device| bind_refusal(device, space, features, tag))
    }
}

/// The requesters of devices, each once.
pub(super) fn requesters_of<'a>(
    devices: impl IntoIterator<Item = &'a Arc<DeviceRecord>>,
) -> SmallVec<[Arc<Requester>; 1]> {
    let mut requesters: SmallVec<[Arc<Requester>; 1]> = SmallVec::new();
    for device in devices {
        if !requesters.iter().any(|known| Arc::ptr_eq(known, &device.requester)) {
            requesters.push(Arc::clone(&device.requester));
        }
    }
    requesters
}

/// Returns why `device` cannot get a bond of `space` with `features`; `None` if it can.
///
/// It reads the device's capabilities, its routing as the bus reported it last, and its PASID
/// table. `tag` is the PASID of the space if the space has one. The caller holds the control
/// lock, which keeps the PASID table as it is.
pub(super) fn bind_refusal(
    device: &DeviceRecord,
    space: SpaceDescription,
    features: Features,
    tag: Option<PasidTag>,
) -> Option<Refusal> {
    let bdf = device.bdf();
    let Some(pasid) = device.spec.capabilities.pasid else {
        return Some(Refusal::NoPasidCapability { device: bdf });
    };
    if let Some(defect) = device.routing.read().refused_path() {
        return Some(Refusal::Path { device: bdf, defect });
    }
    let provided = space.capabilities;
    let wanted = [
        (features.execute, Feature::Execute, pasid.execute, provided.execute),
        (features.privileged, Feature::Privileged, pasid.privileged, provided.privileged),
        (
            features.page_faults,
            Feature::PageFaults,
            device.spec.capabilities.page_faults,
            provided.page_faults,
        ),
    ];
    for (_, feature, by_device, by_space) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
        if !by_device {
            return Some(Refusal::DeviceLacks { device: bdf, feature });
        }
        if !by_space {
            return Some(Refusal::SpaceLacks { space: space.id, feature });
        }
    }
    let tag = tag?;
    if !tag.pasid.fits(pasid.width) {
        return Some(Refusal::PasidTooWide { device: bdf, pasid: tag.pasid, width: pasid.width });
    }
    device.requester.entry(tag.pasid).map(|entry| match entry.gate.is_closed() {
        true => Refusal::StillUnbinding { device: bdf, pasid: tag.pasid },
        false => Refusal::AlreadyBound { device: bdf, pasid: tag.pasid },
    })
}
