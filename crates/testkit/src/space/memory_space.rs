//! The owner of a space: what it is asked, and its end.

use std::sync::Arc;

use sva_core::space::ExitWork;
use sva_core::{Access, AddrRange, AddressSpace, EndReason, Frame, SpaceCapabilities, SpaceId};
use sva_sync::RwLock;

use super::memory::{Memory, StaleAccess};
use crate::lifecycle::Lifecycle;
use crate::pages::whole_pages;

/// The largest translation that is answered unless [`MemorySpace::largest_translation`] says
/// otherwise, as a power of two: 2 MiB.
const LARGEST: u8 = 21;

/// The owner of an address space in memory; dropping it ends the space.
///
/// Handles live on and answer that the space has ended.
pub struct MemorySpace {
    pub(super) shared: Arc<Shared>,
}

/// What the owner, its handles and its changes share.
pub(super) struct Shared {
    pub(super) id: SpaceId,
    pub(super) capabilities: SpaceCapabilities,
    pub(super) memory: RwLock<Memory>,
    pub(super) lifecycle: Lifecycle,
}

impl Default for MemorySpace {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySpace {
    /// An empty space that checks execution and privilege, resolves absent pages and is
    /// synchronous.
    pub fn new() -> Self {
        Self::with_capabilities(SpaceCapabilities {
            synchronous: true,
            atomics: false,
            in_place: false,
            execute: true,
            privileged: true,
            page_faults: true,
        })
    }

    /// An empty space that claims `capabilities`. Without `page_faults` absent pages are not
    /// resolved; without `synchronous` no translation names a frame and no change tells the
    /// watchers; the rest is only claimed.
    pub fn with_capabilities(capabilities: SpaceCapabilities) -> Self {
        let (memory, lifecycle) = (RwLock::new(Memory::new(LARGEST)), Lifecycle::default());
        let id = SpaceId::unique();
        Self { shared: Arc::new(Shared { id, capabilities, memory, lifecycle }) }
    }

    /// A handle for binding; it does not keep the space from ending.
    pub fn handle(&self) -> Arc<dyn AddressSpace> {
        self.shared.clone()
    }

    /// Answers translations of at most 2^`bits` bytes from now on, and makes frames of later
    /// mappings as aligned as their addresses up to that size. Without it: 2^21, 2 MiB.
    ///
    /// # Panics
    /// `bits` is not 12..=30.
    pub fn largest_translation(&self, bits: u8) {
        assert!((12..=30).contains(&bits), "2^{bits} bytes are no translation: 12..=30");
        self.shared.memory.write().largest = bits;
    }

    /// Brings absent pages back in, without counting.
    ///
    /// # Panics
    /// As [`unmap`](Self::unmap).
    pub fn present(&self, address: u64, len: u64) {
        self.shared.memory.write().table.set_present(whole_pages(address, len));
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

    /// How many frames there are, in pages: those that addresses lead to, and those that changes
    /// under way have taken and not freed.
    pub fn frames(&self) -> u64 {
        self.shared.memory.read().frames()
    }

    /// How many changes have begun and not been finished.
    pub fn changes_under_way(&self) -> usize {
        self.shared.memory.read().changes_under_way()
    }

    /// Whether an access of this kind that touches `used` for `address` is permitted at this
    /// instant: the table leads there and permits it, or did so before a change that is not over.
    ///
    /// Where a second change of the same addresses is over, the first one excuses nothing there any
    /// more. Ask with everything held that makes a change wait for the access, and before the
    /// frame is touched: from the other side of the access an end of the space in between would
    /// look like a stale access.
    ///
    /// # Errors
    /// What is wrong with the access.
    pub fn audit(&self, address: u64, access: Access, used: Frame) -> Result<(), StaleAccess> {
        self.shared.memory.read().audit(address, access, used)
    }

    /// Copies `len` bytes out, whatever protection and presence say.
    ///
    /// # Panics
    /// Part of it is not mapped.
    pub fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let memory = self.shared.memory.read();
        let mut bytes = vec![0; len];
        if let Some(range) = all_mapped(&memory, address, len) {
            memory.copy_out(range, &mut bytes);
        }
        bytes
    }

    /// Copies bytes in, whatever protection and presence say.
    ///
    /// # Panics
    /// Part of it is not mapped.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let mut memory = self.shared.memory.write();
        if let Some(range) = all_mapped(&memory, address, bytes.len()) {
            memory.copy_in(range, bytes);
        }
    }

    /// Ends the space: accesses stop, by address and by frame, then the watchers are called, then
    /// their exit work runs on this thread. Only the first end counts. What is mapped stays for
    /// [`peek`](Self::peek).
    pub fn end(&self, reason: EndReason) {
        for work in self.end_deferred(reason) {
            work.run();
        }
    }

    /// As [`end`](Self::end), but hands the exit work back for the test to run when and where it
    /// likes.
    pub fn end_deferred(&self, reason: EndReason) -> Vec<ExitWork> {
        self.end_unannounced(reason);
        self.announce()
    }

    /// Ends the space without telling the watchers yet: a provider that has not noticed. When it
    /// returns, no access is under way.
    pub fn end_unannounced(&self, reason: EndReason) {
        self.shared.lifecycle.end(reason);
        self.shared.memory.write().table.ended = true;
    }

    /// Calls the watchers of a space that has ended; each watch hears of it once.
    ///
    /// # Panics
    /// The space has not ended.
    pub fn announce(&self) -> Vec<ExitWork> {
        self.shared.lifecycle.announce(self.shared.id)
    }
}

impl Drop for MemorySpace {
    fn drop(&mut self) {
        self.end(EndReason::Closed);
    }
}

/// The range, if it is not empty.
fn all_mapped(memory: &Memory, address: u64, len: usize) -> Option<AddrRange> {
    let range = AddrRange::new(address, len as u64);
    assert!(range.is_some() || len == 0, "{len:#x} bytes at {address:#x} wrap");
    assert!(
        range.is_none_or(|range| memory.table.covers(range)),
        "{len:#x} bytes at {address:#x} are not all mapped"
    );
    range
}
