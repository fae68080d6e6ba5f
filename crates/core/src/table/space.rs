//! What the data path knows of a bound space.

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
    /// Written under the control lock, read by every access that goes through the gates.
    has_ended: AtomicBool,
    /// Its part of the IOTLB, where its memory can be accessed in place.
    pub(crate) iotlb: Option<Arc<SpaceIotlb>>,
}

impl SpaceRecord {
    /// `table` is asked for where the space can be accessed in place and tells of every change.
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

    /// From here on every access aborts. Under the control lock.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}
