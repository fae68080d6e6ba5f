//! The translation cache of the IOMMU (IOTLB): the second level, which all ports share.
//!
//! [`table`] holds the entries of all spaces; [`space`] is the part of one space: where its entries
//! are, and who uses them. The first level is each port's own, in `dma`. It uses `types`, `quiesce`
//! and `api`. Design: docs/design/translation.md.

mod entry;
mod space;
mod table;

pub(crate) use entry::IotlbEntry;
pub(crate) use space::SpaceIotlb;
pub(crate) use table::IotlbTable;
pub use table::IotlbUsage;

#[cfg(all(test, not(loom)))]
mod tests;
