//! IOMMU semantics without hardware: devices, groups, containers, bonds, PASIDs, domains.
#![forbid(unsafe_code)]

mod api;
mod control;
mod dma;
mod iotlb;
#[doc(hidden)]
pub mod mutation;
mod protocol;
mod quiesce;
mod table;
mod types;

pub use api::bond::{Bind, BondEnd, IsolationChange, UnbindReport};
pub use api::clock::Clock;
pub use api::config::{IommuConfig, ObjectCounts};
pub use api::device::{Capabilities, DeviceOps, DeviceSpec, Feature, Features, PasidCapability};
pub use api::event::{DrainedEvents, Event, Overlap};
pub use api::fault::{DmaCause, DmaError, Fault, FaultReason, HostFailure};
pub use api::invalidation::Invalidation;
pub use api::link::{DirectLink, Link, LinkEnds, ToDevice, ToIommu};
pub use api::map::{MapRequest, Mapped, Unmapped};
pub use api::space::{
    AddressSpace, EndReason, ExitWork, Extent, NoSuchFrame, SpaceCapabilities, SpaceEnded,
    SpaceWatcher, StopCause, Stopped, WatchToken,
};
pub use control::{
    Bond, Container, ContainerBound, GroupBond, GroupInfo, HandlerRegistration, Joined, Leaving,
    NotJoined, PageRequestJob, Plug, Plugged, Removal, Removing, Reset, Unbinding,
};
#[cfg(not(loom))]
pub use control::{WorkerConfig, Workers};
pub use dma::{AtomicWord, AtsPort, DmaPort, Pin};
pub use iotlb::IotlbUsage;
pub use table::{Device, Iommu};
pub use types::access::{Access, Permissions};
pub use types::ids::{
    Bdf, ContainerId, Generation, GroupId, Pasid, PasidTag, PasidWidth, RequesterId, SpaceId,
};
pub use types::range::{AddrRange, Segment};

pub use api::ats::{Frame, Translation};

/// Address translation services (PCIe 6.0, sections 10.1 to 10.3).
pub mod ats {
    pub use crate::api::ats::*;
    pub use crate::dma::{TranslationGuard, TranslationRequestError};
    pub use crate::protocol::ats::InvalidationCounts;
    pub use crate::protocol::ats::atc::{AtcCounts, TranslationAnswer};
}

/// The page request interface (PCIe 6.0, section 10.4).
pub mod pri {
    pub use crate::api::pri::*;
    pub use crate::protocol::pri::interface::{GroupOutcome, InterfaceCounts, PageRequestError};
    pub use crate::protocol::pri::queue::PageCounts;
}

/// Why a request to the IOMMU was refused.
pub mod error {
    pub use crate::api::error::*;
}

/// What the core asks of the bus that its devices sit on.
pub mod topology {
    pub use crate::api::topology::*;
}

/// The PASID allocator.
pub mod pasid {
    pub use crate::table::{Exhausted, PasidAllocator};
}
