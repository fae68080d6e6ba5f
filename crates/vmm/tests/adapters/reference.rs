//! Random operations, against vm-memory's own translation of the same table.

use sva_core::Permissions;
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::guest_memory::Permissions as VmPermissions;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, IommuMemory};

use crate::support::{BASE, Filled, Logged, Machine, PAGE, PAGES, fill, logged_memory, range};

/// I/O virtual pages in use.
const SPAN: u64 = 24;
const STEPS: u32 = 6000;

fn contents(memory: &Logged) -> Vec<u8> {
    let mut bytes = vec![0; (PAGES * PAGE) as usize];
    memory.read_slice(&mut bytes, GuestAddress(0)).expect("the guest's");
    bytes
}

/// Makes one access. Returns what it read, or an error if it was not permitted.
fn access<M: GuestMemory>(
    memory: &M,
    at: GuestAddress,
    len: usize,
    kind: u8,
    byte: u8,
) -> Result<Vec<u8>, ()> {
    let mut buf = vec![byte; len];
    match kind {
        0 => memory.read_slice(&mut buf, at).map_err(drop)?,
        1 => memory.write_slice(&buf, at).map_err(drop)?,
        2 => return Ok(vec![u8::from(memory.check_range(at, len, VmPermissions::Read))]),
        3 => return Ok(vec![u8::from(memory.check_range(at, len, VmPermissions::Write))]),
        _ => return Ok(vec![u8::from(memory.check_range(at, len, VmPermissions::ReadWrite))]),
    }
    Ok(buf)
}

// shows T1, T4, T5
#[test]
fn random_operations_come_to_what_vm_memorys_own_iotlb_says() {
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let machine = Machine::logged();
        let reference = logged_memory();
        fill(&reference);
        let own = IommuMemory::new(
            reference.clone(),
            Filled::default(),
            true,
            AtomicBitmap::with_len(1 << 31),
        );
        let direct = machine.space.device_memory(&machine.device, machine.pasid());
        let iommu = machine.space.device_iommu(&machine.device, machine.pasid());
        let wrapped =
            IommuMemory::new(machine.memory.clone(), iommu, true, AtomicBitmap::with_len(1 << 31));
        let mut permitted = 0;
        for step in 0..STEPS {
            let (page, to) = (random.u64(..SPAN), random.u64(..PAGES));
            match random.u8(..10) {
                0 => {
                    let permits = random
                        .choice([(true, true), (true, false), (false, true), (false, false)])
                        .expect("four");
                    let (read, write) = permits;
                    let mut permissions = Permissions::empty();
                    permissions.set(Permissions::READ, read);
                    permissions.set(Permissions::WRITE, write);
                    machine.table.map(page, to, permissions);
                    machine.space.invalidate([range(page, 1)]);
                    own.iommu().set(
                        page,
                        to,
                        match permits {
                            (true, true) => VmPermissions::ReadWrite,
                            (true, false) => VmPermissions::Read,
                            (false, true) => VmPermissions::Write,
                            (false, false) => VmPermissions::No,
                        },
                    );
                }
                1 if random.bool() => {
                    machine.table.unmap(page);
                    machine.space.invalidate([range(page, 1)]);
                    own.iommu()
                        .0
                        .write()
                        .invalidate_mapping(GuestAddress(BASE + page * PAGE), PAGE as usize);
                }
                1 | 2 => {
                    // An extent of several pages.
                    let pages = random.u64(1..6).min(PAGES - to).min(SPAN - page);
                    machine.map(page, to, pages, Permissions::READ_WRITE);
                    machine.space.invalidate([range(page, pages)]);
                    (0..pages)
                        .for_each(|n| own.iommu().set(page + n, to + n, VmPermissions::ReadWrite));
                }
                _ => {
                    let at = GuestAddress(BASE + random.u64(..SPAN * PAGE));
                    // At least a byte: vm-memory's Iotlb answers an empty range by the ranges next
                    // to it, against its documentation.
                    let len = (random.usize(..3 * PAGE as usize) >> random.u8(..13)).max(1);
                    let (kind, byte) = (random.u8(..5), random.u8(..));
                    let expected = access(&own, at, len, kind, byte);
                    let seen = if random.bool() {
                        access(&direct, at, len, kind, byte)
                    } else {
                        access(&wrapped, at, len, kind, byte)
                    };
                    assert_eq!(
                        seen, expected,
                        "seed {seed}, step {step}: {kind} of {len:#x} bytes at {at:x?}"
                    );
                    permitted += u32::from(expected.is_ok() && kind < 2);
                }
            }
        }
        assert!(
            permitted > STEPS / 20,
            "only {permitted} accesses were permitted: the test shows little"
        );
        assert!(contents(&machine.memory) == contents(&reference), "seed {seed}");
        assert_eq!(machine.memory.num_regions(), 2);
    }
}
