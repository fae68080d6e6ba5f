//! What device models of rust-vmm take: guest memory by I/O virtual addresses.
//!
//! Both types here pin what they translate ([`DmaPort::pin`]) for as long as their answer lives:
//! the iterator of slices, or vm-memory's own iterator over an `Iotlb`. All accesses of vm-memory's
//! `Bytes` are made while that lives, so an invalidation waits for them (rule T2).

use std::cell::RefCell;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::Deref;
use std::sync::Arc;

use sva_core::port::DmaCause;
use sva_core::{
    Access, Device, DmaError, DmaPort, Extent, FaultReason, Pasid, Pin, Segment, SpaceId,
};
use thread_local::ThreadLocal;
use vm_memory::bitmap::MS;
use vm_memory::guest_memory::{self, GuestMemorySliceIterator};
use vm_memory::iommu::{Error, IotlbIterator, IovaRange};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, Iommu,
    Iotlb, VolatileSlice,
};

use crate::space::Shared;

/// Translates as one device with one PASID: vm-memory's IOMMU, for any number of threads, each of
/// which has a port of its own. Clones share them.
///
/// vm-memory wants an [`Iotlb`] for each answer, which is a tree. Those that a thread has made are
/// used again, for what leads as far away; what they are asked for has been pinned each time.
#[derive(Clone)]
pub struct DeviceIommu {
    shared: Arc<PerThread>,
    pasid: Pasid,
    space: SpaceId,
}

struct PerThread {
    device: Device,
    ports: ThreadLocal<Port>,
}

impl DeviceIommu {
    pub(crate) fn new(device: Device, pasid: Pasid, space: SpaceId) -> Self {
        Self { shared: Arc::new(PerThread { device, ports: ThreadLocal::new() }), pasid, space }
    }

    /// This thread's own.
    #[inline]
    fn port(&self) -> &Port {
        self.shared.ports.get_or(|| Port::new(self.shared.device.port()))
    }

    /// Holds what the range means. An access that needs nothing is taken for a read.
    // Always, as all the way up to vm-memory's own: an answer that goes through memory is written
    // in other pieces than it is read, for which the processor waits.
    #[inline(always)]
    fn pin<'a>(
        &self,
        port: &'a DmaPort,
        address: GuestAddress,
        len: usize,
        access: guest_memory::Permissions,
    ) -> Result<Pin<'a>, Error> {
        let piece = Segment { address: address.0, len: len as u64 };
        let pin = self.pin_for(
            port,
            piece,
            if access.has_write() { Access::WRITE } else { Access::READ },
        )?;
        if access == guest_memory::Permissions::ReadWrite {
            // A pin is for one of them. What the other one finds holds as long as the first is
            // there.
            drop(self.pin_for(port, piece, Access::READ)?);
        }
        Ok(pin)
    }

    #[inline(always)]
    fn pin_for<'a>(
        &self,
        port: &'a DmaPort,
        piece: Segment,
        access: Access,
    ) -> Result<Pin<'a>, Error> {
        let pin = port.pin(self.pasid, piece, access).map_err(|error| error_of(&error, piece))?;
        if pin.space() == self.space { Ok(pin) } else { Err(self.astray(pin.space())) }
    }

    #[cold]
    fn astray(&self, space: SpaceId) -> Error {
        let reason = format!(
            "PASID {} leads to {space}, which is not the one that this memory is of",
            self.pasid
        );
        Error::IommuMisconfigured { reason }
    }
}

/// What a device model is told of a transaction that failed.
#[cold]
fn error_of(error: &DmaError, piece: Segment) -> Error {
    match &error.cause {
        DmaCause::Fault(fault) if !is_about_the_bond(fault.reason) => {
            unresolved(piece, fault.address, fault.to_string())
        }
        cause => Error::IommuMisconfigured { reason: cause.to_string() },
    }
}

/// No address would fare better.
fn is_about_the_bond(reason: FaultReason) -> bool {
    use FaultReason as F;
    matches!(
        reason,
        F::CannotIssuePasid
            | F::NotBound
            | F::SpaceEnded
            | F::NotGranted
            | F::DeviceRemoved
            | F::DeviceBlocked
    )
}

/// From `at` on.
fn unresolved(piece: Segment, at: u64, reason: String) -> Error {
    let before = at.wrapping_sub(piece.address).min(piece.len);
    let iova_range = IovaRange {
        base: GuestAddress(piece.address.wrapping_add(before)),
        length: (piece.len - before) as usize,
    };
    Error::CannotResolve { iova_range, reason }
}

/// What a thread has for itself.
struct Port {
    dma: DmaPort,
    trees: RefCell<[Option<Box<Tree>>; TREES]>,
}

impl Port {
    fn new(dma: DmaPort) -> Self {
        Self { dma, trees: RefCell::new([const { None }; TREES]) }
    }

    /// A tree that says what the runs say, at least.
    fn tree_of(
        &self,
        runs: &[Extent],
        access: guest_memory::Permissions,
    ) -> Result<Box<Tree>, Error> {
        if let [run] = runs {
            let by = run.frame.0.wrapping_sub(run.range.first());
            let kept = self.trees.borrow_mut()[place_of(by)].take();
            return kept
                .filter(|tree| (tree.by, tree.access) == (Some(by), access))
                .map_or_else(|| Tree::of_all(by, access), Ok);
        }
        Tree::of(runs, access)
    }

    /// For the next one that asks for the like.
    fn give_back(&self, tree: Box<Tree>) {
        if let Some(by) = tree.by {
            self.trees.borrow_mut()[place_of(by)] = Some(tree);
        }
    }
}

/// Trees that a thread keeps, each in the place that its distance says: a power of two.
const TREES: usize = 64;

/// The place of a distance among them: by its pages, well mixed.
fn place_of(by: u64) -> usize {
    ((by >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TREES.ilog2())) as usize
}

/// An [`Iotlb`] that permits one kind of access.
#[derive(Debug)]
struct Tree {
    iotlb: Iotlb,
    access: guest_memory::Permissions,
    /// How far away every address leads, where that is so.
    by: Option<u64>,
}

impl Tree {
    /// From every address as far away.
    fn of_all(by: u64, access: guest_memory::Permissions) -> Result<Box<Self>, Error> {
        let mut iotlb = Iotlb::new();
        iotlb.set_mapping(GuestAddress(0), GuestAddress(by), usize::MAX, access)?;
        Ok(Box::new(Self { iotlb, access, by: Some(by) }))
    }

    fn of(runs: &[Extent], access: guest_memory::Permissions) -> Result<Box<Self>, Error> {
        let mut iotlb = Iotlb::new();
        for run in runs {
            iotlb.set_mapping(
                GuestAddress(run.range.first()),
                GuestAddress(run.frame.0),
                run.range.len() as usize,
                access,
            )?;
        }
        Ok(Box::new(Self { iotlb, access, by: None }))
    }
}

/// An [`Iotlb`] that says what some addresses mean, and what it says of those does not change as
/// long as this lives. Of others it may say anything.
pub struct PinnedIotlb<'a> {
    /// There until the drop.
    tree: Option<Box<Tree>>,
    port: &'a Port,
    pin: Pin<'a>,
}

impl Deref for PinnedIotlb<'_> {
    type Target = Iotlb;

    #[inline]
    fn deref(&self) -> &Iotlb {
        &self.tree.as_ref().expect("there until the drop").iotlb
    }
}

impl Drop for PinnedIotlb<'_> {
    fn drop(&mut self) {
        self.tree.take().into_iter().for_each(|tree| self.port.give_back(tree));
    }
}

impl fmt::Debug for PinnedIotlb<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedIotlb").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl Iommu for DeviceIommu {
    type IotlbGuard<'a> = PinnedIotlb<'a>;

    /// # Errors
    /// [`Error::CannotResolve`] where an address is at fault, from that on;
    /// [`Error::IommuMisconfigured`] where the bond is, or the device. The fault is in the event
    /// log of the IOMMU.
    #[inline(always)]
    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: guest_memory::Permissions,
    ) -> Result<IotlbIterator<PinnedIotlb<'_>>, Error> {
        let piece = Segment { address: iova.0, len: length as u64 };
        if iova.0.checked_add(length as u64).is_none() {
            return Err(unresolved(
                piece,
                iova.0,
                "vm-memory's Iotlb cannot name the last address, nor any beyond".to_owned(),
            ));
        }
        let port = self.port();
        let pin = self.pin(&port.dma, iova, length, access)?;
        let tree = Some(port.tree_of(pin.extents(), access)?);
        Iotlb::lookup(PinnedIotlb { tree, port, pin }, iova, length, access)
            .map_err(|fails| unresolved(piece, iova.0, format!("not permitted: {fails:?}")))
    }
}

impl fmt::Debug for DeviceIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceIommu")
            .field("device", &self.shared.device.bdf())
            .field("pasid", &self.pasid)
            .finish()
    }
}

/// A guest's memory as one device sees it with one PASID, for device models that are written
/// against vm-memory; for any number of threads, and as an `Arc` or a reference what they call
/// a `GuestAddressSpace`.
///
/// Writes are marked in the guest memory's own dirty bitmaps, by guest physical address: what
/// migration wants. ([`IommuMemory`](vm_memory::IommuMemory) marks in another one, by I/O
/// virtual address: what vhost-user wants.)
///
/// An access is all or nothing: where part of the range cannot be had, nothing is accessed. A probe
/// that fails is in the event log, as the access would be.
///
/// **What it cannot promise.** An invalidation waits for the iterator of slices, and so for every
/// access of vm-memory's `Bytes`; a slice can be taken out of the iterator and outlive it. Such a
/// slice stays memory of the guest, and nothing waits for it: an access through it can come after
/// the translation has changed (rule T2 is lost). virtio-queue's `Reader` and `Writer` keep slices.
/// Before a monitor changes what a device may reach it has to have such models finish the requests
/// they have begun, as for an unbind.
pub struct DeviceMemory<M: GuestMemoryBackend + Send + Sync + 'static> {
    shared: Arc<Shared<M>>,
    iommu: DeviceIommu,
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> DeviceMemory<M> {
    pub(crate) fn new(shared: Arc<Shared<M>>, iommu: DeviceIommu) -> Self {
        Self { shared, iommu }
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> Clone for DeviceMemory<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), iommu: self.iommu.clone() }
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
        Ok(PinnedSlices { memory: &self.shared.memory, pin, next: 0 })
    }
}

/// The slices of a range, which no invalidation takes away as long as this lives.
#[derive(Debug)]
pub struct PinnedSlices<'a, M> {
    memory: &'a M,
    pin: Pin<'a>,
    /// Which run comes next.
    next: usize,
}

impl<'a, M: GuestMemoryBackend> PinnedSlices<'a, M> {
    #[inline]
    fn slice(&self, number: usize) -> Option<guest_memory::Result<VolatileSlice<'a, MS<'a, M>>>> {
        let run = self.pin.extents().get(number)?;
        // A run of a guest's space lies in one region.
        Some(self.memory.get_slice(GuestAddress(run.frame.0), run.range.len() as usize))
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
    // What the provided one does. That takes the first slice by changing the iterator, which is
    // moved right after: the processor waits for its own stores then, a quarter of the whole
    // access.
    #[inline]
    fn stop_on_error(
        self,
    ) -> guest_memory::Result<impl Iterator<Item = VolatileSlice<'a, MS<'a, M>>>> {
        let first = self.slice(self.next).transpose()?;
        let rest = Self { next: self.next.saturating_add(1), ..self };
        Ok(first.into_iter().chain(rest.map_while(Result::ok)))
    }
}
