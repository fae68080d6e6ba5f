//! The part of a bound space that the data path reads.

use std::sync::Arc;

use sva_sync::atomic::{AtomicBool, Ordering};

use crate::api::space::AddressSpace;
use crate::iotlb::{IotlbTable, SpaceIotlb};
use crate::types::ids::{PasidTag, SpaceId};

/// A space that has a bond, with its PASID.
pub(crate) struct SpaceRecord {
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) id: SpaceId,
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
        tag: PasidTag,
        table: impl FnOnce() -> Arc<IotlbTable>,
    ) -> Self {
        let can = space.capabilities();
        let iotlb = (can.in_place && can.synchronous)
            .then(|| Arc::new(SpaceIotlb::new(&table(), tag.generation)));
        let has_ended = AtomicBool::new(false);
        Self { space: Arc::clone(space), id: space.id(), tag, has_ended, iotlb }
    }

    /// Makes every later access through a gate abort. The caller holds the control lock.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}
