//! A guest's memory as an address space: what the monitor does with it. What the core does with it
//! is in [`provider`](crate::provider).
//!
//! Locks: `life`, then none; `copying` is held while bytes are copied, and under it nothing foreign
//! is called but the guest memory's own slices. The monitor's closures and the watchers run with no
//! lock held.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::space::{ExitWork, Invalidation};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Extent, Frame, Permissions, SpaceId, SpaceWatcher,
    StopCause,
};
#[cfg(feature = "iommu")]
use sva_core::{Device, Pasid};
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_sync::{Mutex, RwLock};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};

#[cfg(feature = "iommu")]
use crate::memory::{DeviceIommu, DeviceMemory};

/// What an address means, with or without privilege: guest physical addresses as frames.
type Translate = dyn Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync;
/// Brings the page of an address in.
type Resolve = dyn Fn(u64, Access) -> Result<(), StopCause> + Send + Sync;
/// Memory as a slice that marks nothing; `None` where it has to.
type Slice<M> = for<'a> fn(&'a M, GuestAddress, usize) -> Option<VolatileSlice<'a>>;

/// The monitor's handle of an address space whose addresses lead into a guest's memory; dropping it
/// ends the space.
///
/// Frames are guest physical addresses. Requests with translated addresses (ATS) reach all of the
/// guest's memory, and are routed to a peer whose window holds the guest physical address, as in
/// hardware.
///
/// The memory map is the one that it was made with; see docs/design/vmm.md for memory that comes
/// and goes.
pub struct GuestSpace<M: GuestMemoryBackend + Send + Sync + 'static> {
    shared: Arc<Shared<M>>,
}

pub(crate) struct Shared<M> {
    pub(crate) id: SpaceId,
    pub(crate) memory: M,
    pub(crate) slice: Slice<M>,
    /// Whether `slice` gives any.
    pub(crate) plain: bool,
    pub(crate) translate: Box<Translate>,
    pub(crate) resolve: Option<Box<Resolve>>,
    /// Counts changes. Who copies by address holds it for reading, from when it has found that the
    /// count is still what it was before the translation.
    pub(crate) copying: RwLock<u64>,
    /// No access by address begins any more. Written while `copying` is held for writing.
    pub(crate) over: AtomicBool,
    pub(crate) life: Mutex<Life>,
}

#[derive(Default)]
pub(crate) struct Life {
    pub(crate) ended: Option<EndReason>,
    pub(crate) next_token: u64,
    pub(crate) watchers: BTreeMap<u64, Arc<dyn SpaceWatcher>>,
}

/// A translation for [`GuestSpace`] where one range leads to contiguous guest memory, and nothing
/// else to any. `linear(AddrRange::ALL, GuestAddress(0), ...)` is the identity: a guest without an
/// IOMMU of its own.
pub fn linear(
    range: AddrRange,
    to: GuestAddress,
    permissions: Permissions,
) -> impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static {
    move |address, _privileged| match range.contains(address) {
        true => Ok(Extent { range, frame: Frame(to.0), permissions }),
        false => Err(StopCause::NotMapped),
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> GuestSpace<M>
where
    M::R: GuestMemoryRegion<B = ()>,
{
    /// A space over memory that keeps no dirty bitmap: accesses that hit are made on it directly,
    /// atomic operations included.
    ///
    /// `translate` says what an address means now, for accesses with or without privilege: the
    /// range around it that leads to contiguous guest physical addresses, given as frame, with one
    /// permission; as long a range as it likes to name. It is asked where nothing is kept, on any
    /// thread, with no lock of this crate held. It may take short locks that nobody holds while
    /// calling this space, and is not to call it. What of a run has no guest memory behind it
    /// is not mapped.
    ///
    /// A hole may be answered as a run that permits nothing, which lets
    /// [`AddressSpace::mapped_within`] step over it; for [`StopCause::NotMapped`] it goes on by the
    /// page.
    pub fn new(
        memory: M,
        translate: impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static,
    ) -> Self {
        Self::with_slices(memory, |memory, at, len| memory.get_slice(at, len).ok(), true, translate)
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> GuestSpace<M> {
    /// As [`new`](Self::new), over memory with any dirty bitmap, in which each write is marked
    /// after it was made, byte for byte as vm-memory's own writes are. There are no atomic
    /// operations: they would go unmarked.
    pub fn with_dirty_bitmap(
        memory: M,
        translate: impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static,
    ) -> Self {
        Self::with_slices(memory, |_, _, _| None, false, translate)
    }

    fn with_slices(
        memory: M,
        slice: Slice<M>,
        plain: bool,
        translate: impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            id: SpaceId::unique(),
            memory,
            slice,
            plain,
            translate: Box::new(translate),
            resolve: None,
            copying: RwLock::new(0),
            over: AtomicBool::new(false),
            life: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has `resolve` asked where the translation of an address is [`StopCause::NotPresent`], or
    /// permits less than the access needs: to bring the page in, to copy it, to set the guest's
    /// accessed and dirty bits. It may block and change the space. Where it answers well the
    /// translation is asked again. To be called before the space is bound.
    ///
    /// Without it such accesses fault at once, and the space lacks the feature: binds ask for
    /// [`Features`](sva_core::Features) without page faults then.
    ///
    /// # Panics
    /// A handle of the space is alive.
    pub fn on_page_fault(
        mut self,
        resolve: impl Fn(u64, Access) -> Result<(), StopCause> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::get_mut(&mut self.shared)
            .expect("page faults are to be resolved from the beginning: call this before handle()");
        shared.resolve = Some(Box::new(resolve));
        self
    }

    /// A handle for binding; it does not keep the space from ending.
    pub fn handle(&self) -> Arc<dyn AddressSpace> {
        self.shared.clone()
    }

    /// The guest's memory as `device` sees it with `pasid`, for device models that are written
    /// against vm-memory. See [`DeviceMemory`].
    #[cfg(feature = "iommu")]
    pub fn device_memory(&self, device: &Device, pasid: Pasid) -> DeviceMemory<M> {
        DeviceMemory::new(Arc::clone(&self.shared), self.device_iommu(device, pasid))
    }

    /// The translation alone, for [`IommuMemory`](vm_memory::IommuMemory) over the same guest
    /// memory. See [`DeviceIommu`].
    #[cfg(feature = "iommu")]
    pub fn device_iommu(&self, device: &Device, pasid: Pasid) -> DeviceIommu {
        DeviceIommu::new(device.clone(), pasid, self.shared.id)
    }

    /// What these addresses meant has changed: the monitor calls this after its `translate` answers
    /// the new state, wherever that permits less than before or leads elsewhere. When it returns,
    /// no access through the old translation is under way or will start (rule T2). All ranges
    /// share one barrier.
    ///
    /// Blocks for as long as an access takes, and for pins
    /// ([`DmaPort::with_memory`](sva_core::DmaPort::with_memory), `DeviceMemory`) of other threads.
    /// Not to be called with a lock held that `translate` takes: who has pinned a range may be
    /// asking for its translation.
    pub fn invalidate(&self, ranges: impl IntoIterator<Item = AddrRange>) {
        self.begin_invalidate(ranges).wait();
    }

    /// As [`invalidate`](Self::invalidate), but hands back what to wait for, to be joined with
    /// changes of other spaces. Waits for copies of the provider's, and for nothing else.
    pub fn begin_invalidate(&self, ranges: impl IntoIterator<Item = AddrRange>) -> Invalidation {
        *self.shared.copying.write() += 1;
        // One that comes to watch from here on translates by the new state.
        let watchers: Vec<_> = self.shared.life.lock().watchers.values().cloned().collect();
        let told =
            |range| watchers.iter().map(move |watcher| watcher.invalidate(self.shared.id, range));
        ranges
            .into_iter()
            .flat_map(told)
            .reduce(Invalidation::and)
            .unwrap_or_else(Invalidation::none)
    }

    /// Ends the space: exit handlers run on this thread. From the return of this call on no access
    /// by address is made. Only the first end counts.
    pub fn end(&self, reason: EndReason) {
        let watchers = {
            let mut life = self.shared.life.lock();
            if life.ended.is_some() {
                return;
            }
            life.ended = Some(reason);
            std::mem::take(&mut life.watchers)
        };
        {
            let mut changes = self.shared.copying.write();
            *changes += 1;
            self.shared.over.store(true, Ordering::Release);
        }
        // All are told before the first handler runs.
        let work: Vec<ExitWork> = watchers
            .into_values()
            .map(|watcher| watcher.space_ended(self.shared.id, reason))
            .collect();
        work.into_iter().for_each(ExitWork::run);
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> Drop for GuestSpace<M> {
    fn drop(&mut self) {
        self.end(EndReason::Closed);
    }
}
