//! What an IOMMU knows: devices, requesters with their PASID tables, groups, domains, spaces, bonds
//! and the PASID allocator. It also holds the control lock and the steps under it that several
//! operations share.
//!
//! This layer uses `types`, `quiesce`, `api`, `protocol` and `iotlb`; `dma` and `control` use it.
//!
//! The control lock ([`Iommu::lock`]) covers everything that operations change. These take it: the
//! operations of `control`, the last step of a PASID entry, a thread that waits for a change or
//! wakes others, an invalidation of a space (to find the devices), a tick, and each page request
//! group once, to find its handler (`control::pages`). An access takes it at no point between the
//! device and the space. What an access reads has a lock, a gate or an atomic of its own. PASID
//! tables, domain attachments and mappings are written with the control lock held as well.
//!
//! Binds program all PASID entries. PASID tables of a guest are not there; docs/design/core.md says
//! where they will fit.

mod bond;
mod bond_key;
mod bonds;
mod close;
mod device;
mod domain;
mod group;
mod guard;
mod invalidate;
mod iommu;
mod log;
mod page_target;
mod pages;
mod pasid;
mod records;
mod routing;
mod services;
mod space;
mod state;
mod state_guard;
mod timeouts;
#[cfg(not(loom))]
mod wakeup;
#[cfg(not(loom))]
mod worker_wait;

pub(crate) use bond::{BondKind, ExitState, Phase};
pub(crate) use bond_key::BondKey;
pub(crate) use close::Drained;
pub use device::Device;
pub(crate) use domain::{Domain, DomainAttachment, Mapping};
pub(crate) use guard::{GateGuard, OnDrain};
pub(crate) use iommu::Inner;
pub use iommu::Iommu;
#[cfg(not(loom))]
pub(crate) use iommu::TICK_INTERVAL;
pub(crate) use page_target::{PageDrain, PageTarget, ReadyPageGroup};
pub use pasid::{Exhausted, PasidAllocator};
pub(crate) use records::{DeviceRecord, PasidEntry, Requester};
pub(crate) use routing::{Route, Routing};
pub(crate) use services::{Endpoint, Services};
pub(crate) use space::{SpaceDescription, SpaceRecord};
pub(crate) use state::{
    ContainerBond, ContainerState, DeferredDrops, EndedSpace, State, WatchNumber,
};
pub(crate) use state_guard::StateGuard;
