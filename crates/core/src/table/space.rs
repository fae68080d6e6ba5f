//! The part of a bound space that the data path reads.

use std::sync::Arc;

use sva_sync::atomic::{AtomicBool, Ordering};

use crate::api::space::{AddressSpace, SpaceCapabilities};
use crate::iotlb::{IotlbTable, SpaceIotlb};
use crate::types::ids::{PasidTag, SpaceId};

/// What a provider says about a space when the space is bound. It must not change; if it does, the
/// later answers have no effect.
#[derive(Clone, Copy)]
pub(crate) struct SpaceDescription {
    pub(crate) id: SpaceId,
    pub(crate) capabilities: SpaceCapabilities,
}

impl SpaceDescription {
    /// Asks the provider. The caller does not hold the control lock.
    pub(crate) fn of(space: &dyn AddressSpace) -> Self {
        Self { id: space.id(), capabilities: space.capabilities() }
    }
}

/// A space that has a bond, with its PASID.
pub(crate) struct SpaceRecord {
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) id: SpaceId,
    capabilities: SpaceCapabilities,
    pub(crate) tag: PasidTag,
    /// Written under the control lock, and read by every access through a gate.
    has_ended: AtomicBool,
    /// The part of the IOTLB of this space; `None` if its memory cannot be accessed in place.
    pub(crate) iotlb: Option<Arc<SpaceIotlb>>,
}

impl SpaceRecord {
    /// Makes the record. `table` is called if the space can be accessed in place and its provider
    /// is synchronous: a change of the space waits for the accesses through the old translation.
    pub(crate) fn new(
        space: &Arc<dyn AddressSpace>,
        description: SpaceDescription,
        tag: PasidTag,
        table: impl FnOnce() -> Arc<IotlbTable>,
    ) -> Self {
        let SpaceDescription { id, capabilities } = description;
        let iotlb = (capabilities.in_place && capabilities.synchronous)
            .then(|| Arc::new(SpaceIotlb::new(&table(), tag.generation)));
        let has_ended = AtomicBool::new(false);
        Self { space: Arc::clone(space), id, capabilities, tag, has_ended, iotlb }
    }

    pub(crate) fn description(&self) -> SpaceDescription {
        SpaceDescription { id: self.id, capabilities: self.capabilities }
    }

    /// Makes every later access through a gate abort. The caller holds the control lock.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}
