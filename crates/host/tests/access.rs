//! Reading and writing the memory of a live process.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod support;

use std::io::Read;

use support::{Target, read, write};
use sva_core::{Access, AddrRange, AddressSpace, Segment, StopCause, Stopped};
use sva_host::Unusable;

const PAGE: u64 = 4096;

fn piece(address: u64, len: u64) -> Segment {
    Segment { address, len }
}

#[track_caller]
fn assert_stopped(result: Result<(), Stopped>, done: u64, cause: &str) {
    let stopped = result.expect_err("stops");
    assert_eq!((stopped.done, stopped.cause.to_string().as_str()), (done, cause));
}

#[test]
fn a_device_reads_and_writes_what_the_process_itself_sees() {
    // shows T1
    let mut target = Target::start("serve");
    let at = target.map("private", 1 << 20);
    let space = target.attach();
    target.poke(at, PAGE, 7);
    assert_eq!(read(&*space, at, 16).unwrap(), [7; 16]);
    write(&*space, at + 100, b"hello").unwrap();
    assert_eq!(target.peek(at + 100, 5), b"hello");
    // The process has never touched these pages; read and write them both.
    assert_eq!(read(&*space, at + (1 << 19), 8).unwrap(), [0; 8]);
    write(&*space, at + (1 << 19) + PAGE, b"fresh").unwrap();
    assert_eq!(target.peek(at + (1 << 19) + PAGE, 5), b"fresh");
}

#[test]
fn a_page_that_the_process_may_not_write_is_not_written() {
    // shows T1
    let mut target = Target::start("serve");
    let (readable, closed) = (target.map("read", PAGE), target.map("none", PAGE));
    let space = target.attach();
    assert_eq!(read(&*space, readable, 4).unwrap(), [0x5a; 4]);
    assert_stopped(write(&*space, readable, b"no"), 0, "denied");
    assert_stopped(write(&*space, closed, b"no"), 0, "denied");
    assert_stopped(read(&*space, closed, 4).map(drop), 0, "denied");
    assert_eq!(target.peek(readable, 4), [0x5a; 4]);
    target.ask(&format!("protect {closed:#x} {PAGE} write"));
    assert_eq!(target.peek(closed, 4), [0x5a; 4]);
    // The device has the permissions that the process has now, no more and no less.
    write(&*space, closed, b"yes").unwrap();
    target.ask(&format!("protect {closed:#x} {PAGE} read"));
    assert_stopped(write(&*space, closed, b"no"), 0, "denied");
    assert_eq!(target.peek(closed, 3), b"yes");
}

#[test]
fn code_of_the_process_is_not_written() {
    // shows T1
    let target = Target::start("serve");
    let space = target.attach();
    let regions = space.regions().unwrap();
    let code = regions
        .iter()
        .find(|region| region.execute && region.read && region.name.ends_with("sva-host-target"))
        .unwrap();
    assert_stopped(write(&*space, code.range.first(), &[0xcc]), 0, "denied");
    assert_eq!(code.unusable(Access::WRITE), Some(Unusable::NotWritable));
    assert_eq!(code.unusable(Access::READ), None);
}

#[test]
fn a_hole_stops_an_access_at_its_exact_byte() {
    // shows T5
    let mut target = Target::start("serve");
    let at = target.map("hole", 3 * PAGE);
    let space = target.attach();
    for before in [1, 2, 100, PAGE - 1, PAGE] {
        let from = at + PAGE - before;
        let data = vec![0xab; 2 * PAGE as usize];
        assert_stopped(write(&*space, from, &data), before, "not mapped");
        assert_eq!(target.peek(from, before as usize), vec![0xab; before as usize]);
        let mut buf = vec![0; data.len()];
        assert_stopped(
            space.read(&[piece(from, buf.len() as u64)], &mut buf, Access::READ),
            before,
            "not mapped",
        );
        assert!(
            buf[..before as usize].iter().all(|&byte| byte == 0xab)
                && buf[before as usize..].iter().all(|&byte| byte == 0)
        );
    }
    // Many pages, so that the kernel needs several steps.
    let big = target.map("private", 64 * PAGE);
    target.ask(&format!("unmap {:#x} {PAGE}", big + 63 * PAGE));
    assert_stopped(
        write(&*space, big + 10, &vec![1; 64 * PAGE as usize]),
        63 * PAGE - 10,
        "not mapped",
    );
}

#[test]
fn the_pieces_of_a_gather_are_counted_in_order() {
    // shows T5
    let mut target = Target::start("serve");
    let at = target.map("hole", 3 * PAGE);
    let space = target.attach();
    let pieces = [
        piece(at + 2 * PAGE, 10),
        piece(at + 5, 0),
        piece(at, 20),
        piece(at + PAGE - 3, 8),
        piece(at, 100),
    ];
    let total: u64 = pieces.iter().map(|piece| piece.len).sum();
    let data: Vec<u8> = (0..total as u8).collect();
    assert_stopped(space.write(&pieces, &data, Access::WRITE), 33, "not mapped");
    assert_eq!(target.peek(at + 2 * PAGE, 11), [&data[..10], &[0]].concat());
    assert_eq!(target.peek(at, 21), [&data[10..30], &[0]].concat(), "the last piece was not begun");
    assert_eq!(target.peek(at + PAGE - 3, 3), &data[30..33]);
}

#[test]
fn gathers_of_more_pieces_than_one_call_takes_are_whole() {
    // shows T5
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut target = Target::start("serve");
    let length = 1 << 20;
    let at = target.map("private", length);
    let space = target.attach();
    let image: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    write(&*space, at, &image).unwrap();
    for count in [1, 2, 1023, 1024, 1025, 5000] {
        let pieces: Vec<Segment> = (0..count)
            .map(|_| {
                let from = random.u64(..length);
                piece(at + from, random.u64(..200).min(length - from))
            })
            .collect();
        let expected: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| &image[(piece.address - at) as usize..][..piece.len as usize])
            .copied()
            .collect();
        let mut buf = vec![0; expected.len()];
        space.read(&pieces, &mut buf, Access::READ).unwrap();
        assert!(buf == expected, "{count} pieces, seed {seed}");
    }
}

#[test]
fn addresses_that_are_nobodys_are_not_mapped() {
    // shows T1, S2
    let target = Target::start("serve");
    let space = target.attach();
    for address in [
        0,
        1,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        1 << 62,
        1 << 63,
        0xffff_8000_0000_0000,
        0xffff_ffff_ff60_0000,
        u64::MAX - 7,
    ] {
        assert_stopped(read(&*space, address, 8).map(drop), 0, "not mapped");
        assert_stopped(write(&*space, address, &[0; 8]), 0, "not mapped");
    }
    // Also in the middle of a gather, and for no bytes at all.
    let pieces = [piece(target.canary, 4), piece(1 << 63, 4), piece(target.canary, 4)];
    assert_stopped(space.read(&pieces, &mut [0; 12], Access::READ), 4, "not mapped");
    space.read(&[], &mut [], Access::READ).unwrap();
    space.write(&[piece(1 << 63, 0), piece(0, 0)], &[], Access::WRITE).unwrap();
}

#[test]
fn execute_and_privileged_requests_are_denied() {
    // shows T1
    let target = Target::start("serve");
    let space = target.attach();
    let at = piece(target.canary, 4);
    for access in [Access::EXECUTE, (Access::READ | Access::PRIVILEGED)] {
        assert_stopped(space.read(&[at], &mut [0; 4], access), 0, "denied");
    }
    let capabilities = space.capabilities();
    assert!(
        !capabilities.execute
            && !capabilities.privileged
            && !capabilities.synchronous
            && !capabilities.atomics
            && capabilities.page_faults
    );
}

#[test]
fn parent_and_child_do_not_see_each_others_private_writes() {
    // shows U8
    let mut target = Target::start("serve");
    let (private, shared) = (target.map("private", PAGE), target.map("shared", PAGE));
    target.poke(private, 4, 1);
    target.poke(shared, 4, 1);
    let space = target.attach();
    let child: u32 = target.ask("fork").parse().unwrap();
    // The device breaks copy-on-write, then the child does. Neither sees the other's bytes.
    write(&*space, private, &[2; 4]).unwrap();
    write(&*space, shared, &[3; 4]).unwrap();
    assert_eq!(target.ask(&format!("child peek {private:#x} 4")), "01010101");
    assert_eq!(target.ask(&format!("child peek {shared:#x} 4")), "03030303");
    target.ask(&format!("child poke {private:#x} 4 4"));
    target.ask(&format!("child poke {shared:#x} 2 5"));
    assert_eq!(read(&*space, private, 4).unwrap(), [2; 4]);
    assert_eq!(read(&*space, shared, 4).unwrap(), [5, 5, 3, 3]);
    assert_eq!(target.peek(private, 4), [2; 4]);
    // The child is a space of its own.
    let its = support::attach(child);
    assert_ne!(its.id(), space.id());
    write(&*its, private, &[6; 4]).unwrap();
    assert_eq!(target.ask(&format!("child peek {private:#x} 4")), "06060606");
    assert_eq!(target.peek(private, 4), [2; 4]);
}

#[test]
fn a_page_that_is_absent_stops_an_access_that_does_not_wait_for_it() {
    // shows T5
    let mut target = Target::start("serve");
    let (at, hole) = (target.map("private", 16 * PAGE), target.map("hole", 3 * PAGE));
    let space = target.attach();
    target.poke(at, 2 * PAGE, 1);
    let (reading, writing) = (Access::READ.present_only(), Access::WRITE.present_only());
    let mut buf = vec![0; 4 * PAGE as usize];
    assert_stopped(
        space.read(&[piece(at + 8, buf.len() as u64)], &mut buf, reading),
        2 * PAGE - 8,
        "not present",
    );
    assert_eq!(buf[2 * PAGE as usize - 9..][..2], [1, 0]);
    assert_stopped(
        space.write(&[piece(at + PAGE, 3 * PAGE)], &[9; 3 * PAGE as usize], writing),
        PAGE,
        "not present",
    );
    assert_eq!(target.peek(at + 2 * PAGE - 1, 1), [9]);
    // Pieces before it are done; one after it is not.
    let pieces = [piece(at, 8), piece(at + 3 * PAGE, 8), piece(at, 8)];
    assert_stopped(space.read(&pieces, &mut [0; 24], reading), 8, "not present");
    // Resolving it makes it present.
    read(&*space, at + 2 * PAGE, 1).unwrap();
    space.read(&[piece(at, 2 * PAGE + 5)], &mut buf[..2 * PAGE as usize + 5], reading).unwrap();
    // Where no page can be present, the cause is the mapping's.
    assert_stopped(space.read(&[piece(hole + PAGE, 8)], &mut [0; 8], reading), 0, "not mapped");
    let closed = target.map("none", PAGE);
    assert_stopped(space.read(&[piece(closed, 8)], &mut [0; 8], reading), 0, "denied");
    let readable = target.map("read", PAGE);
    assert_stopped(space.write(&[piece(readable, 8)], &[0; 8], writing), 0, "denied");
}

#[test]
fn a_mapping_without_a_page_behind_it_ends_the_access_and_does_not_hang() {
    // shows T1
    let mut target = Target::start("serve");
    let at = target.map("file", 2 * PAGE);
    let space = target.attach();
    assert_stopped(write(&*space, at + PAGE - 4, &[1; 8]), 4, "denied");
    let regions = space.regions().unwrap();
    let kernel = regions.iter().find(|region| region.name == "[vvar]").unwrap();
    assert_eq!(kernel.unusable(Access::READ), Some(Unusable::NotMemory));
    assert_stopped(read(&*space, kernel.range.first(), 8).map(drop), 0, "denied");
}

#[test]
fn what_regions_says_is_what_a_device_gets() {
    // shows T1
    let mut target = Target::start("serve");
    for kind in ["read", "none", "hole", "shared"] {
        target.map(kind, 3 * PAGE);
    }
    let space = target.attach();
    let regions = sva_host::regions(target.pid()).unwrap();
    assert_eq!(regions, space.regions().unwrap());
    for region in &regions {
        let got = read(&*space, region.range.first(), 1);
        assert_eq!(got.is_ok(), region.unusable(Access::READ).is_none(), "{region:?}: {got:?}");
        // The same byte is written back, so that the process does not change.
        let byte = got.unwrap_or_else(|_| vec![0]);
        let put = write(&*space, region.range.first(), &byte);
        assert_eq!(put.is_ok(), region.unusable(Access::WRITE).is_none(), "{region:?}: {put:?}");
    }
    let stack = sva_host::find_region(&regions, "[stack]").unwrap();
    assert!(stack.write && !stack.shared);
    assert!(sva_host::find_region(&regions, "sva-host-target#0").unwrap().read);
}

#[test]
fn windows_that_cover_memory_are_told() {
    // shows B7
    let mut target = Target::start("serve");
    let at = target.map("hole", 3 * PAGE);
    let space = target.attach();
    let window = |first, last| AddrRange::inclusive(first, last).unwrap();
    let found = space.mapped_within(&[window(at, at + 3 * PAGE - 1)]).unwrap();
    assert_eq!(found, [window(at, at + PAGE - 1), window(at + 2 * PAGE, at + 3 * PAGE - 1)]);
    assert_eq!(
        space.mapped_within(&[window(at + 10, at + 20)]).unwrap(),
        [window(at + 10, at + 20)]
    );
    assert_eq!(
        space
            .mapped_within(&[window(at + PAGE, at + 2 * PAGE - 1), window(1 << 63, u64::MAX - 1)])
            .unwrap()
            .len(),
        0
    );
    assert!(space.mapped_within(&[window(0, u64::MAX)]).unwrap().len() > 10);
}

#[test]
fn mappings_that_cannot_be_seen_are_an_error() {
    // shows S2
    use sva_host::RegionsError;
    assert!(matches!(sva_host::regions(u32::MAX), Err(RegionsError::NoSuchProcess { .. })));
    assert!(matches!(sva_host::regions(0), Err(RegionsError::NoSuchProcess { .. })));
    let mut target = Target::start("serve");
    target.tell("exit");
    support::until("a zombie", || target.status("State").starts_with('Z'));
    assert!(matches!(sva_host::regions(target.pid()), Err(RegionsError::NoMemory { .. })));
    let mut gone = std::process::Command::new(env!("CARGO_BIN_EXE_sva-host-target"))
        .arg("exit")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    gone.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    gone.wait().unwrap();
    assert!(matches!(sva_host::regions(gone.id()), Err(RegionsError::NoSuchProcess { .. })));
}

#[test]
fn an_ended_space_says_so_rather_than_not_mapped() {
    // shows U4, F5
    let mut target = Target::start("serve");
    let space = target.attach();
    let at = target.canary;
    target.child.kill().unwrap();
    target.child.wait().unwrap();
    support::until("ended", || {
        matches!(read(&*space, at, 1), Err(Stopped { cause: StopCause::Ended, .. }))
    });
    assert!(space.ended().is_some());
}
