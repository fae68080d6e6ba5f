//! Devices: what they can do, and what the core asks of their models.

use std::fmt;

use crate::types::ids::{Bdf, PasidTag, PasidWidth};

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
    /// Responses to its page requests are to name their PASID (PRG Response PASID Required, PCIe
    /// 6.0, section 10.5.2.3).
    pub response_pasid: bool,
    /// It can wait for a page fault (by PRI or by a means of its own).
    pub page_faults: bool,
}

impl Capabilities {
    /// PASIDs of `width` bits, page faults, and nothing else.
    pub const fn sva(width: PasidWidth) -> Self {
        let pasid = Some(PasidCapability { width, execute: false, privileged: false });
        Self { pasid, ats: false, pri: None, response_pasid: false, page_faults: true }
    }

    /// As [`sva`](Self::sva), with address translation services and `requests` outstanding page
    /// requests, whose responses name their PASID.
    pub const fn translating(width: PasidWidth, requests: u32) -> Self {
        Self { ats: true, pri: Some(requests), response_pasid: true, ..Self::sva(width) }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Features {
    /// Execute requests.
    pub execute: bool,
    /// Privileged requests.
    pub privileged: bool,
    /// Absent pages are resolved. Without it a miss aborts (rule F6), also where the device asked
    /// to wait.
    pub page_faults: bool,
}

impl Features {
    /// Reading and writing of present pages, and no more.
    pub const NONE: Self = Self { execute: false, privileged: false, page_faults: false };
}

impl Default for Features {
    /// Page faults, as shared virtual addressing lives by them; neither execute nor privileged
    /// requests.
    fn default() -> Self {
        Self { page_faults: true, ..Self::NONE }
    }
}

/// The name of one of [`Features`].
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

/// What the core tells a device model. Called with no lock of the core held; a call may come from
/// any thread.
pub trait DeviceOps: Send + Sync {
    /// The device is to stop issuing this PASID (the first step of an unbind, rule U1). Returns
    /// without waiting for descriptors that are under way: the core waits for their accesses
    /// itself.
    fn stop_pasid(&self, tag: PasidTag) {
        let _ = tag;
    }
}
