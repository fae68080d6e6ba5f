//! A space that lets its watcher be called without a change.

use std::sync::Arc;

use sva_core::sync::Mutex;
use sva_core::{
    AccessMode, AddrRange, AddressSpace, EndReason, Frame, HostFailure, Run, Segment,
    SpaceCapabilities, SpaceEnded, SpaceId, SpaceWatcher, StopCause, Stopped, Translation,
    WatchToken,
};
use vm_memory::VolatileSlice;

pub(super) struct Watched {
    inner: Arc<dyn AddressSpace>,
    watcher: Mutex<Option<Arc<dyn SpaceWatcher>>>,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn AddressSpace>) -> Arc<Self> {
        Arc::new(Self { inner, watcher: Mutex::default() })
    }

    /// Whoever has come to watch last.
    pub(super) fn watcher(&self) -> Option<Arc<dyn SpaceWatcher>> {
        self.watcher.lock().clone()
    }
}

impl AddressSpace for Watched {
    fn id(&self) -> SpaceId {
        self.inner.id()
    }

    fn capabilities(&self) -> SpaceCapabilities {
        self.inner.capabilities()
    }

    fn ended(&self) -> Option<EndReason> {
        self.inner.ended()
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        *self.watcher.lock() = Some(Arc::clone(&watcher));
        self.inner.watch(watcher)
    }

    fn unwatch(&self, token: WatchToken) {
        self.inner.unwatch(token);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], mode: AccessMode) -> Result<(), Stopped> {
        self.inner.read(pieces, buf, mode)
    }

    fn write(&self, pieces: &[Segment], data: &[u8], mode: AccessMode) -> Result<(), Stopped> {
        self.inner.write(pieces, data, mode)
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        self.inner.translate(address, privileged)
    }

    fn run(&self, address: u64, privileged: bool) -> Result<Option<Run>, StopCause> {
        self.inner.run(address, privileged)
    }

    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.inner.memory(frame, len, write)
    }

    fn resolve(&self, address: u64, mode: AccessMode) -> Result<(), StopCause> {
        self.inner.resolve(address, mode)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        self.inner.mapped_within(windows)
    }
}
