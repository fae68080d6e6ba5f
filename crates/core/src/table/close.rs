//! Closing a PASID entry: it is made non-present, its device invalidates, its page requests are
//! drained; the last of these steps takes it out of its table.

use std::sync::Arc;

use super::fault_target::{FaultTarget, PageDrain};
use super::iommu::Iommu;
use super::records::PasidEntry;
use crate::api::ats::AlignedRange;
use crate::quiesce::Completion;

impl Iommu {
    /// Closes an entry: no access starts through it any more, its device invalidates what it caches
    /// of it, its page requests are drained. Answers how many accesses were in flight and how many
    /// groups of page requests were answered.
    pub(crate) fn close_entry(&self, entry: &Arc<PasidEntry>) -> (usize, usize) {
        let Some(inside) = entry.gate.close() else { return (0, 0) };
        let pinned = entry.await_cached_accesses();
        let answered = self.flush_entry(entry);
        if inside == 0 {
            Arc::clone(entry).step();
        }
        (inside + pinned, answered)
    }

    /// What follows when an entry has been made non-present: its device invalidates, its page
    /// requests are drained. Answers how many groups were answered.
    fn flush_entry(&self, entry: &Arc<PasidEntry>) -> usize {
        let Some(device) = entry.requester.ats_device() else {
            // No device of it has ever sent a page request or cached a translation.
            Arc::clone(entry).step();
            Arc::clone(entry).step();
            return 0;
        };
        let pasid = entry.record.tag.pasid;
        self.start_invalidation(&device, Some(pasid), AlignedRange::ALL, entry.waiter());
        let target = FaultTarget::Entry(Arc::clone(entry));
        let answered = self.drain_pages(&device, PageDrain::Target(&target));
        // A step of its own: the device may have invalidated before, and the PASID is not released
        // with requests for it in the queue.
        Arc::clone(entry).step();
        answered
    }
}
