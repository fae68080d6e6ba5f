//! Guest memory by I/O virtual addresses.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use sva_core::Pin;
use vm_memory::bitmap::MS;
use vm_memory::guest_memory::{self, GuestMemorySliceIterator};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    VolatileSlice,
};

use super::iommu::DeviceIommu;
use crate::provider::Provider;

/// A guest's memory as one device sees it with one PASID, for device models that are written
/// against vm-memory.
///
/// For any number of threads. An `Arc` of it, or a reference, is a
/// [`GuestAddressSpace`](vm_memory::GuestAddressSpace).
///
/// ```
/// # use std::sync::Arc;
/// # use sva_core::{
/// #     AddrRange, Bdf, Bind, Capabilities, DeviceSpec, Features, Iommu, IommuConfig, PasidWidth,
/// #     Permissions,
/// # };
/// # use sva_testkit::FlatTopology;
/// use sva_vmm::{GuestSpace, linear};
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// # let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
/// # let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
/// # let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
/// # let device = iommu.plug(spec)?.device;
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// let iova = AddrRange::new(1 << 30, 1 << 20).expect("not empty");
/// let space =
///     GuestSpace::new(memory.clone(), linear(iova, GuestAddress(0), Permissions::READ_WRITE));
/// let bond =
///     iommu.bind_device(&device, &space.handle(), Bind::new(()).features(Features::NONE))?;
///
/// // What a virtio device takes for its guest memory.
/// let seen = space.device_memory(&device, bond.pasid());
/// seen.write_obj(7u32, GuestAddress((1 << 30) + 64))?;
/// assert_eq!(memory.read_obj::<u32>(GuestAddress(64))?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Writes are marked in the guest memory's own dirty bitmaps, by guest physical address, as
/// migration needs it. ([`IommuMemory`](vm_memory::IommuMemory) marks in a bitmap of its own, by
/// I/O virtual address, as vhost-user needs it.)
///
/// An access is all or nothing: where part of the range cannot be accessed, nothing is. A range
/// check that fails is in the event log, as the access would be.
///
/// # Slices that outlive their iterator
///
/// An invalidation waits for the iterator of slices, and so for every access of vm-memory's
/// [`Bytes`](vm_memory::Bytes). But a slice can be taken out of the iterator and outlive it. It
/// stays guest memory, and nothing waits for it: an access through it can come after the
/// translation has changed. virtio-queue's `Reader` and `Writer` keep slices. Before a VMM
/// takes memory away from a device, it has to have such a model finish the requests that it has
/// begun, as for an unbind.
pub struct DeviceMemory<M: GuestMemoryBackend + Send + Sync + 'static> {
    provider: Arc<Provider<M>>,
    iommu: DeviceIommu,
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> DeviceMemory<M> {
    pub(crate) fn new(provider: Arc<Provider<M>>, iommu: DeviceIommu) -> Self {
        Self { provider, iommu }
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> Clone for DeviceMemory<M> {
    fn clone(&self) -> Self {
        Self { provider: Arc::clone(&self.provider), iommu: self.iommu.clone() }
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> fmt::Debug for DeviceMemory<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory").field("iommu", &self.iommu).finish()
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> GuestMemory for DeviceMemory<M> {
    type PhysicalMemory = M;
    type Bitmap = <M::R as GuestMemoryRegion>::B;

    fn check_range(
        &self,
        addr: GuestAddress,
        count: usize,
        access: guest_memory::Permissions,
    ) -> bool {
        self.iommu.pin(&self.iommu.port().dma, addr, count, access).is_ok()
    }

    #[inline(always)]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: guest_memory::Permissions,
    ) -> guest_memory::Result<impl GuestMemorySliceIterator<'a, MS<'a, M>>> {
        let pin = self
            .iommu
            .pin(&self.iommu.port().dma, addr, count, access)
            .map_err(GuestMemoryError::IommuError)?;
        Ok(PinnedSlices { memory: &self.provider.memory, pin, next: 0 })
    }
}

/// The slices of a range. Invalidations on other threads wait as long as this lives.
#[derive(Debug)]
pub struct PinnedSlices<'a, M> {
    memory: &'a M,
    pin: Pin<'a>,
    /// The index of the next extent.
    next: usize,
}

impl<'a, M: GuestMemoryBackend> PinnedSlices<'a, M> {
    #[inline]
    fn slice(&self, number: usize) -> Option<guest_memory::Result<VolatileSlice<'a, MS<'a, M>>>> {
        let extent = self.pin.extents().get(number)?;
        // An extent of a guest's space lies in one region.
        Some(self.memory.get_slice(GuestAddress(extent.frame.0), extent.range.len() as usize))
    }
}

impl<'a, M: GuestMemoryBackend> Iterator for PinnedSlices<'a, M> {
    type Item = guest_memory::Result<VolatileSlice<'a, MS<'a, M>>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let slice = self.slice(self.next)?;
        self.next = if slice.is_ok() { self.next + 1 } else { usize::MAX };
        Some(slice)
    }
}

impl<M: GuestMemoryBackend> FusedIterator for PinnedSlices<'_, M> {}

impl<'a, M: GuestMemoryBackend> GuestMemorySliceIterator<'a, MS<'a, M>> for PinnedSlices<'a, M> {
    // Does what the provided method does. That one takes the first slice by changing the iterator
    // and moves the iterator right after; the processor then waits for its own stores, for a
    // quarter of the whole access.
    #[inline]
    fn stop_on_error(
        self,
    ) -> guest_memory::Result<impl Iterator<Item = VolatileSlice<'a, MS<'a, M>>>> {
        let first = self.slice(self.next).transpose()?;
        let rest = Self { next: self.next.saturating_add(1), ..self };
        Ok(first.into_iter().chain(rest.map_while(Result::ok)))
    }
}
