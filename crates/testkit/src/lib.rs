//! What tests of the core, of devices and of drivers stand on: an in-memory address space, a
//! scripted topology, and slow reference models.
//!
//! Everything here is under the test's control and panics on the test's own mistakes; what comes
//! through [`AddressSpace`](sva_core::AddressSpace) is checked as by any other provider.
#![forbid(unsafe_code)]

pub mod arena;
pub mod forwarding;
pub mod iommu_groups;
mod life;
mod memory;
mod ranges;
pub mod record;
pub mod reference;
pub mod space;
mod table;
pub mod topology;

pub use arena::ArenaSpace;
pub use forwarding::{Forwarding, ForwardingSpace};
pub use record::{Recorded, RecordingSpace};
pub use space::{Change, MemorySpace, PAGE, Protection, Stale, StaleBecause};
pub use topology::{FlatTopology, PeerAccess};
