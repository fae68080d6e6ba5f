//! Read-side critical sections: accesses through cached translations, and grace periods, in which
//! an invalidation waits for them.
//!
//! The reader stores a tag into its slot, which names the owner of the memory. Then it compares the
//! slot's count of revocations with the one that it last validated, accesses the memory, and clears
//! the slot. All of these are plain loads and stores. A revocation first becomes visible itself (a
//! gate is closed, an entry removed, a sequence number incremented). Then the revoking thread
//! increments the count of revocations of the slots concerned, executes a barrier on every running
//! thread, and reads the slots. If the reader's store precedes the barrier, the revoking thread
//! sees the critical section and waits for it. Otherwise the reader's load of the count follows the
//! barrier: the reader sees the new count, and what was revoked.
//!
//! These are hazard slots with an asymmetric barrier, as in RCU's expedited grace periods.
//! Rejected: a counter of critical sections in each slot in place of the tag. Each access would
//! wait for the store of the access before it (0.9 ns).

use std::sync::Arc;

use sva_sync::atomic::{AtomicU64, Ordering};
use sva_sync::{Backoff, Mutex, barrier};

use super::pin::PinSlots;
use crate::types::ids::Generation;

/// The number of bits of a tag that hold the lowest bits of the count of revocations. They
/// distinguish a critical section that began before a revocation from one that began after it.
const REVOCATION_BITS: u32 = 16;

/// The state that one port shares with the threads that revoke translations. It is aligned to two
/// cache lines, since the processor prefetches lines in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ReaderSlot {
    /// The tag of the critical section that the port is in; 0 for none. Written by the port alone.
    current: AtomicU64,
    /// Incremented after each revocation. A hit compares this one number instead of checking
    /// everything that can be revoked.
    revocations: AtomicU64,
}

/// The tag of a critical section: the owner of the memory that is accessed, and the lowest bits of
/// the count of revocations that the reader has validated.
#[derive(Clone, Copy)]
pub(crate) struct ReaderTag(u64);

impl ReaderTag {
    pub(crate) fn new(owner: Generation, revocations: u64) -> Self {
        // Generations count allocations of PASIDs, of which there are fewer than 2^48.
        Self(owner.0 << REVOCATION_BITS | revocations & ((1 << REVOCATION_BITS) - 1))
    }
}

impl ReaderSlot {
    /// Begins a critical section.
    #[inline(always)]
    pub(crate) fn enter(&self, tag: ReaderTag, barrier: barrier::Light) -> ReadGuard<'_> {
        // Release: a thread that reads this tag in place of the previous one sees the accesses of
        // the previous critical section as over.
        self.current.store(tag.0, Ordering::Release);
        barrier.pass();
        ReadGuard(self)
    }

    /// The count of revocations. Acquire: the caller sees what was revoked up to this count.
    #[inline]
    pub(crate) fn revocations(&self) -> u64 {
        self.revocations.load(Ordering::Acquire)
    }

    fn revoke(&self) {
        // Release: a thread that sees the new count sees what was revoked.
        self.revocations.fetch_add(1, Ordering::Release);
    }

    /// The tag of the critical section that the port is in, if it accesses the memory of `owner`,
    /// or of any owner if that is `None`.
    fn current_of(&self, owner: Option<Generation>) -> Option<u64> {
        // Acquire: the accesses of a critical section that has ended happen before this.
        let tag = self.current.load(Ordering::Acquire);
        (tag != 0 && owner.is_none_or(|owner| tag >> REVOCATION_BITS == owner.0)).then_some(tag)
    }

    /// Spins until the critical section that the port is in now has ended.
    fn await_current(&self, owner: Option<Generation>) {
        let mut backoff = Backoff::default();
        let awaited = self.current_of(owner);
        // A later critical section that gets as far as an access has seen the revocation, so its
        // tag differs.
        while awaited.is_some() && self.current_of(owner) == awaited {
            backoff.wait();
        }
    }
}

/// A read-side critical section: an access through a cached translation is in flight until this is
/// dropped.
pub(crate) struct ReadGuard<'a>(&'a ReaderSlot);

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: the access is over before the store is seen.
        self.0.current.store(0, Ordering::Release);
    }
}

/// The registered readers of a device (its ports), or of a space (the ports that use its cached
/// translations). Each has the sequence number of the space at which it registered. For the readers
/// of a device the number is 0 and is not used.
#[derive(Default)]
pub(crate) struct Readers(Mutex<Vec<(Arc<ReaderSlot>, u64)>>);

impl Readers {
    /// Registers a slot. A revocation that does not find it here precedes this call, and the
    /// reader, which validates afterwards, sees that revocation.
    pub(crate) fn register(&self, slot: &Arc<ReaderSlot>, seq: u64) {
        let mut slots = self.0.lock();
        match slots.iter_mut().find(|(registered, _)| Arc::ptr_eq(registered, slot)) {
            Some((_, since)) => *since = seq,
            None => slots.push((Arc::clone(slot), seq)),
        }
    }

    /// Unregisters a slot whose port is being dropped or does not use the space any more.
    pub(crate) fn unregister(&self, slot: &Arc<ReaderSlot>) {
        self.0.lock().retain(|(registered, _)| !Arc::ptr_eq(registered, slot));
    }

    /// Increments the count of revocations of all registered slots, and returns the result of `map`
    /// for each slot and its sequence number. The revocation itself precedes this call; a reader
    /// that registers later sees it.
    fn revoke<R>(&self, map: impl Fn(Arc<ReaderSlot>, u64) -> R) -> Vec<R> {
        let slots = self.0.lock();
        slots.iter().for_each(|(slot, _)| slot.revoke());
        slots.iter().map(|(slot, since)| map(Arc::clone(slot), *since)).collect()
    }

    /// Unregisters a slot that was registered at sequence number `since` and not again. Before its
    /// next access the port sees that the sequence number has changed, and registers again; until
    /// then no invalidation waits for it. Otherwise each invalidation would interrupt every running
    /// thread of the process for a port that is not in use any more.
    fn retire(&self, slot: &Arc<ReaderSlot>, since: u64) {
        let mut slots = self.0.lock();
        let is_unchanged = |(registered, seq): &(Arc<ReaderSlot>, u64)| {
            *seq == since && Arc::ptr_eq(registered, slot)
        };
        if let Some(at) = slots.iter().position(is_unchanged) {
            slots.swap_remove(at);
        }
    }
}

/// The users of the cached translations of one space: readers and pins; with the sequence number of
/// its invalidations.
pub(crate) struct SpaceUsers {
    owner: Generation,
    /// Incremented by each invalidation and by the end of the space, like KVM's
    /// `mmu_invalidate_seq`.
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

    /// The generation of the PASID of the space.
    pub(crate) fn owner(&self) -> Generation {
        self.owner
    }

    /// The sequence number of the last invalidation. A translation that was obtained at a lower
    /// number may be stale.
    #[inline]
    pub(crate) fn invalidate_seq(&self) -> u64 {
        self.invalidate_seq.load(Ordering::Acquire)
    }

    /// Increments the sequence number for an invalidation, and returns the new one.
    pub(crate) fn advance_invalidate_seq(&self) -> u64 {
        self.invalidate_seq.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Registers a port as reader and returns the sequence number that was current before. An
    /// invalidation that comes between the load and the registration is not missed: the port sees
    /// its removals through the lock of the list, and looks into the IOTLB afterwards. Must not be
    /// called in a critical section.
    pub(crate) fn register(&self, slot: &Arc<ReaderSlot>) -> u64 {
        let seq = self.invalidate_seq();
        self.readers.register(slot, seq);
        seq
    }
}

/// A grace period: it ends when the critical sections in flight at its beginning have ended. Each
/// of them is one copy or one atomic operation and runs no foreign code.
#[derive(Default)]
#[must_use = "what was revoked may still be in use"]
pub(crate) struct GracePeriod(Vec<AwaitedReader>);

/// A port that a grace period waits for.
struct AwaitedReader {
    slot: Arc<ReaderSlot>,
    /// The owner of the memory; `None` for any.
    owner: Option<Generation>,
    /// Set if the port registered before the invalidation: the port is unregistered when the grace
    /// period ends, unless it has registered again. Holds the sequence number of its registration.
    retire: Option<(Arc<SpaceUsers>, u64)>,
}

impl GracePeriod {
    /// Begins a grace period for all critical sections of the ports of a device. The gate of the
    /// device has been shut.
    pub(crate) fn of_device(readers: &Readers) -> Self {
        Self(readers.revoke(|slot, _| AwaitedReader { slot, owner: None, retire: None }))
    }

    /// Begins a grace period for the critical sections that access a space, after a revocation.
    /// `seq` is the new sequence number if the revocation is an invalidation.
    pub(crate) fn of_space(users: &Arc<SpaceUsers>, seq: Option<u64>) -> Self {
        let retire = |since| seq.is_some_and(|seq| since < seq).then(|| (Arc::clone(users), since));
        Self(users.readers.revoke(|slot, since| AwaitedReader {
            slot,
            owner: Some(users.owner),
            retire: retire(since),
        }))
    }

    /// Adds the critical sections of another grace period: one barrier serves both.
    pub(crate) fn and(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether no port concerned is in a critical section of the owner. A critical section that
    /// began later makes this false too, so it can be false although the grace period has ended.
    /// Does not block, and unregisters no reader.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty() || {
            barrier::heavy();
            self.0.iter().all(|reader| reader.slot.current_of(reader.owner).is_none())
        }
    }

    /// Spins until the grace period has ended.
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
