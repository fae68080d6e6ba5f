//! When a page is marked dirty: after the write, so that a thread that takes the mark and then
//! reads the page sees what was written. The bitmap is called inside of a write, so the tests also
//! see what a change does meanwhile.

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sva_core::{Access, Permissions, Segment};
use sva_vmm::GuestSpace;
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::support::{BASE, LONG, Machine, PAGE, PAGES, range};

thread_local! {
    static MEMORY: RefCell<Option<GuestMemoryMmap<Witness>>> = const { RefCell::new(None) };
    static MARKS: RefCell<Vec<(usize, usize, u8)>> = const { RefCell::new(Vec::new()) };
    static ON_MARK: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// A bitmap that records what is in memory when it is marked.
#[derive(Debug, Clone, Copy, Default)]
struct Witness {
    base: usize,
}

impl WithBitmapSlice<'_> for Witness {
    type S = Self;
}

impl BitmapSlice for Witness {}

impl Bitmap for Witness {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let at = self.base + offset;
        let first = MEMORY.with_borrow(|memory| {
            memory
                .as_ref()
                .map(|memory| memory.read_obj(GuestAddress(at as u64)).expect("the guest's"))
        });
        MARKS.with_borrow_mut(|marks| marks.extend(first.map(|first: u8| (at, len, first))));
        if let Some(then) = ON_MARK.take() {
            then();
        }
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { base: self.base + offset }
    }
}

impl NewBitmap for Witness {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

fn machine() -> Machine<GuestMemoryMmap<Witness>> {
    let memory =
        GuestMemoryMmap::<Witness>::from_ranges(&[(GuestAddress(0), (PAGES * PAGE) as usize)])
            .expect("memory");
    let machine = Machine::new(memory.clone(), |table| {
        GuestSpace::with_dirty_bitmap(memory, move |address, _| table.extent(address))
    });
    machine.map(0, 6, 1, Permissions::READ_WRITE);
    machine
}

#[test]
fn a_page_is_marked_dirty_after_it_was_written_to() {
    let machine = machine();
    MEMORY.set(Some(machine.memory.clone()));
    let (port, seen) =
        (machine.device.port(), machine.space.device_memory(&machine.device, machine.pasid()));
    let at = 6 * PAGE as usize + 5;
    for byte in [1, 2, 3] {
        port.write(Some(machine.pasid()), BASE + 5, &[byte; 9]).expect("mapped");
        assert_eq!(MARKS.take(), [(at, 9, byte)]);
    }
    seen.write_slice(&[4; 9], GuestAddress(BASE + 5)).expect("mapped");
    assert_eq!(MARKS.take(), [(at, 9, 4)]);
    port.read(Some(machine.pasid()), BASE + 5, &mut [0; 9]).expect("mapped");
    assert_eq!(MARKS.take(), []);
}

/// Holds a write in its middle while another thread makes a change. Returns whether the change
/// waited for it.
fn a_change_waits_for(
    machine: &Machine<GuestMemoryMmap<Witness>>,
    write: impl FnOnce() + Send,
) -> bool {
    let ((entered, has_entered), (changed, has_changed)) = (mpsc::channel(), mpsc::channel());
    thread::scope(|scope| {
        scope.spawn(move || {
            has_entered.recv_timeout(LONG).expect("the write comes to its mark");
            machine.map(0, 9, 1, Permissions::READ_WRITE);
            machine.space.invalidate([range(0, 1)]);
            // The receiver is gone if its time limit has passed.
            let _ = changed.send(());
        });
        let writer = scope.spawn(move || {
            let (told, hears) = mpsc::channel();
            ON_MARK.set(Some(Box::new(move || {
                entered.send(()).expect("somebody waits");
                // A change that does not wait is over within this time. One that waits is right
                // however long it is.
                told.send(has_changed.recv_timeout(Duration::from_millis(50)).is_err())
                    .expect("it hears");
            })));
            write();
            hears.try_recv().expect("there was a mark")
        });
        writer.join().expect("no panic")
    })
}

// shows T2
#[test]
fn a_change_waits_for_a_write_that_has_begun_whichever_way_that_goes() {
    let machine = machine();
    let (port, handle) = (machine.device.port(), machine.space.handle());
    let piece = [Segment { address: BASE, len: 8 }];
    assert!(
        a_change_waits_for(&machine, || handle
            .write(&piece, &[1; 8], Access::WRITE)
            .expect("mapped")),
        "of the provider's"
    );
    let pasid = Some(machine.pasid());
    port.write(pasid, BASE, &[1]).expect("mapped, and cached from now on");
    assert!(port.cached_translation(machine.pasid(), BASE, Access::WRITE).is_some());
    assert!(
        a_change_waits_for(&machine, move || port.write(pasid, BASE, &[2; 8]).expect("mapped")),
        "by a cached translation"
    );
    let seen = machine.space.device_memory(&machine.device, machine.pasid());
    assert!(
        a_change_waits_for(&machine, || seen
            .write_slice(&[3; 8], GuestAddress(BASE))
            .expect("mapped")),
        "of rust-vmm's"
    );
}
