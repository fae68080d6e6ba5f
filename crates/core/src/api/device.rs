//! Capabilities of devices, features of bonds, and the trait that device models implement.

use std::fmt;

use crate::types::ids::{Bdf, PasidTag, PasidWidth};

/// The PASID capability (PCIe 6.0, section 7.8.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PasidCapability {
    /// The width of the PASIDs that the device can issue (Max PASID Width).
    pub width: PasidWidth,
    /// Whether it can issue execute requests (Execute Permission Supported).
    pub execute: bool,
    /// Whether it can issue privileged requests (Privileged Mode Supported).
    pub privileged: bool,
}

/// The capabilities of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities {
    /// The PASID capability. Without it the device issues only transactions without a PASID.
    pub pasid: Option<PasidCapability>,
    /// Whether it has address translation services (ATS; PCIe 6.0, section 10.5.1).
    pub ats: bool,
    /// The page request interface, with its Outstanding Page Request Capacity (PCIe 6.0, section
    /// 10.5.2.4). It needs `ats`.
    pub pri: Option<u32>,
    /// Whether responses to its page requests have to carry their PASID (PRG Response PASID
    /// Required; PCIe 6.0, section 10.5.2.3).
    pub response_pasid: bool,
    /// Whether it can wait for the resolution of a page fault, by PRI or by other means.
    pub page_faults: bool,
}

impl Capabilities {
    /// PASIDs of `width` and page faults, without ATS and PRI.
    pub const fn sva(width: PasidWidth) -> Self {
        let pasid = Some(PasidCapability { width, execute: false, privileged: false });
        Self { pasid, ats: false, pri: None, response_pasid: false, page_faults: true }
    }

    /// What [`sva`](Self::sva) has, with ATS, and PRI for `requests` outstanding page requests
    /// whose responses carry their PASID.
    pub const fn translating(width: PasidWidth, requests: u32) -> Self {
        Self { ats: true, pri: Some(requests), response_pasid: true, ..Self::sva(width) }
    }
}

/// The address and the capabilities of a device that is to be plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceSpec {
    /// The address of the function.
    pub bdf: Bdf,
    /// Its capabilities.
    pub capabilities: Capabilities,
}

/// What a bond grants in addition to reading and writing in user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Features {
    /// Execute requests.
    pub execute: bool,
    /// Privileged requests.
    pub privileged: bool,
    /// Resolution of pages that are not present. Without it an access to such a page is aborted,
    /// also where the device can wait.
    pub page_faults: bool,
}

impl Features {
    /// Reading and writing of present pages only.
    pub const NONE: Self = Self { execute: false, privileged: false, page_faults: false };
}

impl Default for Features {
    /// Page faults, which shared virtual addressing needs; neither execute nor privileged requests.
    fn default() -> Self {
        Self { page_faults: true, ..Self::NONE }
    }
}

/// One of [`Features`], for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Execute requests.
    Execute,
    /// Privileged requests.
    Privileged,
    /// Page faults.
    PageFaults,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Execute => "execute requests",
            Self::Privileged => "privileged requests",
            Self::PageFaults => "page faults",
        })
    }
}

/// Calls of the core to a device model.
///
/// They come from any thread, with no lock of the core held.
pub trait DeviceOps: Send + Sync {
    /// Stops the device from issuing transactions with this PASID for this owner: the first step of
    /// an unbind. An implementation does not wait for descriptors in flight; the core waits for
    /// their accesses.
    fn stop_pasid(&self, tag: PasidTag) {
        let _ = tag;
    }
}
