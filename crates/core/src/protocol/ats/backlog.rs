//! Invalidations that wait for a tag: a bounded number of messages, however many are asked for.
//!
//! What one message can name is joined as it comes: equal, nested and neighbouring ranges of one
//! PASID, so that nothing else is forgotten. Beyond [`BACKLOG`] messages more is forgotten than was
//! asked for, as rule T4 permits, and rule T7 while there is room does not: first all of the PASID
//! that has most of them, and where each has one, all that the device keeps. What an invalidation
//! costs beyond that is a word for whoever waits for it; a caller that has let go of its answer is
//! forgotten.
//!
//! Nothing is joined to a message in flight: the device may have dealt with it, and asked anew,
//! before the change that comes now.
//!
//! Rejected: refusing, since a change of a space cannot be undone by then; having the caller wait
//! for room, since a change can be begun where nothing may wait; cutting the device off, which
//! without a clock would take a slow one for a silent one.

use smallvec::{SmallVec, smallvec};

use super::counts::InvalidationCounts;
use crate::api::ats::{AlignedRange, Itag};
use crate::quiesce::Waiter;
use crate::types::ids::Pasid;
use crate::types::range::AddrRange;

/// How many messages wait for a tag at the most: as many as are in flight meanwhile.
pub(crate) const BACKLOG: usize = Itag::COUNT;

/// Those that wait for one thing.
#[derive(Default)]
pub(super) struct Waiters {
    /// How many invalidations they stand for, those included whose caller has let go.
    pub(super) asked: usize,
    list: SmallVec<[Waiter; 1]>,
}

impl Waiters {
    /// These and others. Those that have let go are left out before the list grows, so that it is
    /// at most twice as long as the callers are many.
    pub(super) fn join(&mut self, others: Self) {
        self.asked += others.asked;
        if self.list.len() + others.list.len() > self.list.capacity() {
            self.list.retain(|waiter| waiter.strong_count() > 0);
            self.list.reserve(self.list.len().max(others.list.len()));
        }
        self.list.extend(others.list);
    }

    /// They need not wait any more.
    pub(super) fn finish(self, completed: &mut Vec<Waiter>) {
        completed.extend(self.list);
    }
}

/// What one message has the device forget, and who waits for that.
pub(crate) struct PendingInvalidation {
    pub(super) pasid: Option<Pasid>,
    pub(super) range: AlignedRange,
    pub(super) waiters: Waiters,
}

impl PendingInvalidation {
    /// Of one invalidation: `range` of `pasid`; without one, of all.
    pub(crate) fn new(pasid: Option<Pasid>, range: AlignedRange, waiter: Waiter) -> Self {
        Self { pasid, range, waiters: Waiters { asked: 1, list: smallvec![waiter] } }
    }

    fn covers(&self, other: &Self) -> bool {
        (self.pasid.is_none() || self.pasid == other.pasid)
            && self.range.range().covers(other.range.range())
    }

    /// What holds both and nothing else, where one message can name it.
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

    /// Both in one message, which names `(pasid, range)`.
    fn join(mut self, other: Self, (pasid, range): (Option<Pasid>, AlignedRange)) -> Self {
        self.waiters.join(other.waiters);
        Self { pasid, range, waiters: self.waiters }
    }
}

/// See the module. In the order of the oldest invalidation of each.
#[derive(Default)]
pub(super) struct Backlog(Vec<PendingInvalidation>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many invalidations wait, in how many messages whatsoever.
    pub(super) fn asked(&self) -> usize {
        self.0.iter().map(|pending| pending.waiters.asked).sum()
    }

    /// Adds an invalidation.
    pub(super) fn add(
        &mut self,
        mut pending: PendingInvalidation,
        counts: &mut InvalidationCounts,
    ) {
        let mut place = self.0.len();
        while let Some((at, union)) =
            self.0.iter().enumerate().find_map(|(at, other)| Some((at, other.union(&pending)?)))
        {
            pending = self.0.remove(at).join(pending, union);
            place = place.min(at);
            counts.joined += 1;
        }
        self.0.insert(place, pending);
        if self.0.len() > BACKLOG {
            self.widen(counts);
        }
    }

    /// Makes one message of those of a PASID, or of all: at least one fewer.
    fn widen(&mut self, counts: &mut InvalidationCounts) {
        let of =
            |pasid: Option<Pasid>| self.0.iter().filter(|pending| pending.pasid == pasid).count();
        let most = self
            .0
            .iter()
            .map(|pending| (of(pending.pasid), pending.pasid))
            .max_by_key(|(count, _)| *count);
        let pasid = most.filter(|(count, _)| *count > 1).and_then(|(_, pasid)| pasid);
        let meant = |pending: &PendingInvalidation| pasid.is_none() || pending.pasid == pasid;
        let Some(place) = self.0.iter().position(meant) else { return };
        let before = self.0.len();
        let joined = self
            .0
            .extract_if(.., |pending| meant(pending))
            .reduce(|all, pending| all.join(pending, (pasid, AlignedRange::ALL)));
        self.0.splice(place..place, joined);
        counts.joined += (before - self.0.len()) as u64;
        counts.widened += 1;
    }

    /// Takes the one that has waited longest.
    pub(super) fn next(&mut self) -> Option<PendingInvalidation> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Takes all of them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = PendingInvalidation> {
        std::mem::take(&mut self.0).into_iter()
    }

    #[cfg(test)]
    pub(super) fn messages(&self) -> usize {
        self.0.len()
    }
}
