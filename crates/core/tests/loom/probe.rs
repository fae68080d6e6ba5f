//! A space with as few states as a model can do with.

use std::sync::Arc;

use sva_core::ats::{AlignedRange, Translation};
use sva_core::port::HostFailure;
use sva_core::space::{Invalidation, NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::*;
use sva_sync::Mutex;

/// The first address of the one page that a [`Probe`] has.
pub(crate) const PAGE_AT: u64 = 0;

/// A space of one page with few states: counts who is inside, changes when told, and ends when
/// told. Synchronous.
pub(crate) struct Probe {
    id: SpaceId,
    life: Life,
    memory: Mutex<Memory>,
}

/// How a space ended, and who wants to know. Each method but `end` is one step of the model.
#[derive(Default)]
pub(crate) struct Life(Mutex<(Option<EndReason>, Option<Arc<dyn SpaceWatcher>>)>);

impl Life {
    /// Ends the space: no access from now on, then the watcher hears of it, then its handlers run.
    pub(crate) fn end(&self, id: SpaceId) {
        let watcher = {
            let mut life = self.0.lock();
            life.0 = Some(EndReason::Exited);
            life.1.take()
        };
        if let Some(watcher) = watcher {
            watcher.space_ended(id, EndReason::Exited).run();
        }
    }

    pub(crate) fn ended(&self) -> Option<EndReason> {
        self.0.lock().0
    }

    pub(crate) fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut life = self.0.lock();
        if let Some(reason) = life.0 {
            return Err(SpaceEnded(reason));
        }
        life.1 = Some(watcher);
        Ok(WatchToken(0))
    }

    pub(crate) fn unwatch(&self) {
        let watcher = self.0.lock().1.take();
        drop(watcher);
    }

    /// Tells the watcher of a change of `range`.
    pub(crate) fn invalidate(&self, id: SpaceId, range: AddrRange) -> Invalidation {
        let watcher = self.0.lock().1.clone();
        watcher.map_or_else(Invalidation::none, |watcher| watcher.invalidate(id, range))
    }
}

/// Each look at it is a step of the model: what it says is what every thread sees.
#[derive(Clone, Copy)]
struct Memory {
    frame: Frame,
    /// The address leads to the frame.
    mapped: bool,
    /// The page has to be resolved first.
    absent: bool,
    /// The frame belongs to somebody else by now.
    freed: bool,
    /// Accesses and resolutions under way, and such as are over.
    inside: usize,
    hits: usize,
    /// Accesses by a frame that had been freed, or was never this space's.
    stale: usize,
}

impl Probe {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_frame(1)
    }

    /// Its page is the frame with this number.
    pub(crate) fn with_frame(number: u64) -> Arc<Self> {
        let memory = Memory {
            frame: Frame(number << 60),
            mapped: true,
            absent: false,
            freed: false,
            inside: 0,
            hits: 0,
            stale: 0,
        };
        Arc::new(Self { id: SpaceId::unique(), life: Life::default(), memory: Mutex::new(memory) })
    }

    /// Its page is not present until it is resolved.
    pub(crate) fn absent() -> Arc<Self> {
        let probe = Self::new();
        probe.memory.lock().absent = true;
        probe
    }

    pub(crate) fn space(self: &Arc<Self>) -> Arc<dyn AddressSpace> {
        Arc::clone(self) as _
    }

    pub(crate) fn end(&self) {
        self.life.end(self.id);
    }

    /// Takes the page away as a synchronous provider does: the table, then the watchers, then the
    /// wait, then the frame goes to others.
    pub(crate) fn unmap(&self) {
        self.begin_unmap().wait();
        self.free();
    }

    /// As [`unmap`](Self::unmap), up to the wait.
    pub(crate) fn begin_unmap(&self) -> Invalidation {
        self.memory.lock().mapped = false;
        self.life.invalidate(self.id, AlignedRange::page(PAGE_AT).range())
    }

    /// The frame goes to others: nothing may be using it, or use it from now on.
    pub(crate) fn free(&self) {
        self.memory.lock().freed = true;
    }

    /// Accesses and resolutions under way.
    pub(crate) fn inside(&self) -> usize {
        self.memory.lock().inside
    }

    /// Accesses and resolutions that are over.
    pub(crate) fn hits(&self) -> usize {
        self.memory.lock().hits
    }

    /// Accesses by a frame that was not, or not any more, this space's.
    pub(crate) fn stale(&self) -> usize {
        self.memory.lock().stale
    }

    /// Something that takes two steps, so that others can come in between.
    fn access(&self) -> Result<(), Stopped> {
        self.memory.lock().inside += 1;
        let mut memory = self.memory.lock();
        memory.inside -= 1;
        memory.hits += 1;
        Ok(())
    }

    /// As [`access`](Self::access), and looks at both steps whether the frame is the space's.
    fn access_frame(&self, frame: Frame) -> Result<(), NoSuchFrame> {
        self.look(frame, |memory| memory.inside += 1)?;
        self.look(frame, |memory| {
            memory.inside -= 1;
            memory.hits += 1;
        })
    }

    fn look(&self, frame: Frame, step: impl FnOnce(&mut Memory)) -> Result<(), NoSuchFrame> {
        let mut memory = self.memory.lock();
        step(&mut memory);
        if memory.freed || frame != memory.frame {
            memory.stale += 1;
            return Err(NoSuchFrame(frame));
        }
        Ok(())
    }
}

impl AddressSpace for Probe {
    fn id(&self) -> SpaceId {
        self.id
    }
    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities { synchronous: true, page_faults: true, ..SpaceCapabilities::default() }
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
    fn read(&self, _: &[Segment], _: &mut [u8], _: Access) -> Result<(), Stopped> {
        self.access()
    }
    fn write(&self, _: &[Segment], _: &[u8], _: Access) -> Result<(), Stopped> {
        self.access()
    }
    fn translate(&self, address: u64, _: bool) -> Result<Translation, StopCause> {
        let memory = *self.memory.lock();
        match (memory.mapped, memory.absent) {
            (true, false) => {}
            (true, true) => return Err(StopCause::NotPresent),
            (false, _) => return Err(StopCause::NotMapped),
        }
        Ok(Translation {
            range: AlignedRange::page(address),
            frame: Some(memory.frame),
            permissions: Permissions::READ_WRITE,
            global: false,
        })
    }
    fn resolve(&self, _: u64, _: Access) -> Result<(), StopCause> {
        self.access().map_err(|stopped| stopped.cause)?;
        self.memory.lock().absent = false;
        Ok(())
    }
    fn read_frame(&self, frame: Frame, _: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.access_frame(frame)
    }
    fn write_frame(&self, frame: Frame, _: &[u8]) -> Result<(), NoSuchFrame> {
        self.access_frame(frame)
    }
    fn mapped_within(&self, _: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(Vec::new())
    }
}
