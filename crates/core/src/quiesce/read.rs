//! Read-side critical sections: how an access through a cached translation says that it is in
//! flight, and how an invalidation waits for it.
//!
//! The reader stores into its slot whose memory it accesses, then looks whether anything has been
//! revoked since it last checked, then accesses, then clears the slot. All of these are plain loads
//! and stores. Whoever takes something away makes that visible first (a gate closed, an entry
//! removed, a sequence number counted up), then counts up the revocations of the slots concerned,
//! passes a barrier on every running thread, and reads the slots. Either the reader's store came
//! before the barrier: then it is seen and waited for. Or the reader's look came after the barrier:
//! then it sees the revocation, and what was revoked.
//!
//! The scheme is that of hazard slots with an asymmetric barrier, as in RCU's expedited grace
//! periods. Rejected: a counter of critical sections in each slot in place of the tag. Each access
//! then waits for the store of the one before it (0.9 ns).

use std::sync::Arc;

use sva_sync::atomic::{AtomicU64, Ordering};
use sva_sync::{Backoff, Mutex, barrier};

use super::pin::PinSlots;
use crate::types::ids::Generation;

/// Bits of a tag that hold the lowest bits of the revocation count, so that a critical section from
/// before a revocation is told from one after it.
const REVOCATION_BITS: u32 = 16;

/// What one port and those that revoke something say to one another. It has a cache line of its
/// own, with the next one, which the processor prefetches along.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ReaderSlot {
    /// The tag of the critical section that the port is in; 0: none. Only the port writes it.
    current: AtomicU64,
    /// Counted up by whoever has taken something away. A hit looks at this one number in place of
    /// all the things that can be taken away.
    revocations: AtomicU64,
}

/// What a slot says in a critical section: whose memory is accessed, and up to which revocation the
/// reader has checked.
#[derive(Clone, Copy)]
pub(crate) struct ReaderTag(u64);

impl ReaderTag {
    pub(crate) fn new(owner: Generation, revocations: u64) -> Self {
        // Generations count binds: 2^48 are not reached.
        Self(owner.0 << REVOCATION_BITS | revocations & ((1 << REVOCATION_BITS) - 1))
    }
}

impl ReaderSlot {
    /// Begins a critical section.
    #[inline(always)]
    pub(crate) fn enter(&self, tag: ReaderTag, barrier: barrier::Light) -> ReadGuard<'_> {
        // Release: who finds this section in place of the one before it knows that the accesses of
        // that one are over.
        self.current.store(tag.0, Ordering::Release);
        barrier.pass();
        ReadGuard(self)
    }

    /// How often something has been revoked. Acquire: what was revoked is seen after this.
    #[inline]
    pub(crate) fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    fn revoke(&self) {
        // Release: whoever sees the new count sees what has been taken away.
        self.revocations.fetch_add(1, Ordering::Release);
    }

    /// The critical section that the port is in, where it is one of that owner's memory; of any
    /// owner without one.
    fn current_of(&self, owner: Option<Generation>) -> Option<u64> {
        // Acquire: the accesses of a section that is over are over.
        let tag = self.current.load(Ordering::Acquire);
        (tag != 0 && owner.is_none_or(|owner| tag >> REVOCATION_BITS == owner.0)).then_some(tag)
    }

    /// Waits until the critical section that the port is in now is over.
    fn await_current(&self, owner: Option<Generation>) {
        let mut backoff = Backoff::default();
        let begun = self.current_of(owner);
        // The next section that gets as far as an access has seen the revocation, so its tag is
        // another one.
        while begun.is_some() && self.current_of(owner) == begun {
            backoff.wait();
        }
    }
}

/// An access through a cached translation is in flight as long as this lives.
pub(crate) struct ReadGuard<'a>(&'a ReaderSlot);

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: the access is over before this is seen.
        self.0.current.store(0, Ordering::Release);
    }
}

/// The ports whose critical sections may have to be waited for: those of a device, or those that
/// read the cached translations of a space. Each with the sequence number at which it registered.
#[derive(Default)]
pub(crate) struct Readers(Mutex<Vec<(Arc<ReaderSlot>, u64)>>);

impl Readers {
    /// Registers a slot. Whoever does not find it has taken away before, and the reader, which
    /// looks after this, sees that.
    pub(crate) fn register(&self, slot: &Arc<ReaderSlot>, seq: u64) {
        let mut slots = self.0.lock();
        match slots.iter_mut().find(|(known, _)| Arc::ptr_eq(known, slot)) {
            Some((_, since)) => *since = seq,
            None => slots.push((Arc::clone(slot), seq)),
        }
    }

    /// Unregisters a slot: the port is gone, or has forgotten the space.
    pub(crate) fn unregister(&self, slot: &Arc<ReaderSlot>) {
        self.0.lock().retain(|(known, _)| !Arc::ptr_eq(known, slot));
    }

    /// Counts up the revocations of all registered slots, and answers what `watch` makes of them.
    /// What is taken away has been taken before this; who registers later sees it.
    fn revoke<W>(&self, watch: impl Fn(Arc<ReaderSlot>, u64) -> W) -> Vec<W> {
        let slots = self.0.lock();
        slots.iter().for_each(|(slot, _)| slot.revoke());
        slots.iter().map(|(slot, since)| watch(Arc::clone(slot), *since)).collect()
    }

    /// Unregisters a slot that was registered at `since` and not again. Before its next access the
    /// port sees that the sequence number has moved on, and registers again; until then nobody has
    /// to wait for it. Otherwise each invalidation would interrupt every running thread of the
    /// process for a port that has not been used for long.
    fn retire(&self, slot: &Arc<ReaderSlot>, since: u64) {
        let mut slots = self.0.lock();
        if let Some(at) =
            slots.iter().position(|(known, then)| *then == since && Arc::ptr_eq(known, slot))
        {
            slots.swap_remove(at);
        }
    }
}

/// Who uses the cached translations of one space, and how often some of them were invalidated.
pub(crate) struct SpaceUsers {
    owner: Generation,
    /// Counts invalidations and the end of the space; as KVM's `mmu_invalidate_seq`.
    invalidate_seq: AtomicU64,
    pub(crate) readers: Readers,
    pub(crate) pins: PinSlots,
}

impl SpaceUsers {
    pub(crate) fn new(owner: Generation) -> Arc<Self> {
        Arc::new(Self {
            owner,
            invalidate_seq: AtomicU64::new(0),
            readers: Readers::default(),
            pins: PinSlots::default(),
        })
    }

    /// The owner of the PASID that the space has.
    pub(crate) fn owner(&self) -> Generation {
        self.owner
    }

    /// A translation that was found at this number or later may hold; one from before may not.
    #[inline]
    pub(crate) fn invalidate_seq(&self) -> u64 {
        self.invalidate_seq.load(Ordering::Acquire)
    }

    /// Counts an invalidation and answers the new number.
    pub(crate) fn invalidated(&self) -> u64 {
        self.invalidate_seq.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Registers a port as reader and answers the number as of which invalidations wait for it. Not
    /// to be called in a critical section.
    pub(crate) fn register(&self, slot: &Arc<ReaderSlot>) -> u64 {
        let seq = self.invalidate_seq();
        self.readers.register(slot, seq);
        seq
    }
}

/// Waits for the critical sections that were there when it began. Each is one copy or one atomic
/// operation and runs no foreign code.
#[derive(Default)]
#[must_use = "what was taken away may still be in use"]
pub(crate) struct GracePeriod(Vec<AwaitedReader>);

/// One port, and whose memory it would be reading.
struct AwaitedReader {
    slot: Arc<ReaderSlot>,
    owner: Option<Generation>,
    /// It registered before this invalidation: it is retired once it has been waited for.
    retire: Option<(Arc<SpaceUsers>, u64)>,
}

impl GracePeriod {
    /// Covers all critical sections of the ports of a device, whose gate has been shut.
    pub(crate) fn of_device(readers: &Readers) -> Self {
        Self(readers.revoke(|slot, _| AwaitedReader { slot, owner: None, retire: None }))
    }

    /// Covers the critical sections that read a space of which something has been taken away. `seq`
    /// is the sequence number of the invalidation, where it is one.
    pub(crate) fn of_space(users: &Arc<SpaceUsers>, seq: Option<u64>) -> Self {
        let retire = |since| seq.is_some_and(|seq| since < seq).then(|| (Arc::clone(users), since));
        Self(users.readers.revoke(|slot, since| AwaitedReader {
            slot,
            owner: Some(users.owner),
            retire: retire(since),
        }))
    }

    /// Covers those of another one as well: one barrier will do for all.
    pub(crate) fn and(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether none of them is in flight. Does not block.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty() || {
            barrier::heavy();
            self.0.iter().all(|reader| reader.slot.current_of(reader.owner).is_none())
        }
    }

    /// Waits until none of them is in flight.
    pub(crate) fn wait(self) {
        if self.0.is_empty() {
            return;
        }
        barrier::heavy();
        for AwaitedReader { slot, owner, retire } in self.0 {
            slot.await_current(owner);
            if let Some((users, since)) = retire {
                users.readers.retire(&slot, since);
            }
        }
    }
}
