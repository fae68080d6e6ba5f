//! Pin records: a pin slot, with the PASID entries whose spaces list that slot.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use sva_sync::this_thread;

use super::cache::replaced_by;
use crate::api::space::Extent;
use crate::quiesce::{PinSlot, callback};
use crate::table::{DeviceRecord, PasidEntry};
use crate::types::ids::{Generation, Pasid, SpaceId};
use crate::types::range::AddrRange;

/// The most PASID entries that a pin record caches.
const MAX_ENTRIES: usize = 16;

/// The pin records of a port that are not in use. There are as many as the port has had pins at a
/// time.
#[derive(Default)]
pub(super) struct PinPool {
    /// The record that was used last. Most ports need no other.
    last: Cell<Option<Box<PinRecord>>>,
    #[expect(clippy::vec_box, reason = "they are given away in their boxes")]
    others: RefCell<Vec<Box<PinRecord>>>,
    /// The slots of all records that were made.
    slots: RefCell<Vec<Arc<PinSlot>>>,
}

impl PinPool {
    /// Removes a record, which pins nothing, from the pool; makes one for `device` if the pool is
    /// empty.
    #[inline]
    pub(super) fn take(&self, device: &Arc<DeviceRecord>) -> Box<PinRecord> {
        let record = self.last.take().unwrap_or_else(|| self.take_other(device));
        record.slot.set_thread(this_thread());
        record
    }

    #[cold]
    fn take_other(&self, device: &Arc<DeviceRecord>) -> Box<PinRecord> {
        self.others.borrow_mut().pop().unwrap_or_else(|| {
            let record = PinRecord::new(device);
            self.slots.borrow_mut().push(Arc::clone(&record.slot));
            record
        })
    }

    /// Returns a record that pins nothing to the pool.
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

impl Drop for PinPool {
    /// Ends the pins that were forgotten, whose records have not come back: the port is gone, and
    /// with it everything that could use the memory.
    fn drop(&mut self) {
        let (last, others) = (self.last.take(), self.others.take());
        let is_back = |slot: &Arc<PinSlot>| {
            last.iter().chain(&others).any(|record| Arc::ptr_eq(&record.slot, slot))
        };
        for slot in self.slots.take().iter().filter(|slot| !is_back(slot)) {
            callback::end_forgotten(slot.thread());
            slot.abandon();
        }
    }
}

/// The record of a pin, which pins memory of one space at a time. It is boxed, so that a pin moves
/// as a pointer.
pub(super) struct PinRecord {
    pub(super) slot: Arc<PinSlot>,
    device: Arc<DeviceRecord>,
    /// Counts the pins; the slot publishes the lowest bits. Not a smaller type: the compiler may
    /// load more bytes than were stored, including the padding, and then each pin would wait for
    /// the store of the previous one.
    pin_number: u64,
    /// At most one for each PASID, the oldest first. Their spaces list the slot.
    entries: Vec<PinPasidEntry>,
    /// The index of the entry that is in use, or was used last.
    current: usize,
    /// The extents that are pinned.
    pub(super) extents: Vec<Extent>,
}

struct PinPasidEntry {
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

    /// The PASID entry that is in use, or was used last.
    #[inline]
    pub(super) fn entry(&self) -> Option<&PasidEntry> {
        self.entries.get(self.current).map(|cached| &*cached.entry)
    }

    /// The space of [`entry`](Self::entry).
    #[inline]
    pub(super) fn space(&self) -> Option<SpaceId> {
        self.entries.get(self.current).map(|cached| cached.space)
    }

    /// Selects the cached entry of a PASID; returns `None` if none is cached.
    #[inline]
    pub(super) fn select(&mut self, pasid: Pasid) -> Option<()> {
        if self.entries.get(self.current)?.pasid != pasid {
            self.current = self.entries.iter().position(|cached| cached.pasid == pasid)?;
        }
        Some(())
    }

    /// Caches a PASID entry and selects it. Nothing may be pinned.
    pub(super) fn insert(&mut self, entry: &Arc<PasidEntry>) {
        let is_same = |cached: &PinPasidEntry| Arc::ptr_eq(&cached.entry, entry);
        if let Some(at) = self.entries.iter().position(is_same) {
            self.current = at;
            return;
        }
        let tag = entry.record.tag;
        let cached = self.entries.iter().map(|cached| (cached.pasid, &*cached.entry));
        if let Some(at) = replaced_by(entry, cached, MAX_ENTRIES) {
            self.remove(at);
        }
        self.current = self.entries.len();
        self.entries.push(PinPasidEntry {
            pasid: tag.pasid,
            owner: tag.generation,
            space: entry.record.id,
            entry: Arc::clone(entry),
        });
    }

    /// Publishes `range` as pinned for the selected entry.
    #[inline]
    pub(super) fn pin(&mut self, range: AddrRange) {
        if let Some(cached) = self.entries.get(self.current) {
            self.pin_number += 1;
            self.slot.pin(cached.owner, self.pin_number, range);
        }
    }

    /// Adds the next part of `range`, and returns its length. The first part pins the whole range.
    /// Returns `None` if the gate of the entry is shut. The caller is in the critical section in
    /// which it found the part, so a thread that revokes the part and waits for that critical
    /// section sees the pin.
    #[inline]
    pub(super) fn pin_part(&mut self, range: AddrRange, part: Extent) -> Option<u64> {
        // The port may have found the part through a later entry of the PASID, whose space does not
        // list this slot yet. In that case the gate of the entry here is shut.
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
