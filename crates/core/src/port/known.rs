//! Bonds that a port knows, and where its sections begin.

use std::sync::Arc;

use super::memo::Need;
use crate::ids::Pasid;
use crate::iommu::parts::{Attachment, DeviceInner, Isolation};
use crate::iotlb::{Entry, Kept, Permits, Section, Slot, Word};
use crate::space::AddressSpace;
use crate::sync::barrier;
use crate::topology::Version;

/// Where sections of a port begin.
pub(super) struct Entrance {
    pub(super) device: Arc<DeviceInner>,
    pub(super) slot: Arc<Slot>,
    pub(super) barrier: barrier::Light,
    pub(super) isolation: Isolation,
    pub(super) bus: Version,
    /// The stamp that was given last.
    pub(super) stamp: u64,
}

/// A bond of the device with a space in place, by which the port has accessed that.
pub(super) struct Known {
    pub(super) pasid: Pasid,
    /// Up to which news this is right, and what a section says that knows of them.
    news: u64,
    word: Word,
    /// Another one whenever what was found before may be wrong.
    pub(super) stamp: u64,
    /// What the bond grants at most.
    granted: Permits,
    /// The generation of which invalidations know that this port reads.
    generation: u64,
    pub(super) attachment: Arc<Attachment>,
    pub(super) kept: Arc<Kept>,
    pub(super) space: Arc<dyn AddressSpace>,
}

/// Of news that nobody has had.
const NEVER: u64 = u64::MAX;

impl Entrance {
    /// Begins a section, unless there is news. Whatever says that an access may not is news, but
    /// for the bus, which tells nobody.
    #[inline(always)]
    pub(super) fn enter(&self, known: &Known) -> Option<Section<'_>> {
        let section = self.slot.enter(known.word, self.barrier);
        (self.slot.news() == known.news && self.isolation.is_of(&self.bus)).then_some(section)
    }

    /// Whether accesses by what is kept may go on, also after news.
    #[inline]
    pub(super) fn is_up_to_date(&mut self, known: &mut Known) -> bool {
        known.news == self.slot.news() || self.catch_up(known)
    }

    /// Looks at all that can have been taken away. Not in a section.
    #[cold]
    fn catch_up(&mut self, known: &mut Known) -> bool {
        // First: what is told from here on is news again.
        let news = self.slot.news();
        if known.generation != known.kept.generation() {
            known.generation = known.kept.register(&self.slot);
            known.stamp = self.next_stamp();
        }
        // After the registration: who has taken something away without telling this port has done
        // so before that.
        let holds = !self.device.gate.is_shut() && !known.attachment.gate.is_shut();
        if holds {
            (known.news, known.word) = (news, Word::new(known.kept.owner(), news));
        }
        holds
    }

    /// What was found with another stamp is not remembered any more.
    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}

impl Known {
    pub(super) fn new(
        attachment: &Arc<Attachment>,
        kept: &Arc<Kept>,
        entrance: &mut Entrance,
    ) -> Self {
        let (attachment, kept, space) =
            (Arc::clone(attachment), Arc::clone(kept), Arc::clone(&attachment.record.space));
        let (execute, privileged) = (attachment.features.execute, attachment.features.privileged);
        let may = |what, is_granted| if is_granted { what } else { Permits::NONE };
        Self {
            pasid: attachment.record.tag.pasid,
            news: NEVER,
            word: Word::new(kept.owner(), NEVER),
            stamp: entrance.next_stamp(),
            granted: Permits::READ_WRITE
                .with(Permits::USER)
                .with(may(Permits::EXECUTE, execute))
                .with(may(Permits::PRIVILEGED, privileged)),
            generation: kept.register(&entrance.slot),
            attachment,
            kept,
            space,
        }
    }

    // Always: what it answers is not to go through memory, where it is written in other pieces than
    // it is read.
    #[inline(always)]
    pub(super) fn find(&self, address: u64, need: Need, isolation: &Isolation) -> Option<Entry> {
        if !self.granted.covers(need.all()) {
            return None;
        }
        let mut entry = self.kept.find(address, need.permits, need.privileged)?;
        if !isolation.windows().is_empty() {
            // As far around the address as no peer decodes it (rule B7).
            let gap = isolation.upstream(address)?;
            let (first, last) =
                (entry.first.max(gap.first()), (entry.first + entry.more).min(gap.last()));
            entry.frame += first - entry.first;
            (entry.first, entry.more) = (first, last - first);
        }
        entry.permits = entry.permits.and(self.granted);
        Some(entry)
    }
}
