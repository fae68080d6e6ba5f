//! A space whose memory is accessed in place, with as few states as a model can do with.

use std::sync::Arc;

use sva_core::ats::{AlignedRange, PAGE, Translation};
use sva_core::port::HostFailure;
use sva_core::space::{Invalidation, SpaceEnded, WatchToken};
use sva_core::*;
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicUsize, Ordering};
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::probe::Life;
use crate::support::Count;

/// Pages that an [`InPlace`] has, from address 0 on.
const PAGES: usize = 2;

/// A space of two pages that counts uses of its frames, changes when told, and ends when told.
/// Synchronous.
///
/// Uses are counted by relaxed additions, which order nothing. So whoever loads a count, relaxed
/// too, is shown each value that it need not have seen already: it is sure of all uses only where
/// what it has waited for orders them before. Where the load at the moment at which a frame goes to
/// others and the one after the end of all threads agree in each schedule, every use
/// happened before that moment, and none came after.
pub(crate) struct InPlace {
    id: SpaceId,
    life: Life,
    /// What the page table says: whether a page leads to its frame.
    mapped: Mutex<[bool; PAGES]>,
    /// Of the frame of each page. A step of the model.
    uses: [AtomicUsize; PAGES],
    /// The first frame; the others follow.
    frame: u64,
    /// What the frames hold. Not part of the model.
    memory: MmapRegion,
    in_place: Count,
    astray: Count,
}

impl InPlace {
    /// Its frames are those with this number; no other space's are the same where that has another
    /// number.
    pub(crate) fn with_frames(number: u64) -> Arc<Self> {
        Arc::new(Self {
            id: SpaceId::unique(),
            life: Life::default(),
            mapped: Mutex::new([true; PAGES]),
            uses: Default::default(),
            frame: number << 40,
            memory: MmapRegion::new(PAGES * PAGE as usize).expect("two pages"),
            in_place: Count::default(),
            astray: Count::default(),
        })
    }

    pub(crate) fn new() -> Arc<Self> {
        Self::with_frames(1)
    }

    pub(crate) fn end(&self) {
        self.life.end(self.id);
    }

    /// Takes a page away: the table, then the watchers, then the wait. Answers the uses of its
    /// frame up to the moment at which that may go to others.
    pub(crate) fn unmap(&self, page: usize) -> usize {
        self.begin_unmap(page).wait();
        self.uses(page)
    }

    /// As [`unmap`](Self::unmap), up to the wait.
    pub(crate) fn begin_unmap(&self, page: usize) -> Invalidation {
        self.mapped.lock()[page] = false;
        self.life.invalidate(self.id, AlignedRange::page(page as u64 * PAGE).range())
    }

    /// How often the frame of a page has been used, as far as the caller is sure of that.
    pub(crate) fn uses(&self, page: usize) -> usize {
        self.uses[page].load(Ordering::Relaxed)
    }

    /// Uses through cached translations, of all pages. Read after all threads have ended.
    pub(crate) fn in_place(&self) -> usize {
        self.in_place.get()
    }

    /// The word at the beginning of a page. Read after all threads have ended.
    pub(crate) fn word(&self, page: usize) -> u64 {
        let word = self.memory.get_ref::<u64>(page * PAGE as usize).expect("within");
        word.load()
    }

    /// A use of a page's frame.
    pub(crate) fn touch(&self, page: usize) {
        self.uses[page].fetch_add(1, Ordering::Relaxed);
    }

    /// Where a place is, if it is this space's.
    fn offset_of(&self, frame: Frame) -> Option<usize> {
        let offset =
            frame.0.checked_sub(self.frame).and_then(|offset| usize::try_from(offset).ok());
        offset.filter(|offset| *offset < PAGES * PAGE as usize)
    }

    /// Accesses the pieces through the gates. The lock of the page table is what orders it before a
    /// change.
    fn transfer(&self, pieces: &[Segment]) -> Result<(), Stopped> {
        let mapped = self.mapped.lock();
        let mut done = 0;
        for piece in pieces {
            let page = (piece.address / PAGE) as usize;
            if !mapped.get(page).is_some_and(|mapped| *mapped) {
                return Err(Stopped { done, cause: StopCause::NotMapped });
            }
            self.touch(page);
            done += piece.len;
        }
        Ok(())
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        assert!(
            std::thread::panicking() || self.astray.get() == 0,
            "an access by a place that was never this space's"
        );
    }
}

impl AddressSpace for InPlace {
    fn id(&self) -> SpaceId {
        self.id
    }
    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities {
            synchronous: true,
            atomics: true,
            in_place: true,
            page_faults: true,
            ..SpaceCapabilities::default()
        }
    }
    fn ended(&self) -> Option<EndReason> {
        self.life.ended()
    }
    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.life.watch(watcher)
    }
    fn unwatch(&self, _: WatchToken) {
        self.life.unwatch();
    }
    fn read(&self, pieces: &[Segment], _: &mut [u8], _: Access) -> Result<(), Stopped> {
        self.transfer(pieces)
    }
    fn write(&self, pieces: &[Segment], _: &[u8], _: Access) -> Result<(), Stopped> {
        self.transfer(pieces)
    }
    fn translate(&self, address: u64, _: bool) -> Result<Translation, StopCause> {
        let page = (address / PAGE) as usize;
        if !self.mapped.lock().get(page).is_some_and(|mapped| *mapped) {
            return Err(StopCause::NotMapped);
        }
        let frame = Some(Frame(self.frame + page as u64 * PAGE));
        Ok(Translation {
            range: AlignedRange::page(address),
            frame,
            permissions: Permissions::READ_WRITE,
            global: false,
        })
    }
    fn memory(&self, frame: Frame, len: usize, _: bool) -> Option<VolatileSlice<'_>> {
        let Some(offset) = self.offset_of(frame) else {
            self.astray.up();
            return None;
        };
        self.in_place.up();
        self.touch(offset / PAGE as usize);
        self.memory.get_slice(offset, len).ok()
    }
    fn resolve(&self, _: u64, _: Access) -> Result<(), StopCause> {
        Err(StopCause::NotMapped)
    }
    fn mapped_within(&self, _: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(Vec::new())
    }
}
