//! IOMMU semantics without hardware: devices, groups, containers, bonds, PASIDs, domains.
//!
//! The core never picks a provider of address spaces, a bus, or a clock, and does no I/O. Start at
//! [`Iommu`]: plug [devices](Device) in, bind them to [address spaces](AddressSpace), and let their
//! [ports](DmaPort) work.
#![forbid(unsafe_code)]

pub mod ats;
pub mod bond;
pub mod clock;
pub mod device;
pub mod domain;
pub mod error;
pub mod event;
pub mod fault;
pub mod ids;
pub mod invalidation;
pub mod iommu;
pub mod link;
#[doc(hidden)]
pub mod mutation;
pub mod pasid;
pub mod port;
pub mod pri;
pub mod range;
pub mod space;
pub mod sync;
pub mod topology;
#[cfg(not(loom))]
pub mod workers;

mod callback;
mod gate;
mod iotlb;

pub use ats::{
    AtcCounts, AtsPort, Frame, InvalidationCounts, Permissions, Translation, TranslationAnswer,
};
pub use bond::{Bind, Bond, BondEnd, GroupBond, IsolationChange, UnbindReport, Unbinding};
pub use clock::Clock;
pub use device::{Capabilities, DeviceOps, DeviceSpec, Feature, Features, PasidCapability};
pub use domain::{MapRequest, Protection};
pub use error::{
    BindError, BindGroupError, ContainerBindError, ContainerUnbindError, DomainOf, HandlerError,
    JoinError, LeaveError, MapError, PlugError, Refusal, RemoveError, ResetError, Service,
    ServiceError, Sibling, SpaceRefusal, UnmapError,
};
pub use event::{Drained, Event, Overlap};
pub use fault::{
    Access, AccessMode, DmaCause, DmaError, Fault, FaultReason, HostFailure, OnAbsent,
};
pub use ids::{
    Bdf, ContainerId, Generation, GroupId, Pasid, PasidTag, PasidWidth, RequesterId, SpaceId,
};
pub use invalidation::Invalidation;
pub use iommu::{
    Census, Container, ContainerBound, GroupInfo, HandlerRegistration, Iommu, IommuConfig, Joined,
    Leaving, Mapped, NotJoined, PageWork, Plug, Plugged, Removal, Removing, Reset, Unmapped,
};
pub use iotlb::IotlbUsage;
pub use link::{DirectLink, Link, LinkEnds, ToDevice, ToIommu};
pub use port::{Device, DmaPort, Pin};
pub use pri::{
    FaultQueue, FaultTimes, GroupAnswer, InterfaceCounts, PageCounts, PageRequestGroup,
    PageRequestHandler, ResponseCode,
};
pub use range::{AddrRange, Segment};
pub use space::{
    AddressSpace, EndReason, ExitWork, NoSuchFrame, Run, SpaceCapabilities, SpaceEnded,
    SpaceWatcher, StopCause, Stopped, WatchToken,
};
pub use topology::{
    GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, SharedBecause, Topology, Version,
};
#[cfg(not(loom))]
pub use workers::{WorkerConfig, Workers};
