//! Changes of a space, and how one that takes something away waits for accesses in place.
//!
//! A change has four steps: the table changes under the lock; with no lock held every watcher
//! invalidates the range; the change waits for these invalidations; the memory that was taken is
//! freed, and may serve another address from then on. [`ArenaSpace::unmap`] and the other changes
//! make all four. Each has a form that makes the first two and returns an [`ArenaChange`], whose
//! drop makes the others, so that one wait serves many changes.

use std::sync::Arc;

use sva_core::space::Invalidation;

use super::arena_space::{ArenaSpace, Shared};
use super::state::{State, Taken};
use crate::pages::whole_pages;
use crate::protection::Protection;

/// Changes that are under way: the new state holds, and accesses through the old one may be in
/// flight.
///
/// Its drop finishes them. If it is forgotten, what the changes took is never freed.
#[must_use = "dropping it waits for the devices and frees what the change took"]
pub struct ArenaChange {
    /// The space and the number of each change.
    changes: Vec<(Arc<Shared>, u64)>,
    /// What the watchers of all of them have to invalidate.
    invalidation: Invalidation,
}

impl ArenaChange {
    /// Joins this change and another one, of the same space or another: one wait serves both.
    pub fn and(mut self, mut other: Self) -> Self {
        self.changes.append(&mut other.changes);
        self.invalidation = take(&mut self.invalidation).and(take(&mut other.invalidation));
        self
    }

    /// Whether no access uses the old state any more. Does not block.
    pub fn is_over(&self) -> bool {
        self.invalidation.is_over()
    }

    /// Frees what was taken away. Blocks until [`is_over`](Self::is_over); see
    /// [`Invalidation::wait`] for how long that can be.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for ArenaChange {
    fn drop(&mut self) {
        take(&mut self.invalidation).wait();
        self.changes.iter().for_each(|(space, number)| space.finish(*number));
    }
}

fn take(invalidation: &mut Invalidation) -> Invalidation {
    std::mem::replace(invalidation, Invalidation::none())
}

impl ArenaSpace {
    /// Maps `len` bytes of zeros at `address`, replacing what was there. Their memory is in one
    /// piece where that is to be had, and as aligned as the address up to 2 MiB. Blocks as
    /// [`unmap`](Self::unmap) if something was there.
    ///
    /// # Panics
    /// The range is empty, wraps, or is not made of whole pages; or the arena has no `len` bytes
    /// left.
    pub fn map(&self, address: u64, len: u64, protection: Protection) {
        self.begin_map(address, len, protection).finish();
    }

    /// Begins [`map`](Self::map).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn begin_map(&self, address: u64, len: u64, protection: Protection) -> ArenaChange {
        let range = whole_pages(address, len);
        let frames = self.shared.take(range, true);
        self.begin(|state| state.map(range, protection, &frames))
    }

    /// Unmaps what is mapped there. When it returns, no access to the old pages is under way:
    /// it blocks until the devices have forgotten them.
    ///
    /// # Panics
    /// The range is empty, wraps, or is not made of whole pages.
    pub fn unmap(&self, address: u64, len: u64) {
        self.begin_unmap(address, len).finish();
    }

    /// Begins [`unmap`](Self::unmap).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn begin_unmap(&self, address: u64, len: u64) -> ArenaChange {
        let range = whole_pages(address, len);
        self.begin(|state| state.unmap(range))
    }

    /// Changes the protection of what is mapped there. When it returns, no access under the old one
    /// is under way: it blocks where the new one permits less.
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn protect(&self, address: u64, len: u64, protection: Protection) {
        self.begin_protect(address, len, protection).finish();
    }

    /// Begins [`protect`](Self::protect).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn begin_protect(&self, address: u64, len: u64, protection: Protection) -> ArenaChange {
        let range = whole_pages(address, len);
        self.begin(|state| state.protect(range, protection))
    }

    /// Moves what is mapped at `from..from + len` to `to`, as `mremap` does: memory, protection and
    /// absence go along, what was at `to` goes. Blocks as [`unmap`](Self::unmap).
    ///
    /// # Panics
    /// A range is empty, wraps, or is not made of whole pages; or the two overlap.
    pub fn remap(&self, from: u64, len: u64, to: u64) {
        self.begin_remap(from, len, to).finish();
    }

    /// Begins [`remap`](Self::remap).
    ///
    /// # Panics
    /// As [`remap`](Self::remap).
    pub fn begin_remap(&self, from: u64, len: u64, to: u64) -> ArenaChange {
        let (from, target) = (whole_pages(from, len), whole_pages(to, len));
        assert!(!from.overlaps(target), "{from} is moved onto itself, to {target}");
        self.begin(|state| state.remap(from, to))
    }

    /// Gives the present pages there other memory with the same contents, as compaction and
    /// migration do. Blocks as [`unmap`](Self::unmap).
    ///
    /// As long as the old memory is accessed, no translation of these pages may be kept, and the
    /// provider's copies use the old memory. Then it is copied. A page stays where it is if it is
    /// resolved meanwhile, if another change takes it, or if it is being moved to these addresses:
    /// as a page in use does when a kernel migrates.
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap); or the arena has no `len` bytes left.
    pub fn replace(&self, address: u64, len: u64) {
        self.begin_replace(address, len).finish();
    }

    /// Begins [`replace`](Self::replace).
    ///
    /// # Panics
    /// As [`replace`](Self::replace).
    pub fn begin_replace(&self, address: u64, len: u64) -> ArenaChange {
        let range = whole_pages(address, len);
        let frames = self.shared.take(range, false);
        self.begin(|state| state.replace(range, frames))
    }

    /// Makes the mapped pages there absent and drops their contents, as `madvise(MADV_DONTNEED)`
    /// does: they come back as zeros. Blocks as [`unmap`](Self::unmap).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap); or the arena has no `len` bytes left, which is where the pages
    /// will come back.
    pub fn absent(&self, address: u64, len: u64) {
        self.begin_absent(address, len).finish();
    }

    /// Begins [`absent`](Self::absent).
    ///
    /// # Panics
    /// As [`absent`](Self::absent).
    pub fn begin_absent(&self, address: u64, len: u64) -> ArenaChange {
        let range = whole_pages(address, len);
        let frames = self.shared.take(range, true);
        self.begin(|state| state.absent(range, &frames))
    }

    fn begin(&self, change: impl FnOnce(&mut State) -> Taken) -> ArenaChange {
        let shared = &self.shared;
        let (number, to_invalidate) = {
            let mut state = shared.state.write();
            let taken = change(&mut state);
            state.begin(taken)
        };
        let invalidations = to_invalidate
            .into_iter()
            .flat_map(|range| shared.lifecycle.invalidate(shared.id, range));
        ArenaChange {
            changes: vec![(shared.clone(), number)],
            invalidation: invalidations.fold(Invalidation::none(), Invalidation::and),
        }
    }
}

impl Shared {
    /// Finishes a change: no access uses what it took any more.
    fn finish(&self, number: u64) {
        while self.move_chunk(number) {}
        let freed = self.state.write().take_freed(number);
        self.give_back(&freed);
        self.state.write().finish(number);
    }

    /// Moves a chunk of the pages that a [`replace`](ArenaSpace::replace) moves. Releases the lock
    /// after each, so that others get it in between. Returns false if none is left.
    fn move_chunk(&self, number: u64) -> bool {
        self.state.write().move_chunk(number, &self.arena)
    }
}
