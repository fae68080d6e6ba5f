//! The VMM's handle of a guest's address space.

use std::sync::Arc;

use sva_core::space::{ExitWork, Invalidation};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Extent, Frame, Permissions, SpaceId, StopCause,
};
#[cfg(feature = "iommu")]
use sva_core::{Device, Pasid};
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_sync::{Mutex, RwLock};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

#[cfg(feature = "iommu")]
use crate::device::{DeviceIommu, DeviceMemory};
use crate::provider::{Provider, Slice};

/// The VMM's handle of an address space whose addresses are translated to a guest's memory.
/// Dropping it ends the space.
///
/// Frames are guest physical addresses. Requests with translated addresses (ATS) reach all of the
/// guest's memory, and are routed to a peer whose window holds the guest physical address, as in
/// hardware.
///
/// The memory map is the one that the space was made with. For memory that comes and goes, a
/// VMM reserves what may be plugged when it makes the map, gives a [`GuestMemoryBackend`] of
/// its own, or makes another space over the new map and binds to that.
pub struct GuestSpace<M: GuestMemoryBackend + Send + Sync + 'static> {
    provider: Arc<Provider<M>>,
}

/// A translation for [`GuestSpace`] that maps one range to contiguous guest memory from `to` on,
/// and nothing else. `linear(AddrRange::ALL, GuestAddress(0), ...)` is the identity: a guest
/// without an IOMMU of its own.
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
    /// A space over memory without a dirty bitmap. Accesses that hit are made on it directly,
    /// atomic operations included.
    ///
    /// `translate` gets an address and whether the access has privilege. It returns the extent
    /// around the address: a range, as long as it likes, that leads to contiguous guest physical
    /// addresses with the same permissions. It is called where no translation is cached, on any
    /// thread, with no lock of this crate held. It may take short locks, unless a caller of this
    /// space holds them, and must not call this space. The part of an extent that has no guest
    /// memory is not mapped.
    ///
    /// A hole may be answered as an extent without permissions.
    /// [`AddressSpace::mapped_within`] steps over such an extent at once, and over an address that
    /// answers [`StopCause::NotMapped`] by one page.
    pub fn new(
        memory: M,
        translate: impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static,
    ) -> Self {
        Self::with_slices(memory, |memory, at, len| memory.get_slice(at, len).ok(), true, translate)
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> GuestSpace<M> {
    /// As [`new`](Self::new), over memory with any dirty bitmap. Each write is marked after it was
    /// made, byte for byte as vm-memory's own writes are. Atomic operations are refused, since
    /// vm-memory does not mark them.
    pub fn with_dirty_bitmap(
        memory: M,
        translate: impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static,
    ) -> Self {
        Self::with_slices(memory, |_, _, _| None, false, translate)
    }

    fn with_slices(
        memory: M,
        slice: Slice<M>,
        has_slices: bool,
        translate: impl Fn(u64, bool) -> Result<Extent, StopCause> + Send + Sync + 'static,
    ) -> Self {
        let provider = Provider {
            id: SpaceId::unique(),
            memory,
            slice,
            has_slices,
            translate: Box::new(translate),
            resolve: None,
            changes: RwLock::new(0),
            has_ended: AtomicBool::new(false),
            watch: Mutex::default(),
        };
        Self { provider: Arc::new(provider) }
    }

    /// Has `resolve` called where the translation of an address is [`StopCause::NotPresent`], or
    /// permits less than the access needs: to bring the page in, to copy it, to set the guest's
    /// accessed and dirty bits. It may block and change the space. After `Ok` the address is
    /// translated again.
    ///
    /// Without it such accesses fault at once, and the space lacks the feature: binds must ask for
    /// [`Features`](sva_core::Features) without page faults.
    ///
    /// # Panics
    /// If a handle of the space exists already: page faults are resolved from the beginning or not
    /// at all.
    pub fn on_page_fault(
        mut self,
        resolve: impl Fn(u64, Access) -> Result<(), StopCause> + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::get_mut(&mut self.provider)
            .expect("page faults are to be resolved from the beginning: call this before handle()");
        provider.resolve = Some(Box::new(resolve));
        self
    }

    /// A handle for binding. It does not keep the space from ending.
    pub fn handle(&self) -> Arc<dyn AddressSpace> {
        self.provider.clone()
    }

    /// The guest's memory as `device` sees it with `pasid`, for device models that are written
    /// against vm-memory. See [`DeviceMemory`].
    #[cfg(feature = "iommu")]
    pub fn device_memory(&self, device: &Device, pasid: Pasid) -> DeviceMemory<M> {
        DeviceMemory::new(Arc::clone(&self.provider), self.device_iommu(device, pasid))
    }

    /// The translation alone, for [`IommuMemory`](vm_memory::IommuMemory) over the same guest
    /// memory. See [`DeviceIommu`].
    #[cfg(feature = "iommu")]
    pub fn device_iommu(&self, device: &Device, pasid: Pasid) -> DeviceIommu {
        DeviceIommu::new(device.clone(), pasid, self.provider.id)
    }

    /// Invalidates the translations of these ranges. The VMM calls this when its `translate`
    /// already answers the new state, wherever that permits less than before or leads elsewhere.
    /// When it returns, no access through the old translation is in flight or will start. All
    /// ranges share one barrier.
    ///
    /// Blocks until accesses in flight have ended, and until other threads have released their pins
    /// ([`DmaPort::with_memory`](sva_core::DmaPort::with_memory), `DeviceMemory`). Must not be
    /// called with a lock held that `translate` takes: a thread that has pinned a range may be
    /// inside of `translate`.
    pub fn invalidate(&self, ranges: impl IntoIterator<Item = AddrRange>) {
        self.begin_invalidate(ranges).wait();
    }

    /// As [`invalidate`](Self::invalidate), but returns the invalidation to be waited for, which
    /// can be joined with those of other spaces. Waits for the provider's own copies, and for
    /// nothing else.
    pub fn begin_invalidate(&self, ranges: impl IntoIterator<Item = AddrRange>) -> Invalidation {
        *self.provider.changes.write() += 1;
        // A watcher that comes from here on translates by the new state.
        let watchers: Vec<_> = self.provider.watch.lock().watchers.values().cloned().collect();
        let invalidations =
            |range| watchers.iter().map(move |watcher| watcher.invalidate(self.provider.id, range));
        ranges
            .into_iter()
            .flat_map(invalidations)
            .reduce(Invalidation::and)
            .unwrap_or_else(Invalidation::none)
    }

    /// Ends the space. Exit handlers run on this thread. After this call no access by address is
    /// made. A second call does nothing.
    pub fn end(&self, reason: EndReason) {
        let watchers = {
            let mut watch = self.provider.watch.lock();
            if watch.ended.is_some() {
                return;
            }
            watch.ended = Some(reason);
            std::mem::take(&mut watch.watchers)
        };
        {
            let mut changes = self.provider.changes.write();
            *changes += 1;
            self.provider.has_ended.store(true, Ordering::Release);
        }
        // All watchers are told before the first handler runs.
        let work: Vec<ExitWork> = watchers
            .into_values()
            .map(|watcher| watcher.space_ended(self.provider.id, reason))
            .collect();
        work.into_iter().for_each(ExitWork::run);
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> Drop for GuestSpace<M> {
    fn drop(&mut self) {
        self.end(EndReason::Closed);
    }
}
