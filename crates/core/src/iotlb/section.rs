//! Sections: how an access through a kept translation says that it is under way, and how an
//! invalidation waits for it.
//!
//! The reader stores in its slot whose memory it accesses, then looks whether there is news for it,
//! then accesses, then clears the slot; all are plain loads and stores. Whoever takes something
//! away makes that visible first (a gate closed, an entry taken out, a generation counted up), then
//! tells the slots that it concerns, has a barrier pass on every running thread, and looks into the
//! slots. Either the reader's store was before the barrier, then it is seen and waited for; or its
//! look was after, then it sees that there is news, and what that is.

use std::sync::Arc;

use super::kept::Kept;
use crate::ids::Generation;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Backoff, Mutex, barrier};

/// Bits of a slot's word that say up to which news a section is, so that one before them can be
/// told from one after.
const NEWS_BITS: u32 = 16;

/// What one port and those that take something away say to one another. It has a line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Slot {
    /// Whose memory the port accesses right now through what it has kept; 0: nobody's. The port
    /// alone writes it.
    section: AtomicU64,
    /// Counted up by whoever has taken something away. A hit looks at this instead of at each
    /// thing that can be.
    news: AtomicU64,
}

/// What a slot says in a section: whose memory is accessed, and by whoever knows of which news. The
/// next section after there was news is told from the one before by that.
#[derive(Clone, Copy)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) fn new(owner: Generation, news: u64) -> Self {
        // Generations count binds: 2^48 are not reached.
        Self(owner.0 << NEWS_BITS | news & ((1 << NEWS_BITS) - 1))
    }
}

impl Slot {
    /// Begins a section.
    #[inline(always)]
    pub(crate) fn enter(&self, word: Word, barrier: barrier::Light) -> Section<'_> {
        // Release: who finds this section instead of the one before knows that what that has
        // accessed was accessed before.
        self.section.store(word.0, Ordering::Release);
        barrier.pass();
        Section(self)
    }

    /// Another number than before means that something has been taken away: it is seen by whoever
    /// looks from now on.
    #[inline]
    pub(crate) fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    fn tell(&self) {
        // Release: what has been taken away is, for whoever sees this.
        self.news.fetch_add(1, Ordering::Release);
    }
}

/// An access through a kept translation is under way as long as this lives.
pub(crate) struct Section<'a>(&'a Slot);

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: what was accessed was accessed before.
        self.0.section.store(0, Ordering::Release);
    }
}

/// The ports whose sections somebody may have to wait for: those of a device, or those that read
/// what is kept of a space. Each with the generation at which it came.
#[derive(Default)]
pub(crate) struct Readers(Mutex<Vec<(Arc<Slot>, u64)>>);

impl Readers {
    /// From now on this slot is looked at. Whoever does not find it there has taken away before,
    /// and the reader, which looks after this, sees it.
    pub(crate) fn add(&self, slot: &Arc<Slot>, generation: u64) {
        let mut slots = self.0.lock();
        match slots.iter_mut().find(|(held, _)| Arc::ptr_eq(held, slot)) {
            Some((_, came)) => *came = generation,
            None => slots.push((Arc::clone(slot), generation)),
        }
    }

    /// The port is gone, or has forgotten the space.
    pub(crate) fn remove(&self, slot: &Arc<Slot>) {
        self.0.lock().retain(|(held, _)| !Arc::ptr_eq(held, slot));
    }

    /// Tells those that are in it now, and answers who they are. What is taken away has been before
    /// this; who comes later sees it.
    fn tell<W>(&self, watch: impl Fn(Arc<Slot>, u64) -> W) -> Vec<W> {
        let slots = self.0.lock();
        slots.iter().for_each(|(slot, _)| slot.tell());
        slots.iter().map(|(slot, came)| watch(Arc::clone(slot), *came)).collect()
    }

    /// It sees before it accesses anything more that the generation has moved on: it comes back
    /// when it has, and until then nobody has to tell it or wait for it. Otherwise
    /// each invalidation would interrupt every running thread of the process for a port that has
    /// not been used for long.
    fn retire(&self, slot: &Arc<Slot>, came: u64) {
        let mut slots = self.0.lock();
        if let Some(at) =
            slots.iter().position(|(held, then)| *then == came && Arc::ptr_eq(held, slot))
        {
            slots.swap_remove(at);
        }
    }
}

/// Sections that may be under way; each is one copy, or one atomic operation, and runs no foreign
/// code.
#[derive(Default)]
#[must_use = "what was taken away may still be in use"]
pub(crate) struct UnderWay(Vec<Watched>);

/// One port, and whose memory it would be in.
struct Watched {
    slot: Arc<Slot>,
    owner: Option<Generation>,
    /// It came before there was anything to see: it is retired once it has been waited for.
    retire: Option<(Arc<Kept>, u64)>,
}

impl UnderWay {
    /// All sections of the ports of a device, which has been shut.
    pub(crate) fn of_device(readers: &Readers) -> Self {
        Self(readers.tell(|slot, _| Watched { slot, owner: None, retire: None }))
    }

    /// The sections that read a space, of which something has been taken away: `generation` says so
    /// to those that come after.
    pub(crate) fn of_space(kept: &Arc<Kept>, generation: Option<u64>) -> Self {
        let retire = |came| {
            generation.is_some_and(|generation| came < generation).then(|| (Arc::clone(kept), came))
        };
        Self(kept.readers().tell(|slot, came| Watched {
            slot,
            owner: Some(kept.owner()),
            retire: retire(came),
        }))
    }

    /// These as well: one barrier will do for all.
    pub(crate) fn and(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether none of them is under way. Does not block.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty() || {
            barrier::heavy();
            self.0.iter().all(|watched| section_of(&watched.slot, watched.owner).is_none())
        }
    }

    /// Waits until none of them is under way.
    pub(crate) fn wait(self) {
        if self.0.is_empty() {
            return;
        }
        barrier::heavy();
        for Watched { slot, owner, retire } in self.0 {
            wait_for(&slot, owner);
            if let Some((kept, came)) = retire {
                kept.readers().retire(&slot, came);
            }
        }
    }
}

fn wait_for(slot: &Slot, owner: Option<Generation>) {
    let mut backoff = Backoff::default();
    let begun = section_of(slot, owner);
    // The next section of the same port that gets as far as to access anything has had the news.
    while begun.is_some() && section_of(slot, owner) == begun {
        backoff.wait();
    }
}

/// The section that a port is in, where it is one of that owner's memory.
fn section_of(slot: &Slot, owner: Option<Generation>) -> Option<u64> {
    // Acquire: what was accessed in a section that is over was accessed before.
    let word = slot.section.load(Ordering::Acquire);
    (word != 0 && owner.is_none_or(|owner| word >> NEWS_BITS == owner.0)).then_some(word)
}
