//! What one port remembers, and the short way of an access through that: docs/design/translation.md.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::DmaPort;
use super::path::Path;
use crate::ats::message::PAGE;
use crate::ats::{Frame, Permissions};
use crate::fault::AccessMode;
use crate::ids::Pasid;
use crate::iommu::parts::{Attachment, DeviceInner, Isolation};
use crate::iotlb::{Kept, Section, Slot};
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, Run};
use crate::topology::Version;

/// Spaces that a port knows at once.
const KNOWN: usize = 16;
/// Translations that a port remembers, each in the place that its page's number says: a power of two.
const MEMOS: usize = 64;
/// Runs that are learned from one transaction.
const LEARNED: usize = 1024;

/// See the module. There is one once a port has accessed memory that can be accessed in place.
pub(super) struct Lane {
    device: Arc<DeviceInner>,
    slot: Arc<Slot>,
    /// Of the section: counts on, and wraps.
    number: Cell<u16>,
    memos: [Memo; MEMOS],
    known: Vec<Known>,
    /// Which of them goes next where there are enough.
    turn: usize,
    isolation: Isolation,
    bus: Version,
}

/// A bond of the device with a space in place, by which the port has accessed that.
struct Known {
    pasid: Pasid,
    attachment: Arc<Attachment>,
    kept: Arc<Kept>,
    space: Arc<dyn AddressSpace>,
    /// The generation of which invalidations know that this port reads.
    registered: u64,
}

/// A translation that was found.
#[derive(Clone, Copy)]
struct Memo {
    range: AddrRange,
    frame: Frame,
    generation: u64,
    pasid: u32,
    /// Which of the [`Lane::known`].
    known: u8,
    privileged: bool,
    permits: Permissions,
}

impl Memo {
    /// Nothing: no access has PASID 0.
    const NONE: Self =
        Self { range: AddrRange::ALL, frame: Frame(0), generation: 0, pasid: 0, known: 0, privileged: false, permits: Permissions::NONE };

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

    #[inline]
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
        self.in_section(pasid, address, Need::of(mode), |_, memo| Some(Run { range: memo.range, frame: memo.frame, permits: memo.permits }))
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
        self.in_section(pasid, address, need, |space, memo| {
            let frame = memo.frame.offset(address - memo.range.first())?;
            let here = usize::try_from(memo.range.last() - address).map_or(len, |after| len.min(after.saturating_add(1)));
            op(space.memory(frame, here, need.permits.write)?)
        })
    }

    #[inline]
    fn in_section<R>(&self, pasid: Pasid, address: u64, need: Need, then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>) -> Option<R> {
        // Not where this thread is in the middle of one further up.
        let mut lane = self.lane.try_borrow_mut().ok()?;
        let lane = &mut **lane.as_mut()?;
        let place = (address / PAGE) as usize % MEMOS;
        let memo = &lane.memos[place];
        if memo.is_about(pasid, address, need)
            && let Some(known) = lane.known.get(usize::from(memo.known))
        {
            let (_section, generation) = lane.enter(known)?;
            if memo.generation == generation {
                return then(&*known.space, memo);
            }
        }
        let known = lane.find_known(pasid)?;
        let (_section, generation) = lane.enter(&lane.known[known])?;
        let memo = lane.known[known].find(address, need, generation, &lane.isolation)?;
        let done = then(&*lane.known[known].space, &memo);
        drop(_section);
        lane.memos[place] = Memo { known: known as u8, ..memo };
        done
    }
}

impl Lane {
    /// Begins a section, and answers the generation that it sees. `None` where the access may not, or not by the short way.
    #[inline]
    fn enter<'a>(&'a self, known: &Known) -> Option<(Section<'a>, u64)> {
        self.number.set(self.number.get().wrapping_add(1));
        let section = self.slot.enter(known.kept.owner(), self.number.get());
        let shut = self.device.gate.is_shut() || known.attachment.gate.is_shut() || !self.isolation.is_of(&self.bus);
        (!shut).then(|| (section, known.kept.generation()))
    }

    /// The bond of a PASID, by which this port is one that invalidations wait for.
    #[inline]
    fn find_known(&mut self, pasid: Pasid) -> Option<usize> {
        let at = self.known.iter().position(|known| known.pasid == pasid)?;
        let known = &mut self.known[at];
        if known.registered != known.kept.generation() {
            known.registered = known.kept.register(&self.slot);
        }
        Some(at)
    }
}

impl Known {
    fn find(&self, address: u64, need: Need, generation: u64, isolation: &Isolation) -> Option<Memo> {
        // An invalidation that came in between may have counted on this port not reading.
        if self.registered != generation {
            return None;
        }
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
        Some(Memo { range, frame, generation, pasid: self.pasid.get(), known: 0, privileged: need.privileged, permits })
    }
}

impl Lane {
    fn new(path: &Path) -> Box<Self> {
        let slot = Arc::default();
        path.device.readers.add(&slot, 0);
        Box::new(Self {
            device: Arc::clone(&path.device),
            slot,
            number: Cell::new(0),
            memos: [Memo::NONE; MEMOS],
            known: Vec::new(),
            turn: 0,
            isolation: path.device.known_isolation(),
            bus: path.iommu.topology().version().clone(),
        })
    }

    /// The bond is one to look for from now on.
    fn know(&mut self, entry: &Arc<Attachment>, kept: &Arc<Kept>) {
        let pasid = entry.record.tag.pasid;
        if self.known.iter().any(|known| Arc::ptr_eq(&known.attachment, entry)) {
            return;
        }
        let (attachment, kept, space) = (Arc::clone(entry), Arc::clone(kept), Arc::clone(&entry.record.space));
        let registered = kept.register(&self.slot);
        let new = Known { pasid, attachment, kept, space, registered };
        // In the place of an earlier owner of the number, or of one whose bond has gone.
        let gone = self.known.iter().position(|known| known.pasid == pasid || known.attachment.gate.is_closed());
        match gone {
            None if self.known.len() < KNOWN => self.known.push(new),
            _ => {
                self.turn = (self.turn + 1) % KNOWN;
                let at = gone.unwrap_or(self.turn);
                std::mem::replace(&mut self.known[at], new).kept.readers().remove(&self.slot);
                self.memos = [Memo::NONE; MEMOS];
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
        if !lane.isolation.is_of(&lane.bus) {
            lane.isolation = path.device.isolation(path.iommu.topology());
            // They end where a peer's window began.
            lane.memos = [Memo::NONE; MEMOS];
        }
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
