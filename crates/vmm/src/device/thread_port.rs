//! What a thread has for itself: a port, and the answers that it has given.

use std::cell::RefCell;

use sva_core::{DmaPort, Extent};
use vm_memory::iommu::Error;
use vm_memory::{GuestAddress, Iotlb, guest_memory};

/// A thread's port, and [`Iotlb`]s that it uses again.
///
/// vm-memory's IOMMU answers with an `Iotlb`, which is a tree. What it says of addresses that
/// nobody asks for does not matter, and those that are asked for have been pinned. So the thread
/// keeps trees that translate every address by the same offset, for one kind of access. Rejected:
/// one tree of all translations that are known, shared by all threads: it would be a second cache
/// behind a lock, to be invalidated with the first.
pub(super) struct ThreadPort {
    pub(super) dma: DmaPort,
    cache: RefCell<[Option<Box<CachedIotlb>>; SLOTS]>,
}

impl ThreadPort {
    pub(super) fn new(dma: DmaPort) -> Self {
        Self { dma, cache: RefCell::new([const { None }; SLOTS]) }
    }

    /// An `Iotlb` that translates at least these extents.
    pub(super) fn take_iotlb(
        &self,
        extents: &[Extent],
        access: guest_memory::Permissions,
    ) -> Result<Box<CachedIotlb>, Error> {
        if let [extent] = extents {
            let offset = extent.frame.0.wrapping_sub(extent.range.first());
            let cached = self.cache.borrow_mut()[slot_of(offset)].take();
            return cached
                .filter(|iotlb| (iotlb.offset, iotlb.access) == (Some(offset), access))
                .map_or_else(|| CachedIotlb::with_offset(offset, access), Ok);
        }
        CachedIotlb::of_extents(extents, access)
    }

    /// Keeps an `Iotlb` for the next answer with the same offset.
    pub(super) fn put_back(&self, iotlb: Box<CachedIotlb>) {
        if let Some(offset) = iotlb.offset {
            self.cache.borrow_mut()[slot_of(offset)] = Some(iotlb);
        }
    }
}

/// How many `Iotlb`s a thread keeps, each in the slot that its offset says: a power of two.
const SLOTS: usize = 64;

/// The slot of an offset, by a multiplicative hash of its pages.
fn slot_of(offset: u64) -> usize {
    ((offset >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.ilog2())) as usize
}

/// An [`Iotlb`] that permits one kind of access.
#[derive(Debug)]
pub(super) struct CachedIotlb {
    pub(super) iotlb: Iotlb,
    access: guest_memory::Permissions,
    /// From each address to where it leads, if that is the same for all.
    offset: Option<u64>,
}

impl CachedIotlb {
    /// Translates every address by the same offset.
    fn with_offset(offset: u64, access: guest_memory::Permissions) -> Result<Box<Self>, Error> {
        let mut iotlb = Iotlb::new();
        iotlb.set_mapping(GuestAddress(0), GuestAddress(offset), usize::MAX, access)?;
        Ok(Box::new(Self { iotlb, access, offset: Some(offset) }))
    }

    fn of_extents(
        extents: &[Extent],
        access: guest_memory::Permissions,
    ) -> Result<Box<Self>, Error> {
        let mut iotlb = Iotlb::new();
        for extent in extents {
            iotlb.set_mapping(
                GuestAddress(extent.range.first()),
                GuestAddress(extent.frame.0),
                extent.range.len() as usize,
                access,
            )?;
        }
        Ok(Box::new(Self { iotlb, access, offset: None }))
    }
}
