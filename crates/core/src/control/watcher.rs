//! The watcher by which providers report changes and the end of a space, and the constructors of an
//! IOMMU, which make it.

use std::sync::{Arc, Weak};

use crate::api::clock::Clock;
use crate::api::config::IommuConfig;
use crate::api::error::ConfigError;
use crate::api::invalidation::Invalidation;
use crate::api::space::{EndReason, ExitWork, SpaceWatcher};
use crate::api::topology::Topology;
use crate::table::{Inner, Iommu};
use crate::types::ids::SpaceId;
use crate::types::range::AddrRange;

/// The IOMMU as providers hold it. The reference is weak, so a provider does not keep the IOMMU
/// alive; once the IOMMU is dropped, reports do nothing.
struct Watcher(Weak<Inner>);

impl SpaceWatcher for Watcher {
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork {
        Iommu::upgrade(&self.0)
            .map_or_else(ExitWork::none, |iommu| iommu.space_ended(space, reason))
    }

    fn invalidate(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        Iommu::upgrade(&self.0)
            .map_or_else(Invalidation::none, |iommu| iommu.invalidate_space(space, range))
    }
}

impl Iommu {
    /// Makes an IOMMU without devices over `topology`. It has no clock: no invalidation and no page
    /// request times out, and no times of faults are recorded.
    ///
    /// # Panics
    /// A setting is out of its bounds. For settings from outside use [`try_new`](Self::try_new).
    pub fn new(topology: Arc<dyn Topology>, config: IommuConfig) -> Self {
        accepted(Self::try_new(topology, config, None))
    }

    /// Makes an IOMMU as [`new`](Self::new) does, with a clock.
    ///
    /// # Panics
    /// A setting is out of its bounds. For settings from outside use [`try_new`](Self::try_new).
    pub fn with_clock(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        accepted(Self::try_new(topology, config, Some(clock)))
    }

    /// Makes an IOMMU as [`new`](Self::new) does, with a clock if there is one.
    ///
    /// # Errors
    /// A setting is out of its bounds.
    pub fn try_new(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Option<Arc<dyn Clock>>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::with_watcher(topology, config, clock, |inner| Arc::new(Watcher(inner))))
    }
}

/// The IOMMU, if its settings are in their bounds.
fn accepted(made: Result<Iommu, ConfigError>) -> Iommu {
    made.unwrap_or_else(|error| panic!("{error}"))
}
