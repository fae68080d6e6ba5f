//! Frames: what a translation names, and what can be done with it.

use super::*;

fn frame_at(handle: &Arc<dyn AddressSpace>, address: u64) -> Frame {
    let translation = handle.translate(address, false).expect("present");
    translation
        .frame
        .expect("named")
        .offset(address - translation.range.first())
        .expect("does not wrap")
}

/// The first page and the count of pages of the translation, which must name a frame as aligned as
/// itself.
fn extent(handle: &Arc<dyn AddressSpace>, page: u64) -> (u64, u64) {
    let translation = handle.translate(BASE + page * PAGE + 5, false).expect("present");
    let size = translation.range.range().len();
    assert_eq!(translation.frame.expect("named").0 % size, 0);
    assert!(!translation.global);
    ((translation.range.first() - BASE) / PAGE, size / PAGE)
}

// shows T4
#[test]
fn a_translation_is_as_large_as_the_pages_are_alike() {
    let space = MemorySpace::new();
    let handle = space.handle();
    space.map(BASE, 1024 * PAGE, Protection::READ_WRITE);
    assert_eq!((extent(&handle, 0), extent(&handle, 700)), ((0, 512), (512, 512)));
    space.protect(BASE + 512 * PAGE, PAGE, Protection::READ);
    space.replace(BASE + 640 * PAGE, 128 * PAGE);
    space.unmap(BASE + 1023 * PAGE, PAGE);
    let extents: Vec<_> =
        [0, 512, 513, 514, 600, 650, 767, 800, 1022].map(|page| extent(&handle, page)).into();
    let expected = [
        (0, 512),
        (512, 1),
        (513, 1),
        (514, 2),
        (576, 64),
        (640, 128),
        (640, 128),
        (768, 128),
        (1022, 1),
    ];
    assert_eq!(extents, expected);
    space.protect(BASE + 512 * PAGE, PAGE, Protection::READ_WRITE);
    assert_eq!(extent(&handle, 513), (512, 128), "alike again");
    space.largest_translation(14);
    assert_eq!((extent(&handle, 0), extent(&handle, 1022)), ((0, 4), (1022, 1)));
    // Moved by an odd number of pages, no frame is as aligned as its address any more.
    space.remap(BASE, 8 * PAGE, BASE + 2049 * PAGE);
    assert_eq!((extent(&handle, 2049), extent(&handle, 2050)), ((2049, 1), (2050, 1)));
}

#[test]
fn two_mappings_are_never_one_translation_whoever_maps_when() {
    let space = MemorySpace::new();
    space.map(BASE, PAGE, Protection::READ);
    space.map(BASE + PAGE, PAGE, Protection::READ);
    assert_eq!((extent(&space.handle(), 0), extent(&space.handle(), 1)), ((0, 1), (1, 1)));
}

// shows T1
#[test]
fn a_translation_permits_what_the_page_permits_to_that_privilege() {
    let space = MemorySpace::new();
    let handle = space.handle();
    let pages = [
        Protection::READ,
        Protection::READ_EXECUTE,
        Protection::READ_WRITE.privileged(),
        Protection::NONE,
    ];
    for (at, protection) in (0..).zip(pages) {
        space.map(BASE + at * PAGE, PAGE, protection);
    }
    let seen = |privileged| {
        [0, 1, 2, 3].map(|at| {
            let found = handle.translate(BASE + at * PAGE, privileged).expect("present");
            (found.permissions, found.frame.is_some())
        })
    };
    let (read, run, all, none) = (
        (Permissions::READ, true),
        (Permissions::READ | Permissions::EXECUTE, true),
        (Permissions::READ_WRITE, true),
        (Permissions::empty(), false),
    );
    assert_eq!((seen(false), seen(true)), ([read, run, none, none], [read, run, all, none]));
    assert!(matches!(handle.translate(BASE + 4 * PAGE, true), Err(StopCause::NotMapped)));
}

// shows T5
#[test]
fn a_frame_is_accessed_as_a_whole_run_or_not_at_all() {
    let space = MemorySpace::new();
    let handle = space.handle();
    space.map(BASE, 3 * PAGE, Protection::READ_WRITE);
    let frame = frame_at(&handle, BASE + PAGE - 2);
    handle.write_frame(frame, b"abcd").expect("across two pages");
    assert_eq!(space.peek(BASE + PAGE - 3, 6), b"\0abcd\0");
    let mut buf = [0; 6];
    handle.read_frame(Frame(frame.0 - 1), &mut buf).expect("across two pages");
    assert_eq!(&buf, b"\0abcd\0");
    let end = frame_at(&handle, BASE + 3 * PAGE - 1);
    assert_eq!(handle.write_frame(end, b"xy"), Err(NoSuchFrame(end)));
    assert_eq!(
        handle.write_frame(Frame(u64::MAX), b"xy"),
        Err(NoSuchFrame(Frame(u64::MAX))),
        "wraps"
    );
    assert_eq!(space.peek(BASE + 3 * PAGE - 1, 1), [0], "nothing of it was written");
    space.unmap(BASE + PAGE, PAGE);
    assert_eq!(
        handle.read_frame(frame, &mut buf),
        Err(NoSuchFrame(frame)),
        "its second page has been freed"
    );
    handle.read_frame(frame, &mut buf[..2]).expect("its first page has not");
    handle.read_frame(Frame(3), &mut []).expect("nothing is anywhere");
}

// shows T2
#[test]
fn what_is_written_while_a_page_is_replaced_is_not_lost() {
    let space = MemorySpace::new();
    let handle = space.handle();
    space.map(BASE, 2 * PAGE, Protection::READ_WRITE);
    space.poke(BASE, b"first");
    let old = frame_at(&handle, BASE);
    let (replaced, absent) = (space.begin_replace(BASE, PAGE), space.begin_absent(BASE, PAGE));
    assert_eq!(
        (space.frames(), space.changes_under_way()),
        (4, 2),
        "one page has had three frames"
    );
    handle.write_frame(old, b"there").expect("not freed yet");
    absent.finish();
    handle.write_frame(old, b"T").expect("the first change is not over");
    replaced.finish();
    assert_eq!(handle.write_frame(old, b"later"), Err(NoSuchFrame(old)));
    let mut buf = [0; 5];
    handle.read(&[piece(BASE, 5)], &mut buf, Access::READ).expect("resolved");
    assert_eq!(&buf, b"There");
    assert_ne!(frame_at(&handle, BASE), old);
    space.unmap(BASE, 2 * PAGE);
    assert_eq!(
        (space.frames(), space.changes_under_way(), space.shared.memory.read().stored()),
        (0, 0, 0)
    );
}

// shows U4
#[test]
fn no_frame_can_be_touched_after_the_end() {
    let space = MemorySpace::new();
    let handle = space.handle();
    space.map(BASE, PAGE, Protection::READ_WRITE);
    space.poke(BASE, b"last words");
    let frame = frame_at(&handle, BASE);
    let change = space.begin_unmap(BASE + PAGE, PAGE);
    space.audit(BASE, Access::READ, frame).expect("alive");
    space.end_unannounced(EndReason::Exited);
    assert_eq!(handle.read_frame(frame, &mut [0]), Err(NoSuchFrame(frame)));
    assert_eq!(handle.write_frame(frame, b"x"), Err(NoSuchFrame(frame)));
    assert!(matches!(handle.translate(BASE, false), Err(StopCause::Ended)));
    assert_eq!(
        space.audit(BASE, Access::READ, frame).expect_err("ended").reason,
        StaleReason::Ended
    );
    assert_eq!(space.peek(BASE, 10), b"last words");
    drop(space);
    change.finish();
}

// shows T2
#[test]
fn a_space_that_is_not_synchronous_names_no_frame_and_tells_nobody() {
    let capabilities =
        SpaceCapabilities { synchronous: false, ..MemorySpace::new().handle().capabilities() };
    let space = MemorySpace::with_capabilities(capabilities);
    let watcher = Arc::new(Watcher::default());
    space.handle().watch(watcher.clone()).expect("alive");
    space.map(BASE, PAGE, Protection::READ_WRITE);
    let translation = space.handle().translate(BASE, false).expect("present");
    assert_eq!((translation.frame, translation.permissions), (None, Permissions::READ_WRITE));
    assert!(space.begin_unmap(BASE, PAGE).is_over());
    assert_eq!((watcher.invalidated.lock().len(), space.frames()), (0, 0));
}
