//! What one port knows by itself, and the short way of an access through that:
//! docs/design/translation.md.

use std::cell::RefCell;
use std::sync::Arc;

use super::DmaPort;
use super::known::{Entrance, Known};
use super::memo::{Memo, Memos, Need};
use super::path::Path;
use super::place::Place;
use crate::ats::Frame;
use crate::fault::AccessMode;
use crate::ids::Pasid;
use crate::iommu::parts::Attachment;
use crate::iotlb::Kept;
use crate::range::{AddrRange, Segment};
use crate::space::AddressSpace;
use crate::sync::barrier;

/// Spaces that a port knows at once.
const KNOWN: usize = 16;
/// Places that say where the bond of a PASID is: a power of two, and some more than there are
/// bonds.
const PLACES: usize = 64;
/// Runs that are learned from one transaction.
const LEARNED: usize = 1024;

/// See the module. There is one once a port has accessed memory that can be accessed in place.
pub(super) struct Lane {
    entrance: Entrance,
    memos: Memos,
    /// One of each PASID; the oldest first.
    known: Vec<Known>,
    /// Where among them the bond is that was looked for last by a PASID with these lowest bits.
    /// Not in the memo: the bond is at hand before that is, and the access does not wait for both,
    /// one after the other.
    places: [u8; PLACES],
}

impl DmaPort {
    /// Where an address leads by what is kept, where that permits the access: found as an access
    /// finds it, and held by nothing once it is answered.
    ///
    /// For models that want to know what an access would cost, and for measuring. Asks no provider;
    /// `None` before the first access there.
    #[inline]
    pub fn kept(&self, pasid: Pasid, address: u64, mode: AccessMode) -> Option<Frame> {
        let (need, then) =
            (Need::of(mode), move |_: &dyn AddressSpace, memo: &Memo| Some(memo.frame(address)));
        match self.in_section(pasid, address, 1, need, then) {
            // The last thing that is done, so that nothing has to be saved for afterwards by those
            // that need it not.
            None => self.in_section_anew(pasid, address, need, then),
            found => found,
        }
    }

    /// Has `op` access `len` bytes by what the port remembers. `None`, with nothing done, where it
    /// does not remember all of them: then [`hit`](Self::hit), or the long way.
    ///
    /// `op` runs in a section: it is short and calls nobody.
    #[inline(always)]
    pub(super) fn remembered<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        need: Need,
        op: impl FnOnce(Place<'_>) -> Option<R>,
    ) -> Option<R> {
        self.in_section(pasid, address, len, need, |space, memo| {
            op(Place { space, frame: memo.frame(address), len, write: need.write() })
        })
    }

    /// As [`remembered`](Self::remembered) for the first bytes, up to `len`, as many as are
    /// together, and also of what the IOMMU has kept. `None` where the access has to go the long
    /// way.
    #[inline]
    pub(super) fn hit<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        need: Need,
        mut op: impl FnMut(Place<'_>) -> Option<R>,
    ) -> Option<R> {
        let then = |space: &dyn AddressSpace, memo: &Memo| {
            op(Place {
                space,
                frame: memo.frame(address),
                len: memo.len_from(address, len),
                write: need.write(),
            })
        };
        self.in_section(pasid, address, 1, need, then)
            .or_else(|| self.recalled(pasid, address, len, need, op))
    }

    /// As [`hit`](Self::hit), where the port does not remember the address.
    #[inline]
    pub(super) fn recalled<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        need: Need,
        op: impl FnOnce(Place<'_>) -> Option<R>,
    ) -> Option<R> {
        self.in_section_anew(pasid, address, need, |space, memo| {
            op(Place {
                space,
                frame: memo.frame(address),
                len: memo.len_from(address, len),
                write: need.write(),
            })
        })
    }

    /// Has `then` look at what is remembered of `len` bytes.
    #[inline(always)]
    fn in_section<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        need: Need,
        then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>,
    ) -> Option<R> {
        // Not where this thread is in the middle of one further up.
        if let Ok(lane) = self.lane.try_borrow_mut()
            && let Some(lane) = lane.as_deref()
            && let Some(memo) = lane.memos.at(pasid, address)
            && let Some(known) = lane.known_by(pasid)
            && known.pasid == pasid
            && memo.stamp() == known.stamp
            && memo.serves(address, len, need)
            && let Some(_section) = lane.entrance.enter(known)
        {
            return then(&*known.space, memo);
        }
        None
    }

    /// As [`in_section`](Self::in_section) of one byte, by what the IOMMU has kept, which is
    /// remembered.
    #[inline(never)]
    fn in_section_anew<R>(
        &self,
        pasid: Pasid,
        address: u64,
        need: Need,
        then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>,
    ) -> Option<R> {
        let mut lane = self.lane.try_borrow_mut().ok()?;
        let Lane { entrance, memos, known, places } = &mut **lane.as_mut()?;
        if memos.are_scarce() {
            memos.grow();
        }
        let mut at = usize::from(places[place_of(pasid)]);
        if known.get(at).is_none_or(|known| known.pasid != pasid) {
            at = known.iter().position(|known| known.pasid == pasid)?;
            places[place_of(pasid)] = at as u8;
        }
        let known = &mut known[at];
        if !entrance.is_up_to_date(known) {
            return None;
        }
        let _section = entrance.enter(known)?;
        let entry = known.find(address, need, &entrance.isolation)?;
        let memo = memos.take(pasid, address, entry.more)?;
        memo.set(entry, need, known.stamp);
        then(&*known.space, memo)
    }
}

impl Lane {
    fn new(path: &Path) -> Box<Self> {
        let slot = Arc::default();
        path.device.readers.add(&slot, 0);
        let entrance = Entrance {
            device: Arc::clone(&path.device),
            slot,
            barrier: barrier::Light::new(),
            isolation: path.device.known_isolation(),
            bus: path.iommu.topology().version().clone(),
            stamp: 0,
        };
        Box::new(Self { entrance, memos: Memos::new(), known: Vec::new(), places: [0; PLACES] })
    }

    /// The bond of a PASID, or another.
    #[inline(always)]
    fn known_by(&self, pasid: Pasid) -> Option<&Known> {
        self.known.get(usize::from(self.places[place_of(pasid)]))
    }

    /// The bond is one to look for from now on.
    fn know(&mut self, entry: &Arc<Attachment>, kept: &Arc<Kept>) {
        let Self { entrance, known: all, .. } = self;
        if all.iter().any(|known| Arc::ptr_eq(&known.attachment, entry)) {
            return;
        }
        // In the place of an earlier bond of the number, so that there is one of each; else of one
        // that has gone.
        let same = all.iter().position(|known| known.pasid == entry.record.tag.pasid);
        let gone = same.or_else(|| all.iter().position(|known| known.attachment.gate.is_closed()));
        // The oldest is the first.
        let leaves = gone.or((all.len() == KNOWN).then_some(0));
        if let Some(at) = leaves {
            let old = all.remove(at);
            // Before the new one is registered: where the space has other bonds, both are of what
            // is kept of it.
            old.kept.readers().remove(&entrance.slot);
        }
        let mut new = Known::new(entry, kept, entrance);
        // While the transaction that has brought it here is inside.
        let _ = entrance.is_up_to_date(&mut new);
        all.push(new);
    }

    /// Learns what the bus says now, and forgets what ended where a peer's window began.
    fn follow_the_bus(&mut self, path: &Path) {
        let Self { entrance, known, .. } = self;
        if !entrance.isolation.is_of(&entrance.bus) {
            entrance.isolation = path.device.isolation(path.iommu.topology());
            known.iter_mut().for_each(|known| known.stamp = entrance.next_stamp());
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Entrance { device, slot, .. } = &self.entrance;
        self.known.iter().for_each(|known| known.kept.readers().remove(slot));
        device.readers.remove(slot);
    }
}

#[inline(always)]
fn place_of(pasid: Pasid) -> usize {
    pasid.get() as usize % PLACES
}

/// Learns from transactions that went the long way, for a port that remembers.
#[derive(Clone, Copy)]
pub(crate) struct Learner<'a>(Option<&'a RefCell<Option<Box<Lane>>>>);

impl<'a> Learner<'a> {
    /// Nothing is remembered.
    pub(crate) const NONE: Self = Self(None);

    pub(super) fn of(port: &'a DmaPort) -> Self {
        Self(Some(&port.lane))
    }

    /// Enters what the provider says about the addresses of a transaction that went well, and knows
    /// the bond from now on. Inside the gates of that transaction: its bond is there.
    pub(super) fn learn(
        self,
        path: &Path,
        entry: &Arc<Attachment>,
        pieces: &[Segment],
        need: Need,
    ) {
        let (Some(lane), Some(kept)) = (self.0, &entry.record.kept) else { return };
        let Ok(mut lane) = lane.try_borrow_mut() else { return };
        let lane = lane.get_or_insert_with(|| Lane::new(path));
        lane.know(entry, kept);
        lane.follow_the_bus(path);
        let mut budget = LEARNED;
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest.filter(|_| budget > 0) {
                budget -= 1;
                let Some(last) = learn_run(kept, &*entry.record.space, range.first(), need) else {
                    break;
                };
                rest =
                    last.checked_add(1).and_then(|next| AddrRange::inclusive(next, range.last()));
            }
        }
    }
}

/// Enters the run that holds `address`, where there is none yet, and answers its last address.
fn learn_run(kept: &Kept, space: &dyn AddressSpace, address: u64, need: Need) -> Option<u64> {
    if let Some(entry) = kept.find(address, need.permits, need.privileged) {
        return Some(entry.range().last());
    }
    // Before the provider is asked: a change that comes after makes the answer one that is not
    // entered (rule T3).
    let generation = kept.generation();
    let run = space.run(address, need.privileged).ok()??;
    kept.fill(generation, &run, address, need.privileged);
    Some(run.range.last())
}
