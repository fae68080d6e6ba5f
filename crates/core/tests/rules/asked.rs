//! A space in place that does something of the test's when it is next asked for a run: in the
//! middle of an access that goes the long way.

use std::sync::Arc;

use sva_core::space::Run;
use sva_core::{
    AccessMode, AddrRange, AddressSpace, EndReason, Frame, HostFailure, NoSuchFrame, Segment,
    SpaceCapabilities, SpaceEnded, SpaceId, SpaceWatcher, StopCause, Stopped, Translation,
    WatchToken,
};
use sva_testkit::ArenaSpace;
use vm_memory::VolatileSlice;

use crate::support::{Later, later};

type Hook = Box<dyn FnOnce() + Send>;

/// See the module.
pub(crate) struct AskedSpace {
    inner: Arc<dyn AddressSpace>,
    hook: Later<Hook>,
}

impl AskedSpace {
    pub(crate) fn new(space: &ArenaSpace) -> Arc<Self> {
        Arc::new(Self { inner: space.handle(), hook: later() })
    }

    /// Runs `hook` once, before the next run is answered.
    pub(crate) fn at_next_run(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }
}

impl AddressSpace for AskedSpace {
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
        let hook = self.hook.lock().take();
        if let Some(hook) = hook {
            hook();
        }
        self.inner.run(address, privileged)
    }

    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.inner.memory(frame, len, write)
    }

    fn resolve(&self, address: u64, mode: AccessMode) -> Result<(), StopCause> {
        self.inner.resolve(address, mode)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.inner.read_frame(frame, buf)
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.inner.write_frame(frame, data)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        self.inner.mapped_within(windows)
    }
}
