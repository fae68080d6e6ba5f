//! Errors of operations on the IOMMU: one enum per operation, with the values in the variant.

mod bind;
mod config;
mod map;
mod member;
mod services;

use std::fmt;

use crate::api::topology::SharedBecause;
use crate::types::ids::Bdf;
pub use bind::{
    BindError, BindGroupError, ContainerBindError, ContainerUnbindError, Refusal, SpaceRefusal,
};
pub use config::ConfigError;
pub(crate) use config::in_bounds;
pub use map::{MapError, UnmapError};
pub use member::{JoinError, LeaveError, PlugError, RemoveError};
pub use services::{DomainOf, HandlerError, ResetError, Service, ServiceError};

/// Another member of a device's group, and why the two cannot be isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sibling {
    /// The other member.
    pub device: Bdf,
    /// Why the two share a group.
    pub because: SharedBecause,
}

impl fmt::Display for Sibling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.device, self.because)
    }
}

/// Writes a list with commas, for error messages that name several devices.
pub(crate) struct List<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, item) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}
