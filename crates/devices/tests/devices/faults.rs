//! Page faults and other aborted transactions: statuses, exact counts, and going on after them.

use proptest::prelude::*;
use sva_core::port::DmaCause;
use sva_core::{EndReason, FaultReason, Pasid, Removal};
use sva_devices::{Completion, DataMoverConfig, Descriptor, RecordWrite, Status};
use sva_testkit::{PAGE, Protection};

use crate::rig::{BASE, Rig, page_by_page};

const P: u32 = PAGE as u32;

fn facts(completion: &Completion) -> (Status, u32, u64) {
    let record = completion.record;
    (record.status, record.bytes_completed.get(), record.fault_address.get())
}

// shows T5
#[test]
fn an_absent_page_ends_an_operation_at_its_first_byte() {
    let (at, absent) = (BASE + 100, BASE + 2 * PAGE);
    let bytes = 2 * P - 100;
    let far = BASE + 8 * PAGE;
    let reads = [
        Descriptor::memory_move(at, far, 3 * P),
        Descriptor::compare(at, far, 3 * P),
        Descriptor::compare(far, at, 3 * P),
        Descriptor::compare_pattern(at, [0; 8], 3 * P),
        Descriptor::crc(at, 3 * P, 0),
        Descriptor::copy_crc(at, far, 3 * P, 0),
        Descriptor::dualcast(at, far, far + 4 * PAGE, 3 * P),
    ];
    let writes = [
        Descriptor::memory_move(far, at, 3 * P),
        Descriptor::fill([0; 8], at, 3 * P),
        Descriptor::copy_crc(far, at, 3 * P, 0),
        Descriptor::dualcast(far, at, at + 16 * PAGE, 3 * P),
        Descriptor::dualcast(far, at + 16 * PAGE, at, 3 * P),
    ];
    let all = reads.map(|descriptor| (descriptor, Status::PAGE_FAULT)).into_iter();
    for (descriptor, status) in
        all.chain(writes.map(|descriptor| (descriptor, Status::PAGE_FAULT.on_write())))
    {
        let rig = Rig::new(24);
        rig.space.absent(absent, PAGE);
        assert_eq!(facts(&rig.run(descriptor)), (status, bytes, absent), "{}", descriptor.opcode);
        assert_eq!(rig.space.resolved(), 0, "{}", descriptor.opcode);
        let blocking = rig.run(descriptor.block_on_fault());
        assert_eq!(facts(&blocking), (Status::SUCCESS, 3 * P, 0), "{}", descriptor.opcode);
        assert_eq!(rig.space.resolved(), 1, "{}", descriptor.opcode);
    }
}

// shows T5, F5
#[test]
fn a_page_that_cannot_be_resolved_ends_an_operation_that_blocks_on_faults() {
    let rig = Rig::new(8);
    rig.space.absent(BASE + PAGE, PAGE);
    rig.space.on_resolve(|_| false);
    let hole = BASE + 8 * PAGE;
    let source = Descriptor::memory_move(BASE, BASE + 4 * PAGE, 2 * P);
    assert_eq!(
        facts(&rig.run(source.block_on_fault())),
        (Status::PAGE_FAULT_UNRESOLVED, P, BASE + PAGE)
    );
    let past = Descriptor::memory_move(hole - PAGE, BASE + 4 * PAGE, 2 * P);
    assert_eq!(facts(&rig.run(past.block_on_fault())), (Status::PAGE_FAULT_UNRESOLVED, P, hole));
    assert_eq!(facts(&rig.run(past)), (Status::PAGE_FAULT, P, hole));
}

// shows T1
#[test]
fn a_write_to_a_read_only_page_faults_and_changes_nothing() {
    let rig = Rig::new(4);
    rig.scribble(0, 64, 1);
    rig.space.protect(BASE + PAGE, PAGE, Protection::READ);
    for (descriptor, status) in [
        (Descriptor::memory_move(BASE, BASE + PAGE, 64), Status::PAGE_FAULT),
        (
            Descriptor::memory_move(BASE, BASE + PAGE, 64).block_on_fault(),
            Status::PAGE_FAULT_UNRESOLVED,
        ),
        (Descriptor::fill([1; 8], BASE + PAGE, 64), Status::PAGE_FAULT),
    ] {
        assert_eq!(facts(&rig.run(descriptor)), (status.on_write(), 0, BASE + PAGE));
    }
    assert_eq!(rig.space.peek(BASE + PAGE, PAGE as usize), vec![0; PAGE as usize]);
}

// shows T5
#[test]
fn a_difference_before_a_fault_is_found_all_the_same() {
    for config in [page_by_page(), DataMoverConfig::default()] {
        let rig = Rig::with(4, config);
        rig.space.poke(BASE + 77, &[1]);
        rig.space.absent(BASE + PAGE, PAGE);
        let completion = rig.run(Descriptor::compare(BASE, BASE + 2 * PAGE, 2 * P));
        assert_eq!((facts(&completion), completion.record.result), ((Status::SUCCESS, 77, 0), 1));
    }
}

// shows T5
#[test]
fn of_two_faults_in_one_step_the_one_that_comes_first_in_the_buffer_counts() {
    let rig = Rig::with(16, DataMoverConfig::default());
    let (source, destination) = (BASE, BASE + 8 * PAGE);
    rig.space.absent(source + 3 * PAGE, PAGE);
    rig.space.absent(destination + PAGE, PAGE);
    let descriptor = Descriptor::memory_move(source, destination, 4 * P);
    assert_eq!(facts(&rig.run(descriptor)), (Status::PAGE_FAULT.on_write(), P, destination + PAGE));
    rig.space.present(destination + PAGE, PAGE);
    assert_eq!(facts(&rig.run(descriptor)), (Status::PAGE_FAULT, 3 * P, source + 3 * PAGE));
}

// shows T5
#[test]
fn the_crc_of_a_partial_copy_is_the_seed_of_the_rest() {
    for config in [page_by_page(), DataMoverConfig::default()] {
        let rig = Rig::with(16, config);
        let bytes = rig.scribble(9, 3 * PAGE as usize, 4);
        let (source, destination, done) = (BASE + 9, BASE + 8 * PAGE + 5, P - 5);
        rig.space.absent(destination - 5 + PAGE, PAGE);
        let partial = rig.run(Descriptor::copy_crc(source, destination, 3 * P, 0));
        assert_eq!(facts(&partial), (Status::PAGE_FAULT.on_write(), done, BASE + 9 * PAGE));
        assert_eq!(partial.record.crc(), crc32c::crc32c(&bytes[..done as usize]));
        let rest = Descriptor::copy_crc(
            source + u64::from(done),
            destination + u64::from(done),
            3 * P - done,
            partial.record.crc(),
        );
        assert_eq!(rig.run(rest.block_on_fault()).record.crc(), crc32c::crc32c(&bytes));
    }
}

// shows T5
#[test]
fn a_delta_is_exact_up_to_the_fault() {
    let rig = Rig::new(10);
    let (first, second, record) = (BASE, BASE + 2 * PAGE, BASE + 5 * PAGE - 25);
    for unit in [10, 20, 30, 40] {
        rig.space.poke(second + unit * 8, &[unit as u8; 8]);
    }
    rig.space.absent(BASE + 5 * PAGE, PAGE);
    let create = Descriptor::create_delta(first, second, P, record, 100);
    // Two entries and a half fit before the absent page: the third one does not count.
    let halted = rig.run(create);
    assert_eq!(facts(&halted), (Status::PAGE_FAULT.on_write(), 240, BASE + 5 * PAGE));
    assert_eq!((halted.record.delta_record_size(), halted.record.result), (20, 1));
    assert_eq!(rig.run(create.block_on_fault()).record.delta_record_size(), 40);
    rig.space.absent(first, PAGE);
    let apply = Descriptor::apply_delta(record, 40, first, P);
    assert_eq!(facts(&rig.run(apply)), (Status::PAGE_FAULT.on_write(), 0, first + 80));
    assert_eq!(facts(&rig.run(apply.block_on_fault())), (Status::SUCCESS, 40, 0));
    assert_eq!(rig.space.peek(first, PAGE as usize), rig.space.peek(second, PAGE as usize));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 200 }))]

    // shows T5: bytes completed and direction are enough to go on, however the buffers overlap
    #[test]
    fn an_interrupted_move_that_is_gone_on_with_equals_an_uninterrupted_one(
        source in 0u64..3 * PAGE,
        destination in 0u64..3 * PAGE,
        len in 1u32..3 * P,
        absent in proptest::collection::vec(0u64..7, 0..5),
        seed: u64,
        chunk in 1usize..20_000,
    ) {
        let size = 7 * PAGE as usize;
        let rig = Rig::with(7, DataMoverConfig::default().chunk(chunk));
        let mut memory = rig.scribble(0, size, seed);
        memory.copy_within(source as usize..source as usize + len as usize, destination as usize);
        absent.iter().for_each(|page| rig.space.absent(BASE + page * PAGE, PAGE));
        let (mut from, mut to, mut left) = (BASE + source, BASE + destination, len);
        let mut faults = 0;
        while left > 0 {
            let record = rig.run(Descriptor::memory_move(from, to, left)).record;
            let done = record.bytes_completed.get();
            if record.result == 0 {
                (from, to) = (from + u64::from(done), to + u64::from(done));
            }
            left -= done;
            if record.status.code() == Status::PAGE_FAULT {
                rig.space.present(record.fault_address.get() / PAGE * PAGE, PAGE);
                faults += 1;
                prop_assert!(faults <= absent.len(), "a page that was brought in faults again");
            } else {
                prop_assert_eq!(record.status, Status::SUCCESS);
            }
        }
        prop_assert!(rig.space.peek(BASE, size) == memory);
    }
}

// shows F6
#[test]
fn a_pasid_that_is_not_bound_fails_the_translation() {
    let mut rig = Rig::new(2);
    let bond = rig.bond.take();
    let descriptor = Descriptor::fill([1; 8], BASE, 8).with_completion(BASE + 64);
    drop(bond);
    let completion = rig.run(descriptor);
    assert_eq!(facts(&completion), (Status::TRANSLATION, 0, BASE));
    let Some(DmaCause::Fault(fault)) = &completion.cause else { panic!("{completion:?}") };
    assert_eq!(fault.reason, FaultReason::NotBound);
    assert!(matches!(completion.record_write, RecordWrite::Stopped) && !completion.is_success());
    let wide = rig.mover.execute(Pasid::new(Pasid::LAST), &descriptor).expect("nobody unbinds");
    assert_eq!(wide.record.status, Status::TRANSLATION, "the device has one PASID bit");
    assert_eq!(rig.space.peek(BASE, 128), [0; 128]);
}

// shows U4
#[test]
fn a_space_that_has_ended_answers_as_if_nothing_were_mapped() {
    let rig = Rig::new(2);
    rig.space.end(EndReason::Exited);
    assert_eq!(facts(&rig.run(Descriptor::crc(BASE, 8, 0))), (Status::PAGE_FAULT, 0, BASE));
    assert_eq!(
        facts(&rig.run(Descriptor::crc(BASE, 8, 0).block_on_fault())),
        (Status::PAGE_FAULT_UNRESOLVED, 0, BASE)
    );
}

// shows G5
#[test]
fn a_device_that_was_removed_completes_with_an_error() {
    let rig = Rig::new(2);
    rig.iommu.remove(&rig.device, Removal::Surprise).expect("it is there");
    let completion = rig.run(Descriptor::crc(BASE, 8, 0).with_completion(BASE + 64));
    assert_eq!(completion.record.status, Status::HARDWARE);
    assert!(matches!(completion.record_write, RecordWrite::Stopped) && !completion.is_success());
}

// shows S2
#[test]
fn without_a_pasid_the_addresses_are_those_of_the_domain() {
    let rig = Rig::new(2);
    let completion = rig.mover.execute(None, &Descriptor::crc(BASE, 8, 0)).expect("nobody unbinds");
    assert_eq!(
        facts(&completion),
        (Status::PAGE_FAULT, 0, BASE),
        "the domain has no mapping there"
    );
}
