//! The translations that a device keeps (its ATC): a bounded map, the requests it has sent, and the
//! accesses that use what it keeps.
//!
//! A state machine without locks or time; the device's own lock is around it. Invariants:
//!
//! 1. Entries of one PASID do not overlap. Keys begin with the PASID: two processes at one address
//!    never meet, and what belongs to one is found without looking at the others.
//! 2. A request in flight remembers every invalidation that came since it was sent; a completion
//!    that one of them covers is not kept (rule T3). Comparing with the request's own page would
//!    not do: the answer may be a large page.
//! 3. An invalidation is complete when no access uses what it took. Accesses are counted apart from
//!    the entries, since an entry can be evicted under the access that uses it.
//!
//! When it is full one entry goes that has not been used since it was last passed over (second
//! chance).

use std::collections::BTreeMap;
use std::ops::Bound;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::api::ats::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, RequestId, Translation,
    TranslationCompletion, TranslationRefusal, TranslationRequest,
};
use crate::types::access::{Access, Permissions};
use crate::types::ids::Pasid;

/// Invalidations that a request remembers one by one; more of them count as one of everything.
const REMEMBERED: usize = 4;

/// 0 for translations without a PASID.
type Key = (u32, u64);

fn key(pasid: Option<Pasid>, first: u64) -> Key {
    (pasid.map_or(0, Pasid::get), first)
}

struct Entry {
    pasid: Option<Pasid>,
    range: AlignedRange,
    frame: Frame,
    permissions: Permissions,
    privileged: bool,
    used: bool,
}

/// A translation request that has been sent.
struct Asked {
    request: TranslationRequest,
    since: SmallVec<[AlignedRange; REMEMBERED]>,
    answer: Option<TranslationAnswer>,
}

/// What came of a translation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranslationAnswer {
    /// It is kept now.
    Cached,
    /// Untranslated access only, with these permissions.
    Untranslated(Permissions),
    /// There is no translation, or not for this access.
    NoAccess,
    /// It was invalidated on its way: ask again.
    Outdated,
    /// The IOMMU did not look at it.
    Refused(TranslationRefusal),
}

/// An access that uses an entry, until it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) id: u64,
    /// Where the first byte of the access is.
    pub(crate) frame: Frame,
    /// How many bytes the entry is good for from there.
    pub(crate) len: u64,
}

/// What an access that is under way uses.
struct Used {
    pasid: Option<Pasid>,
    range: AlignedRange,
    /// The device was reset: nothing new is done with it. What was begun before may not be over.
    void: bool,
}

/// An invalidation that waits for accesses. At most one for each tag: of two with one tag the later
/// use of it counts, since nobody waits for the earlier one any more.
struct Closing {
    completion: InvalidationCompletion,
    uses: Vec<u64>,
}

/// What happened to a device's cache, since it was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AtcCounts {
    /// Accesses that found their translation.
    pub hits: u64,
    /// Accesses that did not.
    pub misses: u64,
    /// Translations that were kept.
    pub fills: u64,
    /// Completions that an invalidation overtook, so that they were not kept (rule T3).
    pub outdated: u64,
    /// Translations that made room for others.
    pub evicted: u64,
    /// Translations that an invalidation took.
    pub invalidated: u64,
    /// Completions that answered no request in flight.
    pub unexpected: u64,
}

/// The address translation cache of one device.
pub(crate) struct Atc {
    capacity: usize,
    /// Requests that may have been asked and not collected.
    allowed: usize,
    entries: BTreeMap<Key, Entry>,
    /// Where the search for an entry to evict goes on.
    hand: Key,
    asked: FxHashMap<RequestId, Asked>,
    next_request: u64,
    uses: FxHashMap<u64, Used>,
    next_use: u64,
    closing: Vec<Closing>,
    pub(crate) counts: AtcCounts,
}

impl Atc {
    /// Empty, for at most `capacity` translations and `allowed` requests that are asked and not
    /// collected (at least one of each).
    pub(crate) fn new(capacity: usize, allowed: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            allowed: allowed.max(1),
            entries: BTreeMap::new(),
            hand: (0, 0),
            asked: FxHashMap::default(),
            next_request: 0,
            uses: FxHashMap::default(),
            next_use: 0,
            closing: Vec::new(),
            counts: AtcCounts::default(),
        }
    }

    /// How many translations it keeps.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Requests in flight and accesses under way: what is to be zero in the end.
    pub(crate) fn outstanding(&self) -> usize {
        self.asked.len() + self.uses.len() + self.closing.len()
    }

    /// Whether no request can be asked before one has been collected or given up.
    pub(crate) fn is_full(&self) -> bool {
        self.asked.len() >= self.allowed
    }

    /// Takes note of a request that is about to be sent; where it [is full](Self::is_full), answers
    /// how many are outstanding.
    pub(crate) fn ask(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<TranslationRequest, usize> {
        if self.is_full() {
            return Err(self.asked.len());
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let (write, execute) = (access.is_write(), access.is_execute());
        let request = TranslationRequest {
            id,
            pasid,
            address,
            write,
            execute,
            privileged: access.is_privileged(),
        };
        self.asked.insert(id, Asked { request, since: SmallVec::new(), answer: None });
        Ok(request)
    }

    /// The answer to a request, once; `Ok(None)` while it is awaited. `Err` where no such request
    /// is known: it was forgotten by a reset.
    pub(crate) fn answer(&mut self, id: RequestId) -> Result<Option<TranslationAnswer>, Forgotten> {
        let answer = self.asked.get(&id).ok_or(Forgotten)?.answer;
        if answer.is_some() {
            self.asked.remove(&id);
        }
        Ok(answer)
    }

    /// Nobody waits for this request any more.
    pub(crate) fn abandon(&mut self, id: RequestId) {
        self.asked.remove(&id);
    }

    /// A completion has come.
    pub(crate) fn complete(&mut self, completion: TranslationCompletion) {
        // One that names another owner, or speaks of another privilege, was meant for another
        // request.
        let fits = |asked: &&mut Asked| {
            let owner = completion.owner.map(|owner| owner.pasid);
            let same_privilege = completion.privileged == asked.request.privileged;
            asked.answer.is_none()
                && same_privilege
                && owner.is_none_or(|owner| asked.request.pasid == Some(owner))
        };
        let Some(asked) = self.asked.get_mut(&completion.id).filter(fits) else {
            self.counts.unexpected += 1;
            return;
        };
        let request = asked.request;
        let answer = match completion.result {
            Err(refusal) => TranslationAnswer::Refused(refusal),
            Ok(translation) if translation.permissions.is_empty() => TranslationAnswer::NoAccess,
            Ok(translation) => match translation.frame {
                None => TranslationAnswer::Untranslated(translation.permissions),
                Some(_)
                    if asked
                        .since
                        .iter()
                        .any(|range| range.range().overlaps(translation.range.range())) =>
                {
                    TranslationAnswer::Outdated
                }
                // What does not hold the address that was asked for answers another question.
                Some(_) if !translation.range.range().contains(request.address) => {
                    TranslationAnswer::NoAccess
                }
                Some(_) => TranslationAnswer::Cached,
            },
        };
        // A translation that does not permit this access is kept for others.
        let permitted =
            |translation: &Translation| translation.permissions.permit(request.access());
        let useful =
            answer != TranslationAnswer::Cached || completion.result.as_ref().is_ok_and(permitted);
        asked.answer = Some(if useful { answer } else { TranslationAnswer::NoAccess });
        match (answer, completion.result) {
            (TranslationAnswer::Outdated, _) => self.counts.outdated += 1,
            (TranslationAnswer::Cached, Ok(translation)) => {
                if let Some(frame) = translation.frame {
                    let (pasid, privileged) = (request.pasid, request.privileged);
                    self.keep(Entry {
                        pasid,
                        range: translation.range,
                        frame,
                        permissions: translation.permissions,
                        privileged,
                        used: true,
                    });
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, entry: Entry) {
        self.take(entry.pasid, entry.range);
        if self.entries.len() >= self.capacity {
            self.evict();
        }
        self.counts.fills += 1;
        self.entries.insert(key(entry.pasid, entry.range.first()), entry);
    }

    fn evict(&mut self) {
        // Each round clears a mark or ends: twice the number of entries at the most.
        loop {
            let from = (Bound::Excluded(self.hand), Bound::Unbounded);
            let Some((&at, entry)) = self.entries.range_mut(from).next() else {
                if self.entries.is_empty() {
                    return;
                }
                // The lowest key may be the hand's own start.
                if let Some(mut first) = self.entries.first_entry() {
                    self.hand = *first.key();
                    if !std::mem::take(&mut first.get_mut().used) {
                        first.remove();
                        self.counts.evicted += 1;
                        return;
                    }
                }
                continue;
            };
            self.hand = at;
            if !std::mem::take(&mut entry.used) {
                self.entries.remove(&at);
                self.counts.evicted += 1;
                return;
            }
        }
    }

    /// Removes what overlaps `range`, and answers how many that were.
    fn take(&mut self, pasid: Option<Pasid>, range: AlignedRange) -> usize {
        let meets =
            |entry: &Entry| entry.pasid == pasid && entry.range.range().overlaps(range.range());
        // Entries do not overlap: of those that begin before the range only the last can reach into
        // it.
        let before = self.entries.range(..key(pasid, range.first())).next_back();
        let first = before
            .filter(|(_, entry)| meets(entry))
            .map_or(key(pasid, range.first()), |(&at, _)| at);
        let taken: Vec<Key> = self
            .entries
            .range(first..=key(pasid, range.last()))
            .filter(|(_, entry)| meets(entry))
            .map(|(&at, _)| at)
            .collect();
        for at in &taken {
            self.entries.remove(at);
        }
        taken.len()
    }

    /// Finds the translation of `address` for an access, and counts the access as under way until
    /// [`give_back`](Self::give_back).
    pub(crate) fn begin_use(
        &mut self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Option<Use> {
        let found =
            self.entries.range_mut(..=key(pasid, address)).next_back().map(|(_, entry)| entry);
        let fits = |entry: &&mut Entry| {
            entry.pasid == pasid
                && entry.range.range().contains(address)
                && entry.permissions.permit(access)
                && entry.privileged == access.is_privileged()
        };
        let Some(entry) = found.filter(fits) else {
            self.counts.misses += 1;
            return None;
        };
        entry.used = true;
        self.counts.hits += 1;
        let offset = address - entry.range.first();
        let (frame, len) =
            (Frame(entry.frame.0.wrapping_add(offset)), entry.range.last() - address);
        let id = self.next_use;
        self.next_use += 1;
        self.uses.insert(id, Used { pasid: entry.pasid, range: entry.range, void: false });
        Some(Use { id, frame, len: len.saturating_add(1) })
    }

    /// Accesses under way.
    pub(crate) fn in_use(&self) -> usize {
        self.uses.len()
    }

    /// Whether no reset has voided an access.
    pub(crate) fn is_valid(&self, id: u64) -> bool {
        self.uses.get(&id).is_some_and(|used| !used.void)
    }

    /// An access is over. Answers the invalidations that waited for it alone.
    pub(crate) fn give_back(&mut self, id: u64) -> SmallVec<[InvalidationCompletion; 1]> {
        self.uses.remove(&id);
        let mut complete = SmallVec::new();
        self.closing.retain_mut(|closing| {
            closing.uses.retain(|used| *used != id);
            if closing.uses.is_empty() {
                complete.push(closing.completion);
            }
            !closing.uses.is_empty()
        });
        complete
    }

    /// Forgets what it is told to. Answers the completion, where no access uses any of it.
    pub(crate) fn invalidate(
        &mut self,
        request: InvalidationRequest,
    ) -> Option<InvalidationCompletion> {
        // Without a PASID it is for all (PCIe 6.0, section 10.3.8).
        let all = request.global || request.pasid.is_none();
        let meant = |pasid: Option<Pasid>| all || pasid == request.pasid;
        let taken = if all {
            let pasids: Vec<Option<Pasid>> = self.pasids();
            pasids.into_iter().map(|pasid| self.take(pasid, request.range)).sum()
        } else {
            self.take(request.pasid, request.range)
        };
        self.counts.invalidated += taken as u64;
        for asked in self
            .asked
            .values_mut()
            .filter(|asked| asked.answer.is_none() && meant(asked.request.pasid))
        {
            if asked.since.len() == REMEMBERED {
                asked.since.clear();
                asked.since.push(AlignedRange::ALL);
            } else {
                asked.since.push(request.range);
            }
        }
        let touched =
            |used: &Used| meant(used.pasid) && used.range.range().overlaps(request.range.range());
        let uses: Vec<u64> =
            self.uses.iter().filter(|(_, used)| touched(used)).map(|(&id, _)| id).collect();
        let completion = InvalidationCompletion { tag: request.tag, serial: request.serial };
        if uses.is_empty() {
            return Some(completion);
        }
        // Once, however often a link repeats it or whatever serials it makes up.
        match self.closing.iter_mut().find(|closing| closing.completion.tag == request.tag) {
            Some(closing) if closing.completion.serial < request.serial => {
                *closing = Closing { completion, uses }
            }
            Some(_) => {}
            None => self.closing.push(Closing { completion, uses }),
        }
        None
    }

    /// The PASIDs of which there are entries.
    fn pasids(&self) -> Vec<Option<Pasid>> {
        let mut pasids: Vec<_> = self.entries.values().map(|entry| entry.pasid).collect();
        pasids.sort_unstable();
        pasids.dedup();
        pasids
    }

    /// Forgets everything, as a function reset does: entries, requests in flight, invalidations
    /// that are not complete. Accesses under way are void and stay counted until they are given
    /// back: an invalidation that comes after the reset waits for them. The caller has shut the
    /// gates that they go through.
    pub(crate) fn reset(&mut self) {
        self.uses.values_mut().for_each(|used| used.void = true);
        self.entries.clear();
        self.asked.clear();
        self.closing.clear();
    }
}

/// No such request is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten;

#[cfg(all(test, not(loom)))]
mod tests;
