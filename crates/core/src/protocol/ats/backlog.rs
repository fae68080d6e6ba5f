//! The backlog of invalidations that wait for a tag. The number of its requests is bounded, however
//! many invalidations there are.
//!
//! A new invalidation is merged with a waiting request if one request can name exactly both: equal
//! and nested ranges, and adjacent ranges of one PASID. Nothing else is invalidated by that. If
//! more than [`BACKLOG`] requests wait, they are widened, so that more is invalidated than
//! necessary: first to all addresses of the PASID that has most requests, and if each PASID has
//! one, to all translations of the device. Apart from that an invalidation costs one
//! [`WeakWaiter`], which is removed some time after it has been dropped.
//!
//! An invalidation is not merged with a request in flight: the device may have processed that
//! request, and requested the translation again, before the change of the space.
//!
//! Rejected: to refuse an invalidation, since the change of the space cannot be undone by then; to
//! block the caller until there is room, since a change can be begun where blocking is not allowed;
//! to cut the device off, since without a clock a slow device cannot be told from one that does not
//! answer.

use smallvec::{SmallVec, smallvec};

use super::counts::InvalidationCounts;
use crate::api::ats::{AlignedRange, Itag};
use crate::quiesce::WeakWaiter;
use crate::types::ids::Pasid;
use crate::types::range::AddrRange;

/// The largest number of requests that wait for a tag: as many as there are tags.
pub(crate) const BACKLOG: usize = Itag::COUNT;

/// The waiters of invalidations that end together.
#[derive(Default)]
pub(super) struct Waiters {
    /// The number of invalidations, those included whose waiter has been dropped.
    pub(super) count: usize,
    list: SmallVec<[WeakWaiter; 1]>,
}

impl Waiters {
    /// Adds others. Dropped waiters are removed before the list grows, so that it is at most twice
    /// as long as there are live ones.
    pub(super) fn join(&mut self, others: Self) {
        self.count += others.count;
        if self.list.len() + others.list.len() > self.list.capacity() {
            self.list.retain(|waiter| waiter.strong_count() > 0);
            self.list.reserve(self.list.len().max(others.list.len()));
        }
        self.list.extend(others.list);
    }

    /// Moves them to those that are to be completed.
    pub(super) fn finish(self, completed: &mut Vec<WeakWaiter>) {
        completed.extend(self.list);
    }
}

/// An invalidation that has not ended: the range that its request names, and the waiters.
pub(crate) struct PendingInvalidation {
    pub(super) pasid: Option<Pasid>,
    pub(super) range: AlignedRange,
    pub(super) waiters: Waiters,
}

impl PendingInvalidation {
    /// An invalidation of `range` of `pasid`, or of all translations if that is `None`.
    pub(crate) fn new(pasid: Option<Pasid>, range: AlignedRange, waiter: WeakWaiter) -> Self {
        Self { pasid, range, waiters: Waiters { count: 1, list: smallvec![waiter] } }
    }

    fn covers(&self, other: &Self) -> bool {
        (self.pasid.is_none() || self.pasid == other.pasid)
            && self.range.range().covers(other.range.range())
    }

    /// The range that covers exactly both, if one request can name it.
    fn union(&self, other: &Self) -> Option<(Option<Pasid>, AlignedRange)> {
        if self.covers(other) {
            return Some((self.pasid, self.range));
        }
        if other.covers(self) {
            return Some((other.pasid, other.range));
        }
        let ends = AddrRange::inclusive(
            self.range.first().min(other.range.first()),
            self.range.last().max(other.range.last()),
        )?;
        let both = AlignedRange::covering(ends);
        let are_halves = self.pasid == other.pasid
            && self.range.bits() == other.range.bits()
            && both.bits() == self.range.bits() + 1;
        are_halves.then_some((self.pasid, both))
    }

    /// Merges both into one request, which names `(pasid, range)`.
    fn join(mut self, other: Self, (pasid, range): (Option<Pasid>, AlignedRange)) -> Self {
        self.waiters.join(other.waiters);
        Self { pasid, range, waiters: self.waiters }
    }
}

/// The requests that wait for a tag, ordered by the oldest invalidation of each.
#[derive(Default)]
pub(super) struct Backlog(Vec<PendingInvalidation>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of invalidations that wait. One request can stand for several of them.
    pub(super) fn invalidations(&self) -> usize {
        self.0.iter().map(|pending| pending.waiters.count).sum()
    }

    /// Adds an invalidation; merges it with waiting ones where possible.
    pub(super) fn add(
        &mut self,
        mut pending: PendingInvalidation,
        counts: &mut InvalidationCounts,
    ) {
        let mut position = self.0.len();
        while let Some((at, union)) =
            self.0.iter().enumerate().find_map(|(at, other)| Some((at, other.union(&pending)?)))
        {
            pending = self.0.remove(at).join(pending, union);
            position = position.min(at);
            counts.merged += 1;
        }
        self.0.insert(position, pending);
        if self.0.len() > BACKLOG {
            self.widen(counts);
        }
    }

    /// Merges the requests of the PASID that has most of them, or all requests if no PASID has two.
    /// At least one request less is left.
    fn widen(&mut self, counts: &mut InvalidationCounts) {
        let count_of =
            |pasid: Option<Pasid>| self.0.iter().filter(|pending| pending.pasid == pasid).count();
        let most = self
            .0
            .iter()
            .map(|pending| (count_of(pending.pasid), pending.pasid))
            .max_by_key(|(count, _)| *count);
        let pasid = most.filter(|(count, _)| *count > 1).and_then(|(_, pasid)| pasid);
        let is_merged = |pending: &PendingInvalidation| pasid.is_none() || pending.pasid == pasid;
        let Some(position) = self.0.iter().position(is_merged) else { return };
        let before = self.0.len();
        let joined = self
            .0
            .extract_if(.., |pending| is_merged(pending))
            .reduce(|all, pending| all.join(pending, (pasid, AlignedRange::ALL)));
        self.0.splice(position..position, joined);
        counts.merged += (before - self.0.len()) as u64;
        counts.widened += 1;
    }

    /// Takes the request that has waited longest.
    pub(super) fn next(&mut self) -> Option<PendingInvalidation> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Takes all requests.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = PendingInvalidation> {
        std::mem::take(&mut self.0).into_iter()
    }

    #[cfg(test)]
    pub(super) fn requests(&self) -> usize {
        self.0.len()
    }
}
