//! A space as the core sees it: accesses by address, and its end. What devices keep of it is in the
//! modules.

mod changes;
mod frames;
mod hammer;
mod model;

use std::sync::Arc;

use sva_core::space::{NoSuchFrame, SpaceEnded};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Frame, Permissions, Segment, SpaceCapabilities,
    SpaceId, SpaceWatcher, StopCause, Stopped,
};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU64, Ordering};

use crate::test_watcher::Watcher;
use crate::{Change, MemorySpace, PAGE, Protection, StaleReason};

const BASE: u64 = 0x7000_0000_0000;

fn piece(address: u64, len: u64) -> Segment {
    Segment { address, len }
}

/// Fails after a time where `test` waits for a lock that it should not meet.
fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match finished.recv_timeout(std::time::Duration::from_secs(60)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            panic!("it waits for a lock that is held")
        }
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

fn stop(outcome: Result<(), Stopped>) -> (u64, String) {
    let stopped = outcome.expect_err("the access stops");
    (stopped.done, stopped.cause.to_string())
}

// shows T5
#[test]
fn an_access_stops_at_the_exact_byte_where_the_mapping_ends() {
    let space = MemorySpace::new();
    space.map(BASE, 2 * PAGE, Protection::READ_WRITE);
    let handle = space.handle();
    let mut buf = [0; 300];
    let pieces = [piece(BASE, 100), piece(BASE + 2 * PAGE - 50, 200)];
    assert_eq!(stop(handle.read(&pieces, &mut buf, Access::READ)), (150, "not mapped".into()));
    assert_eq!(stop(handle.write(&pieces, &[7; 300], Access::WRITE)), (150, "not mapped".into()));
    assert_eq!(space.peek(BASE + 2 * PAGE - 51, 51), [&[0][..], &[7; 50]].concat());
}

// shows T1
#[test]
fn a_page_denies_what_its_protection_does_not_name() {
    let space = MemorySpace::new();
    space.map(BASE, PAGE, Protection::READ);
    space.map(BASE + PAGE, PAGE, Protection::READ_WRITE.privileged());
    let handle = space.handle();
    let execute = sva_core::Access::EXECUTE;
    let privileged = Access::WRITE | Access::PRIVILEGED;
    assert_eq!(stop(handle.write(&[piece(BASE, 8)], &[1; 8], Access::WRITE)), (0, "denied".into()));
    assert_eq!(stop(handle.read(&[piece(BASE, 8)], &mut [0; 8], execute)), (0, "denied".into()));
    assert_eq!(
        stop(handle.write(&[piece(BASE + PAGE, 8)], &[1; 8], Access::WRITE)),
        (0, "denied".into())
    );
    handle.write(&[piece(BASE + PAGE, 8)], &[1; 8], privileged).expect("a privileged write");
    assert_eq!(space.peek(BASE, 8), [0; 8]);
}

// shows T1
#[test]
fn resolving_brings_in_what_an_access_of_that_kind_would_and_refuses_what_it_could_not_do() {
    bounded(resolve_all_ways);
}

fn resolve_all_ways() {
    let space = MemorySpace::new();
    space.map(BASE, PAGE, Protection::READ_WRITE);
    space.map(BASE + PAGE, PAGE, Protection::READ);
    space.poke(BASE, b"kept");
    space.absent(BASE, 2 * PAGE);
    let handle = space.handle();
    let asked = Arc::new(AtomicU64::new(0));
    let (inside, seen) = (handle.clone(), asked.clone());
    space.on_resolve(move |page| {
        // No lock is held: the space can be asked, and asked for a lock.
        inside.write_frame(Frame(0), &[0]).expect_err("no frame");
        seen.fetch_add(page, Ordering::Relaxed);
        true
    });
    assert!(
        matches!(handle.resolve(BASE + PAGE, Access::WRITE), Err(StopCause::Denied)),
        "not even the resolver is asked"
    );
    assert!(matches!(handle.resolve(BASE + 2 * PAGE, Access::READ), Err(StopCause::NotMapped)));
    assert!(matches!(handle.translate(BASE + 9, false), Err(StopCause::NotPresent)));
    handle
        .resolve(BASE + 9, Access::WRITE.present_only())
        .expect("resolved, as that is what was asked for");
    handle.resolve(BASE + 9, Access::WRITE).expect("present already");
    assert_eq!((space.resolved(), asked.load(Ordering::Relaxed)), (1, BASE));
    assert!(
        handle
            .translate(BASE + 9, false)
            .expect("present")
            .permissions
            .contains(Permissions::WRITE)
    );
    assert!(
        matches!(handle.translate(BASE + PAGE, false), Err(StopCause::NotPresent)),
        "the neighbour is as it was"
    );
    assert_eq!(space.peek(BASE, 4), b"kept");
    space.on_resolve(|_| false);
    assert!(matches!(handle.resolve(BASE + PAGE, Access::READ), Err(StopCause::NotPresent)));
    space.end(EndReason::Exited);
    assert!(matches!(handle.resolve(BASE, Access::READ), Err(StopCause::Ended)));
}

// shows T5
#[test]
fn an_absent_page_is_resolved_or_stops_the_access_as_asked() {
    let space = MemorySpace::new();
    space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
    space.poke(BASE + PAGE, b"kept");
    space.absent(BASE + PAGE, 2 * PAGE);
    let handle = space.handle();
    let whole = [piece(BASE, 4 * PAGE)];
    let mut buf = vec![0; 4 * PAGE as usize];
    let stopping = Access::READ.present_only();
    assert_eq!(stop(handle.read(&whole, &mut buf, stopping)), (PAGE, "not present".into()));
    assert_eq!(space.resolved(), 0);
    handle.read(&whole, &mut buf, Access::READ).expect("resolved");
    assert_eq!((space.resolved(), &buf[PAGE as usize..][..4]), (2, &b"kept"[..]));
    space.absent(BASE, 4 * PAGE);
    space.on_resolve(move |page| page != BASE + 3 * PAGE);
    assert_eq!(stop(handle.write(&whole, &buf, Access::WRITE)), (3 * PAGE, "not present".into()));
}

// shows T1
#[test]
fn unmap_and_protect_inside_a_region_leave_the_rest_as_it_was() {
    let space = MemorySpace::new();
    space.map(BASE, 5 * PAGE, Protection::READ_WRITE);
    space.poke(BASE, &vec![9; 5 * PAGE as usize]);
    space.unmap(BASE + 2 * PAGE, PAGE);
    space.protect(BASE + 3 * PAGE, PAGE, Protection::READ);
    let handle = space.handle();
    let write = |at: u64| {
        handle.write(&[piece(BASE + at * PAGE, PAGE)], &vec![1; PAGE as usize], Access::WRITE)
    };
    let outcomes: Vec<_> =
        (0..5).map(|at| write(at).err().map(|stopped| stopped.cause.to_string())).collect();
    assert_eq!(outcomes, [None, None, Some("not mapped".into()), Some("denied".into()), None]);
    let region = |at, pages| AddrRange::new(BASE + at * PAGE, pages * PAGE).expect("a range");
    assert_eq!(
        handle.mapped_within(&[region(1, 4)]).expect("in memory"),
        [region(1, 1), region(3, 1), region(4, 1)]
    );
    space.map(BASE + 2 * PAGE, PAGE, Protection::READ);
    assert_eq!(
        space.peek(BASE + 2 * PAGE, 4),
        [0; 4],
        "a new mapping shows nothing of the old page"
    );
}

// shows U4
#[test]
fn the_end_stops_accesses_and_tells_each_watcher_once() {
    let space = MemorySpace::new();
    space.map(BASE, PAGE, Protection::READ_WRITE);
    let handle = space.handle();
    let (first, second) = (Arc::new(Watcher::default()), Arc::new(Watcher::default()));
    handle.watch(first.clone()).expect("alive");
    let token = handle.watch(second.clone()).expect("alive");
    handle.unwatch(token);
    let work = space.end_deferred(EndReason::Execed);
    assert_eq!(
        (work.len(), first.told.load(Ordering::Relaxed), first.ran.load(Ordering::Relaxed)),
        (1, 1, 0)
    );
    drop(work);
    assert_eq!(first.ran.load(Ordering::Relaxed), 1);
    space.end(EndReason::Exited);
    drop(space);
    assert_eq!((first.told.load(Ordering::Relaxed), second.told.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(handle.ended(), Some(EndReason::Execed));
    assert_eq!(handle.watch(second).expect_err("ended"), SpaceEnded(EndReason::Execed));
    assert_eq!(
        stop(handle.read(&[piece(BASE, 8)], &mut [0; 8], Access::READ)),
        (0, "the address space has ended".into())
    );
}

// shows T2
#[test]
fn protect_waits_for_the_access_under_way() {
    let space = Arc::new(MemorySpace::new());
    space.map(BASE, 64 * PAGE, Protection::READ_WRITE);
    let handle = space.handle();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let data = vec![0xff; 64 * PAGE as usize];
            while handle.write(&[piece(BASE, 64 * PAGE)], &data, Access::WRITE).is_ok() {}
        });
        std::thread::yield_now();
        space.protect(BASE, 64 * PAGE, Protection::READ);
        space.poke(BASE, &vec![0; 64 * PAGE as usize]);
        writer.join().expect("the writer ends at the read-only page");
    });
    assert!(space.peek(BASE, 64 * PAGE as usize).iter().all(|byte| *byte == 0));
}

// shows S2
#[test]
fn the_last_page_of_the_address_space_is_a_page_like_any_other() {
    let space = MemorySpace::new();
    let last_page = u64::MAX - (PAGE - 1);
    space.map(last_page, PAGE, Protection::READ_WRITE);
    let handle = space.handle();
    handle.write(&[piece(u64::MAX, 1), piece(0, 0)], &[5], Access::WRITE).expect("the last byte");
    assert_eq!(space.peek(u64::MAX, 1), [5]);
    space.unmap(last_page, PAGE);
    assert_eq!(
        stop(handle.read(&[piece(u64::MAX, 1)], &mut [0], Access::READ)),
        (0, "not mapped".into())
    );
}
