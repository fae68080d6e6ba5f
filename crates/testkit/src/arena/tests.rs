//! A space as the core sees it: accesses by address, extents, memory in place, and its end. Changes
//! and races are in the modules.

mod changes;
mod hammer;
mod model;

use std::sync::Arc;

use sva_core::Extent;
use sva_core::space::{NoSuchFrame, SpaceEnded};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Frame, Permissions, Segment, SpaceId, SpaceWatcher,
    StopCause, Stopped,
};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::memory;
use crate::test_watcher::Watcher;
use crate::{ArenaChange, ArenaSpace, PAGE, Protection};

const BASE: u64 = 0x7000_0000_0000;
const MIB: u64 = 1 << 20;

fn piece(address: u64, len: u64) -> Segment {
    Segment { address, len }
}

fn pages(first: u64, count: u64) -> AddrRange {
    AddrRange::new(BASE + first * PAGE, count * PAGE).expect("pages")
}

fn write(space: &ArenaSpace, address: u64, data: &[u8]) -> Result<(), Stopped> {
    space.handle().write(&[piece(address, data.len() as u64)], data, Access::WRITE)
}

fn read(space: &ArenaSpace, address: u64, len: usize) -> Result<Vec<u8>, Stopped> {
    let mut buf = vec![0xaa; len];
    space.handle().read(&[piece(address, len as u64)], &mut buf, Access::READ).map(|()| buf)
}

fn stop<T: std::fmt::Debug>(outcome: Result<T, Stopped>) -> (u64, String) {
    let stopped = outcome.expect_err("the access stops");
    (stopped.done, stopped.cause.to_string())
}

fn extent_at(space: &ArenaSpace, address: u64) -> Extent {
    space.handle().extent(address, false).expect("present").expect("named")
}

fn frame_of(space: &ArenaSpace, page: u64) -> Frame {
    let address = BASE + page * PAGE;
    let extent = extent_at(space, address);
    extent.frame.offset(address - extent.range.first()).expect("inside")
}

/// What is in a frame, by way of the memory itself.
fn in_place(space: &ArenaSpace, frame: Frame, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    space.handle().memory(frame, len, false).expect("inside").copy_to(&mut bytes);
    bytes
}

fn watched() -> (ArenaSpace, Arc<Watcher>) {
    let (space, watcher) = (ArenaSpace::new(64 * MIB).poisoning(), Arc::new(Watcher::default()));
    space.handle().watch(watcher.clone()).expect("alive");
    (space, watcher)
}

// shows T5
#[test]
fn an_access_stops_at_the_exact_byte_where_the_mapping_ends() {
    let space = ArenaSpace::new(MIB);
    space.map(BASE, 3 * PAGE, Protection::READ_WRITE);
    assert_eq!(
        stop(write(&space, BASE + 2 * PAGE + 96, &[7; 2 * PAGE as usize])),
        (PAGE - 96, "not mapped".to_owned())
    );
    assert_eq!(read(&space, BASE + 2 * PAGE, PAGE as usize).expect("mapped")[95..98], [0, 7, 7]);
    space.protect(BASE + PAGE, PAGE, Protection::READ);
    let pieces =
        [piece(BASE + 10, 100), piece(BASE, 0), piece(BASE + PAGE - 5, 50), piece(BASE, 4)];
    let written = space.handle().write(&pieces, &[9; 154], Access::WRITE);
    assert_eq!(stop(written), (105, "denied".to_owned()));
    assert_eq!(space.peek(BASE + 9, 102), [&[0][..], &[9; 100], &[0]].concat());
    assert_eq!(space.peek(BASE + PAGE - 6, 8), [0, 9, 9, 9, 9, 9, 0, 0]);
    let mut buf = [0; 154];
    space.handle().read(&pieces, &mut buf, Access::READ).expect("all may be read");
    assert_eq!((buf[99], &buf[100..106], buf[153]), (9, &[9, 9, 9, 9, 9, 0][..], 0));
}

// shows T1
#[test]
fn a_page_denies_what_its_protection_does_not_name() {
    let space = ArenaSpace::new(MIB);
    let kinds = [
        Protection::READ,
        Protection::READ_WRITE,
        Protection::READ_EXECUTE,
        Protection::READ_WRITE.privileged(),
        Protection::NONE,
    ];
    for (page, protection) in (0..).zip(kinds) {
        let address = BASE + 2 * page * PAGE;
        space.map(address, PAGE, protection);
        for (access, privileged) in [Access::READ, Access::WRITE, Access::EXECUTE]
            .into_iter()
            .flat_map(|access| [(access, false), (access, true)])
        {
            let access = if privileged { access | Access::PRIVILEGED } else { access };
            let one = [piece(address, 1)];
            let outcome = match access {
                Access::WRITE => space.handle().write(&one, &[1], access),
                _ => space.handle().read(&one, &mut [0], access),
            };
            assert_eq!(outcome.is_ok(), protection.permits(access), "{protection}: {access:?}");
            let extent =
                space.handle().extent(address, privileged).expect("present").expect("named");
            assert_eq!(
                extent.permissions.permit(access),
                protection.permits(access),
                "{protection}: {access:?}"
            );
            let translation = space.handle().translate(address, privileged).expect("present");
            assert_eq!(
                (translation.permissions, translation.frame.is_some()),
                (extent.permissions, !extent.permissions.is_empty())
            );
        }
    }
}

#[test]
fn a_run_is_all_that_is_alike_and_contiguous_and_a_translation_its_largest_aligned_part() {
    let space = ArenaSpace::new(64 * MIB);
    let two = 2 * MIB;
    space.map(BASE - PAGE, two + 2 * PAGE, Protection::READ_WRITE);
    let extent = extent_at(&space, BASE + 77);
    assert_eq!(
        (extent.range, extent.permissions),
        (AddrRange::new(BASE - PAGE, two + 2 * PAGE).expect("pages"), Permissions::READ_WRITE)
    );
    let translation = space.handle().translate(BASE + 77, false).expect("present");
    assert_eq!((translation.range.first(), translation.range.bits()), (BASE, 21));
    assert_eq!(translation.frame, extent.frame.offset(PAGE));
    assert!(translation.frame.expect("named").0.is_multiple_of(two), "as aligned as the address");
    space.protect(BASE + 4 * PAGE, PAGE, Protection::READ);
    assert_eq!(
        extent_at(&space, BASE).range,
        AddrRange::inclusive(BASE - PAGE, pages(0, 4).last()).expect("in order")
    );
    assert_eq!(extent_at(&space, BASE + 4 * PAGE).range, pages(4, 1));
    assert_eq!(
        extent_at(&space, BASE + 5 * PAGE).frame,
        extent.frame.offset(6 * PAGE).expect("inside"),
        "the memory is where it was"
    );
    space.protect(BASE + 4 * PAGE, PAGE, Protection::READ_WRITE);
    assert_eq!(
        extent_at(&space, BASE + 4 * PAGE),
        extent,
        "neighbours that are alike again are one"
    );
    space.unmap(BASE + 4 * PAGE, PAGE);
    space.map(BASE + 4 * PAGE, PAGE, Protection::READ_WRITE);
    assert!(extent.range.covers(extent_at(&space, BASE).range));
}

#[test]
fn the_memory_of_a_frame_is_what_accesses_by_address_see() {
    let space = ArenaSpace::new(MIB);
    space.map(BASE, 2 * PAGE, Protection::READ_WRITE);
    let handle = space.handle();
    let frame = extent_at(&space, BASE).frame;
    handle
        .memory(frame.offset(PAGE - 2).expect("inside"), 4, true)
        .expect("two pages in a row")
        .copy_from(&[1u8, 2, 3, 4]);
    assert_eq!(read(&space, BASE + PAGE - 3, 6).expect("mapped"), [0, 1, 2, 3, 4, 0]);
    write(&space, BASE, &[9]).expect("mapped");
    assert_eq!(in_place(&space, frame, 2), [9, 0]);
    let word = handle.memory(frame.offset(8).expect("inside"), 8, true).expect("inside");
    vm_memory::VolatileMemory::get_ref::<u64>(&word, 0).expect("aligned").store(5);
    assert_eq!(space.peek(BASE + 8, 8), 5u64.to_ne_bytes());
    let last = Frame(memory::FRAMES + MIB - 1);
    assert!(handle.memory(last, 1, false).is_some() && handle.memory(last, 2, false).is_none());
    for outside in
        [Frame(0), Frame(memory::FRAMES - 1), Frame(memory::FRAMES + MIB), Frame(u64::MAX)]
    {
        assert!(handle.memory(outside, 1, false).is_none(), "{outside}");
        assert!(handle.memory(outside, usize::MAX, false).is_none(), "{outside}");
    }
}

#[test]
fn frames_are_accessed_only_while_they_are_in_use() {
    let space = ArenaSpace::new(MIB);
    space.map(BASE, 2 * PAGE, Protection::READ);
    let (handle, frame) = (space.handle(), extent_at(&space, BASE).frame);
    handle.write_frame(frame, &[5; 5000]).expect("both are in use");
    let mut buf = [0; 5000];
    handle.read_frame(frame, &mut buf).expect("both are in use");
    assert_eq!(buf, [5; 5000]);
    space.unmap(BASE + PAGE, PAGE);
    assert_eq!(handle.write_frame(frame, &[6; 5000]), Err(NoSuchFrame(frame)));
    assert_eq!(space.peek(BASE, 1), [5], "nothing was written");
    handle.read_frame(frame, &mut buf[..4096]).expect("the first is in use");
    let never = frame.offset(PAGE * 9).expect("inside");
    assert_eq!(handle.read_frame(never, &mut [0]), Err(NoSuchFrame(never)));
    space.end(EndReason::Closed);
    assert_eq!(handle.read_frame(frame, &mut [0]), Err(NoSuchFrame(frame)));
}

#[test]
fn an_absent_page_comes_back_as_zeros_if_the_resolver_agrees() {
    let space = ArenaSpace::new(MIB).poisoning();
    space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
    space.poke(BASE, &[7; 4 * PAGE as usize]);
    space.absent(BASE + PAGE, 2 * PAGE);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    space.on_resolve(move |page| {
        seen.lock().push(page);
        page == BASE + PAGE
    });
    let handle = space.handle();
    assert!(matches!(handle.extent(BASE + PAGE, false), Err(StopCause::NotPresent)));
    assert!(matches!(handle.translate(BASE + PAGE, false), Err(StopCause::NotPresent)));
    let stopping =
        handle.read(&[piece(BASE + PAGE - 2, 4)], &mut [0; 4], Access::READ.present_only());
    assert_eq!((stop(stopping), asked.lock().len()), ((2, "not present".to_owned()), 0));
    assert_eq!(
        stop(write(&space, BASE + PAGE - 1, &[8; 5000])),
        (1 + PAGE, "not present".to_owned())
    );
    assert_eq!(*asked.lock(), [BASE + PAGE, BASE + 2 * PAGE]);
    assert_eq!((space.resolved(), space.peek(BASE + PAGE - 2, 4)), (1, vec![7, 8, 8, 8]));
    space.present(BASE + 2 * PAGE, PAGE);
    assert_eq!(read(&space, BASE + 2 * PAGE, PAGE as usize).expect("present"), [0; PAGE as usize]);
    assert_eq!(read(&space, BASE + 3 * PAGE, 1).expect("never was absent"), [7]);
    assert_eq!(space.stale_write(), None);
}

#[test]
fn memory_that_is_used_again_is_zeros() {
    for space in [ArenaSpace::new(16 * PAGE), ArenaSpace::new(16 * PAGE).poisoning()] {
        for round in 0..8 {
            space.map(BASE + round * PAGE, 16 * PAGE, Protection::READ_WRITE);
            assert_eq!(space.free(), 0);
            assert_eq!(
                space.peek(BASE + round * PAGE, 16 * PAGE as usize),
                [0; 16 * PAGE as usize]
            );
            space.poke(BASE + round * PAGE, &[0xff; 16 * PAGE as usize]);
            space.unmap(BASE + round * PAGE, 16 * PAGE);
        }
        assert_eq!((space.free(), space.stale_write()), (16 * PAGE, None));
    }
}

#[test]
fn a_range_is_put_together_from_what_is_free() {
    let space = ArenaSpace::new(16 * PAGE);
    space.map(BASE, 16 * PAGE, Protection::READ_WRITE);
    for page in [1, 2, 5, 6, 7, 9, 12, 13, 14, 15] {
        space.unmap(BASE + page * PAGE, PAGE);
    }
    let far = BASE + (1 << 30);
    space.map(far, 8 * PAGE, Protection::READ_WRITE);
    let mut extents = Vec::new();
    let mut at = far;
    while at < far + 8 * PAGE {
        let extent = extent_at(&space, at);
        extents.push(extent.range.len() / PAGE);
        at = extent.range.last() + 1;
    }
    assert_eq!(extents, [4, 3, 1], "the largest first");
    let bytes: Vec<u8> = (0..8 * PAGE).map(|at| (at / 100) as u8).collect();
    write(&space, far, &bytes).expect("mapped");
    assert_eq!(read(&space, far, bytes.len()).expect("mapped"), bytes);
    let full = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        space.map(BASE + (1 << 31), 3 * PAGE, Protection::READ)
    }));
    let message = full.expect_err("two pages are left").downcast::<String>().expect("a message");
    assert!(message.contains("no 0x3000 bytes left"), "{message}");
    assert_eq!((space.free(), space.changes_under_way()), (2 * PAGE, 0));
    space.map(BASE + (1 << 31), 2 * PAGE, Protection::READ);
}

#[test]
fn the_last_page_of_the_address_space_is_a_page_like_any_other() {
    let space = ArenaSpace::new(MIB);
    let last = PAGE.wrapping_neg();
    space.map(last - PAGE, 2 * PAGE, Protection::READ_WRITE);
    write(&space, last - 8, &[3; 16]).expect("mapped");
    write(&space, u64::MAX, &[4]).expect("mapped");
    assert_eq!(read(&space, u64::MAX - 1, 2).expect("mapped"), [0, 4]);
    assert_eq!(extent_at(&space, u64::MAX).range.last(), u64::MAX);
    space.replace(last, PAGE);
    space.absent(last - PAGE, PAGE);
    assert_eq!(space.peek(last - 8, 16), [[0; 8], [3; 8]].concat());
    assert_eq!(
        space.handle().mapped_within(&[AddrRange::ALL]).expect("asks nobody"),
        [AddrRange::new(last - PAGE, 2 * PAGE).expect("pages")]
    );
    space.unmap(last - PAGE, 2 * PAGE);
    assert_eq!(space.free(), MIB);
}

// shows U4
#[test]
fn the_end_stops_accesses_and_tells_each_watcher_once() {
    let (space, watcher) = watched();
    space.map(BASE, PAGE, Protection::READ_WRITE);
    space.poke(BASE, &[7]);
    let handle = space.handle();
    let gone = Arc::new(Watcher::default());
    let token = handle.watch(gone.clone()).expect("alive");
    handle.unwatch(token);
    assert_eq!(space.watches(), 1);
    space.end(EndReason::Exited);
    space.end(EndReason::Closed);
    assert_eq!(handle.ended(), Some(EndReason::Exited));
    assert_eq!(
        (
            watcher.told.load(Ordering::Relaxed),
            watcher.ran.load(Ordering::Relaxed),
            gone.told.load(Ordering::Relaxed)
        ),
        (1, 1, 0)
    );
    assert_eq!(stop(read(&space, BASE, 1)), (0, "the address space has ended".to_owned()));
    assert_eq!(stop(write(&space, BASE, &[1])), (0, "the address space has ended".to_owned()));
    assert!(matches!(handle.extent(BASE, false), Err(StopCause::Ended)));
    assert!(matches!(handle.translate(BASE, false), Err(StopCause::Ended)));
    assert!(matches!(handle.resolve(BASE, Access::READ), Err(StopCause::Ended)));
    assert_eq!(handle.watch(gone).expect_err("ended"), SpaceEnded(EndReason::Exited));
    assert_eq!(space.peek(BASE, 1), [7]);
    drop(space);
    assert_eq!(watcher.told.load(Ordering::Relaxed), 1);
}
