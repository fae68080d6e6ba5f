//! The address translation cache of a device (ATC): a bounded map of translations, the translation
//! requests in flight, and the accesses in flight that use translations.
//!
//! It is a state machine without locks or time; the lock of the device's side is around it.
//! Invariants:
//!
//! 1. Entries of one PASID do not overlap. Keys begin with the PASID, so the translations of two
//!    processes at one address are different entries, and the entries of a PASID are found without
//!    looking at the others.
//! 2. A request in flight records every invalidation since it was sent. A completion whose range
//!    one of them overlaps is not cached: it may be from before that invalidation. To compare the
//!    invalidations with the page of the request would not suffice: the completion may be for a
//!    large page.
//! 3. An invalidation is completed when no access uses a translation that it removed. Accesses are
//!    recorded apart from the entries, since an entry can be evicted while an access uses it.
//!
//! A full cache evicts by the second-chance (CLOCK) algorithm: the first entry after the clock hand
//! that has not been referenced since the hand passed it last.

mod requests;

use std::collections::BTreeMap;
use std::ops::Bound;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::api::ats::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, RequestId,
    TranslationRefusal, TranslationRequest,
};
use crate::types::access::{Access, Permissions};
use crate::types::ids::Pasid;

/// The number of invalidated ranges that a request in flight records. One more counts as an
/// invalidation of all addresses.
const MAX_INVALIDATED: usize = 4;

/// PASID and first address; the PASID is 0 for translations without one.
type Key = (u32, u64);

fn key(pasid: Option<Pasid>, first: u64) -> Key {
    (pasid.map_or(0, Pasid::get), first)
}

struct AtcEntry {
    pasid: Option<Pasid>,
    range: AlignedRange,
    frame: Frame,
    permissions: Permissions,
    privileged: bool,
    /// Whether an access has used it since the clock hand passed it.
    referenced: bool,
}

/// A translation request that has been sent and whose answer has not been collected.
struct PendingRequest {
    request: TranslationRequest,
    /// The ranges of its PASID that were invalidated since it was sent.
    invalidated: SmallVec<[AlignedRange; MAX_INVALIDATED]>,
    answer: Option<TranslationAnswer>,
}

/// The answer to a translation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranslationAnswer {
    /// The translation permits the access and is in the cache.
    Cached,
    /// Untranslated access only (U), with these permissions.
    Untranslated(Permissions),
    /// There is no translation, or none that permits this access.
    NoAccess,
    /// The translation was invalidated before its completion came: request it again.
    Outdated,
    /// The IOMMU refused the request.
    Refused(TranslationRefusal),
}

/// An access in flight that uses a translation, from [`Atc::begin_access`] to
/// [`Atc::end_access`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TranslatedAccess {
    pub(crate) id: u64,
    /// The frame address of the first byte of the access.
    pub(crate) frame: Frame,
    /// The number of bytes from there that the translation covers.
    pub(crate) len: u64,
}

/// The translation that an access in flight uses.
struct AccessRecord {
    pasid: Option<Pasid>,
    range: AlignedRange,
    /// Whether the device has been reset since. No further step of the access is made then; one
    /// that began before may still be in progress.
    is_void: bool,
}

/// An invalidation that waits for accesses. There is at most one for each tag: of two requests with
/// the same tag the later one counts, since the IOMMU does not wait for the earlier one any more.
struct AwaitingAccesses {
    completion: InvalidationCompletion,
    accesses: Vec<u64>,
}

/// Counts of the events of a device's ATC, since the device was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AtcCounts {
    /// Accesses that found a translation.
    pub hits: u64,
    /// Accesses that found none.
    pub misses: u64,
    /// Translations that were inserted.
    pub fills: u64,
    /// Completions that were not cached, since their range was invalidated before they came.
    pub outdated: u64,
    /// Translations that were evicted by others.
    pub evicted: u64,
    /// Translations that were removed by invalidations.
    pub invalidated: u64,
    /// Completions that did not match a request in flight.
    pub unexpected: u64,
}

/// The address translation cache of one device.
pub(crate) struct Atc {
    capacity: usize,
    /// The number of requests that may be pending.
    allowed: usize,
    entries: BTreeMap<Key, AtcEntry>,
    /// The key of the entry that the last eviction looked at.
    clock_hand: Key,
    requests: FxHashMap<RequestId, PendingRequest>,
    next_request: u64,
    accesses: FxHashMap<u64, AccessRecord>,
    next_access: u64,
    invalidations: Vec<AwaitingAccesses>,
    pub(crate) counts: AtcCounts,
}

impl Atc {
    /// Makes an empty cache for at most `capacity` translations and `allowed` pending requests (at
    /// least one of each).
    pub(crate) fn new(capacity: usize, allowed: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            allowed: allowed.max(1),
            entries: BTreeMap::new(),
            clock_hand: (0, 0),
            requests: FxHashMap::default(),
            next_request: 0,
            accesses: FxHashMap::default(),
            next_access: 0,
            invalidations: Vec::new(),
            counts: AtcCounts::default(),
        }
    }

    /// The number of translations in the cache.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of pending requests, accesses in flight and invalidations that wait for accesses.
    /// It is 0 when the device is idle.
    pub(crate) fn outstanding(&self) -> usize {
        self.requests.len() + self.accesses.len() + self.invalidations.len()
    }

    /// Inserts an entry in place of those that it overlaps; evicts one if the cache is full.
    fn insert(&mut self, entry: AtcEntry) {
        self.remove_overlapping(entry.pasid, entry.range);
        if self.entries.len() >= self.capacity {
            self.evict();
        }
        self.counts.fills += 1;
        self.entries.insert(key(entry.pasid, entry.range.first()), entry);
    }

    fn evict(&mut self) {
        // Each iteration clears a reference bit, evicts, or wraps around: two rounds suffice.
        loop {
            let from = (Bound::Excluded(self.clock_hand), Bound::Unbounded);
            let Some((&at, entry)) = self.entries.range_mut(from).next() else {
                if self.entries.is_empty() {
                    return;
                }
                // The lowest key can be that of the hand's initial position, which the range above
                // excludes.
                if let Some(mut first) = self.entries.first_entry() {
                    self.clock_hand = *first.key();
                    if !std::mem::take(&mut first.get_mut().referenced) {
                        first.remove();
                        self.counts.evicted += 1;
                        return;
                    }
                }
                continue;
            };
            self.clock_hand = at;
            if !std::mem::take(&mut entry.referenced) {
                self.entries.remove(&at);
                self.counts.evicted += 1;
                return;
            }
        }
    }

    /// Removes the entries of a PASID that overlap `range`, and returns the number of them.
    fn remove_overlapping(&mut self, pasid: Option<Pasid>, range: AlignedRange) -> usize {
        let overlaps =
            |entry: &AtcEntry| entry.pasid == pasid && entry.range.range().overlaps(range.range());
        // Entries do not overlap one another, so of those that begin before the range only the last
        // one can overlap it.
        let before = self.entries.range(..key(pasid, range.first())).next_back();
        let first = before
            .filter(|(_, entry)| overlaps(entry))
            .map_or(key(pasid, range.first()), |(&at, _)| at);
        let removed: Vec<Key> = self
            .entries
            .range(first..=key(pasid, range.last()))
            .filter(|(_, entry)| overlaps(entry))
            .map(|(&at, _)| at)
            .collect();
        for at in &removed {
            self.entries.remove(at);
        }
        removed.len()
    }

    /// Finds a translation of `address` that permits an access, and records the access as in flight
    /// until [`end_access`](Self::end_access).
    pub(crate) fn begin_access(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Option<TranslatedAccess> {
        let found =
            self.entries.range_mut(..=key(pasid, address)).next_back().map(|(_, entry)| entry);
        let matches = |entry: &&mut AtcEntry| {
            entry.pasid == pasid
                && entry.range.range().contains(address)
                && entry.permissions.permit(access)
                && entry.privileged == access.is_privileged()
        };
        let Some(entry) = found.filter(matches) else {
            self.counts.misses += 1;
            return None;
        };
        entry.referenced = true;
        self.counts.hits += 1;
        let offset = address - entry.range.first();
        let (frame, len) =
            (Frame(entry.frame.0.wrapping_add(offset)), entry.range.last() - address);
        let id = self.next_access;
        self.next_access += 1;
        let record = AccessRecord { pasid: entry.pasid, range: entry.range, is_void: false };
        self.accesses.insert(id, record);
        Some(TranslatedAccess { id, frame, len: len.saturating_add(1) })
    }

    /// The number of accesses in flight.
    pub(crate) fn in_use(&self) -> usize {
        self.accesses.len()
    }

    /// Whether an access is in flight and no reset has voided it.
    pub(crate) fn is_valid(&self, id: u64) -> bool {
        self.accesses.get(&id).is_some_and(|record| !record.is_void)
    }

    /// Ends an access. Returns the completions of the invalidations that waited for it alone.
    pub(crate) fn end_access(&mut self, id: u64) -> SmallVec<[InvalidationCompletion; 1]> {
        self.accesses.remove(&id);
        let mut completed = SmallVec::new();
        self.invalidations.retain_mut(|invalidation| {
            invalidation.accesses.retain(|access| *access != id);
            if invalidation.accesses.is_empty() {
                completed.push(invalidation.completion);
            }
            !invalidation.accesses.is_empty()
        });
        completed
    }

    /// Invalidates a range (PCIe 6.0, section 10.3.1). Returns the completion, unless an access in
    /// flight uses a translation of the range: then [`end_access`](Self::end_access) returns it.
    pub(crate) fn invalidate(
        &mut self,
        request: InvalidationRequest,
    ) -> Option<InvalidationCompletion> {
        // A request without PASID is for all translations (PCIe 6.0, section 10.3.8).
        let all = request.global || request.pasid.is_none();
        let applies_to = |pasid: Option<Pasid>| all || pasid == request.pasid;
        let removed = if all {
            let pasids: Vec<Option<Pasid>> = self.pasids();
            pasids.into_iter().map(|pasid| self.remove_overlapping(pasid, request.range)).sum()
        } else {
            self.remove_overlapping(request.pasid, request.range)
        };
        self.counts.invalidated += removed as u64;
        for pending in self
            .requests
            .values_mut()
            .filter(|pending| pending.answer.is_none() && applies_to(pending.request.pasid))
        {
            if pending.invalidated.len() == MAX_INVALIDATED {
                pending.invalidated.clear();
                pending.invalidated.push(AlignedRange::ALL);
            } else {
                pending.invalidated.push(request.range);
            }
        }
        let uses = |record: &AccessRecord| {
            applies_to(record.pasid) && record.range.range().overlaps(request.range.range())
        };
        let accesses: Vec<u64> =
            self.accesses.iter().filter(|(_, record)| uses(record)).map(|(&id, _)| id).collect();
        let completion = InvalidationCompletion { tag: request.tag, serial: request.serial };
        if accesses.is_empty() {
            return Some(completion);
        }
        self.await_accesses(AwaitingAccesses { completion, accesses });
        None
    }

    /// Records an invalidation that waits for accesses. There is one for each tag at most, however
    /// often a link repeats a request and whatever serial numbers it makes up.
    fn await_accesses(&mut self, invalidation: AwaitingAccesses) {
        let InvalidationCompletion { tag, serial } = invalidation.completion;
        match self.invalidations.iter_mut().find(|earlier| earlier.completion.tag == tag) {
            Some(earlier) if earlier.completion.serial < serial => *earlier = invalidation,
            Some(_) => {}
            None => self.invalidations.push(invalidation),
        }
    }

    /// The PASIDs that have entries.
    fn pasids(&self) -> Vec<Option<Pasid>> {
        let mut pasids: Vec<_> = self.entries.values().map(|entry| entry.pasid).collect();
        pasids.sort_unstable();
        pasids.dedup();
        pasids
    }

    /// Resets the cache, as a function reset does: removes all entries, pending requests and
    /// invalidations that wait for accesses. Accesses in flight become void and stay recorded until
    /// they end: an invalidation that comes after the reset waits for them. The caller has shut the
    /// gates that the accesses go through.
    pub(crate) fn reset(&mut self) {
        self.accesses.values_mut().for_each(|record| record.is_void = true);
        self.entries.clear();
        self.requests.clear();
        self.invalidations.clear();
    }
}

/// There is no such pending request: a reset has removed it, or its answer was collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownRequest;

#[cfg(all(test, not(loom)))]
mod tests;
