//! The owner of a space: what it is asked, and its end.

use std::sync::Arc;

use sva_core::space::ExitWork;
use sva_core::{AddrRange, AddressSpace, EndReason, Frame, SpaceId};
use sva_sync::RwLock;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vm_memory::{Bytes, VolatileSlice};

use super::memory::{Arena, Piece};
use super::state::State;
use crate::lifecycle::Lifecycle;
use crate::pages::whole_pages;

/// The owner of an address space in memory that is accessed in place; dropping it ends the space.
///
/// Handles live on and answer that the space has ended; the memory goes with the last of them.
pub struct ArenaSpace {
    pub(super) shared: Arc<Shared>,
}

/// What the owner, its handles and its changes share.
pub(super) struct Shared {
    pub(super) id: SpaceId,
    pub(super) arena: Arena,
    pub(super) state: RwLock<State>,
    pub(super) lifecycle: Lifecycle,
    poisoning: AtomicBool,
    /// A frame that was written to while it was free; 0 if none was seen.
    disturbed: AtomicU64,
}

impl ArenaSpace {
    /// An empty space with `bytes` of memory, of which untouched pages cost nothing. It checks
    /// execution and privilege, resolves absent pages, and is synchronous.
    ///
    /// # Panics
    /// `bytes` is 0 or no whole number of pages, or the system does not have as much.
    pub fn new(bytes: u64) -> Self {
        let arena = Arena::new(bytes);
        let state = RwLock::new(State::new(arena.frames()));
        let (lifecycle, poisoning, disturbed) =
            (Lifecycle::default(), AtomicBool::default(), AtomicU64::default());
        Self {
            shared: Arc::new(Shared {
                id: SpaceId::unique(),
                arena,
                state,
                lifecycle,
                poisoning,
                disturbed,
            }),
        }
    }

    /// Fills freed memory with a pattern from now on, so that a stale read brings what nobody
    /// wrote, and a stale write is seen by [`stale_write`](Self::stale_write). To be called before
    /// anything is mapped.
    pub fn poisoning(self) -> Self {
        self.shared.poisoning.store(true, Ordering::Relaxed);
        self
    }

    /// A frame that was written to while it was free; `None` if no such write was seen. Reads all
    /// free memory.
    pub fn stale_write(&self) -> Option<Frame> {
        if !self.shared.poisoning.load(Ordering::Relaxed) {
            return None;
        }
        // Under the lock, so that no change takes them meanwhile.
        let state = self.shared.state.read();
        let now =
            state.free.freed().into_iter().find_map(|frames| self.shared.arena.disturbed(frames));
        let before = self.shared.disturbed.load(Ordering::Relaxed);
        now.or((before != 0).then_some(Frame(before)))
    }

    /// A handle for binding; it does not keep the space from ending.
    pub fn handle(&self) -> Arc<dyn AddressSpace> {
        self.shared.clone()
    }

    /// Brings absent pages in, without counting, and without asking the resolver.
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn present(&self, address: u64, len: u64) {
        self.shared.state.write().table.set_present(whole_pages(address, len));
    }

    /// Has `resolver` asked for every absent page that an access is to bring in. It runs with no
    /// lock held and may block, unbind, or change the space.
    ///
    /// Where it answers `false` the access stops with
    /// [`StopCause::NotPresent`](sva_core::StopCause::NotPresent). Without a resolver all pages can
    /// be brought in.
    pub fn on_resolve(&self, resolver: impl Fn(u64) -> bool + Send + Sync + 'static) {
        self.shared.lifecycle.on_resolve(resolver);
    }

    /// How many absent pages have been brought in.
    pub fn resolved(&self) -> u64 {
        self.shared.lifecycle.resolved()
    }

    /// How many watches are registered.
    pub fn watches(&self) -> usize {
        self.shared.lifecycle.watches()
    }

    /// Bytes of memory that are free: neither mapped nor held by a change under way.
    pub fn free(&self) -> u64 {
        self.shared.state.read().free.len()
    }

    /// How many changes have begun and not been finished.
    pub fn changes_under_way(&self) -> usize {
        self.shared.state.read().changes_under_way()
    }

    /// Copies `len` bytes out, whatever protection and presence say.
    ///
    /// # Panics
    /// Part of it is not mapped.
    pub fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mapped(address, len, |at, memory| {
            memory.read_slice(&mut bytes[at..at + memory.len()], 0).expect("as long");
        });
        bytes
    }

    /// Copies bytes in, whatever protection and presence say.
    ///
    /// # Panics
    /// Part of it is not mapped.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        self.mapped(address, bytes.len(), |at, memory| {
            memory.write_slice(&bytes[at..at + memory.len()], 0).expect("as long");
        });
    }

    /// Calls `each` for each piece of memory of a range, with its offset in the range.
    fn mapped(&self, address: u64, len: usize, mut each: impl FnMut(usize, VolatileSlice<'_>)) {
        let Some(range) = AddrRange::new(address, len as u64) else {
            assert!(len == 0, "{len:#x} bytes at {address:#x} wrap");
            return;
        };
        let state = self.shared.state.read();
        assert!(state.table.covers(range), "{len:#x} bytes at {address:#x} are not all mapped");
        for (part, mapping) in state.table.parts(range) {
            each(
                (part.first() - range.first()) as usize,
                self.shared.arena.own(mapping.frames(part)),
            );
        }
    }

    /// Ends the space: the watchers are called, then their exit work runs on this thread. From the
    /// return of this call on no access by address is made; one in place that a watcher had begun
    /// is the watcher's to wait for. Only the first end counts. What is mapped stays for
    /// [`peek`](Self::peek).
    pub fn end(&self, reason: EndReason) {
        self.end_deferred(reason).into_iter().for_each(ExitWork::run);
    }

    /// As [`end`](Self::end), but hands the exit work back for the test to run when and where it
    /// likes.
    pub fn end_deferred(&self, reason: EndReason) -> Vec<ExitWork> {
        self.shared.lifecycle.end(reason);
        self.shared.state.write().table.ended = true;
        self.shared.lifecycle.announce(self.shared.id)
    }
}

impl Drop for ArenaSpace {
    fn drop(&mut self) {
        self.end(EndReason::Closed);
    }
}

impl Shared {
    /// Takes frames for `range`, which are zeroed or hold arbitrary bytes.
    ///
    /// # Panics
    /// Fewer frames are free.
    pub(super) fn take(&self, range: AddrRange, zeroed: bool) -> Vec<Piece> {
        let (pieces, used) = self.state.write().free.take(range);
        for frames in used {
            if self.poisoning.load(Ordering::Relaxed)
                && let Some(frame) = self.arena.disturbed(frames)
            {
                self.disturbed.store(frame.0, Ordering::Relaxed);
            }
            if zeroed {
                self.arena.zero(frames);
            }
        }
        pieces
    }

    /// Frees frames that no access uses any more.
    pub(super) fn give_back(&self, freed: &[AddrRange]) {
        if self.poisoning.load(Ordering::Relaxed) {
            freed.iter().for_each(|frames| self.arena.poison(*frames));
        }
        let mut state = self.state.write();
        freed.iter().for_each(|frames| state.free.give_back(*frames));
    }
}
