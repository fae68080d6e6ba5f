//! IOMMU semantics without hardware: devices, groups, containers, bonds, PASIDs, domains.
#![forbid(unsafe_code)]

pub mod device;
pub mod pasid;
pub mod sync;

mod callback;
mod gate;

pub mod fault;
pub mod ids;
pub mod range;
pub mod space;
pub mod topology;

pub use device::{Capabilities, DeviceSpec, Features, PasidCapability};
pub use fault::{Access, AccessMode, DmaCause, DmaError, Fault, FaultReason, HostFailure, OnAbsent};
pub use ids::{Bdf, ContainerId, Generation, GroupId, Pasid, PasidTag, PasidWidth, RequesterId, SpaceId};
pub use range::{AddrRange, Segment};
pub use space::{AddressSpace, EndReason, ExitWork, SpaceCapabilities, SpaceEnded, SpaceWatcher, StopCause, Stopped, WatchToken};
pub use topology::{GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, SharedBecause, Topology};
