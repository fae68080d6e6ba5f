//! What owners let devices do, written down so that a device can tell what held while its access
//! was under way.
//!
//! Each page of a site, and each bond, has a word with one writer: its owner. It is marked before a
//! change begins and settled when the change has returned, and counts both. A device reads it
//! before and after an access: what it finds then is all that may have held in between.

use std::ops::RangeInclusive;

use sva_core::Pasid;
use sva_sync::atomic::{AtomicU64, Ordering};

/// What a page permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It is not mapped.
    Gone,
    Nothing,
    Read,
    ReadWrite,
}

/// One life of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) reach: Reach,
    /// Counts what has stood in the page: grows whenever it gets other contents, by 1.
    pub(crate) content: u32,
    /// Its contents are zeros, not stamps.
    pub(crate) blank: bool,
}

impl State {
    pub(crate) const NEVER: Self = Self { reach: Reach::Gone, content: 0, blank: true };

    pub(crate) fn mapped(self) -> bool {
        self.reach != Reach::Gone
    }

    pub(crate) fn permits(self, write: bool) -> bool {
        self.reach == Reach::ReadWrite || !write && self.reach == Reach::Read
    }

    fn bits(self) -> u64 {
        self.reach as u64 | u64::from(self.blank) << 2
    }

    fn unpack(bits: u64, content: u32) -> Self {
        let reach = [Reach::Gone, Reach::Nothing, Reach::Read, Reach::ReadWrite][bits as usize & 3];
        Self { reach, content, blank: bits & 4 != 0 }
    }
}

/// The word of a page: bit 0 a change is under way; 1..=3 what holds, 4..=6 what the change makes
/// of it; 7 whether that has other contents; 8..=31 the contents; 32..=63 counts.
pub(crate) struct Life(AtomicU64);

impl Life {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(pack(State::NEVER, State::NEVER, false)))
    }

    /// A change from `old` to `new` is about to begin.
    pub(crate) fn mark(&self, old: State, new: State) {
        debug_assert!(new.content - old.content <= 1, "contents are counted one by one");
        self.put(pack(old, new, true));
    }

    /// The change that has made it `state` has returned.
    pub(crate) fn settle(&self, state: State) {
        self.put(pack(state, state, false));
    }

    fn put(&self, low: u64) {
        let count = (self.0.load(Ordering::Relaxed) >> 32) + 1;
        // Before the change, which begins with a lock, and after it.
        self.0.store(count << 32 | low, Ordering::SeqCst);
    }

    pub(crate) fn look(&self) -> Look {
        Look(self.0.load(Ordering::SeqCst))
    }
}

fn pack(old: State, new: State, changing: bool) -> u64 {
    u64::from(old.content) << 8
        | u64::from(new.content != old.content) << 7
        | new.bits() << 4
        | old.bits() << 1
        | u64::from(changing)
}

/// What was read of a [`Life`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look(u64);

impl Look {
    pub(crate) const NONE: Self = Self(0);

    fn changing(self) -> bool {
        self.0 & 1 != 0
    }

    fn from(self) -> State {
        State::unpack(self.0 >> 1, (self.0 >> 8) as u32 & 0xff_ffff)
    }

    fn to(self) -> State {
        State::unpack(self.0 >> 4, self.from().content + u32::from(self.0 & 0x80 != 0))
    }

    fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// All that a page may have been while an access was under way.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) before: Look,
    pub(crate) after: Look,
}

impl Span {
    /// What it was all the time.
    #[inline]
    pub(crate) fn settled(self) -> Option<State> {
        (self.before == self.after && !self.before.changing()).then(|| self.before.from())
    }

    /// Whether a change began while the access was under way.
    pub(crate) fn began(self) -> bool {
        !self.before.changing() && self.before != self.after
    }

    /// Whether it may have been of this kind. Of more than one change in between nothing is known
    /// but where they began and ended.
    pub(crate) fn may(self, kind: impl Fn(State) -> bool) -> bool {
        let Self { before, after } = self;
        after.count().wrapping_sub(before.count()) > 2
            || [before.from(), before.to(), after.from(), after.to()].into_iter().any(kind)
    }

    /// Contents that it may have had.
    pub(crate) fn contents(self) -> RangeInclusive<u32> {
        self.before.from().content..=self.after.to().content
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |f: &mut std::fmt::Formatter<'_>, look: Look| match look.changing() {
            true => write!(f, "[{}] {:?} on its way to {:?}", look.count(), look.from(), look.to()),
            false => write!(f, "[{}] {:?}", look.count(), look.from()),
        };
        one(f, self.before)?;
        if self.before != self.after {
            f.write_str(", then ")?;
            one(f, self.after)?;
        }
        Ok(())
    }
}

/// The word of a bond: bit 0 it is being made or undone; bit 1 it is there; 2..=21 its PASID, or
/// the last one; 32..=63 counts.
#[derive(Default)]
pub(crate) struct Tie(AtomicU64);

impl Tie {
    pub(crate) fn mark(&self) {
        self.put(self.0.load(Ordering::Relaxed) as u32 | 1);
    }

    /// The bind has returned with this PASID, or the unbind has.
    pub(crate) fn settle(&self, bound: Option<Pasid>) {
        let last = self.0.load(Ordering::Relaxed) as u32 & !3;
        self.put(bound.map_or(last, |pasid| pasid.get() << 2 | 2));
    }

    fn put(&self, low: u32) {
        let count = (self.0.load(Ordering::Relaxed) >> 32) + 1;
        self.0.store(count << 32 | u64::from(low), Ordering::SeqCst);
    }

    pub(crate) fn look(&self) -> TieLook {
        TieLook(self.0.load(Ordering::SeqCst))
    }
}

/// What was read of a [`Tie`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TieLook(u64);

impl TieLook {
    /// The PASID to use: a device that was unbound goes on with the last one. `None` before the
    /// first bind.
    #[inline]
    pub(crate) fn pasid(self) -> Option<Pasid> {
        Pasid::new(self.0 as u32 >> 2)
    }

    /// Whether the device was bound from this look to `after`.
    #[inline]
    pub(crate) fn bound_until(self, after: Self) -> bool {
        self == after && self.0 & 3 == 2
    }

    /// Whether it was not bound from this look to `after`.
    #[inline]
    pub(crate) fn unbound_until(self, after: Self) -> bool {
        self == after && self.0 & 3 == 0
    }
}
