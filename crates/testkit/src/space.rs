//! An address space made of memory: exact, synchronous, and ended when its owner says so.
//!
//! One reader-writer lock guards the contents and is held over each access, so that a change that has returned has no access through the
//! old translation behind it (rule T2). Copies from the space share the lock, copies into it do not: slow and certainly right, which is what a reference is for.
//! The lock is given up only to resolve an absent page, as a processor gives up an instruction; no other lock is taken under it.
//! Watchers and the resolver run with no lock held.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::sync::{Mutex, RwLock};
use sva_core::{
    AccessMode, AddrRange, AddressSpace, EndReason, ExitWork, HostFailure, Segment, SpaceCapabilities, SpaceEnded, SpaceId, SpaceWatcher,
    StopCause, Stopped, Translation, WatchToken,
};

use crate::memory::{Cursor, Halt, Memory};

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// What a mapping permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protection {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Reading to execute.
    pub execute: bool,
    /// Only privileged accesses, whatever else it permits.
    pub privileged: bool,
}

impl Protection {
    /// Nothing at all.
    pub const NONE: Self = Self { read: false, write: false, execute: false, privileged: false };
    /// Reading.
    pub const READ: Self = Self { read: true, ..Self::NONE };
    /// Reading and writing.
    pub const READ_WRITE: Self = Self { write: true, ..Self::READ };
    /// Reading and executing.
    pub const READ_EXECUTE: Self = Self { execute: true, ..Self::READ };

    /// The same, for privileged accesses only.
    pub const fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }
}

/// Decides whether an absent page can be brought in; gets the page's first address.
pub type Resolver = dyn Fn(u64) -> bool + Send + Sync;

/// The owner of an address space in memory; dropping it ends the space.
///
/// Handles live on and answer that the space has ended.
pub struct MemorySpace {
    shared: Arc<Shared>,
}

struct Shared {
    id: SpaceId,
    capabilities: SpaceCapabilities,
    memory: RwLock<Memory>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    ended: Option<EndReason>,
    next_token: u64,
    watchers: BTreeMap<u64, Arc<dyn SpaceWatcher>>,
    resolver: Option<Arc<Resolver>>,
    resolved: u64,
}

impl Default for MemorySpace {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySpace {
    /// An empty space that checks execution and privilege, resolves absent pages and is synchronous.
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

    /// An empty space that claims `capabilities`. Without `page_faults` absent pages are not resolved; the rest is only claimed.
    pub fn with_capabilities(capabilities: SpaceCapabilities) -> Self {
        let (memory, life) = (RwLock::new(Memory::default()), Mutex::new(Life::default()));
        Self { shared: Arc::new(Shared { id: SpaceId::unique(), capabilities, memory, life }) }
    }

    /// A handle for binding; it does not keep the space from ending.
    pub fn handle(&self) -> Arc<dyn AddressSpace> {
        self.shared.clone()
    }

    /// Maps `len` bytes of zeros at `address`, replacing what was there.
    ///
    /// # Panics
    /// The range is empty, wraps, or is not made of whole pages.
    pub fn map(&self, address: u64, len: u64, protection: Protection) {
        self.shared.memory.write().map(whole_pages(address, len), protection);
    }

    /// Unmaps what is mapped there. When it returns, no access to the old pages is under way (rule T2).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn unmap(&self, address: u64, len: u64) {
        self.shared.memory.write().unmap(whole_pages(address, len));
    }

    /// Changes the protection of what is mapped there. When it returns, no access under the old one is under way (rule T2).
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn protect(&self, address: u64, len: u64, protection: Protection) {
        self.shared.memory.write().protect(whole_pages(address, len), protection);
    }

    /// Makes the mapped pages there absent; they keep their contents.
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn absent(&self, address: u64, len: u64) {
        self.shared.memory.write().set_absent(whole_pages(address, len));
    }

    /// Brings absent pages back in, without counting.
    ///
    /// # Panics
    /// As [`map`](Self::map).
    pub fn present(&self, address: u64, len: u64) {
        let range = whole_pages(address, len);
        let mut memory = self.shared.memory.write();
        (range.first() / PAGE..=range.last() / PAGE).for_each(|page| memory.set_present(page));
    }

    /// Has `resolver` asked for every absent page that an access is to bring in. It runs with no lock held and may block, unbind, or change the space.
    ///
    /// Where it answers `false` the access stops with [`StopCause::NotPresent`]. Without a resolver all pages can be brought in.
    pub fn on_resolve(&self, resolver: impl Fn(u64) -> bool + Send + Sync + 'static) {
        self.shared.life.lock().resolver = Some(Arc::new(resolver));
    }

    /// How many absent pages have been brought in.
    pub fn resolved(&self) -> u64 {
        self.shared.life.lock().resolved
    }

    /// How many watches are registered.
    pub fn watches(&self) -> usize {
        self.shared.life.lock().watchers.len()
    }

    /// Copies `len` bytes out, whatever protection and presence say.
    ///
    /// # Panics
    /// Part of it is not mapped.
    pub fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let memory = self.shared.memory.read();
        let mut bytes = vec![0; len];
        for (address, part) in mapped_parts(&memory, address, len) {
            memory.copy_out(address, &mut bytes[part]);
        }
        bytes
    }

    /// Copies bytes in, whatever protection and presence say.
    ///
    /// # Panics
    /// Part of it is not mapped.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let mut memory = self.shared.memory.write();
        for (address, part) in mapped_parts(&memory, address, bytes.len()) {
            memory.copy_in(address, &bytes[part]);
        }
    }

    /// Ends the space: accesses stop, then the watchers are called, then their exit work runs on this thread. Only the first end counts.
    pub fn end(&self, reason: EndReason) {
        for work in self.end_deferred(reason) {
            work.run();
        }
    }

    /// As [`end`](Self::end), but hands the exit work back for the test to run when and where it likes.
    pub fn end_deferred(&self, reason: EndReason) -> Vec<ExitWork> {
        self.end_unannounced(reason);
        self.announce()
    }

    /// Ends the space without telling the watchers yet: a provider that has not noticed. When it returns, no access is under way.
    pub fn end_unannounced(&self, reason: EndReason) {
        self.shared.life.lock().ended.get_or_insert(reason);
        self.shared.memory.write().ended = true;
    }

    /// Calls the watchers of a space that has ended; each watch hears of it once.
    ///
    /// # Panics
    /// The space has not ended.
    pub fn announce(&self) -> Vec<ExitWork> {
        let (reason, watchers) = {
            let mut life = self.shared.life.lock();
            let reason = life.ended.expect("announce() after end_unannounced()");
            (reason, std::mem::take(&mut life.watchers))
        };
        watchers.into_values().map(|watcher| watcher.space_ended(self.shared.id, reason)).collect()
    }
}

impl Drop for MemorySpace {
    fn drop(&mut self) {
        self.end(EndReason::Closed);
    }
}

impl Shared {
    /// Brings in the page, or says why not.
    fn resolve(&self, page: u64) -> Result<(), StopCause> {
        if !self.capabilities.page_faults {
            return Err(StopCause::NotPresent);
        }
        let resolver = self.life.lock().resolver.clone();
        if resolver.is_some_and(|resolver| !resolver(page * PAGE)) {
            return Err(StopCause::NotPresent);
        }
        self.memory.write().set_present(page);
        self.life.lock().resolved += 1;
        Ok(())
    }

    /// Repeats `pass`, which goes on where it halted, until it is through or has stopped for good.
    fn transfer(&self, pieces: &[Segment], mut pass: impl FnMut(&mut Cursor<'_>) -> Result<(), Halt>) -> Result<(), Stopped> {
        let mut cursor = Cursor::new(pieces);
        loop {
            let paused = match pass(&mut cursor) {
                Ok(()) => return Ok(()),
                Err(Halt::Absent(page)) => self.resolve(page),
                Err(Halt::Stop(cause)) => Err(cause),
            };
            paused.map_err(|cause| Stopped { done: cursor.done, cause })?;
        }
    }
}

impl AddressSpace for Shared {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        self.capabilities
    }

    fn ended(&self) -> Option<EndReason> {
        self.life.lock().ended
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut life = self.life.lock();
        if let Some(reason) = life.ended {
            return Err(SpaceEnded(reason));
        }
        let token = life.next_token;
        life.next_token += 1;
        life.watchers.insert(token, watcher);
        Ok(WatchToken(token))
    }

    fn unwatch(&self, token: WatchToken) {
        // The watcher may be dropped here, and with it what it owns: not under the lock.
        let watcher = self.life.lock().watchers.remove(&token.0);
        drop(watcher);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], mode: AccessMode) -> Result<(), Stopped> {
        self.transfer(pieces, |cursor| self.memory.read().read(cursor, buf, mode))
    }

    fn write(&self, pieces: &[Segment], data: &[u8], mode: AccessMode) -> Result<(), Stopped> {
        self.transfer(pieces, |cursor| self.memory.write().write(cursor, data, mode))
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        let _ = (address, privileged);
        Err(StopCause::NotMapped)
    }

    fn resolve(&self, address: u64, mode: AccessMode) -> Result<(), StopCause> {
        let _ = (address, mode);
        Err(StopCause::NotMapped)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        let memory = self.memory.read();
        let mut found: Vec<_> =
            memory.mapped().flat_map(|region| windows.iter().filter_map(move |window| region.intersection(*window))).collect();
        found.sort_unstable();
        Ok(found)
    }
}

fn whole_pages(address: u64, len: u64) -> AddrRange {
    let range = AddrRange::new(address, len).filter(|_| address.is_multiple_of(PAGE) && len.is_multiple_of(PAGE));
    range.unwrap_or_else(|| panic!("{len:#x} bytes at {address:#x} are not whole pages of {PAGE} bytes"))
}

/// The parts of a buffer of `len` bytes for `address`, one for each page.
fn mapped_parts(memory: &Memory, address: u64, len: usize) -> Vec<(u64, std::ops::Range<usize>)> {
    let Some(range) = AddrRange::new(address, len as u64) else {
        assert_eq!(len, 0, "{len:#x} bytes at {address:#x} wrap");
        return Vec::new();
    };
    assert!(memory.covers(range), "{range} is not all mapped");
    let mut parts = Vec::new();
    let mut at = 0;
    while at < len {
        let here = address + at as u64;
        let step = ((PAGE - here % PAGE) as usize).min(len - at);
        parts.push((here, at..at + step));
        at += step;
    }
    parts
}

#[cfg(all(test, not(loom)))]
mod tests;
