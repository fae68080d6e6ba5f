//! Single pages of a live process: translating and resolving them.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{PATIENCE, Page, Target, page, read, until, write};
use sva_core::ats::AlignedRange;
use sva_core::ats::Translation;
use sva_core::{Access, AddressSpace, Permissions, StopCause};
use sva_sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PAGE: u64 = 4096;
const READ: Permissions = Permissions::READ;
const WRITE: Permissions = Permissions::WRITE;
const MODES: [Access; 2] = [Access::READ, Access::WRITE];

#[track_caller]
fn assert_permits(space: &dyn AddressSpace, address: u64, permissions: Permissions) {
    let expected =
        Translation { range: AlignedRange::page(address), frame: None, permissions, global: false };
    assert_eq!(space.translate(address, false).expect("translates"), expected, "{address:#x}");
}

#[track_caller]
fn assert_stops<T: std::fmt::Debug>(result: Result<T, StopCause>, cause: &str) {
    assert_eq!(result.expect_err("stops").to_string(), cause);
}

#[test]
fn a_translation_says_what_the_mapping_permits_and_names_no_frame() {
    // shows T1, T2: what nobody is told the end of is not kept
    let mut target = Target::start("serve");
    let (at, readable, closed) =
        (target.map("private", PAGE), target.map("read", PAGE), target.map("none", PAGE));
    target.poke(at, PAGE, 1);
    let space = target.attach();
    for address in [at, at + 1, at + PAGE - 1] {
        assert_permits(&*space, address, Permissions::READ_WRITE);
    }
    assert_permits(&*space, readable, READ);
    // Where nothing is permitted, it does not matter whether the page is present.
    let empty = target.map("private", PAGE);
    target.ask(&format!("protect {empty:#x} {PAGE} none"));
    assert_permits(&*space, closed, Permissions::empty());
    assert_permits(&*space, empty, Permissions::empty());
    target.ask(&format!("protect {closed:#x} {PAGE} write-only"));
    assert_permits(&*space, closed, WRITE);
    target.ask(&format!("protect {at:#x} {PAGE} read"));
    assert_permits(&*space, at, READ);
    target.ask(&format!("unmap {at:#x} {PAGE}"));
    assert_stops(space.translate(at, false), "not mapped");
}

#[test]
fn a_translation_permits_neither_execution_nor_privileged_accesses() {
    // shows T1
    let target = Target::start("serve");
    let space = target.attach();
    let regions = space.regions().unwrap();
    let code = regions
        .iter()
        .find(|region| region.execute && region.read && region.name.ends_with("sva-host-target"))
        .unwrap();
    read(&*space, code.range.first(), 1).unwrap();
    assert_permits(&*space, code.range.first(), READ);
    assert_eq!(space.translate(target.canary, true).unwrap(), Translation::none(target.canary));
    let (execute, privileged) = (Access::EXECUTE, (Access::WRITE | Access::PRIVILEGED));
    for access in [execute, privileged] {
        assert_stops(space.resolve(code.range.first(), access), "denied");
        assert_stops(space.resolve(target.canary, access), "denied");
    }
}

#[test]
fn an_absent_page_is_brought_in_by_resolving_it_and_by_nothing_else() {
    // shows F4, T1
    let mut target = Target::start("serve");
    let space = target.attach();
    for (kind, access, after) in [
        ("private", Access::READ, Page::SHARED),
        ("private", Access::WRITE, Page::OWN),
        ("shared", Access::READ, Page::OWN),
        ("shared", Access::WRITE, Page::OWN),
    ] {
        let at = target.map(kind, 3 * PAGE);
        let middle = at + PAGE + 5;
        assert_stops(space.translate(middle, false), "not present");
        assert_eq!(page(target.pid(), middle), Page::ABSENT, "{kind}: looking brings nothing in");
        // It does not matter whether the access itself would have waited.
        space.resolve(middle, access.present_only()).unwrap();
        assert_eq!(page(target.pid(), middle), after, "{kind}, {}", access.kind());
        assert_permits(&*space, middle, Permissions::READ_WRITE);
        for neighbour in [at, at + 2 * PAGE] {
            assert_eq!(page(target.pid(), neighbour), Page::ABSENT, "{kind}");
        }
        assert_eq!(target.peek(at + PAGE, PAGE as usize), [0; PAGE as usize], "{kind}");
        // An access that does not wait succeeds now.
        let mut byte = [1];
        space
            .read(
                &[sva_core::Segment { address: middle, len: 1 }],
                &mut byte,
                Access::READ.present_only(),
            )
            .unwrap();
        assert_eq!(byte, [0]);
    }
}

#[test]
fn a_page_shared_with_a_child_is_copied_when_resolved_for_writing_and_keeps_its_bytes() {
    // shows T1, U8
    let mut target = Target::start("serve");
    let at = target.map("private", 2 * PAGE);
    target.poke(at, 2 * PAGE, 7);
    let space = target.attach();
    target.ask("fork");
    assert_eq!(page(target.pid(), at), Page::SHARED);
    space.resolve(at + 9, Access::WRITE).unwrap();
    assert_eq!((page(target.pid(), at), page(target.pid(), at + PAGE)), (Page::OWN, Page::SHARED));
    assert_eq!(target.peek(at, PAGE as usize), [7; PAGE as usize]);
    assert_eq!(target.ask(&format!("child peek {at:#x} 16")), "07".repeat(16));
}

#[test]
fn what_cannot_be_had_is_refused_as_the_access_would_be() {
    // shows F5, T1
    let mut target = Target::start("serve");
    let (readable, closed, hole) =
        (target.map("read", PAGE), target.map("none", PAGE), target.map("hole", 3 * PAGE));
    // Two pages are mapped over a file of one page, so the second has no page to give. The same
    // again where the process may only write.
    let (file, blind) = (target.map("file", 2 * PAGE), target.map("file", 2 * PAGE));
    target.ask(&format!("protect {blind:#x} {} write-only", 2 * PAGE));
    let space = target.attach();
    let kernel = space
        .regions()
        .unwrap()
        .iter()
        .find(|region| region.name == "[vvar]")
        .unwrap()
        .range
        .first();
    let denied = "denied";
    for (address, for_reading, for_writing) in [
        (readable, None, Some(denied)),
        (closed, Some(denied), Some(denied)),
        (hole + PAGE, Some("not mapped"), Some("not mapped")),
        (file, None, None),
        (file + PAGE, Some(denied), Some(denied)),
        (blind, Some(denied), None),
        (blind + PAGE, Some(denied), Some(denied)),
        (kernel, Some(denied), Some(denied)),
    ] {
        for (access, cause) in MODES.into_iter().zip([for_reading, for_writing]) {
            let resolved = space.resolve(address, access).map_err(|cause| cause.to_string());
            assert_eq!(
                resolved,
                cause.map_or(Ok(()), |cause| Err(cause.to_owned())),
                "{address:#x} for {}",
                access.kind()
            );
        }
        // The access itself says the same.
        let accessed = [read(&*space, address, 1).map(drop), write(&*space, address, &[0x5a])];
        let accessed = accessed.map(|result| result.err().map(|stopped| stopped.cause.to_string()));
        assert_eq!(
            accessed,
            [for_reading, for_writing].map(|cause| cause.map(str::to_owned)),
            "{address:#x}"
        );
    }
    assert_stops(space.translate(file + PAGE, false), "not present");
    assert_eq!(target.peek(readable, 4), [0x5a; 4]);
}

#[test]
fn addresses_that_are_nobodys_have_no_translation_and_no_page() {
    // shows F5, S2
    let target = Target::start("serve");
    let space = target.attach();
    for address in [
        0,
        1,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        1 << 62,
        (1 << 63) - 1,
        1 << 63,
        0xffff_ffff_ff60_0000,
        u64::MAX,
    ] {
        for privileged in [false, true] {
            assert_stops(space.translate(address, privileged), "not mapped");
        }
        for access in MODES {
            assert_stops(space.resolve(address, access), "not mapped");
        }
    }
}

#[test]
fn resolving_for_writing_undoes_no_write_of_the_process() {
    // shows T1, F4
    const TIMES: u64 = 300_000;
    let mut target = Target::start("serve");
    let space = target.attach();
    let (mut round, mut resolved, begin) = (0, 0, Instant::now());
    while round < 20 || resolved < 1000 {
        assert!(begin.elapsed() < PATIENCE, "{resolved} times: no race");
        let at = target.map(if round % 4 == 3 { "shared" } else { "private" }, PAGE);
        target.poke(at, 8, 0);
        if round % 4 == 0 {
            // The page is copied while the process counts, by whoever writes first.
            target.ask("fork");
        }
        target.tell(&format!("increment {at:#x} {TIMES}"));
        let over = AtomicBool::new(false);
        let counted = std::thread::scope(|scope| {
            let resolving = scope.spawn(|| {
                let mut times = 0;
                while !over.load(Ordering::SeqCst) {
                    space.resolve(at, Access::WRITE).unwrap();
                    times += 1;
                }
                times
            });
            let counted = target.answer();
            over.store(true, Ordering::SeqCst);
            resolved += resolving.join().unwrap();
            counted
        });
        assert_eq!(counted, format!("counted {TIMES}"), "round {round}");
        round += 1;
    }
}

#[test]
fn a_page_that_is_thrown_away_again_and_again_is_never_refused() {
    // shows F5: a mapping that permissions it has pages to give
    let mut target = Target::start("serve");
    let at = target.map("private", PAGE);
    let space = target.attach();
    for _ in 0..50 {
        target.tell(&format!("discard-loop {at:#x} 2000"));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    MODES.iter().for_each(|&access| space.resolve(at, access).unwrap());
                }
            });
            assert_eq!(target.answer(), "done");
            over.store(true, Ordering::SeqCst);
        });
    }
}

#[test]
fn an_ended_space_resolves_nothing_of_the_image_that_came_after_it() {
    // shows U4, U7, F5
    for command in ["exec", "exec-by-thread", "exit"] {
        let mut target = Target::start("fixed");
        let space = target.attach();
        let at = target.canary;
        space.resolve(at, Access::READ).unwrap();
        assert_permits(&*space, at, Permissions::READ_WRITE);
        target.tell(command);
        let image = (command != "exit").then(|| target.ready());
        until("ended", || space.ended().is_some());
        let before = image.map(|canary| (canary == at, page(target.pid(), at)));
        for access in MODES {
            assert_stops(space.resolve(at, access), "the address space has ended");
        }
        assert_stops(space.translate(at, false), "the address space has ended");
        assert_stops(space.translate(1 << 63, true), "the address space has ended");
        let after = image.map(|canary| (canary == at, page(target.pid(), at)));
        assert_eq!(before, after);
        assert!(before.is_none_or(|(same, _)| same), "the same address in both images");
    }
}

#[test]
fn a_killed_anchor_is_an_end_to_who_resolves_before_anybody_noticed() {
    // shows U4
    let target = Target::start("serve");
    for access in [None, Some(Access::READ), Some(Access::WRITE)] {
        let space = target.attach();
        space.resolve(target.canary, Access::READ).unwrap();
        let text = format!("{space:?}");
        let anchor: i32 = text
            .split("anchor: Some(")
            .nth(1)
            .and_then(|rest| rest.split(')').next()?.parse().ok())
            .expect("its number");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(anchor).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        let look = || match access {
            None => space.translate(target.canary, false).map(drop),
            Some(access) => space.resolve(target.canary, access),
        };
        until("ended", || match look() {
            Ok(()) => false,
            Err(StopCause::Ended) => true,
            Err(cause) => panic!("{cause}"),
        });
        assert!(space.ended().is_some(), "who saw the end has declared it");
    }
}

#[test]
fn a_resolve_that_waits_keeps_nobody_waiting_and_no_process_alive() {
    // shows F4, S3, U4
    let mut stuck = Target::start("serve");
    // The page is read-only until the process is attached: an attach searches read-only pages.
    let Some(at) = stuck.unanswered() else { return };
    let space = stuck.attach();
    stuck.ask(&format!("protect {at:#x} {PAGE} write"));
    let (sender, results) = std::sync::mpsc::channel();
    for access in MODES {
        let (space, sender) = (space.clone(), sender.clone());
        std::thread::spawn(move || {
            drop(sender.send(space.resolve(at, access).map_err(|cause| cause.to_string())))
        });
    }
    assert!(results.recv_timeout(Duration::from_millis(100)).is_err(), "both wait");
    // Translating does not.
    assert_stops(space.translate(at, false), "not present");
    let mut other = Target::start("serve");
    let absent = other.map("private", PAGE);
    other.attach().resolve(absent, Access::WRITE).unwrap();
    let watcher = support::Witness::of(&space);
    drop(stuck);
    // The end is announced while they may still be in the call, and they return.
    watcher.end();
    for _ in MODES {
        // With or without the page: a call that began before the end may have resolved it.
        let _ = results.recv_timeout(PATIENCE).expect("it comes back");
    }
    assert_stops(space.resolve(at, Access::READ), "the address space has ended");
}

#[test]
fn our_own_pages_are_resolved_under_our_own_writes() {
    // shows T1, F4
    const TIMES: u64 = 2_000_000;
    let own = std::process::id();
    let space = support::attach(own);
    // So large that the allocator maps it separately and nobody has touched it.
    let numbers: Arc<[AtomicU64]> = std::iter::repeat_with(AtomicU64::default).take(1).collect();
    let fresh = vec![0_u8; 4 << 20];
    let (at, middle) = (numbers.as_ptr() as u64, fresh.as_ptr() as u64 + (2 << 20));
    assert_eq!(page(own, middle), Page::ABSENT);
    assert_stops(space.translate(middle, false), "not present");
    space.resolve(middle, Access::WRITE).unwrap();
    assert_eq!(page(own, middle), Page::OWN);
    assert_permits(&*space, middle, Permissions::READ_WRITE);
    assert!(fresh.iter().all(|&byte| byte == 0));
    let counting = std::thread::spawn({
        let numbers = numbers.clone();
        move || {
            (0..TIMES).for_each(|_| {
                numbers[0].store(numbers[0].load(Ordering::Relaxed) + 1, Ordering::Relaxed)
            })
        }
    });
    while !counting.is_finished() {
        MODES.iter().for_each(|&access| space.resolve(at, access).unwrap());
    }
    counting.join().unwrap();
    assert_eq!(numbers[0].load(Ordering::Relaxed), TIMES);
    assert_stops(space.resolve(1 << 40, Access::WRITE), "not mapped");
}
