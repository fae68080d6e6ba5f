//! A guest's memory as a device model of rust-vmm sees it: through the adapters, by a port, through
//! vm-memory's own translation, and with none.
//!
//! The same accesses for all: at random ones of so many pages, none of which has its neighbour
//! beside it in the guest.

use std::cell::RefCell;
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;

use fastrand::Rng;
use sva_bench::processor::Allowed;
use sva_bench::row::{Goal, Rows};
use sva_core::{
    AddrRange, Bdf, Bind, Bond, Capabilities, Device, DeviceSpec, Extent, Features, Frame, Iommu,
    IommuConfig, Pasid, PasidWidth, Permissions, Plug, StopCause,
};
use sva_sync::{RwLock, RwLockReadGuard};
use sva_testkit::FlatTopology;
use sva_vmm::GuestSpace;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::guest_memory::Permissions as VmPermissions;
use vm_memory::iommu::{Error as IommuError, IotlbIterator, IovaRange};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, IommuMemory, Iotlb};

use crate::turns::{Turn, medians};

const PAGE: u64 = 4096;
/// Where the device's addresses begin.
const BASE: u64 = 1 << 40;
/// Pages of a virtqueue, behind all others: the first ones of a device's, and the same as the
/// guest's own.
const QUEUE_PAGES: u64 = 8;
const QUEUE_SIZE: u16 = 256;
/// Descriptors of a chain.
const CHAIN: u16 = 3;
/// The flag of a descriptor that has a next one (virtio 1.3, section 2.7.5).
const NEXT: u16 = 1;

/// As much more than with no translation at all.
const BESIDE_NONE: Goal = Goal::MoreAtMost(20.0);
/// No more than by vm-memory's own translation.
const BESIDE_IOTLB: Goal = Goal::RatioAtMost(1.0);

/// Adds the rows of all accesses.
pub(crate) fn run(rounds: usize, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let allowed = Allowed::now()?;
    sva_bench::processor::run_on(allowed.processors().last().ok_or("no processor")?)?;
    for pages in [16, 1_024, 65_536] {
        let scene = Scene::new(pages)?;
        scene.reads::<8>(rounds, rows)?;
        if pages == 1_024 {
            scene.reads::<64>(rounds, rows)?;
            scene.reads::<4096>(rounds, rows)?;
            scene.queue(rounds, rows)?;
        }
    }
    Ok(allowed.restore()?)
}

type Guest = GuestMemoryMmap<()>;

/// vm-memory's own way: an [`Iotlb`] with all that there is in it, in a lock.
#[derive(Debug)]
struct Locked(RwLock<Iotlb>);

impl vm_memory::Iommu for Locked {
    type IotlbGuard<'a> = RwLockReadGuard<'a, Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: VmPermissions,
    ) -> Result<IotlbIterator<Self::IotlbGuard<'_>>, IommuError> {
        Iotlb::lookup(self.0.read(), iova, length, access).map_err(|fails| {
            IommuError::CannotResolve {
                iova_range: IovaRange { base: iova, length },
                reason: format!("{fails:?}"),
            }
        })
    }
}

/// A guest with a device that is bound to a part of its memory.
struct Scene {
    /// First, so that it is unbound first.
    bond: Bond<()>,
    device: Device,
    space: GuestSpace<Guest>,
    guest: Guest,
    locked: IommuMemory<Guest, Locked>,
    pages: u64,
}

/// The guest's pages, in the order of the device's addresses.
fn scattered(pages: u64) -> Vec<u64> {
    let mut to: Vec<u64> = (0..pages + QUEUE_PAGES).map(|page| page * 2).collect();
    Rng::with_seed(5).shuffle(&mut to);
    to
}

impl Scene {
    fn new(pages: u64) -> Result<Self, Box<dyn Error>> {
        let to = scattered(pages);
        let bytes = (to.len() as u64 * 2 + QUEUE_PAGES) * PAGE;
        let guest = Guest::from_ranges(&[(GuestAddress(0), bytes as usize)])?;
        let mut iotlb = Iotlb::new();
        for (page, to) in (0..).zip(&to) {
            let at = GuestAddress(to * PAGE);
            iotlb.set_mapping(
                GuestAddress(BASE + page * PAGE),
                at,
                PAGE as usize,
                VmPermissions::ReadWrite,
            )?;
            // Each word says where the device finds it.
            (0..PAGE / 8).try_for_each(|word| {
                guest.write_obj(page * PAGE + word * 8, GuestAddress(at.0 + word * 8))
            })?;
        }
        let locked = IommuMemory::new(guest.clone(), Locked(RwLock::new(iotlb)), true, ());
        let space = GuestSpace::new(guest.clone(), move |address, _| walk(&to, address));
        // So large that nothing is overwritten: what a miss costs is not the question here.
        let iotlb_bytes = (pages as usize * 128).max(IommuConfig::default().iotlb_bytes);
        let iommu = Iommu::new(
            Arc::new(FlatTopology::new()),
            IommuConfig::default().iotlb_bytes(iotlb_bytes),
        );
        let spec = DeviceSpec {
            bdf: Bdf::new(0, 1, 0, 0).ok_or("no such device")?,
            capabilities: Capabilities::translating(PasidWidth::MAX, 8),
        };
        let device = iommu.plug(Plug::new(spec))?.device;
        let bond =
            iommu.bind_device(&device, &space.handle(), Bind::new(()).features(Features::NONE))?;
        Ok(Self { bond, device, space, guest, locked, pages })
    }

    fn pasid(&self) -> Pasid {
        self.bond.pasid()
    }

    fn through_iommu(&self) -> IommuMemory<Guest, sva_vmm::DeviceIommu> {
        IommuMemory::new(
            self.guest.clone(),
            self.space.device_iommu(&self.device, self.pasid()),
            true,
            (),
        )
    }

    /// Reads of so many bytes.
    fn reads<const LEN: usize>(
        &self,
        rounds: usize,
        rows: &mut Rows,
    ) -> Result<(), Box<dyn Error>> {
        let mut rng = Rng::with_seed(7);
        let offsets: Vec<u64> = (0..1 << 13)
            .map(|_| rng.u64(..self.pages) * PAGE + rng.u64(..PAGE / LEN as u64) * LEN as u64)
            .collect();
        let to = scattered(self.pages);
        let of_guest: Vec<u64> = offsets
            .iter()
            .map(|offset| to[(offset / PAGE) as usize] * PAGE + offset % PAGE)
            .collect();
        let of_device: Vec<u64> = offsets.iter().map(|offset| BASE + offset).collect();
        let (seen, iommu) =
            (self.space.device_memory(&self.device, self.pasid()), self.through_iommu());
        let (port, pasid) = (self.device.port(), Some(self.pasid()));
        let mut subjects: [Box<dyn FnMut() -> u64>; 5] = [
            Box::new(|| read::<LEN>(&self.guest, &of_guest)),
            Box::new(|| read::<LEN>(&self.locked, &of_device)),
            Box::new(|| {
                sum(&of_device, |at, bytes: &mut [u8; LEN]| {
                    port.read(pasid, at, bytes).expect("bound and mapped")
                })
            }),
            Box::new(|| read::<LEN>(&seen, &of_device)),
            Box::new(|| read::<LEN>(&iommu, &of_device)),
        ];
        let expected = offsets.iter().fold(0u64, |sum, offset| sum.wrapping_add(offset & !7));
        if subjects.iter_mut().any(|subject| subject() != expected) {
            return Err("not all of them read what there is".into());
        }
        let case = format!("{} pages, {LEN} bytes", self.pages);
        self.rows(
            rounds,
            &case,
            &mut subjects.map(|subject| counted(subject, offsets.len())),
            rows,
        );
        Ok(())
    }

    /// Chains out of a virtqueue, with a look at each descriptor.
    fn queue(&self, rounds: usize, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
        let own = (self.pages + QUEUE_PAGES) * 2 * PAGE;
        let of_guest = offer(&self.guest, own)?;
        let of_device = offer(&self.locked, BASE + self.pages * PAGE)?;
        let (seen, iommu) =
            (self.space.device_memory(&self.device, self.pasid()), self.through_iommu());
        let mut subjects: [Box<dyn FnMut() -> u64>; 4] = [
            Box::new(|| pop(&of_guest, &self.guest)),
            Box::new(|| pop(&of_device, &self.locked)),
            Box::new(|| pop(&of_device, &seen)),
            Box::new(|| pop(&of_device, &iommu)),
        ];
        let all = u64::from(QUEUE_SIZE / CHAIN * CHAIN);
        if subjects.iter_mut().any(|subject| subject() != all) {
            return Err("not all descriptors were found".into());
        }
        let [none, iotlb, seen, iommu] =
            subjects.map(|subject| counted(subject, usize::from(QUEUE_SIZE / CHAIN)));
        let figures = medians(rounds, &mut [none, iotlb, seen, iommu]);
        let case = format!("{} pages, chain of {CHAIN} descriptors", self.pages);
        add(
            &case,
            &[figures[0], figures[1], figures[2], figures[3]],
            &["GuestMemoryMmap", IOTLB, "DeviceMemory", DEVICE_IOMMU],
            rows,
        );
        Ok(())
    }

    fn rows(&self, rounds: usize, case: &str, subjects: &mut [Turn<'_>], rows: &mut Rows) {
        let names = ["GuestMemoryMmap", IOTLB, "DmaPort", "DeviceMemory", DEVICE_IOMMU];
        add(case, &medians(rounds, subjects), &names, rows);
    }
}

const IOTLB: &str = "IommuMemory, Iotlb in RwLock";
const DEVICE_IOMMU: &str = "IommuMemory, DeviceIommu";

/// The first is memory without translation: the baseline of all but the last, whose baseline is the
/// second.
fn add(case: &str, figures: &[f64], names: &[&str], rows: &mut Rows) {
    for (name, value) in names.iter().zip(figures) {
        let (baseline, goal) = match *name {
            DEVICE_IOMMU => (figures[1], BESIDE_IOTLB),
            "DeviceMemory" if !case.contains("chain") => (figures[0], BESIDE_NONE),
            _ => (figures[0], Goal::None),
        };
        rows.add(format!("{case}: {name}"), "ns", *value, baseline, goal);
    }
}

fn walk(to: &[u64], address: u64) -> Result<Extent, StopCause> {
    let page = address.checked_sub(BASE).ok_or(StopCause::NotMapped)? / PAGE;
    let frame = to.get(page as usize).ok_or(StopCause::NotMapped)? * PAGE;
    let range = AddrRange::new(BASE + page * PAGE, PAGE).ok_or(StopCause::NotMapped)?;
    Ok(Extent { range, frame: Frame(frame), permissions: Permissions::READ_WRITE })
}

fn counted<'a>(mut subject: Box<dyn FnMut() -> u64 + 'a>, operations: usize) -> Turn<'a> {
    Box::new(move || {
        black_box(subject());
        operations
    })
}

/// Reads everything, as a model does it that knows only vm-memory.
fn read<const LEN: usize>(memory: &impl GuestMemory, addresses: &[u64]) -> u64 {
    sum(addresses, |at, bytes: &mut [u8; LEN]| {
        memory.read_slice(bytes, GuestAddress(at)).expect("mapped")
    })
}

/// At the beginning of a page for all: what a copy costs depends on that.
#[repr(align(4096))]
struct Aligned<const LEN: usize>([u8; LEN]);

/// The sum of the first words of what is read.
fn sum<const LEN: usize>(addresses: &[u64], read: impl Fn(u64, &mut [u8; LEN])) -> u64 {
    let mut bytes = Aligned([0; LEN]);
    addresses.iter().fold(0, |sum, at| {
        read(*at, black_box(&mut bytes.0));
        let first = bytes.0.first_chunk().copied().map_or(0, u64::from_le_bytes);
        sum.wrapping_add(first)
    })
}

/// A queue at `at` that is full of chains.
fn offer(
    memory: &impl GuestMemory<Bitmap = ()>,
    at: u64,
) -> Result<RefCell<Queue>, Box<dyn Error>> {
    let rings = MockSplitQueue::create(memory, GuestAddress(at), QUEUE_SIZE);
    let chains = QUEUE_SIZE / CHAIN;
    for n in 0..chains * CHAIN {
        let (flags, next) = if n % CHAIN < CHAIN - 1 { (NEXT, n + 1) } else { (0, 0) };
        let one = RawDescriptor::from(Descriptor::new(BASE, 64, flags, next));
        rings.desc_table().store(n, one).map_err(|error| format!("{error:?}"))?;
    }
    for n in 0..chains {
        rings
            .avail()
            .ring()
            .ref_at(n.into())
            .map_err(|error| format!("{error:?}"))?
            .store((n * CHAIN).to_le());
    }
    rings.avail().idx().store(chains.to_le());
    Ok(RefCell::new(rings.create_queue()?))
}

/// Takes all chains, and answers how many descriptors they have.
fn pop(queue: &RefCell<Queue>, memory: &impl GuestMemory) -> u64 {
    let (mut queue, mut descriptors) = (queue.borrow_mut(), 0);
    queue.set_next_avail(0);
    while let Some(chain) = queue.pop_descriptor_chain(memory) {
        descriptors += chain.count() as u64;
    }
    descriptors
}
