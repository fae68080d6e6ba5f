//! What tests of the core, of devices and of drivers stand on: an in-memory address space, a
//! scripted topology, and slow reference models.
//!
//! Everything here is under the test's control and panics on the test's own mistakes; what comes
//! through [`AddressSpace`](sva_core::AddressSpace) is checked as by any other provider.
#![forbid(unsafe_code)]

mod arena;
mod forwarding;
pub mod iommu_groups;
mod lifecycle;
mod pages;
mod protection;
mod ranges;
mod record;
pub mod reference;
mod space;
mod table;
mod topology;

pub use arena::{ArenaChange, ArenaSpace};
pub use forwarding::{Forwarding, ForwardingSpace};
pub use pages::PAGE;
pub use protection::Protection;
pub use record::{Recorded, RecordingSpace};
pub use space::{Change, MemorySpace, StaleAccess, StaleReason};
pub use topology::{FlatTopology, PeerAccess};
