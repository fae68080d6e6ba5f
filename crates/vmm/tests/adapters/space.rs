//! A guest's memory as an address space.

use std::collections::BTreeSet;
use std::sync::Arc;

use sva_core::{
    Access, AddrRange, Bdf, Bind, Capabilities, DeviceSpec, DmaPort, EndReason, Extent,
    FaultReason, Features, Frame, PasidWidth, Permissions, Plug, Segment, StopCause,
};
use sva_sync::atomic::{AtomicU64, Ordering};
use sva_vmm::{GuestSpace, linear};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::support::{
    BASE, Machine, PAGE, PAGES, READ, fault, harvest, logged_memory, plain_memory, range,
};

fn read<M: GuestMemoryBackend + Send + Sync>(
    machine: &Machine<M>,
    port: &DmaPort,
    at: u64,
    len: u64,
) -> Result<Vec<u8>, (u64, FaultReason)> {
    let mut buf = vec![0; len as usize];
    port.read(Some(machine.pasid()), at, &mut buf).map(|()| buf).map_err(fault)
}

fn write<M: GuestMemoryBackend + Send + Sync>(
    machine: &Machine<M>,
    port: &DmaPort,
    at: u64,
    data: &[u8],
) -> Result<(), (u64, FaultReason)> {
    port.write(Some(machine.pasid()), at, data).map_err(fault)
}

fn cached<M: GuestMemoryBackend + Send + Sync>(
    machine: &Machine<M>,
    port: &DmaPort,
    page: u64,
) -> Option<Frame> {
    port.cached_translation(machine.pasid(), BASE + page * PAGE, Access::READ)
}

// shows T1, T5
#[test]
fn a_device_reaches_guest_memory_through_the_monitors_walk() {
    let machine = Machine::plain();
    let port = machine.device.port();
    machine.map(0, 8, 2, Permissions::READ_WRITE);
    machine.map(2, 5, 1, READ);
    for _ in 0..3 {
        let expected = [&[9; 1][..], &[10; PAGE as usize], &[6; 1]].concat();
        assert_eq!(read(&machine, &port, BASE + PAGE - 1, PAGE + 2), Ok(expected));
        assert_eq!(read(&machine, &port, BASE + 3 * PAGE - 5, 6), Err((5, FaultReason::NotMapped)));
        assert_eq!(
            write(&machine, &port, BASE + 2 * PAGE - 2, &[10; 3]),
            Err((2, FaultReason::Denied))
        );
    }
    assert_eq!(
        [0, 1, 2].map(|page| cached(&machine, &port, page)),
        [8, 9, 5].map(|page| Some(Frame(page * PAGE)))
    );
    write(&machine, &port, BASE + PAGE - 1, &[0xaa, 0xbb]).expect("cached");
    assert_eq!(
        machine.memory.read_obj::<[u8; 4]>(GuestAddress(9 * PAGE - 2)).expect("the guest's"),
        [9, 0xaa, 0xbb, 10]
    );
    assert_eq!(read(&machine, &port, BASE - 1, 1), Err((0, FaultReason::NotMapped)));
}

// shows T1, T5
#[test]
fn regions_of_guest_memory_that_follow_one_another_are_one_to_a_device() {
    let all = AddrRange::ALL;
    let machine = Machine::new(logged_memory(), |_| {
        GuestSpace::with_dirty_bitmap(
            logged_memory(),
            linear(all, GuestAddress(0), Permissions::READ_WRITE),
        )
    });
    let port = machine.device.port();
    let middle = PAGES / 2 * PAGE;
    for round in 1..4 {
        write(&machine, &port, middle - 3, &[round; 6]).expect("in two regions");
        assert_eq!(
            read(&machine, &port, middle - 4, 8),
            Ok([&[0][..], &[round; 6], &[0]].concat())
        );
        assert_eq!(
            read(&machine, &port, PAGES * PAGE - 2, 3),
            Err((2, FaultReason::NotMapped)),
            "behind the guest's memory"
        );
    }
    let translations =
        [middle - 1, middle].map(|at| port.cached_translation(machine.pasid(), at, Access::WRITE));
    assert_eq!(translations, [Some(Frame(middle - 1)), Some(Frame(middle))]);
    let extent = machine.space.handle().extent(middle, false).expect("mapped").expect("named");
    assert_eq!(
        (extent.range, extent.frame),
        (AddrRange::new(middle, middle).expect("half of it"), Frame(middle))
    );
}

#[test]
fn the_pages_that_a_device_writes_to_are_dirty_and_no_others() {
    let machine = Machine::logged();
    let port = machine.device.port();
    machine.map(0, 30, 4, Permissions::READ_WRITE);
    machine.map(4, 7, 1, READ);
    harvest(&machine.memory);
    for round in 0..3 {
        assert_eq!(
            cached(&machine, &port, 0).is_some(),
            round > 0,
            "first by a walk, then by a cached translation"
        );
        write(&machine, &port, BASE + 2 * PAGE - 1, &[1, 2]).expect("in two regions");
        assert_eq!(harvest(&machine.memory), [31, 32].into(), "round {round}");
        write(&machine, &port, BASE + 9, &[3]).expect("mapped");
        assert_eq!(harvest(&machine.memory), [30].into());
        read(&machine, &port, BASE, 5 * PAGE).expect("mapped");
        assert_eq!(write(&machine, &port, BASE + 4 * PAGE, &[1]), Err((0, FaultReason::Denied)));
        assert_eq!(harvest(&machine.memory), BTreeSet::new());
    }
    machine.space.handle().write_frame(Frame(33 * PAGE + 5), &[1; 2]).expect("the guest's");
    assert_eq!(harvest(&machine.memory), [33].into());
    assert_eq!(
        machine.memory.read_obj::<[u8; 2]>(GuestAddress(32 * PAGE - 1)).expect("the guest's"),
        [1, 2]
    );
}

// shows T6
#[test]
fn atomic_operations_are_made_on_plain_memory_and_refused_where_they_would_leave_no_mark() {
    let machine = Machine::plain();
    machine.map(0, 3, 1, Permissions::READ_WRITE);
    machine.memory.write_obj(5u64, GuestAddress(3 * PAGE + 8)).expect("the guest's");
    let port = machine.device.port();
    let sums = [5, 12, 19];
    assert_eq!(
        sums.map(|_| port.fetch_add(Some(machine.pasid()), BASE + 8, 7u64).expect("plain")),
        sums
    );
    let logged = Machine::logged();
    logged.map(0, 3, 1, Permissions::READ_WRITE);
    let port = logged.device.port();
    write(&logged, &port, BASE, &[0; 16]).expect("mapped, and cached from now on");
    let refused = port.fetch_add(Some(logged.pasid()), BASE + 8, 7u64).map_err(fault);
    assert_eq!(refused, Err((0, FaultReason::NoAtomics)));
    assert_eq!(logged.memory.read_obj::<u64>(GuestAddress(3 * PAGE + 8)).expect("the guest's"), 0);
}

// shows T2, T4
#[test]
fn ranges_that_are_invalidated_together_are_asked_for_again_and_no_others() {
    let machine = Machine::plain();
    let port = machine.device.port();
    // Not adjacent, so that each has a cached translation of its own.
    (0..8).for_each(|page| machine.map(page, 20 + 2 * page, 1, Permissions::READ_WRITE));
    read(&machine, &port, BASE, 8 * PAGE).expect("mapped");
    machine.map(1, 3, 1, Permissions::READ_WRITE);
    machine.map(6, 4, 1, READ);
    machine.table.unmap(7);
    assert_eq!(
        cached(&machine, &port, 1),
        Some(Frame(22 * PAGE)),
        "nobody has said that it changed"
    );
    machine.space.invalidate([range(1, 1), range(6, 2)]);
    let found: Vec<_> = (0..8).map(|page| cached(&machine, &port, page).is_some()).collect();
    assert_eq!(found, [true, false, true, true, true, true, false, false]);
    assert_eq!(read(&machine, &port, BASE + 2 * PAGE - 1, 1), Ok(vec![4]));
    assert_eq!(write(&machine, &port, BASE + 6 * PAGE, &[1]), Err((0, FaultReason::Denied)));
    assert_eq!(read(&machine, &port, BASE + 7 * PAGE - 1, 2), Err((1, FaultReason::NotMapped)));
    machine.space.invalidate([]);
    machine.space.invalidate([AddrRange::ALL]);
    assert!((0..8).all(|page| cached(&machine, &port, page).is_none()));
}

// shows F5, T1
#[test]
fn pages_are_brought_in_where_the_monitor_can_and_refused_where_not() {
    let table = Arc::new(crate::support::Table::default());
    let asked = Arc::new(AtomicU64::new(0));
    let machine = Machine::new(plain_memory(), |_| {
        let (walked, changed, asked) = (Arc::clone(&table), Arc::clone(&table), Arc::clone(&asked));
        GuestSpace::new(plain_memory(), move |address, _| walked.extent(address)).on_page_fault(
            move |address, access| {
                asked.fetch_add(1, Ordering::Relaxed);
                let page = (address - BASE) / PAGE;
                match page {
                    // As a guest's dirty bit: writing is permitted once it has been set.
                    0 => changed.map(
                        0,
                        9,
                        if access.is_write() { Permissions::READ_WRITE } else { READ },
                    ),
                    _ => return Err(StopCause::Denied),
                }
                Ok(())
            },
        )
    });
    let port = machine.device.port();
    table.make_absent(0);
    table.make_absent(1);
    assert_eq!(read(&machine, &port, BASE, 1), Ok(vec![0]));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    for _ in 0..2 {
        write(&machine, &port, BASE, &[1]).expect("the dirty bit has been set");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
    assert_eq!(read(&machine, &port, BASE + PAGE - 1, 2), Err((1, FaultReason::Denied)));
    let (mut buf, piece) = ([0; 1], [Segment { address: BASE + PAGE, len: 1 }]);
    let stops = machine.space.handle().read(&piece, &mut buf, Access::READ.present_only());
    assert!(matches!(stops.expect_err("absent").cause, StopCause::NotPresent));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    let without = Machine::plain();
    without.table.make_absent(0);
    assert_eq!(read(&without, &without.device.port(), BASE, 1), Err((0, FaultReason::NotPresent)));
}

// shows U4
#[test]
fn the_end_of_a_guest_stops_its_devices_and_runs_each_exit_handler_once() {
    let machine = Machine::plain();
    let port = machine.device.port();
    machine.map(0, 3, 1, Permissions::READ_WRITE);
    read(&machine, &port, BASE, 8).expect("mapped");
    let (ran, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let bdf = Bdf::new(0, 2, 0, 0).expect("a function");
    let spec = DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, 8) };
    let second = machine.iommu.plug(Plug::new(spec)).expect("free").device;
    let counted = (Arc::clone(&ran), Arc::clone(&seen));
    let bond = machine.iommu.bind_device(
        &second,
        &machine.space.handle(),
        Bind::new(counted).features(Features::NONE).on_exit(|end, (ran, seen)| {
            ran.fetch_add(1, Ordering::Relaxed);
            seen.store(u64::from(end.reason == EndReason::Exited), Ordering::Relaxed);
        }),
    );
    let bond = bond.expect("free");
    machine.space.end(EndReason::Exited);
    machine.space.end(EndReason::Closed);
    assert_eq!((ran.load(Ordering::Relaxed), seen.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(read(&machine, &port, BASE, 8), Err((0, FaultReason::SpaceEnded)));
    let handle = machine.space.handle();
    assert_eq!(handle.ended(), Some(EndReason::Exited));
    let piece = [Segment { address: BASE, len: 1 }];
    assert!(matches!(
        handle.read(&piece, &mut [0], Access::READ).expect_err("ended").cause,
        StopCause::Ended
    ));
    assert!(handle.read_frame(Frame(0), &mut [0]).is_err());
    assert!(matches!(handle.extent(BASE, false), Err(StopCause::Ended)));
    assert!(
        machine
            .iommu
            .bind_device(&second, &handle, Bind::new(()).features(Features::NONE))
            .is_err()
    );
    drop((bond, machine));
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

// shows B7
#[test]
fn what_is_mapped_in_a_window_is_found_across_holes_and_extents() {
    let machine = Machine::plain();
    machine.map(1, 10, 2, READ);
    machine.map(3, 30, 1, READ);
    machine.map(6, 40, 1, READ);
    machine.table.make_absent(7);
    let windows =
        [range(0, 3), range(5, 20), AddrRange::new(BASE + 3 * PAGE + 7, 2).expect("two bytes")];
    let found = machine.space.handle().mapped_within(&windows).expect("asks the table");
    assert_eq!(found, [range(1, 2), windows[2], range(6, 2)]);
    let hole = |address, _| {
        Ok(Extent {
            range: AddrRange::ALL,
            frame: Frame(address & !(PAGE - 1)),
            permissions: Permissions::empty(),
        })
    };
    let empty = GuestSpace::new(plain_memory(), hole);
    assert_eq!(empty.handle().mapped_within(&[AddrRange::ALL]).expect("one step"), []);
}

// shows T4
#[test]
fn a_translation_is_the_largest_aligned_part_of_what_the_walk_names() {
    let memory =
        GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(PAGE), 16 << 20)]).expect("memory");
    let iova = AddrRange::new(1 << 30, 16 << 20).expect("not empty");
    let askew = GuestSpace::new(memory.clone(), linear(iova, GuestAddress(PAGE), READ));
    let found = askew.handle().translate((1 << 30) + 5, false).expect("mapped");
    assert_eq!(
        (found.range.first(), found.range.bits(), found.frame, found.permissions),
        (1 << 30, 12, Some(Frame(PAGE)), READ)
    );
    let straight = GuestSpace::new(memory.clone(), linear(AddrRange::ALL, GuestAddress(0), READ));
    let found = straight.handle().translate((2 << 20) + 5, false).expect("mapped");
    assert_eq!(
        (found.range.first(), found.range.bits(), found.frame),
        (2 << 20, 21, Some(Frame(2 << 20)))
    );
    let bytes = GuestSpace::new(memory, linear(AddrRange::ALL, GuestAddress(3), READ));
    let found = bytes.handle().translate(2 << 20, false).expect("mapped");
    assert_eq!(
        (found.frame, found.permissions),
        (None, READ),
        "pages that no frame is as aligned as"
    );
}

// shows S2
#[test]
fn a_walk_that_answers_for_another_address_or_past_the_last_one_maps_nothing() {
    let elsewhere = |_, _| {
        Ok(Extent { range: range(5, 1), frame: Frame(0), permissions: Permissions::READ_WRITE })
    };
    let past = |_, _| {
        Ok(Extent {
            range: AddrRange::ALL,
            frame: Frame(u64::MAX - 3),
            permissions: Permissions::READ_WRITE,
        })
    };
    for space in [GuestSpace::new(plain_memory(), elsewhere), GuestSpace::new(plain_memory(), past)]
    {
        for address in [0, 4, BASE, u64::MAX] {
            assert!(
                matches!(space.handle().extent(address, false), Err(StopCause::NotMapped)),
                "{address:#x}"
            );
            let piece = [Segment { address, len: 1 }];
            assert!(space.handle().write(&piece, &[1], Access::WRITE).is_err());
        }
    }
}
