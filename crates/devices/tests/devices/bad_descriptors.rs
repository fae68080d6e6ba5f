//! Descriptors that no driver would write.

use proptest::prelude::*;
use sva_core::{Access, AddrRange};
use sva_devices::{Descriptor, Flags, Opcode, Status};
use sva_testkit::PAGE;

use crate::rig::{BASE, Rig, page_by_page};

const FAR: u64 = BASE + 4 * PAGE;

/// A valid descriptor of each operation but batches.
fn valid() -> Vec<Descriptor> {
    vec![
        Descriptor::no_op(),
        Descriptor::memory_move(BASE, FAR, 64),
        Descriptor::fill([1; 8], BASE, 64),
        Descriptor::compare(BASE, FAR, 64),
        Descriptor::compare_pattern(BASE, [0; 8], 64),
        Descriptor::create_delta(BASE, FAR, 64, BASE + PAGE, 80),
        Descriptor::apply_delta(BASE + 2 * PAGE, 10, FAR, 64),
        Descriptor::dualcast(BASE, FAR, FAR + PAGE, 64),
        Descriptor::crc(BASE, 64, 0),
        Descriptor::copy_crc(BASE, FAR, 64, 0),
    ]
}

fn altered(descriptor: Descriptor, change: impl FnOnce(&mut Descriptor)) -> Descriptor {
    let mut descriptor = descriptor;
    change(&mut descriptor);
    descriptor
}

fn status(rig: &Rig, descriptor: Descriptor) -> Status {
    rig.run(descriptor).record.status
}

// shows S2: reserved bits are rejected, not dropped
#[test]
fn reserved_fields_and_flags_are_rejected() {
    let rig = Rig::new(8);
    for descriptor in valid() {
        let name = descriptor.opcode;
        assert_eq!(status(&rig, descriptor), Status::SUCCESS, "{name}");
        let owner = |bits: u32| altered(descriptor, |descriptor| descriptor.owner = bits.into());
        assert_eq!(status(&rig, owner(1 << 20)), Status::RESERVED_FIELD, "{name}");
        assert_eq!(status(&rig, owner(1 << 31)), Status::PRIVILEGE, "{name}");
        assert_eq!(
            status(&rig, owner(0xf_ffff)),
            Status::SUCCESS,
            "{name}: the submission's PASID counts"
        );
        assert_eq!(
            status(&rig, altered(descriptor, |descriptor| descriptor.interrupt = 1.into())),
            Status::RESERVED_FIELD,
            "{name}"
        );
        assert_eq!(
            status(&rig, altered(descriptor, |descriptor| descriptor.operands[23] = 1)),
            Status::RESERVED_FIELD,
            "{name}"
        );
        let mut bytes: [u8; 64] = zerocopy::transmute!(descriptor);
        bytes[39] = 1;
        assert_eq!(status(&rig, bytes.into()), Status::RESERVED_FIELD, "{name}");
        for flags in [
            Flags::from_bits(1 << 6),
            Flags::new().with_operation(0x80),
            Flags::new().with_fence(true),
            Flags::new().with_request_completion(true),
        ] {
            assert_eq!(
                status(&rig, descriptor.with_flags(flags)),
                Status::INVALID_FLAGS,
                "{name} with {flags:?}"
            );
        }
    }
    let expecting =
        altered(Descriptor::compare(BASE, FAR, 8), |descriptor| descriptor.operands[0] = 1);
    assert_eq!(
        status(&rig, expecting),
        Status::RESERVED_FIELD,
        "an expectation without the flag that checks it"
    );
    assert_eq!(
        status(&rig, Descriptor::compare(BASE, FAR, 8).expect_result(2)),
        Status::RESERVED_FIELD
    );
    assert_eq!(status(&rig, Descriptor::no_op().block_on_fault()), Status::INVALID_FLAGS);
    assert_eq!(
        status(&rig, altered(Descriptor::crc(BASE, 8, 0), |crc| crc.destination = 8.into())),
        Status::RESERVED_FIELD
    );
}

// shows S2
#[test]
fn unknown_and_unsupported_opcodes_are_rejected() {
    let rig = Rig::new(8);
    let known: Vec<_> =
        valid().iter().map(|descriptor| descriptor.opcode).chain([Opcode::BATCH]).collect();
    for opcode in (0..=255).map(Opcode).filter(|opcode| !known.contains(opcode)) {
        let descriptor =
            altered(Descriptor::memory_move(BASE, FAR, 8), |descriptor| descriptor.opcode = opcode);
        assert_eq!(status(&rig, descriptor), Status::UNSUPPORTED_OPCODE, "{opcode}");
    }
    assert!(rig.log.take().is_empty(), "nothing was touched");
}

// shows S2: zero and wrapping lengths
#[test]
fn sizes_are_checked_before_anything_is_touched() {
    let rig = Rig::with(8, page_by_page().max_transfer(0x10_0000));
    for descriptor in valid().into_iter().filter(|descriptor| descriptor.opcode != Opcode::NOOP) {
        for size in [0, 0x10_0001, u32::MAX] {
            let wrong = altered(descriptor, |descriptor| descriptor.size = size.into());
            assert_eq!(
                status(&rig, wrong),
                Status::TRANSFER_SIZE,
                "{} of {size:#x}",
                descriptor.opcode
            );
        }
    }
    let top = u64::MAX - 62;
    for descriptor in [
        Descriptor::memory_move(top, BASE, 64),
        Descriptor::memory_move(BASE, top, 64),
        Descriptor::fill([0; 8], top, 64),
        Descriptor::compare(BASE, top, 64),
        Descriptor::compare_pattern(top, [0; 8], 64),
        Descriptor::crc(top, 64, 0),
        Descriptor::dualcast(BASE, FAR, top, 64),
        Descriptor::create_delta(BASE, FAR, 0x8_0008, BASE + PAGE, 80),
        Descriptor::apply_delta(BASE, 10, FAR, 0x8_0008),
    ] {
        assert_eq!(status(&rig, descriptor), Status::TRANSFER_SIZE, "{}", descriptor.opcode);
    }
    for (record, max) in [
        (BASE + PAGE, 70),
        (BASE + PAGE, 85),
        (BASE + PAGE, 0),
        (BASE + PAGE, 0x10_0004),
        (u64::MAX - 50, 80),
    ] {
        assert_eq!(
            status(&rig, Descriptor::create_delta(BASE, FAR, 64, record, max)),
            Status::DELTA_RECORD_SIZE,
            "{max} at {record:#x}"
        );
    }
    for len in [0, 15, 655_370] {
        assert_eq!(
            status(&rig, Descriptor::apply_delta(BASE, len, FAR, 64)),
            Status::DELTA_RECORD_SIZE,
            "{len}"
        );
    }
    assert!(rig.log.take().is_empty(), "nothing was touched");
}

// shows S2
#[test]
fn alignment_and_overlap_are_checked_where_the_operation_needs_them() {
    let rig = Rig::new(8);
    let seeded = Descriptor::crc(BASE, 8, 0).seed_from(BASE + 2);
    for (descriptor, wanted) in [
        (
            Descriptor::fill([0; 8], BASE, 8).with_completion(BASE + 16),
            Status::COMPLETION_ALIGNMENT,
        ),
        (Descriptor::create_delta(BASE + 4, FAR, 64, BASE + PAGE, 80), Status::ALIGNMENT),
        (Descriptor::create_delta(BASE, FAR + 1, 64, BASE + PAGE, 80), Status::ALIGNMENT),
        (Descriptor::create_delta(BASE, FAR, 60, BASE + PAGE, 80), Status::ALIGNMENT),
        (Descriptor::apply_delta(BASE, 10, FAR + 4, 64), Status::ALIGNMENT),
        (seeded, Status::ALIGNMENT),
        (Descriptor::create_delta(BASE, FAR, 64, FAR + 63, 80), Status::OVERLAP),
        (Descriptor::apply_delta(FAR + 63, 10, FAR, 64), Status::OVERLAP),
        (Descriptor::copy_crc(BASE, BASE + 63, 64, 0), Status::OVERLAP),
        (Descriptor::dualcast(BASE, FAR, FAR, 64), Status::OVERLAP),
        (Descriptor::dualcast(FAR - 63, FAR, BASE, 64), Status::OVERLAP),
        (Descriptor::dualcast(BASE, FAR, FAR + 64, 8), Status::DUALCAST_ALIGNMENT),
    ] {
        assert_eq!(status(&rig, descriptor), wanted, "{}", descriptor.opcode);
    }
    assert!(rig.log.take().is_empty(), "nothing was touched");
}

// shows S2
#[test]
fn addresses_that_no_process_has_fault() {
    let rig = Rig::new(8);
    for address in [0, 8, 0x8000_0000_0000, 0xffff_8000_0000_0000, u64::MAX - 63] {
        let read = rig.run(Descriptor::crc(address, 64, 0)).record;
        assert_eq!((read.status, read.fault_address.get()), (Status::PAGE_FAULT, address));
        let written = rig.run(Descriptor::fill([0; 8], address, 64).block_on_fault()).record;
        assert_eq!(
            (written.status, written.fault_address.get()),
            (Status::PAGE_FAULT_UNRESOLVED.on_write(), address)
        );
    }
}

/// First address and length, as they stand in the bytes.
type Ranges = Vec<(u64, u64)>;

/// What a descriptor's bytes name: the ranges that may be read and those that may be written.
fn named(bytes: &[u8; 64]) -> (Ranges, Ranges) {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let u32_at =
        |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")));
    let (source, destination, size) = (u64_at(16), u64_at(24), u32_at(32));
    let (mut reads, mut writes) = match bytes[7] {
        1 => (vec![(source, size * 64)], vec![]),
        3 => (vec![(source, size)], vec![(destination, size)]),
        4 => (vec![], vec![(destination, size)]),
        5 => (vec![(source, size), (destination, size)], vec![]),
        6 => (vec![(source, size)], vec![]),
        7 => (vec![(source, size), (destination, size)], vec![(u64_at(40), u32_at(48))]),
        8 => (vec![(source, u32_at(40))], vec![(destination, size)]),
        9 => (vec![(source, size)], vec![(destination, size), (u64_at(40), size)]),
        0x10 => (vec![(source, size)], vec![]),
        0x11 => (vec![(source, size)], vec![(destination, size)]),
        _ => (vec![], vec![]),
    };
    if bytes[6] & 1 == 1 {
        reads.push((u64_at(48), 4));
    }
    if bytes[4] & 4 == 4 {
        writes.push((u64_at(8), 32));
    }
    (reads, writes)
}

fn inside(range: AddrRange, named: &[(u64, u64)]) -> bool {
    named
        .iter()
        .filter_map(|(first, len)| AddrRange::new(*first, *len))
        .any(|named| named.covers(range))
}

/// An address in the memory, often aligned.
fn address() -> impl Strategy<Value = u64> {
    (0..8 * PAGE, prop_oneof![Just(1u64), Just(8), Just(64), Just(PAGE)])
        .prop_map(|(at, align)| BASE + at / align * align)
}

/// A descriptor that mostly works.
fn near() -> impl Strategy<Value = [u8; 64]> {
    let opcode = prop::sample::select(vec![0u8, 1, 3, 4, 5, 6, 7, 8, 9, 0x10, 0x11]);
    let numbers = (address(), address(), address(), address(), 0u32..20_000, 1u32..200);
    (opcode, numbers, prop::sample::select(vec![0u8, 2, 4, 0xc, 0xe])).prop_map(
        |(opcode, (completion, source, other, operand, size, small), flags)| {
            let (list, units, entries) = (source & !63, |address: u64| address & !7, small * 10);
            let completion = completion & !31;
            let descriptor = match opcode {
                0 => Descriptor::no_op(),
                1 => Descriptor::batch(list, 2 + small % 8),
                3 => Descriptor::memory_move(source, other, size),
                4 => Descriptor::fill(operand.to_le_bytes(), other, size),
                5 => Descriptor::compare(source, other, size),
                6 => Descriptor::compare_pattern(source, [0; 8], size),
                7 => Descriptor::create_delta(
                    units(source),
                    units(other),
                    size & !7,
                    operand,
                    entries,
                ),
                8 => Descriptor::apply_delta(operand, entries, units(other), size & !7),
                9 => Descriptor::dualcast(
                    source,
                    other,
                    operand & !0xfff | other & 0xfff,
                    size % 4096,
                ),
                0x10 => Descriptor::crc(source, size, small),
                _ => Descriptor::copy_crc(source, other, size, small),
            };
            let mut bytes: [u8; 64] = zerocopy::transmute!(descriptor);
            bytes[4] = if matches!(opcode, 0 | 1) { flags & !2 } else { flags };
            bytes[8..16].copy_from_slice(&completion.to_le_bytes());
            bytes
        },
    )
}

/// Any 64 bytes: such as work, such with a few bytes changed, and noise.
fn any_descriptor() -> impl Strategy<Value = [u8; 64]> {
    let bent = (near(), proptest::collection::vec((0usize..64, any::<u8>()), 1..4)).prop_map(
        |(mut bytes, changes)| {
            changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
            bytes
        },
    );
    let noise = proptest::collection::vec(any::<u8>(), 64)
        .prop_map(|bytes| bytes.try_into().expect("64 bytes"));
    prop_oneof![4 => near(), 3 => bent, 1 => noise]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 2000 }))]

    // shows S2: whatever the bytes, the mover touches what they name and nothing else
    #[test]
    fn no_descriptor_reaches_beyond_what_it_names(
        descriptor in any_descriptor(),
        listed in proptest::collection::vec(any_descriptor(), 0..6),
        at in 0u64..8,
        seed: u64,
    ) {
        let rig = Rig::new(8);
        rig.scribble(0, 8 * PAGE as usize, seed);
        for (index, bytes) in listed.iter().enumerate() {
            rig.space.poke(BASE + at * PAGE + 64 * index as u64, bytes);
        }
        let (mut reads, mut writes) = named(&descriptor);
        let list = u64::from_le_bytes(descriptor[16..24].try_into().expect("8 bytes"));
        if descriptor[7] == 1 && (BASE..BASE + 8 * PAGE).contains(&list) {
            let count = u32::from_le_bytes(descriptor[32..36].try_into().expect("4 bytes"));
            let count = count.min(64) as usize;
            let most = ((BASE + 8 * PAGE - list) / 64) as usize;
            for inner in rig.space.peek(list, count.min(most) * 64).chunks_exact(64) {
                let (more_reads, more_writes) = named(inner.try_into().expect("64 bytes"));
                reads.extend(more_reads);
                writes.extend(more_writes);
            }
        }
        let completion = rig.mover.execute(rig.pasid, &descriptor.into()).expect("nobody unbinds");
        prop_assert_ne!(completion.record.status, Status::NONE);
        for done in rig.log.take() {
            let Some(range) = done.range() else { continue };
            let allowed = if done.access == Access::WRITE { &writes } else { &reads };
            let access = done.access;
            prop_assert!(inside(range, allowed), "{access:?} of {range} by {descriptor:02x?}");
        }
    }
}
