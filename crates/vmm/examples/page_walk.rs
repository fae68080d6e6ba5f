//! A guest with page tables for its devices: the walk is a closure, and devices are bound to what
//! it answers.
//!
//! The tables lie in guest memory, in a format like that of VT-d's second stage: 512 entries a
//! table, two levels, pages of 4 KiB and 2 MiB. The guest writes them; the monitor walks them and
//! invalidates when the guest asks for it. One device model of the monitor's own uses a port; one
//! of rust-vmm's uses guest memory as the device sees it.
//!
//! `cargo run -p sva-vmm --example page_walk`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sva_core::{
    AddrRange, Bdf, Bind, Capabilities, DeviceSpec, Extent, Features, Frame, Iommu, IommuConfig,
    PasidWidth, Permissions, StopCause,
};
use sva_testkit::FlatTopology;
use sva_vmm::GuestSpace;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

/// Bits of an entry. The address of a table or page is in bits 51:12.
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The I/O virtual addresses that two levels cover: 1 GiB.
const LIMIT: u64 = 1 << 30;

/// Walks the tables at `root` for one address.
///
/// Everything in them is the guest's and untrusted. An entry is loaded once, so that the guest
/// cannot change it between a check and its use; a table outside of guest memory maps nothing.
fn walk(memory: &GuestMemoryMmap, root: GuestAddress, address: u64) -> Result<Extent, StopCause> {
    if address >= LIMIT {
        return Err(StopCause::NotMapped);
    }
    let mut table = root.0;
    let mut permissions = Permissions::READ_WRITE;
    for bits in [21, 12] {
        let slot = GuestAddress(table + (address >> bits & 0x1ff) * 8);
        let entry = memory.load::<u64>(slot, Ordering::Acquire);
        let entry = u64::from_le(entry.map_err(|_| StopCause::NotMapped)?);
        if entry & (READ | WRITE) == 0 {
            return Err(StopCause::NotMapped);
        }
        // A level permits no more than the levels above it.
        if entry & READ == 0 {
            permissions.remove(Permissions::READ);
        }
        if entry & WRITE == 0 {
            permissions.remove(Permissions::WRITE);
        }
        if bits == 12 || entry & LARGE != 0 {
            let size = 1 << bits;
            let range = AddrRange::new(address & !(size - 1), size).ok_or(StopCause::NotMapped)?;
            return Ok(Extent { range, frame: Frame(entry & ADDRESS & !(size - 1)), permissions });
        }
        table = entry & ADDRESS;
    }
    Err(StopCause::NotMapped)
}

/// The guest's part: its tables, and what it puts into them.
struct Guest {
    memory: GuestMemoryMmap,
    root: GuestAddress,
    leaves: GuestAddress,
}

impl Guest {
    /// Makes the root's first entry name a table for the lowest 2 MiB.
    fn new(memory: GuestMemoryMmap) -> Result<Self, Box<dyn Error>> {
        let (root, leaves) = (GuestAddress(0x1000), GuestAddress(0x2000));
        memory.store((leaves.0 | READ | WRITE).to_le(), root, Ordering::Release)?;
        Ok(Self { memory, root, leaves })
    }

    /// Maps a page of the lowest 2 MiB; without bits of permission, unmaps it.
    fn map(&self, iova: u64, page: u64, bits: u64) -> Result<(), Box<dyn Error>> {
        let slot = GuestAddress(self.leaves.0 + (iova >> 12) * 8);
        Ok(self.memory.store((page | bits).to_le(), slot, Ordering::Release)?)
    }
}

/// A device model in the manner of rust-vmm: generic over guest memory, and not aware of an IOMMU.
fn copy_line(memory: &impl GuestMemory, from: u64, to: u64) -> Result<(), Box<dyn Error>> {
    let mut line = [0; 64];
    memory.read_slice(&mut line, GuestAddress(from))?;
    Ok(memory.write_slice(&line, GuestAddress(to))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 8 << 20)])?;
    let guest = Guest::new(memory.clone())?;
    guest.map(0x5000, 0x40_0000, READ | WRITE)?;
    guest.map(0x6000, 0x41_0000, READ)?;

    // The monitor's part: the walk, and a device that is bound to it.
    let (tables, root) = (memory.clone(), guest.root);
    let space = GuestSpace::new(memory.clone(), move |address, _| walk(&tables, root, address));
    let iommu = Iommu::new(Arc::new(FlatTopology::new()), IommuConfig::default());
    let bdf = Bdf::new(0, 1, 0, 0).ok_or("no such function")?;
    let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
    let device = iommu.plug(spec)?.device;
    // Pages that are not mapped are not brought in.
    let bind = Bind::new(()).features(Features::NONE);
    let bond = iommu.bind_device(&device, &space.handle(), bind)?;

    // A device model of the monitor's own.
    let (port, pasid) = (device.port(), Some(bond.pasid()));
    port.write(pasid, 0x5000, b"written by I/O virtual address")?;
    let mut bytes = [0; 30];
    memory.read_slice(&mut bytes, GuestAddress(0x40_0000))?;
    assert_eq!(&bytes, b"written by I/O virtual address");
    let error = port.write(pasid, 0x5ff0, &[1; 32]).expect_err("the second page is read-only");
    assert_eq!(error.done, 16);
    println!("port: {error}");

    // A device model of rust-vmm's.
    let seen = space.device_memory(&device, bond.pasid());
    copy_line(&seen, 0x6000, 0x5040)?;
    let error = copy_line(&seen, 0x5000, 0x6000).expect_err("the page is read-only");
    println!("rust-vmm: {error}");

    // The guest unmaps the page and has the IOMMU invalidate it. When that returns, no device uses
    // the page any more, and the guest may give it away.
    guest.map(0x5000, 0, 0)?;
    space.invalidate([AddrRange::new(0x5000, 0x1000).ok_or("not empty")?]);
    let error = port.write(pasid, 0x5000, &[2; 8]).expect_err("unmapped");
    println!("port: {error}");
    assert!(!seen.check_range(GuestAddress(0x5000), 1, vm_memory::Permissions::Read));
    Ok(())
}
