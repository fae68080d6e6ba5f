//! Changes: who is told of what and when, and what the oracle says meanwhile.

use sva_core::space::{ExitWork, Invalidation};

use super::*;

fn pages(first: u64, count: u64) -> AddrRange {
    AddrRange::new(BASE + first * PAGE, count * PAGE).expect("pages")
}

fn frame_of(space: &MemorySpace, page: u64) -> Frame {
    let translation = space.handle().translate(BASE + page * PAGE, true).expect("present");
    translation
        .frame
        .expect("named")
        .offset(BASE + page * PAGE - translation.range.first())
        .expect("does not wrap")
}

fn watched() -> (MemorySpace, Arc<Watcher>) {
    let (space, watcher) = (MemorySpace::new(), Arc::new(Watcher::default()));
    space.handle().watch(watcher.clone()).expect("alive");
    (space, watcher)
}

/// Looks at the space from inside `invalidate`, as a device would that still has the frame.
struct InspectingWatcher {
    space: Arc<MemorySpace>,
    frame: Frame,
    seen: Mutex<Vec<(bool, bool, bool)>>,
}

impl SpaceWatcher for InspectingWatcher {
    fn space_ended(&self, _: SpaceId, _: EndReason) -> ExitWork {
        ExitWork::none()
    }

    fn invalidate(&self, _: SpaceId, range: AddrRange) -> Invalidation {
        let handle = self.space.handle();
        let still = handle.translate(range.first(), true).is_ok_and(|now| {
            now.frame == Some(self.frame) && now.permissions.contains(Permissions::WRITE)
        });
        // Takes the lock for writing, so none is held.
        let usable = handle.write_frame(self.frame, &[7]).is_ok();
        let permitted = self.space.audit(range.first(), Access::WRITE, self.frame).is_ok();
        self.seen.lock().push((still, usable, permitted));
        Invalidation::none()
    }
}

// shows T2
#[test]
fn watchers_are_told_with_no_lock_held_after_the_new_state_and_before_the_old_frames_are_freed() {
    type Step = fn(&MemorySpace);
    let changes: [(&str, Step, bool); 6] = [
        ("unmap", |space| space.unmap(BASE, PAGE), true),
        ("map over", |space| space.map(BASE, PAGE, Protection::READ), true),
        ("replace", |space| space.replace(BASE, PAGE), true),
        ("absent", |space| space.absent(BASE, PAGE), true),
        ("protect", |space| space.protect(BASE, PAGE, Protection::READ), false),
        ("remap", |space| space.remap(BASE, PAGE, BASE + PAGE), false),
    ];
    let try_one = |(name, change, frees): (&str, Step, bool)| {
        let space = Arc::new(MemorySpace::new());
        space.map(BASE, PAGE, Protection::READ_WRITE);
        let frame = frame_of(&space, 0);
        let inside =
            Arc::new(InspectingWatcher { space: space.clone(), frame, seen: Mutex::default() });
        let token = space.handle().watch(inside.clone()).expect("alive");
        change(&space);
        assert_eq!(*inside.seen.lock(), [(false, true, true)], "{name}");
        assert_eq!(space.handle().read_frame(frame, &mut [0]).is_err(), frees, "{name}");
        space.audit(BASE, Access::WRITE, frame).expect_err(name);
        assert_eq!(space.changes_under_way(), 0, "{name}");
        space.handle().unwatch(token);
    };
    bounded(move || changes.into_iter().for_each(try_one));
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
    assert_eq!(
        told(&|| space.protect(BASE, 20 * PAGE, Protection::READ_EXECUTE.privileged())),
        [pages(0, 20)]
    );
    assert_eq!(told(&|| space.absent(BASE + 5 * PAGE, 5 * PAGE)), [pages(5, 5)]);
    assert_eq!(told(&|| space.absent(BASE + 5 * PAGE, 5 * PAGE)), [], "nobody has what was absent");
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
fn the_oracle_permits_what_a_change_took_until_it_is_over() {
    use StaleReason::{Denied, Elsewhere, Freed, Nowhere};
    let (space, _watcher) = watched();
    space.map(BASE, 5 * PAGE, Protection::READ_WRITE);
    let old: Vec<_> = (0..5).map(|page| frame_of(&space, page)).collect();
    let write = |page: u64, frame| {
        space.audit(BASE + page * PAGE, Access::WRITE, frame).map_err(|stale| stale.reason)
    };
    let changes = [
        space.begin_unmap(BASE, PAGE),
        space.begin_protect(BASE + PAGE, PAGE, Protection::READ),
        space.begin_remap(BASE + 2 * PAGE, PAGE, BASE + 9 * PAGE),
        space.begin_replace(BASE + 3 * PAGE, PAGE),
        space.begin_absent(BASE + 4 * PAGE, PAGE),
    ];
    assert_eq!(space.changes_under_way(), 5);
    let new = frame_of(&space, 3);
    assert!(
        changes.iter().all(Change::is_over),
        "no device has to be waited for, and still none of them has been finished"
    );
    for (page, frame) in (0..).zip(&old) {
        assert_eq!(write(page, *frame), Ok(()), "page {page}");
        assert_ne!(write(page, Frame(frame.0 + PAGE)), Ok(()), "page {page} never led there");
    }
    changes.into_iter().for_each(Change::finish);
    let after: Vec<_> = (0..).zip(&old).map(|(page, frame)| write(page, *frame)).collect();
    assert_eq!(
        after,
        [Err(Freed), Err(Denied(Protection::READ)), Err(Nowhere), Err(Freed), Err(Freed)]
    );
    assert_eq!(write(3, old[2]), Err(Elsewhere(new)), "alive, but for another address");
    space.audit(BASE + PAGE, Access::READ, old[1]).expect("reading was not taken away");
    assert_eq!((write(9, old[2]), write(3, new)), (Ok(()), Ok(())));
    let stale = space
        .audit(BASE + PAGE + 8, Access::WRITE, old[1].offset(8).expect("small"))
        .expect_err("denied");
    let expected = format!(
        "write at 0x700000001008 (privileged: false) used frame {:#x}, but the protection of the \
         page is r--",
        old[1].0 + 8
    );
    assert_eq!(stale.to_string(), expected);
}

// shows T2
#[test]
fn a_change_that_finds_nothing_left_to_take_waits_for_the_one_that_took_it() {
    let (space, watcher) = watched();
    space.map(BASE, 4 * PAGE, Protection::READ_WRITE);
    let frames: Vec<_> = (0..4).map(|page| frame_of(&space, page)).collect();
    let first = space.begin_unmap(BASE, 4 * PAGE);
    watcher.invalidated.lock().clear();
    space.unmap(BASE + PAGE, PAGE);
    assert_eq!(*watcher.invalidated.lock(), [pages(1, 1)], "its devices had to be asked, too");
    let audit = |page: u64| space.audit(BASE + page * PAGE, Access::WRITE, frames[page as usize]);
    assert_eq!(
        [0, 1, 2, 3].map(|page| audit(page).is_ok()),
        [true, false, true, true],
        "the first change excuses nothing there any more"
    );
    first.finish();
    assert_eq!([0, 1, 2, 3].map(|page| audit(page).is_ok()), [false; 4]);
}

// shows T2
#[test]
fn a_later_change_that_is_over_first_keeps_what_was_given_after_the_earlier_one() {
    let (space, _watcher) = watched();
    space.map(BASE, PAGE, Protection::READ_WRITE);
    let earlier = space.begin_unmap(BASE, PAGE);
    space.map(BASE, PAGE, Protection::READ_WRITE);
    let frame = frame_of(&space, 0);
    let later = space.begin_unmap(BASE, PAGE);
    earlier.finish();
    space.audit(BASE, Access::WRITE, frame).expect("the later change is not over");
    later.finish();
    space.audit(BASE, Access::WRITE, frame).expect_err("both are over");
}

// shows T2: a device may use the page by its old address until the move is over, whatever becomes
// of it at the new one
#[test]
fn a_frame_that_is_being_moved_to_another_address_is_not_freed_before_that_is_over() {
    let ends: [fn(&MemorySpace); 5] = [
        |space| space.unmap(BASE + PAGE, 2 * PAGE),
        |space| space.map(BASE + PAGE, 2 * PAGE, Protection::READ),
        |space| space.replace(BASE + PAGE, 2 * PAGE),
        |space| space.absent(BASE + PAGE, 2 * PAGE),
        |space| space.remap(BASE + 3 * PAGE, 2 * PAGE, BASE + PAGE),
    ];
    for (at, end) in ends.into_iter().enumerate() {
        let (space, _watcher) = watched();
        let handle = space.handle();
        // The second page comes together with one that is not being moved.
        space.map(BASE + 2 * PAGE, 3 * PAGE, Protection::READ_WRITE);
        space.map(BASE, PAGE, Protection::READ_WRITE);
        let (frame, beside) = (frame_of(&space, 0), frame_of(&space, 2));
        let moving = space.begin_remap(BASE, PAGE, BASE + PAGE);
        end(&space);
        assert_eq!(
            handle.read_frame(beside, &mut [0]),
            Err(NoSuchFrame(beside)),
            "{at}: the end is over"
        );
        handle.write_frame(frame, &[7; 8]).expect("the move is not over");
        space.audit(BASE, Access::WRITE, frame).expect("the move is not over");
        space.audit(BASE + PAGE, Access::WRITE, frame).expect_err("it leads there no more");
        moving.finish();
        assert_eq!(
            handle.read_frame(frame, &mut [0]),
            Err(NoSuchFrame(frame)),
            "{at}: it is freed now"
        );
        space.unmap(BASE, 5 * PAGE);
        assert_eq!(
            (space.frames(), space.changes_under_way(), space.shared.memory.read().stored()),
            (0, 0, 0),
            "{at}"
        );
    }
}

// shows T2
#[test]
fn a_frame_that_has_been_moved_twice_is_freed_when_both_moves_are_over() {
    for first in [0, 1] {
        let (space, _watcher) = watched();
        space.map(BASE, PAGE, Protection::READ_WRITE);
        let frame = frame_of(&space, 0);
        let mut moves = vec![
            space.begin_remap(BASE, PAGE, BASE + PAGE),
            space.begin_remap(BASE + PAGE, PAGE, BASE + 2 * PAGE),
        ];
        space.unmap(BASE + 2 * PAGE, PAGE);
        moves.remove(first).finish();
        let audit = |page: u64| space.audit(BASE + page * PAGE, Access::WRITE, frame).is_ok();
        assert_eq!([0, 1, 2].map(audit), [first == 1, first == 0, false], "one move is not over");
        drop(moves);
        assert_eq!(space.frames(), 0);
    }
}
