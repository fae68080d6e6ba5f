//! Values and traits that the IOMMU shares with its drivers, providers, devices and bus.
//!
//! It uses `types` and, for [`invalidation`], `quiesce`.

pub(crate) mod ats;
pub(crate) mod bond;
pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod device;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod fault;
pub(crate) mod invalidation;
pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod pri;
pub(crate) mod space;
pub(crate) mod topology;
