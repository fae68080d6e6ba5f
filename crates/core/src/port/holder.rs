//! What a port has memory in hand with: a slot in which that is said, and what the slot is found
//! by.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::ids::{Generation, Pasid, SpaceId};
use crate::iommu::parts::{Attachment, DeviceInner};
use crate::iotlb::PinSlot;
use crate::range::AddrRange;
use crate::space::Run;
use crate::sync::this_thread;

/// Bonds that a holder knows at once.
const KNOWN: usize = 16;

/// The holders of a port that have nothing in hand: as many as it has ever had pins at a time.
#[derive(Default)]
pub(super) struct Idle {
    /// The one that was used last: all that most ports ever have.
    last: Cell<Option<Box<Holder>>>,
    #[expect(clippy::vec_box, reason = "they are given away in their boxes")]
    others: RefCell<Vec<Box<Holder>>>,
}

impl Idle {
    /// One that has nothing in hand, of a port of this device.
    #[inline]
    pub(super) fn take(&self, device: &Arc<DeviceInner>) -> Box<Holder> {
        self.last.take().unwrap_or_else(|| self.take_other(device))
    }

    #[cold]
    fn take_other(&self, device: &Arc<DeviceInner>) -> Box<Holder> {
        self.others.borrow_mut().pop().unwrap_or_else(|| Holder::new(device))
    }

    #[inline]
    pub(super) fn give_back(&self, holder: Box<Holder>) {
        if let Some(other) = self.last.replace(Some(holder)) {
            self.give_back_other(other);
        }
    }

    #[cold]
    fn give_back_other(&self, holder: Box<Holder>) {
        self.others.borrow_mut().push(holder);
    }
}

/// Has memory of one space in hand at a time. It stays where it is, and what is in hand with it: a
/// pin is moved as a pointer.
pub(super) struct Holder {
    pub(super) slot: Arc<PinSlot>,
    device: Arc<DeviceInner>,
    /// Of the pin: counts on, and the slot takes the lowest bits. No smaller: a compiler may read
    /// more than was written, from the padding beside it, and each pin would wait for the last
    /// one's store.
    number: u64,
    /// One of each PASID; the oldest first. Their spaces find the slot.
    known: Vec<Known>,
    /// Which of them is in use, or was last.
    current: usize,
    /// What is in hand.
    pub(super) runs: Vec<Run>,
}

struct Known {
    pasid: Pasid,
    owner: Generation,
    space: SpaceId,
    bond: Arc<Attachment>,
}

impl Holder {
    fn new(device: &Arc<DeviceInner>) -> Box<Self> {
        let slot = Arc::new(PinSlot::new(device.requester.id));
        Box::new(Self {
            slot,
            device: Arc::clone(device),
            number: 0,
            known: Vec::new(),
            current: 0,
            runs: Vec::new(),
        })
    }

    /// The bond that is in use, or was last.
    #[inline]
    pub(super) fn bond(&self) -> Option<&Attachment> {
        self.known.get(self.current).map(|known| &*known.bond)
    }

    /// That bond's space.
    #[inline]
    pub(super) fn space(&self) -> Option<SpaceId> {
        self.known.get(self.current).map(|known| known.space)
    }

    /// Has the bond of a PASID be the one in use; `None` where it knows none.
    #[inline]
    pub(super) fn find(&mut self, pasid: Pasid) -> Option<()> {
        if self.known.get(self.current)?.pasid != pasid {
            self.current = self.known.iter().position(|known| known.pasid == pasid)?;
        }
        Some(())
    }

    /// Has this bond be the one in use. Not with something in hand.
    pub(super) fn know(&mut self, bond: &Arc<Attachment>) {
        if let Some(at) = self.known.iter().position(|known| Arc::ptr_eq(&known.bond, bond)) {
            self.current = at;
            return;
        }
        let tag = bond.record.tag;
        // In the place of an earlier bond of the number, so that there is one of each; else of one
        // that has gone.
        let same = self.known.iter().position(|known| known.pasid == tag.pasid);
        let gone = same.or_else(|| self.known.iter().position(|known| known.bond.gate.is_closed()));
        let full = self.known.len() == KNOWN;
        if let Some(at) = gone.or(full.then_some(0)) {
            self.forget(at);
        }
        self.current = self.known.len();
        self.known.push(Known {
            pasid: tag.pasid,
            owner: tag.generation,
            space: bond.record.id,
            bond: Arc::clone(bond),
        });
    }

    /// Says that it has `range` in hand.
    #[inline]
    pub(super) fn pin(&mut self, range: AddrRange) {
        if let Some(known) = self.known.get(self.current) {
            self.number += 1;
            self.slot.pin(known.owner, self.number, range, this_thread());
        }
    }

    /// Has a part of `range` in hand, the next one, and says so with the first; answers its length.
    /// `None` where the bond is none any more. In the section in which the part was found: whoever
    /// takes something away and has waited for that sees what is said here.
    #[inline]
    pub(super) fn pin_part(&mut self, range: AddrRange, part: Run) -> Option<u64> {
        // The port may have found a later bond of the number, which this holder is not yet found
        // by: this one is shut then.
        if self.bond()?.gate.is_shut() {
            return None;
        }
        if self.runs.is_empty() {
            self.pin(range);
        }
        self.runs.push(part);
        Some(part.range.len())
    }

    fn forget(&mut self, at: usize) {
        if let Some(kept) = &self.known.remove(at).bond.record.kept {
            kept.pins().remove(&self.slot);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        while !self.known.is_empty() {
            self.forget(0);
        }
        self.device.pins.remove(&self.slot);
    }
}
