//! A space that forwards every call to another one, but for what a test overrides.
//!
//! [`ForwardingSpace`] has one method for each method of [`AddressSpace`], and each forwards by
//! default. [`Forwarding`] makes an [`AddressSpace`] of it. (Rejected: an implementation of
//! [`AddressSpace`] for every `T: ForwardingSpace`. The trait belongs to another crate, so the
//! language does not allow it here.)
//!
//! The default methods of [`AddressSpace`] are the trap that this module is for: a wrapper that
//! leaves one of them out answers for itself instead of the wrapped space, and nothing fails to
//! compile. Clippy's `missing_trait_methods` refuses that for [`Forwarding`].

use std::ops::Deref;
use std::sync::Arc;

use sva_core::Extent;
use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Frame, Segment, SpaceCapabilities, SpaceId,
    SpaceWatcher, StopCause, Stopped,
};
use vm_memory::VolatileSlice;

/// What a test changes about a space: every method forwards to [`inner`](Self::inner) unless it is
/// overridden.
///
/// The methods are those of [`AddressSpace`], with its arguments, results and errors. They forward
/// to the method of the same name: where the default of one method of [`AddressSpace`] calls
/// another one, the forwarded call does not. So a space that changes what addresses mean overrides
/// both [`translate`](Self::translate) and [`extent`](Self::extent), and one that acts before an
/// access in place overrides [`memory`](Self::memory), [`read_memory`](Self::read_memory) and
/// [`write_memory`](Self::write_memory).
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use sva_core::{Access, AddressSpace, StopCause};
/// use sva_testkit::{Forwarding, ForwardingSpace, MemorySpace};
///
/// /// Counts the page faults of a space.
/// struct Counting(Arc<dyn AddressSpace>, AtomicU64);
///
/// impl ForwardingSpace for Counting {
///     fn inner(&self) -> &dyn AddressSpace {
///         &*self.0
///     }
///
///     fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
///         self.1.fetch_add(1, Ordering::Relaxed);
///         self.inner().resolve(address, access)
///     }
/// }
///
/// let memory = MemorySpace::new();
/// let counting = Arc::new(Forwarding(Counting(memory.handle(), AtomicU64::new(0))));
/// let space: Arc<dyn AddressSpace> = counting.clone();
/// assert!(space.resolve(0x1000, Access::READ).is_err(), "nothing is mapped");
/// assert_eq!((space.id(), counting.1.load(Ordering::Relaxed)), (memory.handle().id(), 1));
/// ```
#[expect(missing_docs, reason = "the methods are those of AddressSpace")]
pub trait ForwardingSpace: Send + Sync {
    /// The space that calls are forwarded to.
    fn inner(&self) -> &dyn AddressSpace;

    fn id(&self) -> SpaceId {
        self.inner().id()
    }

    fn capabilities(&self) -> SpaceCapabilities {
        self.inner().capabilities()
    }

    fn ended(&self) -> Option<EndReason> {
        self.inner().ended()
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.inner().watch(watcher)
    }

    fn unwatch(&self, token: WatchToken) {
        self.inner().unwatch(token);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.inner().read(pieces, buf, access)
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.inner().write(pieces, data, access)
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        self.inner().translate(address, privileged)
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        self.inner().extent(address, privileged)
    }

    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.inner().memory(frame, len, write)
    }

    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.inner().read_memory(frame, buf)
    }

    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.inner().write_memory(frame, data)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        self.inner().resolve(address, access)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.inner().read_frame(frame, buf)
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.inner().write_frame(frame, data)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        self.inner().mapped_within(windows)
    }
}

/// The [`AddressSpace`] that a [`ForwardingSpace`] describes. Dereferences to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forwarding<T>(pub T);

impl<T> Deref for Forwarding<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

// A method that is added to the trait is to be added here, and to the trait above.
#[warn(clippy::missing_trait_methods)]
impl<T: ForwardingSpace> AddressSpace for Forwarding<T> {
    fn id(&self) -> SpaceId {
        self.0.id()
    }

    fn capabilities(&self) -> SpaceCapabilities {
        self.0.capabilities()
    }

    fn ended(&self) -> Option<EndReason> {
        self.0.ended()
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.0.watch(watcher)
    }

    fn unwatch(&self, token: WatchToken) {
        self.0.unwatch(token);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.0.read(pieces, buf, access)
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.0.write(pieces, data, access)
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        self.0.translate(address, privileged)
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        self.0.extent(address, privileged)
    }

    #[inline]
    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        self.0.memory(frame, len, write)
    }

    #[inline]
    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.0.read_memory(frame, buf)
    }

    #[inline]
    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.0.write_memory(frame, data)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        self.0.resolve(address, access)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.0.read_frame(frame, buf)
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.0.write_frame(frame, data)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        self.0.mapped_within(windows)
    }
}
