//! What one port knows by itself, and the short way of an access through that: docs/design/translation.md.

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
/// Runs that are learned from one transaction.
const LEARNED: usize = 1024;

/// See the module. There is one once a port has accessed memory that can be accessed in place.
pub(super) struct Lane {
    entrance: Entrance,
    memos: Memos,
    /// One of each PASID; the oldest first.
    known: Vec<Known>,
}

impl DmaPort {
    /// Where an address leads by what is kept, where that permits the access: found as an access finds it, and held by nothing once it is answered.
    ///
    /// For models that want to know what an access would cost, and for measuring. Asks no provider; `None` before the first access there.
    #[inline]
    pub fn kept(&self, pasid: Pasid, address: u64, mode: AccessMode) -> Option<Frame> {
        self.in_section(pasid, address, Need::of(mode), |_, memo| Some(memo.frame(address)))
    }

    /// Has `op` access the first bytes, up to `len`, of what is kept for `address`. `None`, with nothing done, where the access has to go the long way.
    ///
    /// `op` runs in a section: it is short and calls nobody.
    #[inline(always)]
    pub(super) fn hit<R>(&self, pasid: Pasid, address: u64, len: usize, need: Need, op: impl FnOnce(Place<'_>) -> Option<R>) -> Option<R> {
        self.in_section(pasid, address, need, |space, memo| {
            op(Place { space, frame: memo.frame(address), len: memo.len_from(address, len), write: need.write() })
        })
    }

    #[inline(always)]
    fn in_section<R>(&self, pasid: Pasid, address: u64, need: Need, then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>) -> Option<R> {
        // Not where this thread is in the middle of one further up.
        if let Ok(lane) = self.lane.try_borrow_mut()
            && let Some(lane) = lane.as_deref()
            && let Some(memo) = lane.memos.at(pasid, address)
            && let Some(known) = lane.known.get(memo.known())
            && memo.stamp() == known.stamp
            && known.pasid == pasid
            && memo.serves(address, need)
            && let Some(_section) = lane.entrance.enter(known)
        {
            return then(&*known.space, memo);
        }
        // The last thing that is done, so that nothing has to be saved for afterwards by those that need it not.
        self.in_section_anew(pasid, address, need, then)
    }

    /// As [`in_section`](Self::in_section), by what the IOMMU has kept.
    #[inline(never)]
    fn in_section_anew<R>(
        &self,
        pasid: Pasid,
        address: u64,
        need: Need,
        then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>,
    ) -> Option<R> {
        let mut lane = self.lane.try_borrow_mut().ok()?;
        let Lane { entrance, memos, known } = &mut **lane.as_mut()?;
        if memos.are_scarce() {
            memos.grow();
        }
        let at = known.iter().position(|known| known.pasid == pasid)?;
        let known = &mut known[at];
        if !entrance.is_up_to_date(known) {
            return None;
        }
        let _section = entrance.enter(known)?;
        let entry = known.find(address, need, &entrance.isolation)?;
        let memo = memos.take(pasid, address)?;
        memo.set(entry, need, at, known.stamp);
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
        Box::new(Self { entrance, memos: Memos::new(), known: Vec::new() })
    }

    /// The bond is one to look for from now on.
    fn know(&mut self, entry: &Arc<Attachment>, kept: &Arc<Kept>) {
        let Self { entrance, known: all, .. } = self;
        if all.iter().any(|known| Arc::ptr_eq(&known.attachment, entry)) {
            return;
        }
        // In the place of an earlier bond of the number, so that there is one of each; else of one that has gone.
        let same = all.iter().position(|known| known.pasid == entry.record.tag.pasid);
        let gone = same.or_else(|| all.iter().position(|known| known.attachment.gate.is_closed()));
        // The oldest is the first.
        let leaves = gone.or((all.len() == KNOWN).then_some(0));
        if let Some(at) = leaves {
            let old = all.remove(at);
            // Before the new one is registered: where the space has other bonds, both are of what is kept of it.
            old.kept.readers().remove(&entrance.slot);
            // They have other places now.
            all.iter_mut().for_each(|known| known.stamp = entrance.next_stamp());
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

/// Learns from transactions that went the long way, for a port that remembers.
#[derive(Clone, Copy)]
pub(crate) struct Learner<'a>(Option<&'a RefCell<Option<Box<Lane>>>>);

impl<'a> Learner<'a> {
    /// Nothing is remembered.
    pub(crate) const NONE: Self = Self(None);

    pub(super) fn of(port: &'a DmaPort) -> Self {
        Self(Some(&port.lane))
    }

    /// Enters what the provider says about the addresses of a transaction that went well, and knows the bond from now on. Inside the gates of that transaction: its bond is there.
    pub(super) fn learn(self, path: &Path, entry: &Arc<Attachment>, pieces: &[Segment], need: Need) {
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
                let Some(last) = learn_run(kept, &*entry.record.space, range.first(), need) else { break };
                rest = last.checked_add(1).and_then(|next| AddrRange::inclusive(next, range.last()));
            }
        }
    }
}

/// Enters the run that holds `address`, where there is none yet, and answers its last address.
fn learn_run(kept: &Kept, space: &dyn AddressSpace, address: u64, need: Need) -> Option<u64> {
    if let Some(entry) = kept.find(address, need.permits, need.privileged) {
        return Some(entry.range().last());
    }
    // Before the provider is asked: a change that comes after makes the answer one that is not entered (rule T3).
    let generation = kept.generation();
    let run = space.run(address, need.privileged).ok()??;
    kept.fill(generation, &run, address, need.privileged);
    Some(run.range.last())
}
