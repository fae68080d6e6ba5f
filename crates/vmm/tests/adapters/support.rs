//! A machine: guest memory, the page tables of a monitor, an IOMMU and a device that is bound to
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sva_core::{
    AddrRange, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, DmaError, Extent, FaultReason,
    Features, Frame, Iommu, IommuConfig, Pasid, PasidWidth, Permissions, Plug, StopCause,
};
use sva_sync::{RwLock, RwLockReadGuard};
use sva_testkit::FlatTopology;
use sva_vmm::GuestSpace;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::guest_memory::Permissions as VmPermissions;
use vm_memory::iommu::{Error, IotlbIterator, IovaRange};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, Iotlb,
};

pub(crate) const PAGE: u64 = 4096;
/// The guest's pages.
pub(crate) const PAGES: u64 = 64;
/// Where I/O virtual addresses begin in these tests.
pub(crate) const BASE: u64 = 0x7000_0000;
/// A time limit for what happens at once unless something is wrong.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const READ: Permissions = Permissions::READ;

/// Memory in one region.
pub(crate) fn plain_memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), (PAGES * PAGE) as usize)]).expect("memory")
}

pub(crate) type Logged = GuestMemoryMmap<AtomicBitmap>;

/// Memory in two adjacent regions, with a dirty bitmap.
pub(crate) fn logged_memory() -> Logged {
    let half = PAGES / 2 * PAGE;
    Logged::from_ranges(&[(GuestAddress(0), half as usize), (GuestAddress(half), half as usize)])
        .expect("memory")
}

/// Fills every page of the guest with a byte of its own.
pub(crate) fn fill(memory: &impl GuestMemoryBackend) {
    for page in 0..PAGES {
        memory
            .write_slice(&[page as u8 + 1; PAGE as usize], GuestAddress(page * PAGE))
            .expect("the guest's");
    }
}

/// Returns the pages that are marked dirty, and clears the marks.
pub(crate) fn harvest(memory: &Logged) -> BTreeSet<u64> {
    let marked = |page: &u64| {
        let region = memory.find_region(GuestAddress(page * PAGE)).expect("the guest's");
        region.bitmap().dirty_at((page * PAGE - region.start_addr().0) as usize)
    };
    let pages = (0..PAGES).filter(marked).collect();
    memory.iter().for_each(|region| region.get_mmap().bitmap().reset());
    pages
}

pub(crate) fn range(page: u64, pages: u64) -> AddrRange {
    AddrRange::new(BASE + page * PAGE, pages * PAGE).expect("not empty")
}

/// A monitor's page tables: pages from [`BASE`] on to pages of the guest, or absent.
#[derive(Default)]
pub(crate) struct Table(RwLock<BTreeMap<u64, Option<(u64, Permissions)>>>);

impl Table {
    pub(crate) fn map(&self, page: u64, to: u64, permissions: Permissions) {
        self.0.write().insert(page, Some((to, permissions)));
    }

    pub(crate) fn make_absent(&self, page: u64) {
        self.0.write().insert(page, None);
    }

    pub(crate) fn unmap(&self, page: u64) {
        self.0.write().remove(&page);
    }

    /// The page walk: the extent of all neighbours that are contiguous with equal permissions.
    pub(crate) fn extent(&self, address: u64) -> Result<Extent, StopCause> {
        let table = self.0.read();
        let page = address.checked_sub(BASE).ok_or(StopCause::NotMapped)? / PAGE;
        let (to, permissions) =
            table.get(&page).ok_or(StopCause::NotMapped)?.ok_or(StopCause::NotPresent)?;
        let continues = |other: u64| {
            table.get(&other)
                == Some(&(to + other).checked_sub(page).map(|frame| (frame, permissions)))
        };
        let first = (0..page).rev().take_while(|other| continues(*other)).last().unwrap_or(page);
        let last = (page + 1..).take_while(|other| continues(*other)).last().unwrap_or(page);
        Ok(Extent {
            range: range(first, last - first + 1),
            frame: Frame((to - (page - first)) * PAGE),
            permissions,
        })
    }
}

pub(crate) struct Machine<M: GuestMemoryBackend + Send + Sync + 'static> {
    /// First, so that it is unbound first.
    pub(crate) bond: Bond<()>,
    pub(crate) device: Device,
    pub(crate) iommu: Iommu,
    pub(crate) bus: Arc<FlatTopology>,
    pub(crate) space: GuestSpace<M>,
    pub(crate) table: Arc<Table>,
    pub(crate) memory: M,
}

impl Machine<GuestMemoryMmap> {
    pub(crate) fn plain() -> Self {
        let memory = plain_memory();
        Self::new(memory.clone(), |table| {
            GuestSpace::new(memory, move |address, _| table.extent(address))
        })
    }
}

impl Machine<Logged> {
    pub(crate) fn logged() -> Self {
        let memory = logged_memory();
        Self::new(memory.clone(), |table| {
            GuestSpace::with_dirty_bitmap(memory, move |address, _| table.extent(address))
        })
    }
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> Machine<M> {
    pub(crate) fn new(memory: M, space: impl FnOnce(Arc<Table>) -> GuestSpace<M>) -> Self {
        fill(&memory);
        let table = Arc::<Table>::default();
        let space = space(Arc::clone(&table));
        let bus = Arc::new(FlatTopology::new());
        let iommu = Iommu::new(bus.clone(), IommuConfig::default());
        let bdf = Bdf::new(0, 1, 0, 0).expect("a function");
        let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
        let device = iommu.plug(Plug::new(spec)).expect("free").device;
        let features =
            Features { page_faults: space.handle().capabilities().page_faults, ..Features::NONE };
        let bond = iommu
            .bind_device(&device, &space.handle(), Bind::new(()).features(features))
            .expect("free");
        Self { bond, device, iommu, bus, space, table, memory }
    }

    pub(crate) fn pasid(&self) -> Pasid {
        self.bond.pasid()
    }

    /// Maps pages from `page` on to the guest's pages from `to` on.
    pub(crate) fn map(&self, page: u64, to: u64, pages: u64, permissions: Permissions) {
        (0..pages).for_each(|n| self.table.map(page + n, to + n, permissions));
    }
}

/// The bytes that were done, and the reason of the fault.
pub(crate) fn fault(error: DmaError) -> (u64, FaultReason) {
    (error.done, error.fault().expect("no host failure").reason)
}

/// vm-memory's own way: an [`Iotlb`] that is filled beforehand, behind a lock.
#[derive(Debug, Default)]
pub(crate) struct Filled(pub(crate) RwLock<Iotlb>);

impl Filled {
    pub(crate) fn set(&self, page: u64, to: u64, permissions: VmPermissions) {
        let iova = GuestAddress(BASE + page * PAGE);
        self.0
            .write()
            .set_mapping(iova, GuestAddress(to * PAGE), PAGE as usize, permissions)
            .expect("a page");
    }
}

impl vm_memory::Iommu for Filled {
    type IotlbGuard<'a> = RwLockReadGuard<'a, Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: VmPermissions,
    ) -> Result<IotlbIterator<Self::IotlbGuard<'_>>, Error> {
        Iotlb::lookup(self.0.read(), iova, length, access).map_err(|fails| Error::CannotResolve {
            iova_range: IovaRange { base: iova, length },
            reason: format!("{fails:?}"),
        })
    }
}
