//! Changes of a space, and how one that takes something away waits for the devices.
//!
//! A change has four steps: the table changes under the lock; with no lock held every watcher
//! invalidates the range; the change waits for these invalidations; the frames that were taken are
//! freed, under the lock again. [`MemorySpace::unmap`] and the other changes make all four. Each
//! has a form that makes the first two and returns a [`Change`], whose drop makes the others, for a
//! scheduler that has one thread and decides when the devices complete.

use std::sync::Arc;

use sva_core::AddrRange;
use sva_core::space::Invalidation;

use super::memory::{Memory, Taken};
use super::memory_space::{MemorySpace, Shared};
use crate::pages::whole_pages;
use crate::protection::Protection;

/// A change of a space that is under way: the new state holds, and devices may still use the old
/// one.
///
/// Its drop finishes it. If it is forgotten, its frames are never freed, and the oracle goes on
/// permitting what it took away.
#[must_use = "dropping it waits for the devices and frees what the change took"]
pub struct Change {
    space: Arc<Shared>,
    number: u64,
    invalidations: Vec<Invalidation>,
}

impl Change {
    /// Whether no device uses the old state any more. Does not block.
    pub fn is_over(&self) -> bool {
        self.invalidations.iter().all(Invalidation::is_over)
    }

    /// Frees what the change took away. Blocks until [`is_over`](Self::is_over); see
    /// [`Invalidation::wait`] for how long that can be.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        std::mem::take(&mut self.invalidations).into_iter().for_each(Invalidation::wait);
        self.space.memory.write().finish(self.number);
    }
}

impl MemorySpace {
    /// Maps `len` bytes of zeros at `address`, replacing what was there. Blocks as
    /// [`unmap`](Self::unmap) if something was.
    ///
    /// # Panics
    /// The range is empty, wraps, or is not made of whole pages; or more than 2^63 bytes are
    /// mapped.
    pub fn map(&self, address: u64, len: u64, protection: Protection) {
        self.begin_map(address, len, protection).finish();
    }

    /// Begins [`map`](Self::map).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn begin_map(&self, address: u64, len: u64, protection: Protection) -> Change {
        let range = whole_pages(address, len);
        self.begin(|memory| memory.map(range, protection))
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
    pub fn begin_unmap(&self, address: u64, len: u64) -> Change {
        let range = whole_pages(address, len);
        self.begin(|memory| memory.unmap(range))
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
    pub fn begin_protect(&self, address: u64, len: u64, protection: Protection) -> Change {
        let range = whole_pages(address, len);
        self.begin(|memory| memory.protect(range, protection))
    }

    /// Moves what is mapped at `from..from + len` to `to`, as `mremap` does: frames, contents,
    /// protection and absence go along, what was at `to` goes. Blocks as [`unmap`](Self::unmap).
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
    pub fn begin_remap(&self, from: u64, len: u64, to: u64) -> Change {
        let (from, target) = (whole_pages(from, len), whole_pages(to, len));
        assert!(!from.overlaps(target), "{from} is moved onto itself, to {target}");
        self.begin(|memory| memory.remap(from, to))
    }

    /// Gives the present pages there new frames with the same contents, as copy-on-write and
    /// migration do. Blocks as [`unmap`](Self::unmap).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn replace(&self, address: u64, len: u64) {
        self.begin_replace(address, len).finish();
    }

    /// Begins [`replace`](Self::replace).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn begin_replace(&self, address: u64, len: u64) -> Change {
        let range = whole_pages(address, len);
        self.begin(|memory| memory.renew(range, true))
    }

    /// Makes the mapped pages there absent; they keep their contents and come back in other frames.
    /// Blocks as [`unmap`](Self::unmap).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn absent(&self, address: u64, len: u64) {
        self.begin_absent(address, len).finish();
    }

    /// Begins [`absent`](Self::absent).
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn begin_absent(&self, address: u64, len: u64) -> Change {
        let range = whole_pages(address, len);
        self.begin(|memory| memory.renew(range, false))
    }

    fn begin(&self, change: impl FnOnce(&mut Memory) -> Taken) -> Change {
        let (number, to_invalidate) = {
            let mut memory = self.shared.memory.write();
            let taken = change(&mut memory);
            memory.begin(taken)
        };
        let invalidations =
            to_invalidate.into_iter().flat_map(|range| self.shared.invalidate(range)).collect();
        Change { space: self.shared.clone(), number, invalidations }
    }
}

impl Shared {
    /// Has every watcher invalidate `range`. Of a space that is not synchronous no translation is
    /// cached, so there is nothing to invalidate.
    fn invalidate(&self, range: AddrRange) -> Vec<Invalidation> {
        if !self.capabilities.synchronous {
            return Vec::new();
        }
        self.lifecycle.invalidate(self.id, range)
    }
}
