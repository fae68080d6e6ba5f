//! What an IOMMU knows: devices, requesters, groups, domains, PASID table entries, spaces, bonds,
//! and the one control lock around all that changes by request.
//!
//! The data path goes from a device through these records to a space without the control lock: each
//! part that changes has a lock, a gate or an atomic of its own, and who writes it holds the control
//! lock as well. It uses `types`, `quiesce`, `api`, `protocol` and `iotlb`.
//!
//! [`PasidEntry`] is one of two sources of PASID table entries that this layout has room for: the
//! one that binds program. The other is a table that a guest owns, whose entries are looked up on a
//! miss; see docs/design/core.md.

mod bonds;
mod device;
mod domain;
mod entry;
mod group;
mod guard;
mod invalidate;
mod iommu;
mod log;
mod pages;
mod pasid;
mod requester;
mod routing;
mod services;
mod space;
mod state;
mod timeouts;
#[cfg(not(loom))]
mod wakeup;

pub(crate) use bonds::{BondKey, BondKind, ExitState, Phase};
pub use device::Device;
pub(crate) use device::DeviceRecord;
pub(crate) use domain::{Domain, DomainAttachment, Mapping};
pub(crate) use entry::PasidEntry;
pub(crate) use guard::{GateGuard, OnDrain};
pub(crate) use iommu::Inner;
pub use iommu::Iommu;
pub(crate) use pages::{FaultTarget, PageDrain, ReadyPages};
pub use pasid::{Exhausted, PasidAllocator};
pub(crate) use requester::Requester;
pub(crate) use routing::{Route, Routing};
pub(crate) use services::{Endpoint, Services};
pub(crate) use space::SpaceRecord;
pub(crate) use state::{ContainerBond, ContainerState, DeferredDrops, SpaceEnd, State};
#[cfg(not(loom))]
pub(crate) use timeouts::OVERDUE_EVERY;
