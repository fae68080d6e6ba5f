//! Closing of a PASID entry: the entry is made non-present, its device invalidates its
//! translations, and its page requests are drained. The last of these steps removes the entry from
//! its PASID table.

use std::iter::Sum;
use std::sync::Arc;

use super::iommu::Iommu;
use super::page_target::{PageDrain, PageTarget};
use super::records::PasidEntry;
use crate::api::ats::AlignedRange;

/// What was in flight through entries when they were closed.
#[derive(Default, Clone, Copy)]
pub(crate) struct Drained {
    /// Accesses and pins, which are waited for.
    pub(crate) accesses: usize,
    /// Page request groups, which were answered.
    pub(crate) page_groups: usize,
}

impl Sum for Drained {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            accesses: sum.accesses + one.accesses,
            page_groups: sum.page_groups + one.page_groups,
        })
    }
}

impl Iommu {
    /// Closes an entry: no access enters its gate any more, its device invalidates the translations
    /// of its PASID, and its page requests are drained. Does not wait for accesses through the
    /// gate, pins or the device; each makes a step of the entry when it is over. Spins for accesses
    /// through cached translations. Both numbers are 0 if the entry was closed before.
    pub(crate) fn close_entry(&self, entry: &Arc<PasidEntry>) -> Drained {
        let Some(inside) = entry.gate.close() else { return Drained::default() };
        let pinned = entry.await_readers_and_count_pins();
        let page_groups = self.flush_entry(entry);
        if inside == 0 {
            entry.make_step();
        }
        Drained { accesses: inside + pinned, page_groups }
    }

    /// Starts the invalidation of the device and drains its page requests, after the entry has been
    /// made non-present. Returns the number of groups that were answered.
    fn flush_entry(&self, entry: &Arc<PasidEntry>) -> usize {
        let Some(device) = entry.requester.ats_device() else {
            // ATS was never enabled for this requester, or its device has been removed and its
            // translated requests have ended. The removal has ended its invalidations and forgotten
            // its page requests before it closes entries.
            entry.make_step();
            entry.make_step();
            return 0;
        };
        let pasid = entry.record.tag.pasid;
        self.start_invalidation(&device, Some(pasid), AlignedRange::ALL, entry.waiter());
        let target = PageTarget::Entry(Arc::clone(entry));
        let answered = self.drain_pages(&device, PageDrain::Target(&target));
        // The drain has a step of its own: the device may complete the invalidation before, and the
        // PASID must not be released while page requests for it are queued.
        entry.make_step();
        answered
    }
}
