//! What a port pins memory with: a slot that says what is pinned, and the table entries by whose
//! spaces the slot is found.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use sva_sync::this_thread;

use crate::api::space::Extent;
use crate::quiesce::PinSlot;
use crate::table::{DeviceRecord, PasidEntry};
use crate::types::ids::{Generation, Pasid, SpaceId};
use crate::types::range::AddrRange;

/// Table entries that a pin record caches at once.
const MAX_ENTRIES: usize = 16;

/// The pin records of a port that are not in use: as many as it has ever had pins at a time.
#[derive(Default)]
pub(super) struct PinPool {
    /// The one that was used last: all that most ports ever have.
    last: Cell<Option<Box<PinRecord>>>,
    #[expect(clippy::vec_box, reason = "they are given away in their boxes")]
    others: RefCell<Vec<Box<PinRecord>>>,
}

impl PinPool {
    /// Takes a record that pins nothing, of a port of this device.
    #[inline]
    pub(super) fn take(&self, device: &Arc<DeviceRecord>) -> Box<PinRecord> {
        self.last.take().unwrap_or_else(|| self.take_other(device))
    }

    #[cold]
    fn take_other(&self, device: &Arc<DeviceRecord>) -> Box<PinRecord> {
        self.others.borrow_mut().pop().unwrap_or_else(|| PinRecord::new(device))
    }

    /// Gives a record back that pins nothing.
    #[inline]
    pub(super) fn give_back(&self, record: Box<PinRecord>) {
        if let Some(other) = self.last.replace(Some(record)) {
            self.give_back_other(other);
        }
    }

    #[cold]
    fn give_back_other(&self, record: Box<PinRecord>) {
        self.others.borrow_mut().push(record);
    }
}

/// Pins memory of one space at a time. It stays where it is, with what it pins: a pin moves as a
/// pointer.
pub(super) struct PinRecord {
    pub(super) slot: Arc<PinSlot>,
    device: Arc<DeviceRecord>,
    /// Counts pins; the slot takes the lowest bits. No smaller type: a compiler may read more than
    /// was written, from the padding beside it, and each pin would wait for the last one's store.
    pin_number: u64,
    /// One of each PASID; the oldest first. Their spaces find the slot.
    entries: Vec<CachedEntry>,
    /// Which of them is in use, or was last.
    current: usize,
    /// What is pinned.
    pub(super) extents: Vec<Extent>,
}

struct CachedEntry {
    pasid: Pasid,
    owner: Generation,
    space: SpaceId,
    entry: Arc<PasidEntry>,
}

impl PinRecord {
    fn new(device: &Arc<DeviceRecord>) -> Box<Self> {
        let slot = Arc::new(PinSlot::new(device.requester.id));
        Box::new(Self {
            slot,
            device: Arc::clone(device),
            pin_number: 0,
            entries: Vec::new(),
            current: 0,
            extents: Vec::new(),
        })
    }

    /// The table entry that is in use, or was last.
    #[inline]
    pub(super) fn entry(&self) -> Option<&PasidEntry> {
        self.entries.get(self.current).map(|cached| &*cached.entry)
    }

    /// The space of that entry.
    #[inline]
    pub(super) fn space(&self) -> Option<SpaceId> {
        self.entries.get(self.current).map(|cached| cached.space)
    }

    /// Uses the cached entry of a PASID; `None` where there is none.
    #[inline]
    pub(super) fn select(&mut self, pasid: Pasid) -> Option<()> {
        if self.entries.get(self.current)?.pasid != pasid {
            self.current = self.entries.iter().position(|cached| cached.pasid == pasid)?;
        }
        Some(())
    }

    /// Caches a table entry and uses it. Not while something is pinned.
    pub(super) fn insert(&mut self, entry: &Arc<PasidEntry>) {
        let is_same = |cached: &CachedEntry| Arc::ptr_eq(&cached.entry, entry);
        if let Some(at) = self.entries.iter().position(is_same) {
            self.current = at;
            return;
        }
        let tag = entry.record.tag;
        // In place of an earlier entry of the PASID, so that there is one of each; else of one that
        // is closed; else of the oldest.
        let same = self.entries.iter().position(|cached| cached.pasid == tag.pasid);
        let closed =
            same.or_else(|| self.entries.iter().position(|cached| cached.entry.gate.is_closed()));
        if let Some(at) = closed.or((self.entries.len() == MAX_ENTRIES).then_some(0)) {
            self.remove(at);
        }
        self.current = self.entries.len();
        self.entries.push(CachedEntry {
            pasid: tag.pasid,
            owner: tag.generation,
            space: entry.record.id,
            entry: Arc::clone(entry),
        });
    }

    /// Pins `range`.
    #[inline]
    pub(super) fn pin(&mut self, range: AddrRange) {
        if let Some(cached) = self.entries.get(self.current) {
            self.pin_number += 1;
            self.slot.pin(cached.owner, self.pin_number, range, this_thread());
        }
    }

    /// Adds the next part of `range`, and pins the range with the first; answers the part's length.
    /// `None` where the table entry is shut. In the critical section in which the part was found:
    /// whoever takes something away and has waited for that section sees the pin.
    #[inline]
    pub(super) fn pin_part(&mut self, range: AddrRange, part: Extent) -> Option<u64> {
        // The port may have found a later entry of the PASID, by whose space this slot is not found
        // yet: the entry here is shut then.
        if self.entry()?.gate.is_shut() {
            return None;
        }
        if self.extents.is_empty() {
            self.pin(range);
        }
        self.extents.push(part);
        Some(part.range.len())
    }

    fn remove(&mut self, at: usize) {
        if let Some(iotlb) = &self.entries.remove(at).entry.record.iotlb {
            iotlb.users().pins.remove(&self.slot);
        }
    }
}

impl Drop for PinRecord {
    fn drop(&mut self) {
        while !self.entries.is_empty() {
            self.remove(0);
        }
        self.device.pins.remove(&self.slot);
    }
}
