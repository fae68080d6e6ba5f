//! Each operation against a plain computation.

use proptest::prelude::*;
use sva_devices::{Descriptor, Flags, Status};
use sva_testkit::PAGE;

use crate::rig::{BASE, Rig, noise};

const PAGES: u64 = 6;
const SIZE: usize = (PAGES * PAGE) as usize;

/// Two places and a length, all inside the memory, often close together.
fn two_places() -> impl Strategy<Value = (usize, usize, usize)> {
    (1..3 * PAGE as usize).prop_flat_map(|len| (0..SIZE - len, 0..SIZE - len, Just(len)))
}

fn ok(completion: &sva_devices::Completion, bytes: usize) -> Result<(), TestCaseError> {
    prop_assert!(completion.is_success(), "{}", completion.record);
    prop_assert_eq!(completion.record.bytes_completed.get() as usize, bytes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 200 }))]

    // shows T5: overlapping buffers included
    #[test]
    fn a_move_is_a_memmove((source, destination, len) in two_places(), seed: u64) {
        let rig = Rig::new(PAGES);
        let mut memory = rig.scribble(0, SIZE, seed);
        let (from, to) = (BASE + source as u64, BASE + destination as u64);
        let completion = rig.run(Descriptor::memory_move(from, to, len as u32));
        ok(&completion, len)?;
        let goes_backward = source < destination && destination < source + len;
        prop_assert_eq!(completion.record.result, u8::from(goes_backward));
        memory.copy_within(source..source + len, destination);
        prop_assert!(rig.space.peek(BASE, SIZE) == memory);
    }

    // shows T5
    #[test]
    fn a_fill_repeats_its_pattern(
        at in 0..SIZE / 2, len in 1..SIZE / 2, pattern: [u8; 8], seed: u64,
    ) {
        let rig = Rig::new(PAGES);
        let mut memory = rig.scribble(0, SIZE, seed);
        ok(&rig.run(Descriptor::fill(pattern, BASE + at as u64, len as u32)), len)?;
        for (byte, pattern) in memory[at..at + len].iter_mut().zip(pattern.iter().cycle()) {
            *byte = *pattern;
        }
        prop_assert!(rig.space.peek(BASE, SIZE) == memory);
    }

    // shows T5
    #[test]
    fn a_compare_finds_the_first_difference(
        len in 1..2 * PAGE as usize,
        at in 0usize..40,
        changed in proptest::option::of(0..2 * PAGE as usize),
        seed: u64,
    ) {
        let rig = Rig::new(PAGES);
        let (first, second) = (at as u64, 3 * PAGE + 7);
        let mut bytes = rig.scribble(first, len, seed);
        let changed = changed.filter(|changed| *changed < len);
        changed.into_iter().for_each(|changed| bytes[changed] ^= 0x40);
        rig.space.poke(BASE + second, &bytes);
        let completion = rig.run(Descriptor::compare(BASE + first, BASE + second, len as u32));
        ok(&completion, changed.unwrap_or(len))?;
        prop_assert_eq!(completion.record.result, u8::from(changed.is_some()));
    }

    // shows T5
    #[test]
    fn a_compare_with_a_pattern_finds_the_first_difference(
        len in 1..2 * PAGE as usize,
        at in 0usize..40,
        changed in proptest::option::of(0..2 * PAGE as usize),
        pattern: [u8; 8],
    ) {
        let rig = Rig::new(PAGES);
        let mut bytes: Vec<u8> = pattern.iter().copied().cycle().take(len).collect();
        let changed = changed.filter(|changed| *changed < len);
        changed.into_iter().for_each(|changed| bytes[changed] ^= 1);
        let source = BASE + at as u64;
        rig.space.poke(source, &bytes);
        let completion = rig.run(Descriptor::compare_pattern(source, pattern, len as u32));
        ok(&completion, changed.unwrap_or(len))?;
        prop_assert_eq!(completion.record.result, u8::from(changed.is_some()));
    }

    // shows T5
    #[test]
    fn a_dualcast_writes_both_destinations(len in 1..PAGE as usize, offset in 0..PAGE, seed: u64) {
        let rig = Rig::new(PAGES);
        let bytes = rig.scribble(0, len, seed);
        let (first, second) = (BASE + PAGE + offset, BASE + 3 * PAGE + offset);
        ok(&rig.run(Descriptor::dualcast(BASE, first, second, len as u32)), len)?;
        prop_assert!(rig.space.peek(first, len) == bytes && rig.space.peek(second, len) == bytes);
    }

    // shows T5
    #[test]
    fn a_copy_with_crc_copies_and_sums(
        len in 1..2 * PAGE as usize,
        seed: u64,
        before in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let rig = Rig::new(PAGES);
        let bytes = rig.scribble(5, len, seed);
        let start = crc32c::crc32c(&before);
        let copy = Descriptor::copy_crc(BASE + 5, BASE + 3 * PAGE, len as u32, start);
        let completion = rig.run(copy);
        ok(&completion, len)?;
        prop_assert_eq!(completion.record.crc(), crc32c::crc32c(&[&before[..], &bytes].concat()));
        prop_assert!(rig.space.peek(BASE + 3 * PAGE, len) == bytes);
    }

    // shows T5: what create wrote down, apply repeats
    #[test]
    fn a_delta_turns_the_first_buffer_into_the_second(
        units in 1usize..1024,
        edits in proptest::collection::vec((0usize..8192, any::<u8>()), 0..60),
        seed: u64,
    ) {
        let len = units * 8;
        let rig = Rig::new(12);
        let (first, second, record) = (BASE, BASE + 2 * PAGE, BASE + 4 * PAGE + 3);
        let before = rig.scribble(0, len, seed);
        let mut after = before.clone();
        edits.iter().filter(|(at, _)| *at < len).for_each(|(at, byte)| after[*at] = *byte);
        rig.space.poke(second, &after);
        let created = rig.run(Descriptor::create_delta(first, second, len as u32, record, 10240));
        ok(&created, len)?;
        let changed = before.chunks(8).zip(after.chunks(8)).filter(|(a, b)| a != b).count();
        prop_assert_eq!(created.record.delta_record_size() as usize, changed * 10);
        prop_assert_eq!(created.record.result, u8::from(changed > 0));
        if changed > 0 {
            let size = changed * 10;
            let apply = Descriptor::apply_delta(record, size as u32, first, len as u32);
            ok(&rig.run(apply), size)?;
        }
        prop_assert!(rig.space.peek(first, len) == after);
    }
}

// shows T5
#[test]
fn the_crc_of_the_check_string_is_that_of_the_catalogue() {
    let rig = Rig::new(1);
    rig.space.poke(BASE + 100, b"123456789");
    let whole = rig.run(Descriptor::crc(BASE + 100, 9, 0));
    assert!(whole.is_success());
    assert_eq!(whole.record.crc(), 0xe306_9283);
    let head = rig.run(Descriptor::crc(BASE + 100, 4, 0)).record.crc();
    rig.space.poke(BASE + 200, &head.to_le_bytes());
    let rest = rig.run(Descriptor::crc(BASE + 104, 5, 0).seed_from(BASE + 200));
    assert_eq!(rest.record.crc(), 0xe306_9283, "a CRC is the seed of what follows");
}

// shows T5
#[test]
fn a_delta_record_that_is_full_says_so_and_how_far_it_goes() {
    let rig = Rig::new(8);
    let after = noise(2 * PAGE as usize, 7);
    rig.space.poke(BASE + 2 * PAGE, &after);
    let (record, max) = (BASE + 4 * PAGE, 90);
    let create = Descriptor::create_delta(BASE, BASE + 2 * PAGE, 2 * PAGE as u32, record, max);
    let created = rig.run(create);
    assert_eq!((created.record.status, created.record.result), (Status::SUCCESS, 2));
    assert_eq!(
        (created.record.delta_record_size(), created.record.bytes_completed.get()),
        (90, 72)
    );
    assert_eq!(rig.space.peek(record + 90, 10), [0; 10], "nothing past the record");
    let applied = rig.run(Descriptor::apply_delta(record, 90, BASE, 2 * PAGE as u32));
    assert!(applied.is_success());
    assert_eq!(rig.space.peek(BASE, 80), [&after[..72], &[0; 8]].concat());
    for (mask, status) in [
        (0b100, Status::SUCCESS),
        (0b011, Status::SUCCESS_FALSE_PREDICATE),
        (0, Status::SUCCESS_FALSE_PREDICATE),
    ] {
        rig.run(Descriptor::fill([0; 8], BASE, 80));
        assert_eq!(rig.run(create.expect_delta(mask)).record.status, status, "mask {mask:#05b}");
    }
}

// shows S2: a record that was not made by create
#[test]
fn a_delta_record_is_applied_up_to_the_entry_that_breaks_the_rules() {
    let entry = |unit: u16, byte: u8| [&unit.to_le_bytes()[..], &[byte; 8]].concat();
    for (units, applied, status) in [
        ([1, 3, 3], 2, Status::DELTA_OFFSET_ORDER),
        ([5, 4, 6], 1, Status::DELTA_OFFSET_ORDER),
        ([2, 512, 513], 1, Status::DELTA_OFFSET_RANGE),
        ([0, 510, 0xffff], 2, Status::DELTA_OFFSET_RANGE),
    ] {
        let rig = Rig::new(3);
        let record: Vec<u8> = units.iter().flat_map(|unit| entry(*unit, 9)).collect();
        rig.space.poke(BASE, &record);
        let completion = rig.run(Descriptor::apply_delta(BASE, 30, BASE + PAGE, PAGE as u32));
        assert_eq!(
            (completion.record.status, completion.record.bytes_completed.get()),
            (status, applied * 10)
        );
        let changed: usize = rig
            .space
            .peek(BASE + PAGE, 2 * PAGE as usize)
            .iter()
            .filter(|byte| **byte == 9)
            .count();
        assert_eq!(changed as u32, applied * 8);
    }
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn an_unexpected_result_is_a_success_with_a_false_predicate() {
    let rig = Rig::new(2);
    rig.space.poke(BASE + PAGE, &[1]);
    let compare = Descriptor::compare(BASE, BASE + PAGE, 16);
    let pattern = Descriptor::compare_pattern(BASE + PAGE, [0; 8], 16);
    for (descriptor, wanted, status) in [
        (compare, 1, Status::SUCCESS),
        (compare, 0, Status::SUCCESS_FALSE_PREDICATE),
        (pattern, 1, Status::SUCCESS),
        (pattern, 0, Status::SUCCESS_FALSE_PREDICATE),
    ] {
        assert_eq!(rig.run(descriptor.expect_result(wanted)).record.status, status);
    }
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn hints_are_accepted_and_change_nothing() {
    let rig = Rig::new(2);
    let bytes = rig.scribble(0, 64, 3);
    let hints = Flags::new()
        .with_cache_control(true)
        .with_address_1_class(true)
        .with_address_2_class(true)
        .with_strict_ordering(true)
        .with_destination_readback(true)
        .with_destination_steering(true)
        .with_completion_class(true)
        .with_completion_steering(true);
    assert!(rig.run(Descriptor::memory_move(BASE, BASE + PAGE, 64).with_flags(hints)).is_success());
    assert_eq!(rig.space.peek(BASE + PAGE, 64), bytes);
}

// shows T5
#[test]
fn export_and_import_move_bytes_between_the_process_and_the_device() {
    let rig = Rig::new(1300);
    let bytes = rig.scribble(11, 5 << 20, 5);
    let mut local = vec![0; bytes.len()];
    let mut seen = Vec::new();
    rig.mover
        .export(rig.pasid, BASE + 11, &mut local, &mut |done| seen.push(done))
        .expect("all of it is mapped");
    assert!(local == bytes);
    assert_eq!(seen.last(), Some(&(bytes.len() as u64)));
    assert!(seen.is_sorted() && seen.len() > 1, "progress is reported on the way: {seen:?}");
    let last = BASE + 1300 * PAGE - 100;
    let error =
        rig.mover.import(rig.pasid, last, &[7; 150], &mut |_| ()).expect_err("the memory ends");
    assert_eq!((error.done, rig.space.peek(last, 100)), (100, vec![7; 100]));
}
