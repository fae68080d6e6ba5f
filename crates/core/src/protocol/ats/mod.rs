//! Address translation services: the translation cache of a device ([`atc`]), and the invalidation
//! queue that the IOMMU has for each device ([`invalidation`]).

pub(crate) mod atc;
mod backlog;
mod counts;
pub(crate) mod invalidation;

pub use counts::InvalidationCounts;
