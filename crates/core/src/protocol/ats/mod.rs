//! Address translation services: the device's cache ([`atc`]) and the IOMMU's invalidations
//! ([`invalidation`]).

pub(crate) mod atc;
mod backlog;
mod counts;
pub(crate) mod invalidation;

pub use counts::InvalidationCounts;
