//! What one port remembers, and the short way of an access through that: docs/design/translation.md.

use std::cell::RefCell;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::DmaPort;
use super::path::Path;
use crate::ats::{Frame, Permissions};
use crate::fault::AccessMode;
use crate::ids::Pasid;
use crate::iommu::parts::{Attachment, DeviceInner, Isolation};
use crate::iotlb::{Kept, Slot};
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, Run};

/// Spaces that a port knows at once.
const KNOWN: usize = 16;
/// Runs that are learned from one transaction.
const LEARNED: usize = 1024;

/// See the module. There is one once a port has accessed memory that can be accessed in place.
pub(super) struct Lane {
    device: Arc<DeviceInner>,
    slot: Arc<Slot>,
    /// Of the section: counts on, and wraps.
    number: u16,
    last: Memo,
    known: Vec<Known>,
    /// Which of them goes next where there are enough.
    turn: usize,
    isolation: Isolation,
}

/// A bond of the device with a space in place, by which the port has accessed that.
struct Known {
    pasid: Pasid,
    attachment: Arc<Attachment>,
    kept: Arc<Kept>,
    space: Arc<dyn AddressSpace>,
}

/// What was found last.
struct Memo {
    /// Which of the [`Lane::known`].
    known: usize,
    pasid: u32,
    privileged: bool,
    range: AddrRange,
    frame: Frame,
    permits: Permissions,
    generation: u64,
}

impl Memo {
    /// Nothing: no access has PASID 0.
    const NONE: Self =
        Self { known: 0, pasid: 0, privileged: false, range: AddrRange::ALL, frame: Frame(0), permits: Permissions::NONE, generation: 0 };

    #[inline]
    fn is_about(&self, pasid: Pasid, address: u64, need: Need) -> bool {
        self.pasid == pasid.get() && self.privileged == need.privileged && self.range.contains(address) && self.permits.covers(need.permits)
    }
}

/// What an access needs of a translation.
#[derive(Clone, Copy)]
pub(super) struct Need {
    permits: Permissions,
    privileged: bool,
}

impl Need {
    /// To read and to write, in user mode.
    pub(super) const ATOMIC: Self = Self { permits: Permissions::READ_WRITE, privileged: false };

    pub(super) fn of(mode: AccessMode) -> Self {
        Self { permits: Permissions::needed_by(mode.access), privileged: mode.privileged }
    }
}

impl DmaPort {
    /// What is kept for an address, where it permits the access: found as an access finds it, and held by nothing once it is answered.
    ///
    /// For models that want to know what an access would cost, and for measuring. Asks no provider; `None` before the first access there.
    #[inline]
    pub fn kept(&self, pasid: Pasid, address: u64, mode: AccessMode) -> Option<Run> {
        self.in_section(pasid, address, Need::of(mode), |_, last| Some(Run { range: last.range, frame: last.frame, permits: last.permits }))
    }

    /// Has `op` access the first bytes, up to `len`, of what is kept for `address`. `None`, with nothing done, where the access has to go the long way.
    ///
    /// `op` runs in a section: it is short and calls nobody.
    #[inline]
    pub(super) fn hit<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        need: Need,
        op: impl FnOnce(VolatileSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.in_section(pasid, address, need, |known, last| {
            let frame = last.frame.offset(address - last.range.first())?;
            let here = usize::try_from(last.range.last() - address).map_or(len, |after| len.min(after.saturating_add(1)));
            op(known.space.memory(frame, here, need.permits.write)?)
        })
    }

    #[inline]
    fn in_section<R>(&self, pasid: Pasid, address: u64, need: Need, then: impl FnOnce(&Known, &Memo) -> Option<R>) -> Option<R> {
        // Not where this thread is in the middle of one further up.
        let mut lane = self.lane.try_borrow_mut().ok()?;
        let Lane { slot, number, last, known, isolation, .. } = lane.as_deref_mut()?;
        let hot = last.is_about(pasid, address, need);
        let at = if hot { last.known } else { known.iter().position(|known| known.pasid == pasid)? };
        let known = known.get(at)?;
        *number = number.wrapping_add(1);
        let _section = slot.enter(known.kept.owner(), *number);
        if self.path.device.gate.is_shut() || known.attachment.gate.is_shut() || !isolation.is_of(self.path.iommu.topology()) {
            return None;
        }
        let generation = known.kept.generation();
        if !hot || last.generation != generation {
            *last = known.find(address, need, generation, isolation)?;
            last.known = at;
        }
        then(known, last)
    }
}

impl Known {
    fn find(&self, address: u64, need: Need, generation: u64, isolation: &Isolation) -> Option<Memo> {
        let granted = self.attachment.features;
        if need.privileged && !granted.privileged || need.permits.execute && !granted.execute {
            return None;
        }
        let entry = self.kept.find(address, need.permits, need.privileged)?;
        let permits = entry.permits().and(Permissions { read: true, write: true, execute: granted.execute });
        let whole = entry.range()?;
        // As far as no peer decodes the address (rule B7).
        let range = whole.intersection(isolation.upstream(address)?)?;
        let frame = entry.frame().offset(range.first() - whole.first())?;
        Some(Memo { known: 0, pasid: self.pasid.get(), privileged: need.privileged, range, frame, permits, generation })
    }
}

impl Lane {
    fn new(path: &Path) -> Box<Self> {
        crate::sync::barrier::prepare();
        let slot = Arc::default();
        path.device.readers.add(&slot);
        Box::new(Self {
            device: Arc::clone(&path.device),
            slot,
            number: 0,
            last: Memo::NONE,
            known: Vec::new(),
            turn: 0,
            isolation: path.device.known_isolation(),
        })
    }

    /// The bond is one to look for from now on.
    fn know(&mut self, entry: &Arc<Attachment>, kept: &Arc<Kept>) {
        let pasid = entry.record.tag.pasid;
        if self.known.iter().any(|known| Arc::ptr_eq(&known.attachment, entry)) {
            return;
        }
        kept.readers().add(&self.slot);
        let new = Known { pasid, attachment: Arc::clone(entry), kept: Arc::clone(kept), space: Arc::clone(&entry.record.space) };
        // In the place of an earlier owner of the number, or of one whose bond has gone.
        let gone = self.known.iter().position(|known| known.pasid == pasid || known.attachment.gate.is_closed());
        self.last = Memo::NONE;
        match gone {
            None if self.known.len() < KNOWN => self.known.push(new),
            _ => {
                self.turn = (self.turn + 1) % KNOWN;
                let at = gone.unwrap_or(self.turn);
                std::mem::replace(&mut self.known[at], new).kept.readers().remove(&self.slot);
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.known.iter().for_each(|known| known.kept.readers().remove(&self.slot));
        self.device.readers.remove(&self.slot);
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
        lane.isolation = path.device.isolation(path.iommu.topology());
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
        return entry.range().map(AddrRange::last);
    }
    // Before the provider is asked: a change that comes after makes the answer one that is not entered (rule T3).
    let generation = kept.generation();
    let run = space.run(address, need.privileged).ok()??;
    kept.fill(generation, &run, address, need.privileged);
    Some(run.range.last())
}
