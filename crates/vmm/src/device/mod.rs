//! What device models of rust-vmm take: guest memory by I/O virtual addresses.
//!
//! Both public types pin what they translate ([`DmaPort::pin`](sva_core::DmaPort::pin)) for as long
//! as their answer lives: the iterator of slices, or vm-memory's own iterator over an `Iotlb`. All
//! accesses of vm-memory's `Bytes` are made while that lives, so an invalidation waits for them.
//!
//! Inside, from low to high: `error`, `thread_port`, `iommu`, `memory`. The module uses `provider`.

mod error;
mod iommu;
mod memory;
mod thread_port;

pub use iommu::{DeviceIommu, PinnedIotlb};
pub use memory::{DeviceMemory, PinnedSlices};
