//! Making an IOMMU, and what providers tell it.

use std::sync::{Arc, Weak};

use crate::api::clock::Clock;
use crate::api::config::IommuConfig;
use crate::api::invalidation::Invalidation;
use crate::api::space::{EndReason, ExitWork, SpaceWatcher};
use crate::api::topology::Topology;
use crate::table::{Inner, Iommu};
use crate::types::ids::SpaceId;
use crate::types::range::AddrRange;

/// What providers hold: it does not keep the system alive.
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
    /// An IOMMU without devices over `topology`. It has no clock: nothing times out, and the times
    /// of faults are not kept.
    pub fn new(topology: Arc<dyn Topology>, config: IommuConfig) -> Self {
        Self::with_watcher(topology, config, None, |inner| Arc::new(Watcher(inner)))
    }

    /// As [`new`](Self::new), with a clock.
    pub fn with_clock(
        topology: Arc<dyn Topology>,
        config: IommuConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::with_watcher(topology, config, Some(clock), |inner| Arc::new(Watcher(inner)))
    }
}
