//! The address-space trait: what the core asks of a provider.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::api::ats::{Frame, Translation};
use crate::api::fault::HostFailure;
use crate::api::invalidation::Invalidation;
use crate::types::access::{Access, Permissions};
use crate::types::ids::SpaceId;
use crate::types::range::{AddrRange, Segment};

/// What a provider can promise about its spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceCapabilities {
    /// When a change of the space returns, no access through the old translation is under way or
    /// will start (rule T2).
    pub synchronous: bool,
    /// Atomic operations are atomic against the space's owner (rule T6).
    pub atomics: bool,
    /// Memory can be accessed in place.
    pub in_place: bool,
    /// Execute permission can be checked at the moment of the access.
    pub execute: bool,
    /// Privileged and user pages can be told apart.
    pub privileged: bool,
    /// Absent pages can be resolved.
    pub page_faults: bool,
}

/// How an address space came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Its last task exited.
    Exited,
    /// Its last task replaced it by exec.
    Execed,
    /// The kernel no longer lets us look, so that nothing can be promised about it.
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
    /// Not present, and [`Access::PRESENT_ONLY`] was asked.
    #[error("not present")]
    NotPresent,
    /// The mapping does not permit the access.
    #[error("denied")]
    Denied,
    /// The space has ended.
    #[error("the address space has ended")]
    Ended,
    /// The machine below failed.
    #[error(transparent)]
    Host(HostFailure),
}

/// An access that stopped: how many bytes were done, counted over all pieces in order, and why no
/// more.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {done} bytes: {cause}")]
pub struct Stopped {
    /// Bytes done, exactly (rule T5). The address of the stop is the one after them.
    pub done: u64,
    /// Why it stopped.
    #[source]
    pub cause: StopCause,
}

/// Takes note that a space has ended.
///
/// Called by the provider once for each watch, with no lock of the provider held.
pub trait SpaceWatcher: Send + Sync {
    /// From the return of this call on, the watcher begins no access to the space; one that it had
    /// begun may still reach the provider, which refuses it (see [`AddressSpace::read`]). Does
    /// not block and runs no callback.
    ///
    /// The answer is the work that is left: running exit handlers, which may block. The provider
    /// runs it on a thread whose delay holds up no other space.
    fn space_ended(&self, space: SpaceId, reason: EndReason) -> ExitWork;

    /// What `range` of the space meant has changed. A *synchronous* provider calls this for each
    /// change that takes something away (unmapping, moving, less permission, another frame):
    /// after a new [`translate`](AddressSpace::translate) finds the new state, and before it lets
    /// go of the old frames or returns from the change. It waits for the answer in between
    /// (rule T2).
    ///
    /// Does not block; the answer is what to wait for.
    fn invalidate(&self, space: SpaceId, range: AddrRange) -> Invalidation {
        let _ = (space, range);
        Invalidation::none()
    }
}

/// The frame is not one of the space's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a place in this space's memory")]
pub struct NoSuchFrame(pub Frame);

/// Exit handlers that are to be run. Runs them when dropped, if nobody ran them before.
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

    /// Runs it here and now.
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

/// Contiguous addresses that lead to contiguous places, with one permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The addresses, the one asked for among them.
    pub range: AddrRange,
    /// Where the first of them leads.
    pub frame: Frame,
    /// What is permitted, for the privilege that was asked for.
    pub permissions: Permissions,
}

/// Names one watch of one space, to take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchToken(pub u64);

/// A handle of an address space: `Arc<dyn AddressSpace>`, or an `Arc` of a provider's own type.
pub trait SpaceHandle {
    /// The space, for the core to keep.
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

/// Memory that a device can be bound to: a live process, a guest's page tables, or test memory.
///
/// Everything may be called from any thread at any time. An implementation holds none of its locks
/// while it calls a watcher.
pub trait AddressSpace: Send + Sync {
    /// Who this is; two handles of one space answer the same (rule B5).
    fn id(&self) -> SpaceId;

    /// What the provider promises.
    fn capabilities(&self) -> SpaceCapabilities;

    /// Whether, and how, the space has ended. Does not block.
    fn ended(&self) -> Option<EndReason>;

    /// Asks to be told when the space ends. Does not block and does not call the watcher before it
    /// returns.
    ///
    /// # Errors
    /// The space has ended already: the watcher will not be called.
    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded>;

    /// Takes a watch back; an unknown token is ignored. A call of the watcher that is under way is
    /// not waited for.
    fn unwatch(&self, token: WatchToken);

    /// Reads the pieces one after the other into `buf`, whose length is the sum of theirs.
    ///
    /// May block to resolve pages. Pieces may be empty, unmapped or beyond any valid address; none
    /// wraps. From its end on the space refuses, whether the watchers have been told or not: an
    /// access that the core began before may come here after.
    ///
    /// # Errors
    /// [`Stopped`] at the first byte that could not be read; all bytes before it are in `buf`.
    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped>;

    /// Writes `data` to the pieces one after the other; its length is the sum of theirs.
    ///
    /// # Errors
    /// [`Stopped`] at the first byte that could not be written; all bytes before it are in the
    /// space.
    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped>;

    /// What `address` means now, and what it permits to accesses with or without privilege. Answers
    /// from the state as it is: brings no page in. May take short locks; calls nobody.
    ///
    /// Only a *synchronous* provider names a frame, since only that one tells its watchers of a
    /// change before the change is over; others say what is permitted and leave the frame out,
    /// so that nothing is kept of it. A page that is mapped and not present is
    /// [`StopCause::NotPresent`].
    ///
    /// # Errors
    /// Why there is no translation; the count of bytes means nothing here.
    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause>;

    /// As [`translate`](Self::translate), for as many addresses around `address` as the provider
    /// can name at once, whether aligned or not. `None` where nothing is to be kept.
    ///
    /// # Errors
    /// As of [`translate`](Self::translate).
    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        let found = self.translate(address, privileged)?;
        Ok(found.frame.map(|frame| Extent {
            range: found.range.range(),
            frame,
            permissions: found.permissions,
        }))
    }

    /// The memory at a place that [`extent`](Self::extent) or [`translate`](Self::translate) named, where
    /// it can be accessed in place ([`SpaceCapabilities::in_place`]). For each access once: takes
    /// no lock, allocates nothing, calls nobody. `write`: it may be written to.
    ///
    /// It is used only while an invalidation of the place would wait for that. `None` where the
    /// provider has to make the access itself, by [`read_frame`](Self::read_frame) and
    /// [`write_frame`](Self::write_frame): where pages that were written to are to be marked dirty,
    /// since a mark that comes before the write can be taken for one of earlier writes. Such memory
    /// has no atomic operations.
    fn memory(&self, frame: Frame, len: usize, write: bool) -> Option<VolatileSlice<'_>> {
        let _ = (frame, len, write);
        None
    }

    /// Reads [`memory`](Self::memory); `false`, with nothing done, where there is none. No provider
    /// has another way to do this.
    ///
    /// It is a method so that each provider has one of its own, in which the slice stays in
    /// registers: what a call through `dyn` hands back goes through the stack, and an access would
    /// wait for that.
    #[inline]
    fn read_memory(&self, frame: Frame, buf: &mut [u8]) -> bool {
        self.memory(frame, buf.len(), false)
            .filter(|memory| memory.len() == buf.len())
            .map(|memory| memory.copy_to(buf))
            .is_some()
    }

    /// Writes to [`memory`](Self::memory), as [`read_memory`](Self::read_memory) reads.
    #[inline]
    fn write_memory(&self, frame: Frame, data: &[u8]) -> bool {
        self.memory(frame, data.len(), true)
            .filter(|memory| memory.len() == data.len())
            .map(|memory| memory.copy_from(data))
            .is_some()
    }

    /// Brings the page of `address` in for an access of this kind, as a page fault of the CPU does
    /// (copy-on-write included, where the provider can). May block.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause>;

    /// Reads from a place that [`extent`](Self::extent) or [`translate`](Self::translate) named. Asks no
    /// page table: that is what the translation was for. Does not block, and calls nobody.
    ///
    /// # Errors
    /// The place, or a part of it, is not the space's.
    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        let _ = buf;
        Err(NoSuchFrame(frame))
    }

    /// Writes to a place that [`extent`](Self::extent) or [`translate`](Self::translate) named, as
    /// [`read_frame`](Self::read_frame) reads.
    ///
    /// # Errors
    /// The place, or a part of it, is not the space's; nothing has been written then.
    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        let _ = data;
        Err(NoSuchFrame(frame))
    }

    /// Which parts of `windows` the space has memory at (rule B7). May block. The answer is sorted
    /// and holds at most one range a mapping and window.
    ///
    /// # Errors
    /// The machine below could not tell.
    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure>;
}
