//! The address-space trait, which providers of memory implement.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::api::ats::{Frame, Translation};
use crate::api::fault::HostFailure;
use crate::api::invalidation::Invalidation;
use crate::types::access::{Access, Permissions};
use crate::types::ids::SpaceId;
use crate::types::range::{AddrRange, Segment};

/// The capabilities of an address space, which its provider promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceCapabilities {
    /// When a change of the space returns, no access through the old translation is in flight, and
    /// none starts.
    pub synchronous: bool,
    /// Atomic operations are atomic with respect to accesses by the owner of the space.
    pub atomics: bool,
    /// Frames of [`extent`](AddressSpace::extent) can be accessed: by
    /// [`memory`](AddressSpace::memory), or by [`read_frame`](AddressSpace::read_frame) and
    /// [`write_frame`](AddressSpace::write_frame). With `synchronous`, the IOTLB caches
    /// translations of the space.
    pub in_place: bool,
    /// Execute permission can be checked when the access is made.
    pub execute: bool,
    /// Privileged and user pages are distinguished.
    pub privileged: bool,
    /// Pages that are not present can be resolved.
    pub page_faults: bool,
}

/// Why an address space has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Its last task exited.
    Exited,
    /// Its last task left it by exec.
    Execed,
    /// The right to access it was lost, so nothing can be promised about it.
    RightsLost,
    /// Its owner closed it.
    Closed,
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exited => "its last task exited",
            Self::Execed => "its last task left it by exec",
            Self::RightsLost => "the right to access it was lost",
            Self::Closed => "its owner closed it",
        })
    }
}

/// The space has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address space has ended: {0}")]
pub struct SpaceEnded(pub EndReason);

/// Why an access stopped, as the provider sees it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopCause {
    /// Nothing is mapped there.
    #[error("not mapped")]
    NotMapped,
    /// The page is not present, and the access has the flag [`Access::PRESENT_ONLY`].
    #[error("not present")]
    NotPresent,
    /// The mapping does not permit the access.
    #[error("denied")]
    Denied,
    /// The space has ended.
    #[error("the address space has ended")]
    Ended,
    /// A call to the host failed.
    #[error(transparent)]
    Host(HostFailure),
}

/// An access that stopped early, with the bytes that were transferred and the cause.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {done} bytes: {cause}")]
pub struct Stopped {
    /// The exact number of bytes that were transferred, counted over all segments in order. The
    /// access stopped at the address after them.
    pub done: u64,
    /// Why the access stopped.
    #[source]
    pub cause: StopCause,
}

/// The observer of an address space: the core implements it, and providers call it.
///
/// A provider calls it with no lock of its own held.
pub trait SpaceWatcher: Send + Sync {
    /// Reports the end of the space. The provider calls this once for each watch.
    ///
    /// When the call returns, the watcher begins no further access to the space. An access that it
    /// began before may still arrive at the provider, which refuses it (see
    /// [`AddressSpace::read`]). The call waits only for copies through cached translations that are
    /// in progress. It runs no exit handler; it may call the function of
    /// [`Iommu::on_event`](crate::Iommu::on_event).
    ///
    /// The result is the remaining work, which runs exit handlers and may block. The provider runs
    /// it on a thread that no other space waits for.
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork;

    /// Invalidates the translations of `range`.
    ///
    /// A *synchronous* provider calls this for each change that takes something away: an unmap, a
    /// move, a loss of permission, another frame. It calls it when
    /// [`translate`](AddressSpace::translate) returns the new state. It then waits for the result,
    /// and only after that frees the old frames and returns from the change.
    ///
    /// The call does not block.
    fn invalidate(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        let _ = (space, range);
        Invalidation::none()
    }
}

/// The frame, or a part of it, is not in the memory of the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a place in this space's memory")]
pub struct NoSuchFrame(pub Frame);

/// Exit handlers that have to be run. The drop runs them if [`run`](Self::run) did not.
#[must_use = "dropping it runs the exit handlers on this thread"]
pub struct ExitWork(Option<Box<dyn FnOnce() + Send>>);

impl ExitWork {
    /// Wraps the work.
    pub fn new(work: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(work)))
    }

    /// No work.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether there is nothing to run.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Runs the work on this thread. Blocks as long as the handlers do.
    pub fn run(mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

impl Drop for ExitWork {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

/// A range of addresses that translate to contiguous frames with the same permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The addresses. The requested one is among them.
    pub range: AddrRange,
    /// The frame of the first address.
    pub frame: Frame,
    /// The permissions, for the requested privilege.
    pub permissions: Permissions,
}

/// Identifies one watch of one space, for [`AddressSpace::unwatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchToken(pub u64);

/// A handle of an address space: `Arc<dyn AddressSpace>`, or an `Arc` of a provider's own type.
pub trait SpaceHandle {
    /// Returns a reference to the space, which the core keeps.
    fn to_space(&self) -> Arc<dyn AddressSpace>;
}

impl SpaceHandle for Arc<dyn AddressSpace> {
    fn to_space(&self) -> Self {
        Self::clone(self)
    }
}

impl<S: AddressSpace + 'static> SpaceHandle for Arc<S> {
    fn to_space(&self) -> Arc<dyn AddressSpace> {
        let space: Self = Self::clone(self);
        space
    }
}

/// An address space that devices can be bound to: a live process, a guest's memory, or memory of a
/// test.
///
/// All methods may be called from any thread at any time. An implementation holds none of its locks
/// while it calls a watcher.
pub trait AddressSpace: Send + Sync {
    /// The identity of the space. Two handles of one space return the same identity. The core asks
    /// for it once in each bind.
    fn id(&self) -> SpaceId;

    /// What the provider promises about the space. The result does not change. The core asks for it
    /// once in each bind.
    fn capabilities(&self) -> SpaceCapabilities;

    /// Why the space has ended; `None` while it exists. Does not block.
    fn ended(&self) -> Option<EndReason>;

    /// Registers a watcher of the space. It may be called before this returns. A bind waits for
    /// this call, and holds no lock meanwhile.
    ///
    /// # Errors
    /// The space has ended. The watcher will not be called.
    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded>;

    /// Removes a watch. An unknown token is ignored. Does not wait for a call of the watcher that
    /// is in progress.
    fn unwatch(&self, token: WatchToken);

    /// Reads the segments `pieces` in order into `buf`, whose length is the sum of theirs.
    ///
    /// May block to resolve pages. A segment may be empty, unmapped, or beyond any valid address;
    /// none wraps. A space that has ended refuses the access, also before it has called its
    /// watchers: an access that the core began earlier may arrive after the end.
    ///
    /// # Errors
    /// [`Stopped`] at the first byte that could not be read. All bytes before it are in `buf`.
    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped>;

    /// Writes `data` to the segments `pieces` in order; its length is the sum of theirs. Otherwise
    /// as [`read`](Self::read).
    ///
    /// # Errors
    /// [`Stopped`] at the first byte that could not be written. All bytes before it are in the
    /// space.
    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped>;

    /// Translates `address` for privileged or unprivileged accesses, from the present state of the
    /// space. Resolves no page. May take short locks; makes no callback. A space that has ended
    /// returns no translation, also before it has called its watchers: the core caches none after
    /// the end.
    ///
    /// Only a *synchronous* provider returns a frame, since only such a provider invalidates
    /// translations before a change returns. Others return the permissions without a frame, so that
    /// no translation is cached.
    ///
    /// # Errors
    /// Why there is no translation. For a page that is mapped and not present it is
    /// [`StopCause::NotPresent`].
    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause>;

    /// Translates as [`translate`](Self::translate) does, for as large a range around `address` as
    /// the provider can report at once. The range need not be aligned. `None` if the translation
    /// must not be cached.
    ///
    /// # Errors
    /// Those of [`translate`](Self::translate).
    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        let found = self.translate(address, privileged)?;
        Ok(found.frame.map(|frame| Extent {
            range: found.range.range(),
            frame,
            permissions: found.permissions,
        }))
    }

    /// The `len` bytes of memory at a frame of [`extent`](Self::extent) or
    /// [`translate`](Self::translate), if they can be accessed in place
    /// ([`SpaceCapabilities::in_place`]). `write` says whether the caller may write to them.
    ///
    /// The core calls this for each access. An implementation takes no lock, allocates nothing and
    /// makes no callback. The core uses the slice only while an invalidation of the frame would
    /// wait for that use.
    ///
    /// A slice of another length is as none. `None` if the provider has to make the access itself,
    /// by [`read_frame`](Self::read_frame) and [`write_frame`](Self::write_frame). A provider that
    /// marks written pages as dirty needs that for writes: a mark that is set before the write can
    /// be cleared as the mark of an earlier one. Such memory has no atomic operations.
    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        let _ = (frame, len, write);
        None
    }

    /// Reads from [`memory`](Self::memory). Returns false and reads nothing if there is no such
    /// memory. Only a wrapper of another space implements this method itself, and forwards it.
    ///
    /// It is a method of the trait so that it is compiled for each provider, with the slice in
    /// registers. A slice that a call through `dyn` returns goes through the stack, which each
    /// access would wait for.
    #[inline]
    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.memory(frame, buf.len(), false)
            .filter(|memory| memory.len() == buf.len())
            .map(|memory| memory.copy_to(buf))
            .is_some()
    }

    /// Writes to [`memory`](Self::memory), as [`read_memory`](Self::read_memory) reads from it.
    #[inline]
    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.memory(frame, data.len(), true)
            .filter(|memory| memory.len() == data.len())
            .map(|memory| memory.copy_from(data))
            .is_some()
    }

    /// Resolves the page of `address` for this access, as a page fault of the CPU does, with
    /// copy-on-write if the provider supports it. May block.
    ///
    /// # Errors
    /// Why the page cannot be resolved.
    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause>;

    /// Reads from a frame of [`extent`](Self::extent) or [`translate`](Self::translate), without
    /// another translation. Does not block; makes no callback.
    ///
    /// # Errors
    /// The frame, or a part of it, is not in the memory of the space.
    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        let _ = buf;
        Err(NoSuchFrame(frame))
    }

    /// Writes to a frame, as [`read_frame`](Self::read_frame) reads from it.
    ///
    /// # Errors
    /// The frame, or a part of it, is not in the memory of the space. Nothing has been written.
    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        let _ = data;
        Err(NoSuchFrame(frame))
    }

    /// The parts of `windows` at which the space has memory, sorted, with at most one range per
    /// mapping and window. The core reports them as overlaps with peer windows. May block.
    ///
    /// # Errors
    /// A call to the host failed.
    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure>;
}
