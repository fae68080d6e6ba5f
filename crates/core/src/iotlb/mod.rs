//! The translation cache of the IOMMU (IOTLB): the second-level TLB, which all ports share.
//!
//! [`table`] stores the entries of all spaces. [`space`] has the state of one space: the indices of
//! its entries, and the readers and pins that use them. Each port has its own first-level TLB, in
//! `dma`. This layer uses `types`, `quiesce` and `api`. Design: docs/design/translation.md.

mod entry;
mod space;
mod table;

pub(crate) use entry::IotlbEntry;
pub(crate) use space::SpaceIotlb;
pub(crate) use table::IotlbTable;
pub use table::IotlbUsage;

#[cfg(all(test, not(loom)))]
mod tests;
