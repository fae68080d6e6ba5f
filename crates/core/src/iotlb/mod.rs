//! The translation cache of the IOMMU (IOTLB): what an access that hits needs, and what an
//! invalidation takes away.
//!
//! Design: docs/design/translation.md. [`table`] holds the entries of all spaces; [`kept`] is what
//! a space knows of its own; [`section`] is how an access through them is waited for; the lane of a
//! port (`crate::port::lane`) is what that remembers.

mod entry;
mod kept;
mod pins;
mod section;
mod table;

pub(crate) use entry::{Entry, Permits};
pub(crate) use kept::Kept;
pub(crate) use pins::{Held, PinSlot, Pins, Waiter};
pub(crate) use section::{Readers, Section, Slot, UnderWay, Word};
pub use table::IotlbUsage;
pub(crate) use table::Table;

#[cfg(all(test, not(loom)))]
mod tests;
