//! Changes: who is told of what and when, and what becomes of the memory.

use sva_core::space::{ExitWork, Invalidation};

use super::*;

/// Looks at the space from inside `invalidate`, as a device would that still has the frame.
struct InspectingWatcher {
    space: Arc<ArenaSpace>,
    frame: Frame,
    seen: Mutex<Vec<(bool, Vec<u8>)>>,
}

impl SpaceWatcher for InspectingWatcher {
    fn space_ended(&self, _: SpaceId, _: EndReason) -> ExitWork {
        ExitWork::none()
    }

    fn invalidate(&self, _: SpaceId, range: AddrRange) -> Invalidation {
        let leads_there = |extent: Extent| {
            extent.range.first() == range.first()
                && extent.frame == self.frame
                && extent.permissions.contains(Permissions::WRITE)
        };
        let still = self
            .space
            .handle()
            .extent(range.first(), false)
            .is_ok_and(|extent| extent.is_some_and(leads_there));
        // Takes the lock for writing, so none is held.
        self.space.map(BASE + 100 * PAGE, PAGE, Protection::READ);
        self.seen.lock().push((still, in_place(&self.space, self.frame, 2)));
        Invalidation::none()
    }
}

// shows T2
#[test]
fn watchers_are_told_with_no_lock_held_after_the_new_state_and_before_the_memory_is_freed() {
    type Step = fn(&ArenaSpace);
    let changes: [(&str, Step, bool); 6] = [
        ("unmap", |space| space.unmap(BASE, PAGE), true),
        ("map over", |space| space.map(BASE, PAGE, Protection::READ), true),
        ("replace", |space| space.replace(BASE, PAGE), true),
        ("absent", |space| space.absent(BASE, PAGE), true),
        ("protect", |space| space.protect(BASE, PAGE, Protection::READ), false),
        ("remap", |space| space.remap(BASE, PAGE, BASE + PAGE), false),
    ];
    for (name, change, frees) in changes {
        let space = Arc::new(ArenaSpace::new(MIB).poisoning());
        space.map(BASE, PAGE, Protection::READ_WRITE);
        space.poke(BASE, &[1, 2]);
        let frame = frame_of(&space, 0);
        let inside =
            Arc::new(InspectingWatcher { space: space.clone(), frame, seen: Mutex::default() });
        let token = space.handle().watch(inside.clone()).expect("alive");
        change(&space);
        assert_eq!(*inside.seen.lock(), [(false, vec![1, 2])], "{name}");
        assert_eq!(in_place(&space, frame, 2) != [1, 2], frees, "{name}");
        assert_eq!(space.handle().read_frame(frame, &mut [0]).is_err(), frees, "{name}");
        assert_eq!(space.changes_under_way(), 0, "{name}");
        space.handle().unwatch(token);
    }
}

// shows T4
#[test]
fn each_change_that_takes_something_away_is_told_with_its_whole_range_and_no_other_is() {
    let (space, watcher) = watched();
    let told = |change: &dyn Fn()| {
        change();
        std::mem::take(&mut *watcher.invalidated.lock())
    };
    assert_eq!(told(&|| space.map(BASE, 512 * PAGE, Protection::READ)), []);
    assert_eq!(told(&|| space.protect(BASE, 512 * PAGE, Protection::READ_WRITE)), []);
    assert_eq!(told(&|| space.unmap(BASE + 600 * PAGE, 9 * PAGE)), []);
    assert_eq!(
        space.handle().translate(BASE, false).expect("present").range.bits(),
        21,
        "one large page"
    );
    assert_eq!(told(&|| space.unmap(BASE + 7 * PAGE, 2 * PAGE)), [pages(7, 2)]);
    assert_eq!(
        told(&|| space.protect(BASE, 20 * PAGE, Protection::READ_WRITE.privileged())),
        [pages(0, 20)]
    );
    assert_eq!(told(&|| space.absent(BASE + 5 * PAGE, 5 * PAGE)), [pages(5, 5)]);
    assert_eq!(told(&|| space.absent(BASE + 5 * PAGE, 5 * PAGE)), [], "nobody has what was absent");
    assert_eq!(told(&|| space.replace(BASE + 5 * PAGE, 5 * PAGE)), []);
    assert_eq!(told(&|| space.unmap(BASE + 5 * PAGE, PAGE)), []);
    assert_eq!(told(&|| space.replace(BASE + 30 * PAGE, 2 * PAGE)), [pages(30, 2)]);
    assert_eq!(
        told(&|| space.remap(BASE + 30 * PAGE, 2 * PAGE, BASE + 600 * PAGE)),
        [pages(30, 2)]
    );
    assert_eq!(
        told(&|| space.remap(BASE + 32 * PAGE, 2 * PAGE, BASE + 600 * PAGE)),
        [pages(600, 2), pages(32, 2)]
    );
    assert_eq!(told(&|| space.map(BASE + 599 * PAGE, 2 * PAGE, Protection::READ)), [pages(599, 2)]);
    assert_eq!(told(&|| space.present(BASE, 512 * PAGE)), []);
}

// shows T2
#[test]
fn a_change_that_finds_nothing_left_to_take_waits_for_the_one_that_took_it() {
    let (space, watcher) = watched();
    space.map(BASE, 8 * PAGE, Protection::READ_WRITE);
    let first = space.begin_unmap(BASE, 4 * PAGE);
    space.unmap(BASE + 2 * PAGE, 4 * PAGE);
    assert_eq!(*watcher.invalidated.lock(), [pages(0, 4), pages(2, 4)]);
    space.unmap(BASE + PAGE, PAGE);
    assert_eq!(watcher.invalidated.lock().len(), 3);
    first.finish();
    space.unmap(BASE, 4 * PAGE);
    assert_eq!(watcher.invalidated.lock().len(), 3, "nothing is under way");
    assert_eq!((space.changes_under_way(), space.free()), (0, 62 * MIB + 2 * MIB - 2 * PAGE));
}

#[test]
fn changes_that_are_joined_free_their_memory_together() {
    let (space, watcher) = watched();
    let other = ArenaSpace::new(MIB);
    other.map(BASE, PAGE, Protection::READ);
    space.map(BASE, 8 * PAGE, Protection::READ_WRITE);
    space.poke(BASE, &[7; 8 * PAGE as usize]);
    let frame = frame_of(&space, 0);
    let joined = (0..4)
        .map(|page| space.begin_unmap(BASE + 2 * page * PAGE, PAGE))
        .reduce(ArenaChange::and)
        .expect("four");
    let joined = joined.and(other.begin_unmap(BASE, PAGE));
    assert_eq!(watcher.invalidated.lock().len(), 4);
    assert_eq!((space.changes_under_way(), other.changes_under_way()), (4, 1));
    assert_eq!((space.free(), other.free()), (64 * MIB - 8 * PAGE, MIB - PAGE));
    assert!(joined.is_over());
    assert_eq!(in_place(&space, frame, 2), [7, 7], "not freed before it is finished");
    joined.finish();
    assert_eq!((space.changes_under_way(), other.changes_under_way()), (0, 0));
    assert_eq!((space.free(), other.free()), (64 * MIB - 4 * PAGE, MIB));
    assert_ne!(in_place(&space, frame, 2), [7, 7]);
}

// shows T2
#[test]
fn nothing_is_kept_of_a_page_that_is_being_replaced_and_what_is_written_meanwhile_is_not_lost() {
    let (space, _watcher) = watched();
    space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
    space.poke(BASE, &[1; 4 * PAGE as usize]);
    let old: Vec<_> = (0..4).map(|page| frame_of(&space, page)).collect();
    let replacing = space.begin_replace(BASE, 4 * PAGE);
    let handle = space.handle();
    for page in 0..4 {
        assert!(matches!(handle.extent(BASE + page * PAGE, false), Err(StopCause::NotPresent)));
    }
    // The provider's copy, one by an old translation, and one page that is brought in to be kept.
    write(&space, BASE, &[2]).expect("mapped");
    handle.write_frame(old[1], &[3]).expect("not freed");
    handle.resolve(BASE + 2 * PAGE + 5, Access::WRITE).expect("present");
    assert_eq!(frame_of(&space, 2), old[2], "it stays");
    space.protect(BASE + 3 * PAGE, PAGE, Protection::READ);
    replacing.finish();
    let new: Vec<_> = (0..4).map(|page| frame_of(&space, page)).collect();
    assert_eq!(
        new.iter().zip(&old).map(|(new, old)| new == old).collect::<Vec<_>>(),
        [false, false, true, false]
    );
    let first_bytes: Vec<_> = (0..4).map(|page| space.peek(BASE + page * PAGE, 2)).collect();
    assert_eq!(first_bytes, [[2, 1], [3, 1], [1, 1], [1, 1]]);
    assert_eq!(
        stop(write(&space, BASE + 3 * PAGE, &[0])),
        (0, "denied".to_owned()),
        "with the protection that it has now"
    );
    assert_eq!(
        (space.free(), space.changes_under_way(), space.stale_write()),
        (64 * MIB - 4 * PAGE, 0, None)
    );
}

#[test]
fn a_page_that_another_change_takes_while_it_is_replaced_is_left_to_that_one() {
    let (space, _watcher) = watched();
    space.map(BASE, 6 * PAGE, Protection::READ_WRITE);
    for page in 0..6 {
        space.poke(BASE + page * PAGE, &[page as u8 + 1]);
    }
    let old: Vec<_> = (0..6).map(|page| frame_of(&space, page)).collect();
    let first = space.begin_replace(BASE, 6 * PAGE);
    space.unmap(BASE, PAGE);
    space.map(BASE + PAGE, PAGE, Protection::READ_WRITE);
    space.absent(BASE + 2 * PAGE, PAGE);
    space.remap(BASE + 3 * PAGE, PAGE, BASE + 10 * PAGE);
    let second = space.begin_replace(BASE + 4 * PAGE, PAGE);
    first.finish();
    assert!(
        matches!(space.handle().extent(BASE + 4 * PAGE, false), Err(StopCause::NotPresent)),
        "the later change is not over"
    );
    assert_ne!(frame_of(&space, 5), old[5]);
    second.finish();
    space.present(BASE + 2 * PAGE, PAGE);
    assert!(matches!(space.handle().extent(BASE, false), Err(StopCause::NotMapped)));
    assert_eq!(frame_of(&space, 10), old[3], "it was moved as it was");
    let bytes: Vec<_> =
        [1, 2, 10, 4, 5].iter().flat_map(|page| space.peek(BASE + page * PAGE, 1)).collect();
    assert_eq!(bytes, [0, 0, 4, 5, 6]);
    assert_eq!(
        (space.free(), space.changes_under_way(), space.stale_write()),
        (64 * MIB - 5 * PAGE, 0, None)
    );
}

#[test]
fn many_chunks_are_replaced_page_by_page() {
    let space = ArenaSpace::new(16 * MIB);
    let len = 5 * MIB;
    space.map(BASE, len, Protection::READ_WRITE);
    let bytes: Vec<u8> = (0..len).map(|at| (at / PAGE * 7 + at % 251) as u8).collect();
    space.poke(BASE, &bytes);
    let before = extent_at(&space, BASE);
    space.unmap(BASE + 3 * PAGE, PAGE);
    space.absent(BASE + 5 * PAGE, PAGE);
    space.replace(BASE, len);
    let after = extent_at(&space, BASE);
    assert_ne!(after.frame, before.frame);
    assert_eq!(space.peek(BASE, 3 * PAGE as usize), bytes[..3 * PAGE as usize]);
    assert_eq!(space.peek(BASE + 6 * PAGE, (len - 6 * PAGE) as usize), bytes[6 * PAGE as usize..]);
    assert_eq!(extent_at(&space, BASE + 6 * PAGE).range.len(), len - 6 * PAGE, "in one piece");
    assert_eq!(space.free(), 16 * MIB - len + PAGE);
}

#[test]
fn a_write_to_freed_memory_is_seen_before_and_after_the_memory_is_used_again() {
    let space = ArenaSpace::new(4 * PAGE).poisoning();
    space.map(BASE, 2 * PAGE, Protection::READ_WRITE);
    let frame = frame_of(&space, 1);
    space.unmap(BASE, 2 * PAGE);
    assert_eq!(space.stale_write(), None);
    space
        .handle()
        .memory(frame.offset(17).expect("inside"), 1, true)
        .expect("inside")
        .copy_from(&[1u8]);
    assert_eq!(space.stale_write(), Some(frame));
    space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
    assert_eq!(space.peek(BASE, 4 * PAGE as usize), [0; 4 * PAGE as usize]);
    assert_eq!(space.stale_write(), Some(frame), "it is not forgotten");
}

// shows T2: a device may use the page by its old address until the move is over, whatever becomes
// of it at the new one
#[test]
fn memory_that_is_being_moved_to_another_address_is_neither_freed_nor_replaced_before_that_is_over()
{
    let ends: [fn(&ArenaSpace); 3] = [
        |space| space.unmap(BASE + PAGE, PAGE),
        |space| space.absent(BASE + PAGE, PAGE),
        |space| space.remap(BASE + PAGE, PAGE, BASE + 2 * PAGE),
    ];
    for end in ends {
        let space = ArenaSpace::new(4 * PAGE).poisoning();
        space.map(BASE, PAGE, Protection::READ_WRITE);
        space.poke(BASE, &[7; 8]);
        let frame = frame_of(&space, 0);
        let moving = space.begin_remap(BASE, PAGE, BASE + PAGE);
        space.replace(BASE + PAGE, PAGE);
        assert_eq!(frame_of(&space, 1), frame);
        end(&space);
        space.unmap(BASE + 2 * PAGE, PAGE);
        assert_eq!(in_place(&space, frame, 8), [7; 8]);
        moving.finish();
        space.unmap(BASE, 3 * PAGE);
        assert_eq!((space.free(), space.changes_under_way()), (4 * PAGE, 0));
        assert_ne!(in_place(&space, frame, 8), [7; 8], "it is freed now");
    }
}
