//! The provider: guest memory behind a translation that the VMM gives.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use sva_core::ats::AlignedRange;
use sva_core::port::HostFailure;
use sva_core::space::NoSuchFrame;
use sva_core::{
    Access, AddrRange, EndReason, Extent, Frame, Segment, SpaceId, SpaceWatcher, StopCause, Stopped,
};
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_sync::{Mutex, RwLock};
use vm_memory::bitmap::MS;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};

/// How often a page is resolved for one access before the access faults.
const MAX_RESOLVES: u32 = 1000;

/// Translates an address, with or without privilege. Frames are guest physical addresses.
pub(crate) type Translate = dyn Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync;
/// Resolves the page of an address.
pub(crate) type Resolve = dyn Fn(u64, Access) -> Result<(), StopCause> + Send + Sync;
/// Guest memory as a slice without a dirty bitmap; `None` where there is a bitmap to be marked.
pub(crate) type Slice<M> = for<'a> fn(&'a M, GuestAddress, usize) -> Option<VolatileSlice<'a>>;

/// The provider behind a [`GuestSpace`](crate::GuestSpace).
///
/// Locks: `watch` and `changes` are never held together. `changes` is held for reading while bytes
/// are copied; nothing foreign is called under it but the guest memory's own slices. The VMM's
/// closures and the watchers run with no lock held.
pub(crate) struct Provider<M> {
    pub(crate) id: SpaceId,
    pub(crate) memory: M,
    pub(crate) slice: Slice<M>,
    /// Whether `slice` returns any: the memory has no dirty bitmap.
    pub(crate) has_slices: bool,
    pub(crate) translate: Box<Translate>,
    pub(crate) resolve: Option<Box<Resolve>>,
    /// Counts changes of translations. A copy by address holds it for reading, from when it has
    /// found that the count is still what it was before the translation was asked for.
    pub(crate) changes: RwLock<u64>,
    /// No access by address begins any more. Written while `changes` is held for writing.
    pub(crate) has_ended: AtomicBool,
    pub(crate) watch: Mutex<WatchState>,
}

/// The watchers of the space, or why it has ended.
#[derive(Default)]
pub(crate) struct WatchState {
    pub(crate) ended: Option<EndReason>,
    pub(crate) next_token: u64,
    pub(crate) watchers: BTreeMap<u64, Arc<dyn SpaceWatcher>>,
}

impl<M: GuestMemoryBackend + Send + Sync> Provider<M> {
    /// The extent around an address, as far as one region of guest memory goes.
    pub(crate) fn extent_at(&self, address: u64, privileged: bool) -> Result<Extent, StopCause> {
        if self.has_ended.load(Ordering::Acquire) {
            return Err(StopCause::Ended);
        }
        let extent = (self.translate)(address, privileged)?;
        self.clip_to_region(extent, address).ok_or(StopCause::NotMapped)
    }

    /// The part of an extent around `address` that lies in one region. `None` if the extent does
    /// not hold the address, or no region holds its frame.
    fn clip_to_region(&self, extent: Extent, address: u64) -> Option<Extent> {
        let before = address.checked_sub(extent.range.first())?;
        let after = extent.range.last().checked_sub(address)?;
        let at = extent.frame.offset(before)?.0;
        let region = self.memory.find_region(GuestAddress(at))?;
        let before = before.min(at - region.start_addr().0);
        let after = after.min(region.last_addr().0 - at);
        let range = AddrRange::inclusive(address - before, address + after)?;
        Some(Extent { range, frame: Frame(at - before), ..extent })
    }

    /// An extent that permits the access. Has the page resolved if the access may wait for it.
    pub(crate) fn permitted_extent(
        &self,
        address: u64,
        access: Access,
    ) -> Result<Extent, StopCause> {
        let resolve = self.resolve.as_ref().filter(|_| !access.is_present_only());
        for _ in 0..MAX_RESOLVES {
            let refused = match self.extent_at(address, access.is_privileged()) {
                Ok(extent) if extent.permissions.permit(access) => return Ok(extent),
                Ok(_) => StopCause::Denied,
                Err(StopCause::NotPresent) => StopCause::NotPresent,
                Err(cause) => return Err(cause),
            };
            let Some(resolve) = resolve else { return Err(refused) };
            resolve(address, access)?;
        }
        Err(StopCause::NotPresent)
    }

    /// Copies the first bytes of `range` and returns how many, through a translation that still
    /// holds while they are copied.
    ///
    /// The count of changes is read, the translation is asked for with no lock held, and the copy
    /// is made under the lock if the count is still the same; else all is done again. So an
    /// invalidation, which counts under the lock for writing, waits for the copies that are being
    /// made, and later ones use the new translation. Rejected: to hold the lock while the closure
    /// runs. A VMM that invalidates under a lock of its page walk would deadlock.
    fn copy_prefix(
        &self,
        range: AddrRange,
        access: Access,
        copy: impl FnOnce(GuestAddress, usize) -> Result<(), StopCause>,
    ) -> Result<u64, StopCause> {
        loop {
            let before = *self.changes.read();
            let extent = self.permitted_extent(range.first(), access)?;
            let now = self.changes.read();
            if self.has_ended.load(Ordering::Acquire) {
                return Err(StopCause::Ended);
            }
            if *now != before {
                continue;
            }
            let after = (extent.range.last() - range.first()).min(range.last() - range.first());
            let len = usize::try_from(after).unwrap_or(usize::MAX).saturating_add(1);
            let frame = extent.frame.0 + (range.first() - extent.range.first());
            return copy(GuestAddress(frame), len).map(|()| len as u64);
        }
    }

    /// Copies all of the pieces, as far as their translations permit.
    pub(crate) fn transfer(
        &self,
        pieces: &[Segment],
        access: Access,
        mut copy: impl FnMut(usize, VolatileSlice<'_, MS<'_, M>>),
    ) -> Result<(), Stopped> {
        let mut done = 0;
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest {
                let copied = self.copy_prefix(range, access, |at, len| {
                    copy(
                        done as usize,
                        self.memory.get_slice(at, len).map_err(unreachable_region)?,
                    );
                    Ok(())
                });
                let len = copied.map_err(|cause| Stopped { done, cause })?;
                done += len;
                rest = range
                    .first()
                    .checked_add(len)
                    .and_then(|next| AddrRange::inclusive(next, range.last()));
            }
        }
        Ok(())
    }

    /// The memory of a frame.
    pub(crate) fn frame_slice(
        &self,
        frame: Frame,
        len: usize,
    ) -> Result<VolatileSlice<'_, MS<'_, M>>, NoSuchFrame> {
        let is_alive = !self.has_ended.load(Ordering::Acquire);
        let slice =
            is_alive.then(|| self.memory.get_slice(GuestAddress(frame.0), len).ok()).flatten();
        slice.ok_or(NoSuchFrame(frame))
    }

    /// The range around an address that is mapped, or that is known not to be.
    pub(crate) fn mapped_around(&self, address: u64) -> (AddrRange, bool) {
        let page = AlignedRange::page(address).range();
        match (self.translate)(address, false) {
            Ok(extent) if extent.range.contains(address) => {
                (extent.range, !extent.permissions.is_empty())
            }
            Ok(_) | Err(StopCause::NotMapped | StopCause::Ended) => (page, false),
            // Mapped, but not present, or not for this access.
            Err(_) => (page, true),
        }
    }
}

/// A region of guest memory that this process cannot access.
fn unreachable_region(error: vm_memory::GuestMemoryError) -> StopCause {
    StopCause::Host(HostFailure {
        call: "GuestMemoryBackend::get_slice",
        source: io::Error::other(error),
    })
}
