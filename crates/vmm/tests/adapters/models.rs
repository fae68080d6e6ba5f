//! Device models of rust-vmm over the adapters: virtqueues, and the errors that they see.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;

use sva_core::topology::PeerWindow;
use sva_core::{Bdf, EndReason, Event, FaultReason, Permissions};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap};
use vm_memory::guest_memory::Permissions as VmPermissions;
use vm_memory::iommu::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    Iommu, IommuMemory,
};

use crate::support::{BASE, Filled, Logged, Machine, PAGE, READ, harvest, range};

/// Flags of a descriptor (virtio 1.3, section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Where I/O virtual pages are in the guest: the queue's two, then a request's two, then an
/// answer's two. No two neighbours are adjacent in the guest.
const MAP: [u64; 6] = [40, 12, 33, 8, 50, 21];
const REQUEST: u64 = BASE + 3 * PAGE - 100;
const ANSWER: u64 = BASE + 5 * PAGE - 50;
const LEN: u32 = 200;

/// A device: answers each request with its bytes, each incremented. Returns how many it served.
fn serve<M: GuestMemory>(queue: &mut Queue, memory: &M) -> usize
where
    for<'a> vm_memory::bitmap::BS<'a, M::Bitmap>: BitmapSlice,
{
    let mut served = 0;
    while let Some(chain) = queue.iter(memory).expect("its rings are mapped").next() {
        let (head, mut bytes) = (chain.head_index(), Vec::new());
        let written = {
            chain
                .clone()
                .reader(memory)
                .expect("its buffers are mapped")
                .read_to_end(&mut bytes)
                .expect("memory");
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            let mut writer = chain.writer(memory).expect("its buffers are mapped");
            writer.write_all(&bytes).expect("memory");
            writer.bytes_written() as u32
        };
        queue.add_used(memory, head, written).expect("its rings are mapped");
        served += 1;
    }
    served
}

/// Has a driver, which uses vm-memory's own translation, send requests to a device that sees memory
/// as `seen`.
fn drive<M: GuestMemory>(machine: &Machine<Logged>, seen: &M) {
    let filled = Filled::default();
    for (page, to) in (0..).zip(MAP) {
        machine.map(page, to, 1, Permissions::READ_WRITE);
        filled.set(page, to, VmPermissions::ReadWrite);
    }
    let size = machine.memory.iter().next().expect("a region").len() as usize;
    let driver = IommuMemory::new(
        machine.memory.clone(),
        filled,
        true,
        vm_memory::bitmap::AtomicBitmap::with_len(size),
    );
    let zeros = [0; 2 * PAGE as usize];
    driver.write_slice(&zeros, GuestAddress(BASE)).expect("mapped");
    // So that the used ring lies across two pages.
    let rings = MockSplitQueue::create(&driver, GuestAddress(BASE + PAGE - 0x160), 16);
    let mut queue: Queue = rings.create_queue().expect("a power of two");
    assert!(queue.is_valid(seen));
    harvest(&machine.memory);
    for round in 0..12u16 {
        let request: Vec<u8> = (0..LEN).map(|at| (at as u16 * 3 + round) as u8).collect();
        driver.write_slice(&request, GuestAddress(REQUEST)).expect("mapped");
        let descriptors =
            [Descriptor::new(REQUEST, LEN, NEXT, 1), Descriptor::new(ANSWER, LEN, WRITE, 0)];
        (0..).zip(descriptors).for_each(|(n, one)| {
            rings.desc_table().store(n, RawDescriptor::from(one)).expect("in the table")
        });
        rings
            .avail()
            .ring()
            .ref_at(usize::from(round % 16))
            .expect("in the ring")
            .store(0u16.to_le());
        rings.avail().idx().store((round + 1).to_le());
        assert_eq!((serve(&mut queue, seen), serve(&mut queue, seen)), (1, 0));
        assert_eq!(u16::from_le(rings.used().idx().load()), round + 1);
        let mut answer = vec![0; LEN as usize];
        driver.read_slice(&mut answer, GuestAddress(ANSWER)).expect("mapped");
        assert!(
            answer.iter().zip(&request).all(|(after, before)| *after == before.wrapping_add(1)),
            "round {round}"
        );
    }
}

// shows T1
#[test]
fn a_virtqueue_is_served_through_the_guests_memory_as_the_device_sees_it() {
    let machine = Machine::logged();
    drive(&machine, &machine.space.device_memory(&machine.device, machine.pasid()));
    // The driver marks in a bitmap of its own: all marks here are the device's.
    let answers = [MAP[4], MAP[5]];
    let dirty = harvest(&machine.memory);
    assert!(
        answers.iter().all(|page| dirty.contains(page))
            && dirty.iter().all(|page| answers.contains(page) || MAP[..2].contains(page))
    );
}

// shows T1
#[test]
fn a_virtqueue_is_served_through_vm_memorys_iommu_memory() {
    let machine = Machine::logged();
    let bitmap = vm_memory::bitmap::AtomicBitmap::with_len((BASE + 6 * PAGE) as usize);
    let iommu = machine.space.device_iommu(&machine.device, machine.pasid());
    let seen = IommuMemory::new(machine.memory.clone(), iommu, true, bitmap);
    drive(&machine, &seen);
    // It marks by I/O virtual address.
    let dirty = |page: u64| seen.bitmap().dirty_at((BASE + page * PAGE) as usize);
    assert_eq!([2, 3, 4, 5].map(dirty), [false, false, true, true]);
    assert_eq!(harvest(&machine.memory), BTreeSet::new());
}

// shows T1, F6
#[test]
fn what_a_device_may_not_access_is_an_error_of_vm_memory_from_there_on() {
    let machine = Machine::plain();
    machine.map(0, 4, 1, Permissions::READ_WRITE);
    machine.map(1, 9, 1, READ);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    let check = |at: u64, len: usize, access, bad: u64| {
        let error = match seen.get_slices(GuestAddress(at), len, access) {
            Ok(_) => panic!("{len:#x} bytes at {at:#x} are not all accessible"),
            Err(error) => error,
        };
        let GuestMemoryError::IommuError(Error::CannotResolve { iova_range, reason }) = error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (iova_range.base.0, iova_range.length as u64),
            (bad, at.wrapping_add(len as u64).wrapping_sub(bad)),
            "{reason}"
        );
        assert!(!seen.check_range(GuestAddress(at), len, access));
    };
    check(BASE + 10, PAGE as usize, VmPermissions::Write, BASE + PAGE);
    check(BASE + 10, PAGE as usize, VmPermissions::ReadWrite, BASE + PAGE);
    check(BASE + PAGE, 2 * PAGE as usize, VmPermissions::Read, BASE + 2 * PAGE);
    check(BASE - 1, 8, VmPermissions::Read, BASE - 1);
    check(u64::MAX - 3, 8, VmPermissions::Read, u64::MAX - 3);
    assert!(seen.check_range(GuestAddress(BASE + 10), PAGE as usize, VmPermissions::Read));
    let faults = machine
        .iommu
        .drain_events()
        .events
        .iter()
        .filter(|event| matches!(event, Event::Fault(_)))
        .count();
    assert_eq!(faults, 10);
    assert!(seen.write_slice(&[1; 20], GuestAddress(BASE + PAGE - 10)).is_err());
    let before: [u8; 10] =
        machine.memory.read_obj(GuestAddress(5 * PAGE - 10)).expect("the guest's");
    assert_eq!(before, [5; 10], "all or nothing");
    // The same by vm-memory's own type, which cannot express a range that ends at the last address.
    let iommu = machine.space.device_iommu(&machine.device, machine.pasid());
    for (at, len) in [(BASE + 10, PAGE as usize), (u64::MAX - 3, 4), (u64::MAX, usize::MAX)] {
        let error = iommu
            .translate(GuestAddress(at), len, VmPermissions::Write)
            .map(drop)
            .expect_err("not permitted");
        assert!(matches!(error, Error::CannotResolve { .. }), "{error}");
    }
    let none: Vec<_> =
        iommu.translate(GuestAddress(BASE), 0, VmPermissions::Read).expect("nothing").collect();
    assert_eq!(none, []);
}

// shows T1
#[test]
fn memory_that_may_be_written_to_and_not_be_read_is_refused_to_those_who_want_both() {
    let machine = Machine::plain();
    let write_only = Permissions::WRITE;
    machine.map(0, 4, 1, write_only);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    // The second time by a cached translation.
    for _ in 0..2 {
        let may = [VmPermissions::Write, VmPermissions::ReadWrite, VmPermissions::Read]
            .map(|access| seen.check_range(GuestAddress(BASE), 8, access));
        assert_eq!(may, [true, false, false]);
    }
}

// shows T1
#[test]
fn translations_that_a_thread_has_at_a_time_do_not_disturb_one_another() {
    let machine = Machine::plain();
    machine.map(0, 7, 3, Permissions::READ_WRITE);
    machine.map(3, 2, 1, READ);
    let iommu = machine.space.device_iommu(&machine.device, machine.pasid());
    let translate = |page: u64, len, access| {
        iommu.translate(GuestAddress(BASE + page * PAGE), len, access).expect("mapped")
    };
    let page = PAGE as usize;
    // The first three have the same offset, for reads and for a write. Then one of several extents,
    // and one with another offset.
    for _ in 0..3 {
        let all = [
            translate(0, 8, VmPermissions::Read),
            translate(1, 8, VmPermissions::Read),
            translate(1, 8, VmPermissions::Write),
            translate(2, 2 * page, VmPermissions::Read),
            translate(3, 8, VmPermissions::Read),
        ];
        let ranges =
            all.map(|one| one.map(|range| (range.base.0 / PAGE, range.length)).collect::<Vec<_>>());
        assert_eq!(
            ranges,
            [vec![(7, 8)], vec![(8, 8)], vec![(8, 8)], vec![(9, page), (2, page)], vec![(2, 8)]]
        );
        assert!(iommu.translate(GuestAddress(BASE + 3 * PAGE), 8, VmPermissions::Write).is_err());
    }
}

// shows B7
#[test]
fn what_a_peer_decodes_is_no_memory_of_the_guest() {
    let machine = Machine::plain();
    machine.map(0, 4, 3, Permissions::READ_WRITE);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    seen.write_slice(&[1; 3 * PAGE as usize], GuestAddress(BASE)).expect("mapped, and cached");
    let decoder = Bdf::new(0, 3, 0, 0).expect("a function");
    machine.bus.windows(
        machine.device.bdf(),
        &[PeerWindow { range: range(1, 1), decoder, claimed: true }],
    );
    for (at, len) in [(BASE + PAGE, 1), (BASE, PAGE + 1), (BASE + 2 * PAGE - 1, 2)] {
        let error = seen
            .write_slice(&vec![2; len as usize], GuestAddress(at))
            .expect_err("not all of it is the guest's");
        assert!(
            matches!(error, GuestMemoryError::IommuError(Error::CannotResolve { .. })),
            "{error}"
        );
    }
    seen.write_slice(&[3; PAGE as usize], GuestAddress(BASE)).expect("before the window");
    seen.write_slice(&[3; PAGE as usize], GuestAddress(BASE + 2 * PAGE)).expect("behind it");
    let first = [4, 5, 6]
        .map(|page| machine.memory.read_obj::<u8>(GuestAddress(page * PAGE)).expect("the guest's"));
    assert_eq!(first, [3, 1, 3]);
}

// shows U2, U4, U6
#[test]
fn a_device_whose_bond_is_gone_is_told_that_its_iommu_is_misconfigured() {
    let refused = |seen: &dyn Fn() -> Result<(), GuestMemoryError>, why: FaultReason| {
        let error = seen().expect_err("no bond");
        let GuestMemoryError::IommuError(Error::IommuMisconfigured { reason }) = error else {
            panic!("{error}")
        };
        assert!(reason.contains(&why.to_string()), "{reason}");
    };
    let machine = Machine::plain();
    machine.map(0, 4, 1, Permissions::READ_WRITE);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    let write = || seen.write_obj(1u32, GuestAddress(BASE));
    write().expect("bound");
    machine.space.end(EndReason::Closed);
    refused(&write, FaultReason::SpaceEnded);
    let Machine { bond, device, iommu, space: _space, memory, .. } = machine;
    bond.unbind();
    refused(&write, FaultReason::NotBound);
    drop((device, iommu));
    assert_eq!(memory.read_obj::<u32>(GuestAddress(4 * PAGE)).expect("the guest's"), 1);
}

// shows U6
#[test]
fn memory_of_one_guest_is_not_reached_by_the_pasid_of_another() {
    let (first, second) = (Machine::plain(), Machine::plain());
    second.map(0, 4, 1, Permissions::READ_WRITE);
    // Both IOMMUs allocate the same number first.
    assert_eq!(first.pasid(), second.pasid());
    let mixed = first.space.device_memory(&second.device, second.pasid());
    let error =
        mixed.write_obj(1u32, GuestAddress(BASE)).expect_err("its frames are another guest's");
    assert!(
        matches!(error, GuestMemoryError::IommuError(Error::IommuMisconfigured { .. })),
        "{error}"
    );
    for machine in [first, second] {
        assert_eq!(
            machine.memory.read_obj::<u32>(GuestAddress(4 * PAGE)).expect("the guest's"),
            u32::from_ne_bytes([5; 4])
        );
    }
}

#[test]
fn models_on_other_threads_can_share_what_they_see() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    let machine = Machine::plain();
    machine.map(0, 4, 4, Permissions::READ_WRITE);
    let seen = Arc::new(machine.space.device_memory(&machine.device, machine.pasid()));
    shared(&seen);
    shared(&machine.space.device_iommu(&machine.device, machine.pasid()));
    std::thread::scope(|scope| {
        for page in 0..4u64 {
            let seen = Arc::clone(&seen);
            scope.spawn(move || {
                (0..200u64).for_each(|n| {
                    seen.write_obj(n, GuestAddress(BASE + page * PAGE + 8 * n)).expect("mapped")
                });
            });
        }
    });
    for (page, n) in (0..4).flat_map(|page| (0..200).map(move |n| (page, n))) {
        assert_eq!(
            machine
                .memory
                .read_obj::<u64>(GuestAddress((4 + page) * PAGE + 8 * n))
                .expect("the guest's"),
            n
        );
    }
}
