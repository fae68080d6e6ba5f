//! A space that counts, for the thread that accesses, what goes the long way, and that lets others
//! go on now and then at the steps that matter.

use std::cell::Cell;
use std::hint;
use std::sync::Arc;
use std::thread;

use sva_core::Extent;
use sva_core::{Access, AddressSpace, Frame, Segment, StopCause, Stopped};
use sva_testkit::ForwardingSpace;
use vm_memory::VolatileSlice;

/// Loops of one who lingers: some microseconds, in which another can make a change.
const LOOPS: u32 = 150;
/// Of so many accesses in place one gives up its turn in the middle, and of so many answers that
/// are to be kept one is late.
const ACCESSES: u32 = 2048;
const ANSWERS: u32 = 16;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static ACCESSED: Cell<u32> = const { Cell::new(0) };
    static LINGERS: Cell<bool> = const { Cell::new(false) };
    static ANSWERED: Cell<u32> = const { Cell::new(0) };
}

/// How often this thread has asked a space for something that is not kept.
#[inline]
pub(crate) fn asked() -> u64 {
    ASKED.get()
}

/// Has the next access in place of this thread take its time before it touches the memory.
#[inline]
pub(crate) fn linger() {
    LINGERS.set(true);
}

/// See the module.
pub(crate) struct Spy {
    space: Arc<dyn AddressSpace>,
    dawdles: bool,
}

impl Spy {
    pub(crate) fn new(space: Arc<dyn AddressSpace>, dawdles: bool) -> Self {
        Self { space, dawdles }
    }

    fn ask(&self) -> &dyn AddressSpace {
        ASKED.set(ASKED.get() + 1);
        &*self.space
    }

    /// In a section, before an access in place.
    #[inline]
    fn before_access(&self) {
        if LINGERS.replace(false) {
            (0..LOOPS).for_each(|_| hint::spin_loop());
        }
        self.dawdle(&ACCESSED, ACCESSES);
    }

    #[inline]
    fn dawdle(&self, counter: &'static thread::LocalKey<Cell<u32>>, one_of: u32) {
        if self.dawdles {
            let n = counter.get().wrapping_add(1);
            counter.set(n);
            if n.is_multiple_of(one_of) {
                thread::yield_now();
            }
        }
    }
}

impl ForwardingSpace for Spy {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.space
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.ask().read(pieces, buf, access)
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.ask().write(pieces, data, access)
    }

    /// Late between the answer and what is made of it: a fill.
    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        let extent = self.ask().extent(address, privileged);
        self.dawdle(&ANSWERED, ANSWERS);
        extent
    }

    #[inline]
    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.before_access();
        self.space.memory(frame, len, write)
    }

    #[inline]
    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.before_access();
        self.space.read_memory(frame, buf)
    }

    #[inline]
    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.before_access();
        self.space.write_memory(frame, data)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        self.ask().resolve(address, access)
    }
}
