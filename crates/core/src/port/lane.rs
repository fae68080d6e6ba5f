//! What one port remembers, and the short way of an access through that: docs/design/translation.md.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::DmaPort;
use super::path::Path;
use super::place::Place;
use crate::ats::Frame;
use crate::ats::message::PAGE;
use crate::fault::AccessMode;
use crate::ids::Pasid;
use crate::iommu::parts::{Attachment, DeviceInner, Isolation};
use crate::iotlb::{Entry, Kept, Permits, Section, Slot};
use crate::range::{AddrRange, Segment};
use crate::space::AddressSpace;
use crate::topology::Version;

/// Spaces that a port knows at once.
const KNOWN: usize = 16;
/// Translations that a port remembers, each in the place that its page's number says: a power of two.
const MEMOS: usize = 256;
/// Runs that are learned from one transaction.
const LEARNED: usize = 1024;

/// See the module. There is one once a port has accessed memory that can be accessed in place.
pub(super) struct Lane {
    entrance: Entrance,
    memos: [Memo; MEMOS],
    /// One of each PASID; the oldest first.
    known: Vec<Known>,
}

/// Where sections of a port begin, and what says whether they may.
struct Entrance {
    device: Arc<DeviceInner>,
    slot: Arc<Slot>,
    /// Of the section: counts on, and wraps.
    number: Cell<u16>,
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
    whose: Whose,
    /// The first address, and how many follow it.
    first: u64,
    more: u64,
    frame: Frame,
    generation: u64,
    permits: Permits,
    /// Which of the [`Lane::known`].
    known: u8,
}

impl Memo {
    /// Nothing: no access has PASID 0.
    const NONE: Self = Self { whose: Whose(0), first: 0, more: 0, frame: Frame(0), generation: 0, permits: Permits::NONE, known: 0 };

    #[inline]
    fn is_about(&self, whose: Whose, address: u64, need: Need) -> bool {
        self.whose == whose && address.wrapping_sub(self.first) <= self.more && self.permits.covers(need.permits)
    }
}

/// A PASID, and whether with privilege.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Whose(u64);

impl Whose {
    #[inline]
    fn new(pasid: Pasid, privileged: bool) -> Self {
        Self(u64::from(pasid.get()) << 1 | u64::from(privileged))
    }
}

/// What an access needs of a translation.
#[derive(Clone, Copy)]
pub(super) struct Need {
    permits: Permits,
    privileged: bool,
}

impl Need {
    /// To read and to write, in user mode.
    pub(super) const ATOMIC: Self = Self { permits: Permits::READ_WRITE, privileged: false };

    #[inline]
    pub(super) fn of(mode: AccessMode) -> Self {
        Self { permits: Permits::of(mode.access), privileged: mode.privileged }
    }

    fn write(self) -> bool {
        self.permits.covers(Permits::WRITE)
    }
}

impl DmaPort {
    /// Where an address leads by what is kept, where that permits the access: found as an access finds it, and held by nothing once it is answered.
    ///
    /// For models that want to know what an access would cost, and for measuring. Asks no provider; `None` before the first access there.
    #[inline]
    pub fn kept(&self, pasid: Pasid, address: u64, mode: AccessMode) -> Option<Frame> {
        self.in_section(pasid, address, Need::of(mode), |_, memo| Some(Frame(memo.frame.0 + (address - memo.first))))
    }

    /// Has `op` access the first bytes, up to `len`, of what is kept for `address`. `None`, with nothing done, where the access has to go the long way.
    ///
    /// `op` runs in a section: it is short and calls nobody.
    #[inline]
    pub(super) fn hit<R>(&self, pasid: Pasid, address: u64, len: usize, need: Need, op: impl FnOnce(Place<'_>) -> Option<R>) -> Option<R> {
        self.in_section(pasid, address, need, |space, memo| {
            let offset = address - memo.first;
            let after = memo.more - offset;
            let here = if after < len as u64 { after as usize + 1 } else { len };
            op(Place { space, frame: Frame(memo.frame.0 + offset), len: here, write: need.write() })
        })
    }

    #[inline]
    fn in_section<R>(&self, pasid: Pasid, address: u64, need: Need, then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>) -> Option<R> {
        // Not where this thread is in the middle of one further up.
        let mut lane = self.lane.try_borrow_mut().ok()?;
        let lane = &mut **lane.as_mut()?;
        let memo = &lane.memos[place_of(address)];
        if memo.is_about(Whose::new(pasid, need.privileged), address, need)
            && let Some(known) = lane.known.get(usize::from(memo.known))
        {
            let (_section, generation) = lane.entrance.enter(known)?;
            if memo.generation == generation {
                return then(&*known.space, memo);
            }
        }
        lane.in_section_anew(pasid, address, need, then)
    }
}

/// The place of an address among a lane's memos.
#[inline]
fn place_of(address: u64) -> usize {
    (address / PAGE) as usize % MEMOS
}

impl Entrance {
    /// Begins a section, and answers the generation that it sees. `None` where the access may not, or not by the short way.
    #[inline]
    fn enter(&self, known: &Known) -> Option<(Section<'_>, u64)> {
        self.number.set(self.number.get().wrapping_add(1));
        let section = self.slot.enter(known.kept.owner(), self.number.get());
        let shut = self.device.gate.is_shut() || known.attachment.gate.is_shut() || !self.isolation.is_of(&self.bus);
        (!shut).then(|| (section, known.kept.generation()))
    }
}

impl Lane {
    /// As [`DmaPort::in_section`], by what the IOMMU has kept. Out of line, so that the other way stays short.
    #[inline(never)]
    fn in_section_anew<R>(
        &mut self,
        pasid: Pasid,
        address: u64,
        need: Need,
        then: impl FnOnce(&dyn AddressSpace, &Memo) -> Option<R>,
    ) -> Option<R> {
        let at = self.find_known(pasid)?;
        let known = &self.known[at];
        let (_section, generation) = self.entrance.enter(known)?;
        let Entry { first, more, frame, permits } = known.find(address, need, generation, &self.entrance.isolation)?;
        // Word by word, as it is read.
        let memo = &mut self.memos[place_of(address)];
        memo.whose = Whose::new(pasid, need.privileged);
        memo.first = first;
        memo.more = more;
        memo.frame = Frame(frame);
        memo.generation = generation;
        memo.permits = permits;
        memo.known = at as u8;
        then(&*known.space, memo)
    }

    /// The bond of a PASID, by which this port is one that invalidations wait for.
    #[inline]
    fn find_known(&mut self, pasid: Pasid) -> Option<usize> {
        let at = self.known.iter().position(|known| known.pasid == pasid)?;
        let known = &mut self.known[at];
        if known.registered != known.kept.generation() {
            known.registered = known.kept.register(&self.entrance.slot);
        }
        Some(at)
    }
}

impl Known {
    // Always: what it answers is not to go through memory, where it is written in other pieces than it is read.
    #[inline(always)]
    fn find(&self, address: u64, need: Need, generation: u64, isolation: &Isolation) -> Option<Entry> {
        // An invalidation that came in between may have counted on this port not reading.
        if self.registered != generation {
            return None;
        }
        let granted = self.attachment.features;
        if need.privileged && !granted.privileged || need.permits.covers(Permits::EXECUTE) && !granted.execute {
            return None;
        }
        let mut entry = self.kept.find(address, need.permits, need.privileged)?;
        if !isolation.windows().is_empty() {
            entry = upstream_part(entry, address, isolation)?;
        }
        if !granted.execute {
            entry.permits = entry.permits.without(Permits::EXECUTE);
        }
        Some(entry)
    }
}

/// As far around the address as no peer decodes it (rule B7).
#[cold]
fn upstream_part(entry: Entry, address: u64, isolation: &Isolation) -> Option<Entry> {
    let range = entry.range().intersection(isolation.upstream(address)?)?;
    let (first, more) = (range.first(), range.last() - range.first());
    Some(Entry { first, more, frame: entry.frame + (first - entry.first), ..entry })
}

impl Lane {
    fn new(path: &Path) -> Box<Self> {
        let slot = Arc::default();
        path.device.readers.add(&slot, 0);
        let entrance = Entrance {
            device: Arc::clone(&path.device),
            slot,
            number: Cell::new(0),
            isolation: path.device.known_isolation(),
            bus: path.iommu.topology().version().clone(),
        };
        Box::new(Self { entrance, memos: [Memo::NONE; MEMOS], known: Vec::new() })
    }

    /// The bond is one to look for from now on.
    fn know(&mut self, entry: &Arc<Attachment>, kept: &Arc<Kept>) {
        let pasid = entry.record.tag.pasid;
        if self.known.iter().any(|known| Arc::ptr_eq(&known.attachment, entry)) {
            return;
        }
        let (attachment, kept, space) = (Arc::clone(entry), Arc::clone(kept), Arc::clone(&entry.record.space));
        // In the place of an earlier bond of the number, so that there is one of each; else of one that has gone.
        let same = self.known.iter().position(|known| known.pasid == pasid);
        let gone = same.or_else(|| self.known.iter().position(|known| known.attachment.gate.is_closed()));
        let full = self.known.len() == KNOWN;
        // The oldest is the first.
        if let Some(at) = gone.or(full.then_some(0)) {
            let old = self.known.remove(at);
            // Before the new one is registered: where the space has other bonds, both are of what is kept of it.
            old.kept.readers().remove(&self.entrance.slot);
            self.memos = [Memo::NONE; MEMOS];
        }
        let registered = kept.register(&self.entrance.slot);
        self.known.push(Known { pasid, attachment, kept, space, registered });
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
        if !lane.entrance.isolation.is_of(&lane.entrance.bus) {
            lane.entrance.isolation = path.device.isolation(path.iommu.topology());
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
        return Some(entry.range().last());
    }
    // Before the provider is asked: a change that comes after makes the answer one that is not entered (rule T3).
    let generation = kept.generation();
    let run = space.run(address, need.privileged).ok()??;
    kept.fill(generation, &run, address, need.privileged);
    Some(run.range.last())
}
