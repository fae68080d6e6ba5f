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

mod bond;
mod bond_key;
mod bonds;
mod close;
mod device;
mod domain;
mod fault_target;
mod group;
mod guard;
mod invalidate;
mod iommu;
mod log;
#[cfg(not(loom))]
mod page_work;
mod pages;
mod pasid;
mod records;
mod routing;
mod services;
mod space;
mod state;
mod timeouts;
#[cfg(not(loom))]
mod wakeup;

pub(crate) use bond::{BondKind, ExitState, Phase};
pub(crate) use bond_key::BondKey;
pub use device::Device;
pub(crate) use domain::{Domain, DomainAttachment, Mapping};
pub(crate) use fault_target::{FaultTarget, PageDrain, ReadyPages};
pub(crate) use guard::{GateGuard, OnDrain};
pub(crate) use iommu::Inner;
pub use iommu::Iommu;
#[cfg(not(loom))]
pub(crate) use iommu::TICK_INTERVAL;
pub use pasid::{Exhausted, PasidAllocator};
pub(crate) use records::{DeviceRecord, PasidEntry, Requester};
pub(crate) use routing::{Route, Routing};
pub(crate) use services::{Endpoint, Services};
pub(crate) use space::SpaceRecord;
pub(crate) use state::{ContainerBond, ContainerState, DeferredDrops, SpaceEnd, State};
