//! A space that takes its time at the steps that matter, so that others come between: few
//! processors would hardly ever show that by themselves.

use std::sync::Arc;
use std::thread;

use sva_core::Extent;
use sva_core::space::{ExitWork, Invalidation, SpaceEnded, WatchToken};
use sva_core::{AddrRange, AddressSpace, EndReason, Frame, SpaceId, SpaceWatcher, StopCause};
use sva_sync::atomic::{AtomicU64, Ordering};
use sva_testkit::ForwardingSpace;
use vm_memory::VolatileSlice;

/// Turns that are given up at most for others to go on: who waits for this very thread does not.
const TURNS: usize = 8;

/// Orders what is called and what returns.
#[derive(Default)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    /// A number that is larger than all before it. What was done before it is seen by who has a
    /// later one.
    pub(crate) fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel)
    }

    /// Now and then, lets others go on until something is called or returns.
    fn dawdle(&self) {
        if fastrand::u8(0..4) == 0 {
            let now = self.0.load(Ordering::Relaxed);
            (0..TURNS)
                .take_while(|_| self.0.load(Ordering::Relaxed) == now)
                .for_each(|_| thread::yield_now());
        }
    }
}

/// See the module.
pub(crate) struct Dawdling {
    space: Arc<dyn AddressSpace>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) in_place: AtomicU64,
}

impl Dawdling {
    pub(crate) fn new(space: Arc<dyn AddressSpace>) -> Self {
        Self { space, clock: Arc::default(), in_place: AtomicU64::new(0) }
    }

    /// In a section, before an access in place.
    fn before_access(&self) {
        self.in_place.fetch_add(1, Ordering::Relaxed);
        self.clock.dawdle();
    }
}

struct Watcher {
    watcher: Arc<dyn SpaceWatcher>,
    clock: Arc<Clock>,
}

impl SpaceWatcher for Watcher {
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork {
        self.watcher.space_ended(space, reason)
    }

    /// After the table has changed and before what is kept of it goes; after that and before it is
    /// waited for.
    fn invalidate(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        self.clock.dawdle();
        let left = self.watcher.invalidate(space, range);
        self.clock.dawdle();
        left
    }
}

impl ForwardingSpace for Dawdling {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.space
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.space.watch(Arc::new(Watcher { watcher, clock: Arc::clone(&self.clock) }))
    }

    /// Between the answer and what is made of it: a fill.
    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        let extent = self.space.extent(address, privileged);
        self.clock.dawdle();
        extent
    }

    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.before_access();
        self.space.memory(frame, len, write)
    }

    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.before_access();
        self.space.read_memory(frame, buf)
    }

    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.before_access();
        self.space.write_memory(frame, data)
    }
}
