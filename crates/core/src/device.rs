//! Devices: what they can do.

use crate::ids::{Bdf, PasidWidth};

/// The PASID capability (PCIe 6.0, section 7.8.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PasidCapability {
    /// PASID bits that the device can issue.
    pub width: PasidWidth,
    /// Execute Permission Supported.
    pub execute: bool,
    /// Privileged Mode Supported.
    pub privileged: bool,
}

/// What a device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities {
    /// PASID; without it the device issues only transactions without PASID.
    pub pasid: Option<PasidCapability>,
    /// Address translation services.
    pub ats: bool,
    /// Page request interface: outstanding page requests that it can have.
    pub pri: Option<u32>,
    /// It can wait for a page fault (by PRI or by a means of its own).
    pub page_faults: bool,
}

impl Capabilities {
    /// PASIDs of `width` bits, page faults, and nothing else.
    pub const fn sva(width: PasidWidth) -> Self {
        Self { pasid: Some(PasidCapability { width, execute: false, privileged: false }), ats: false, pri: None, page_faults: true }
    }
}

/// A device as it is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceSpec {
    /// Where it sits.
    pub bdf: Bdf,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// What a bond is to grant beyond reading and writing as a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features {
    /// Execute requests.
    pub execute: bool,
    /// Privileged requests.
    pub privileged: bool,
    /// The device relies on page faults being resolved.
    pub page_faults: bool,
}
