//! A software IOMMU: shared virtual addressing for devices made of software.
//!
//! It has the semantics of Linux' `iommu_sva_bind_device()`. A PASID says which address space a
//! transaction belongs to. Devices that cannot be isolated from one another form a group.
//! Containers share mappings and bindings. Page requests resolve pages that are not present. The
//! exit handlers of a space run before its PASID is reused. The core does no I/O and has no clock;
//! the bus ([`Topology`]) and the address spaces ([`AddressSpace`]) are given to it.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sva_core::{Bdf, Bind, Capabilities, DeviceSpec, Iommu, IommuConfig, PasidWidth};
//! use sva_testkit::{FlatTopology, MemorySpace, Protection};
//!
//! // An IOMMU over a bus, and a device that issues PASIDs of 20 bits.
//! let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
//! let bdf = Bdf::new(0, 1, 0, 0).ok_or("device and function are in range")?;
//! let spec = DeviceSpec { bdf, capabilities: Capabilities::sva(PasidWidth::MAX) };
//! let device = iommu.plug(spec)?.device;
//!
//! // An address space: here test memory, else a live process or a guest's memory.
//! let memory = MemorySpace::new();
//! memory.map(0x1000, 0x1000, Protection::READ_WRITE);
//!
//! // Bound, the device reaches the space by the space's own addresses.
//! let bond = iommu.bind_device(&device, &memory.handle(), Bind::new("drvdata"))?;
//! let port = device.port();
//! port.write(Some(bond.pasid()), 0x1234, b"by the space's own pointers")?;
//!
//! // Unbound, it does not.
//! let pasid = bond.pasid();
//! bond.unbind();
//! assert!(port.write(Some(pasid), 0x1234, b"too late").is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Start at [`Iommu`]. A device model issues transactions through a [`DmaPort`], or an [`AtsPort`]
//! if it caches translations itself; both are a [`Port`]. A provider implements
//! [`AddressSpace`], and a bus implements [`Topology`]. Errors are in [`error`]; messages of ATS
//! and PRI are in [`ats`] and [`pri`]. `examples/driver.rs` is a larger program.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod api;
mod control;
mod dma;
mod iotlb;
mod protocol;
mod quiesce;
mod table;
mod types;

pub use api::ats::Frame;
pub use api::bond::{Bind, UnbindReport};
pub use api::clock::Clock;
pub use api::config::IommuConfig;
pub use api::device::{Capabilities, DeviceOps, DeviceSpec, Features};
pub use api::event::Event;
pub use api::fault::{DmaError, Fault, FaultReason};
pub use api::map::MapRequest;
pub use api::space::{
    AddressSpace, EndReason, Extent, SpaceCapabilities, SpaceWatcher, StopCause, Stopped,
};
pub use api::topology::Topology;
#[cfg(not(loom))]
pub use control::Workers;
pub use control::{Bond, Container, Plug, Plugged, Removal};
pub use dma::{AtsPort, DmaPort, Pin, Port};
pub use table::{Device, Iommu};
pub use types::access::{Access, Permissions};
pub use types::ids::{Bdf, GroupId, Pasid, PasidTag, PasidWidth, SpaceId};
pub use types::range::{AddrRange, Segment};

/// The type of memory that is accessed in place, [`vm_memory::VolatileSlice`], and its crate.
pub use vm_memory;
/// The traits of values that a port reads and writes, for one's own structures.
pub use zerocopy;

/// Address translation services (PCIe 6.0, sections 10.1 to 10.3): messages, wire layouts, the
/// device's cache.
pub mod ats {
    pub use crate::api::ats::*;
    pub use crate::dma::{AtsPort, TranslationGuard, TranslationRequestError};
    pub use crate::protocol::ats::InvalidationCounts;
    pub use crate::protocol::ats::atc::{AtcCounts, TranslationAnswer};
}

/// The page request interface (PCIe 6.0, section 10.4): messages, wire layouts, groups and their
/// handlers, and the latencies of page faults.
pub mod pri {
    pub use crate::api::pri::*;
    pub use crate::control::{HandlerRegistration, PageRequestJob};
    #[cfg(not(loom))]
    pub use crate::control::{WorkerConfig, Workers};
    pub use crate::protocol::pri::interface::{GroupOutcome, InterfaceCounts, PageRequestError};
    pub use crate::protocol::pri::queue::PageQueueCounts;
}

/// Bonds, the values that their handlers get, and unbinds in progress.
pub mod bond {
    pub use crate::api::bond::{Bind, BondEnd, IsolationChange, UnbindReport};
    pub use crate::control::{Bond, GroupBond, GroupInfo, Unbinding};
}

/// Containers and mappings, with the results of their operations.
pub mod container {
    pub use crate::api::map::{MapRequest, Mapped, Unmapped};
    pub use crate::control::{Container, ContainerBound, Joined, Leaving};
    pub use crate::types::ids::ContainerId;
}

/// Devices: capabilities, hotplug, removal and reset.
pub mod device {
    pub use crate::api::device::{
        Capabilities, DeviceOps, DeviceSpec, Feature, Features, PasidCapability,
    };
    pub use crate::control::{NotJoined, Plug, Plugged, Removal, Removing, Reset};
    pub use crate::table::Device;
}

/// Ports, by which devices issue transactions, with their errors and faults.
pub mod port {
    pub use crate::api::fault::{DmaCause, DmaError, Fault, FaultReason, HostFailure};
    pub use crate::dma::{AtomicWord, AtsPort, DmaPort, Pin, Port};
}

/// Errors of operations on the IOMMU: one enum per operation, with the values in the variant.
pub mod error {
    pub use crate::api::error::*;
}

/// Events, and counts of objects.
pub mod event {
    pub use crate::api::config::ObjectCounts;
    pub use crate::api::event::{DrainedEvents, Event, Overlap};
    pub use crate::iotlb::IotlbUsage;
}

/// Links, which carry the messages of ATS and PRI of a device.
pub mod link {
    pub use crate::api::link::{DirectLink, Link, LinkEnds, ToDevice, ToIommu};
}

/// The PASID allocator, and owners of PASIDs.
pub mod pasid {
    pub use crate::table::{Exhausted, PasidAllocator};
    pub use crate::types::ids::{Generation, Pasid, PasidTag, PasidWidth};
}

/// The traits and values that a provider of address spaces uses.
pub mod space {
    pub use crate::api::invalidation::Invalidation;
    pub use crate::api::space::{
        AddressSpace, EndReason, ExitWork, Extent, NoSuchFrame, SpaceCapabilities, SpaceEnded,
        SpaceHandle, SpaceWatcher, StopCause, Stopped, WatchToken,
    };
}

/// The traits and values of the bus.
pub mod topology {
    pub use crate::api::topology::*;
    pub use crate::types::ids::RequesterId;
}
