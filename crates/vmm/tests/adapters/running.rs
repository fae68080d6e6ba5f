//! Changes of the monitor's tables while devices run.

use std::cell::RefCell;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use sva_core::{Access, AddrRange, DmaPort, Permissions, Segment};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sva_vmm::GuestSpace;
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::guest_memory::Permissions as VmPermissions;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, Iommu, IommuMemory};

use crate::support::{BASE, LONG, Machine, PAGE, plain_memory, range};

/// Changes that the monitor makes.
const ROUNDS: u64 = 3000;
/// The contents of pages that are no longer mapped. No device writes this byte.
const FREED: u8 = 0xf5;

/// Has `device` write to page 0 while the monitor moves it, and checks that no write to the old
/// page comes after a change.
fn writes_while_pages_move<M: GuestMemoryBackend + Send + Sync>(
    machine: &Machine<M>,
    device: impl Fn(u8) -> bool + Sync,
) {
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    machine.map(0, 0, 1, Permissions::READ_WRITE);
    let late = thread::scope(|scope| {
        for byte in [1, 2] {
            let (over, written, device) = (&over, &written, &device);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    written.fetch_add(u64::from(device(byte)), Ordering::Relaxed);
                }
            });
        }
        let mut late = None;
        let (mut seen, mut stuck) = (0, false);
        for round in 1..=ROUNDS {
            let (before, after) = ((round - 1) % 8, round % 8);
            machine.map(0, after, 1, Permissions::READ_WRITE);
            machine.space.invalidate([range(0, 1)]);
            // The old page is used for something else.
            machine
                .memory
                .write_slice(&[FREED; PAGE as usize], GuestAddress(before * PAGE))
                .expect("the guest's");
            if round % 64 == 0 {
                // The devices must have time to write, or the test shows nothing.
                let begun = Instant::now();
                while written.load(Ordering::Relaxed) == seen && begun.elapsed() < LONG {
                    thread::yield_now();
                }
                stuck |= written.load(Ordering::Relaxed) == seen;
                seen = written.load(Ordering::Relaxed);
            }
            let mut page = [0; PAGE as usize];
            machine.memory.read_slice(&mut page, GuestAddress(before * PAGE)).expect("the guest's");
            late = late.or(page.iter().any(|byte| *byte != FREED).then_some(round));
            if stuck {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(!stuck, "the devices no longer come to write");
        late
    });
    assert_eq!(late, None, "a write came after the change had returned");
}

/// Each thread writes by a port of its own.
fn ports_write_while_pages_move<M: GuestMemoryBackend + Send + Sync>(machine: &Machine<M>) {
    let ports = machine.device.clone();
    thread_local!(static PORT: RefCell<Option<DmaPort>> = const { RefCell::new(None) });
    writes_while_pages_move(machine, |byte| {
        PORT.with_borrow_mut(|port| {
            let port = port.get_or_insert_with(|| ports.port());
            port.write(Some(machine.pasid()), BASE, &[byte; PAGE as usize]).is_ok()
        })
    });
}

// shows T2, T3
#[test]
fn a_port_does_not_write_to_a_page_that_the_monitor_has_taken_away() {
    ports_write_while_pages_move(&Machine::plain());
}

// shows T2, T3
#[test]
fn a_port_does_not_write_to_a_page_with_a_dirty_bitmap_that_the_monitor_has_taken_away() {
    ports_write_while_pages_move(&Machine::logged());
}

// shows T2
#[test]
fn the_provider_itself_does_not_write_to_a_page_that_the_monitor_has_taken_away() {
    let machine = Machine::plain();
    let handle = machine.space.handle();
    let piece = [Segment { address: BASE, len: PAGE }];
    writes_while_pages_move(&machine, |byte| {
        handle.write(&piece, &[byte; PAGE as usize], Access::WRITE).is_ok()
    });
}

// shows T2, T3
#[test]
fn a_change_that_comes_between_the_walk_and_the_access_is_not_missed() {
    type Hook = Mutex<Option<Box<dyn FnOnce() + Send>>>;
    let (memory, hook) = (plain_memory(), Arc::<Hook>::default());
    let machine = Machine::new(memory.clone(), |table| {
        let hook = Arc::clone(&hook);
        GuestSpace::new(memory, move |address, _| {
            let extent = table.extent(address);
            let then = hook.lock().take();
            then.into_iter().for_each(|then| then());
            extent
        })
    });
    let Machine { bond, device, space, table, memory, .. } = machine;
    let (space, pasid, port) = (Arc::new(space), bond.pasid(), device.port());
    let (seen, handle) = (space.device_memory(&device, pasid), space.handle());
    let piece = [Segment { address: BASE, len: 1 }];
    let accesses: [&dyn Fn(u8); 3] = [
        &|byte| handle.write(&piece, &[byte], Access::WRITE).expect("mapped"),
        &|byte| port.write(Some(pasid), BASE, &[byte]).expect("mapped"),
        &|byte| seen.write_slice(&[byte], GuestAddress(BASE)).expect("mapped"),
    ];
    for (n, access) in (1..).zip(accesses) {
        let (old, new) = (10, 10 + n);
        let first =
            |page: u64| memory.read_obj::<u8>(GuestAddress(page * PAGE)).expect("the guest's");
        table.map(0, old, Permissions::READ_WRITE);
        space.invalidate([AddrRange::ALL]);
        let (walked, changed) = (Arc::clone(&table), Arc::clone(&space));
        *hook.lock() = Some(Box::new(move || {
            // The walk has its old answer in hand. Another thread makes the change.
            thread::spawn(move || {
                walked.map(0, new, Permissions::READ_WRITE);
                drop(changed.begin_invalidate([AddrRange::ALL]));
            })
            .join()
            .expect("no panic");
        }));
        access(77);
        // The third access has pinned the range, for which the change waits: it may still go to the
        // old page.
        let expected = if n == 3 { (77, 10 + 3 + 1) } else { (11, 77) };
        assert_eq!((first(old), first(new)), expected, "access {n}");
        access(78);
        assert_eq!(first(new), 78, "no stale translation was cached");
    }
}

// shows T2, T3
#[test]
fn a_model_of_rust_vmm_does_not_write_to_a_page_that_the_monitor_has_taken_away() {
    let machine = Machine::logged();
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    writes_while_pages_move(&machine, |byte| {
        seen.write_slice(&[byte; PAGE as usize], GuestAddress(BASE)).is_ok()
    });
    let iommu = machine.space.device_iommu(&machine.device, machine.pasid());
    let seen =
        IommuMemory::new(machine.memory.clone(), iommu, true, AtomicBitmap::with_len(1 << 31));
    writes_while_pages_move(&machine, |byte| {
        seen.write_slice(&[byte; PAGE as usize], GuestAddress(BASE)).is_ok()
    });
}

// shows T2
#[test]
fn an_invalidation_waits_for_slices_in_an_iterator_and_for_translations_in_hand() {
    let machine = Machine::plain();
    machine.map(0, 3, 2, Permissions::READ_WRITE);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    let iommu = machine.space.device_iommu(&machine.device, machine.pasid());
    let hold_slices: &(dyn Fn(&dyn Fn()) + Sync) = &|held| {
        let slices = seen.get_slices(GuestAddress(BASE), 8, VmPermissions::Read).expect("mapped");
        held();
        drop(slices);
    };
    let hold_translation: &(dyn Fn(&dyn Fn()) + Sync) = &|held| {
        let translation =
            iommu.translate(GuestAddress(BASE), 8, VmPermissions::Read).expect("mapped");
        held();
        drop(translation);
    };
    for hold in [hold_slices, hold_translation] {
        let ((entered, has_entered), (let_go, may_let_go)) = (mpsc::channel(), mpsc::channel());
        thread::scope(|scope| {
            let holder = scope.spawn(move || {
                hold(&|| {
                    entered.send(()).expect("somebody waits");
                    may_let_go.recv_timeout(LONG).expect("somebody says so");
                });
            });
            has_entered.recv_timeout(LONG).expect("it is mapped");
            assert!(machine.space.begin_invalidate([range(1, 1)]).is_over(), "the other page");
            let change = machine.space.begin_invalidate([range(0, 1)]);
            assert!(!change.is_over());
            let_go.send(()).expect("it waits");
            holder.join().expect("no panic");
            assert!(change.is_over());
            change.wait();
        });
    }
}

/// Shows what is not promised.
#[test]
fn an_invalidation_does_not_wait_for_a_slice_that_has_left_its_iterator() {
    let machine = Machine::plain();
    machine.map(0, 3, 1, Permissions::READ_WRITE);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    let slice = seen
        .get_slices(GuestAddress(BASE), 8, VmPermissions::Write)
        .expect("mapped")
        .next()
        .expect("one")
        .expect("the guest's");
    machine.table.unmap(0);
    let change = thread::scope(|scope| {
        scope.spawn(|| machine.space.begin_invalidate([AddrRange::ALL]).is_over()).join()
    });
    assert!(change.expect("no panic"));
    assert!(!seen.check_range(GuestAddress(BASE), 8, VmPermissions::Write));
    slice.copy_from(&[9u8; 8]);
    assert_eq!(
        machine.memory.read_obj::<[u8; 8]>(GuestAddress(3 * PAGE)).expect("the guest's"),
        [9; 8]
    );
}

// shows T2, U3
#[test]
fn a_thread_that_holds_slices_can_change_the_space_and_unbind() {
    let machine = Machine::plain();
    machine.map(0, 3, 1, Permissions::READ_WRITE);
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    let slices = seen.get_slices(GuestAddress(BASE), 8, VmPermissions::Read).expect("mapped");
    machine.table.unmap(0);
    machine.space.invalidate([AddrRange::ALL]);
    let (bond, iommu) = (machine.bond, machine.iommu);
    bond.unbind();
    assert_eq!(iommu.object_counts().pasids, 1, "deferred, for the slices");
    drop(slices);
    assert_eq!(iommu.object_counts().pasids, 0);
}
