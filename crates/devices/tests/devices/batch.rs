//! Batches.

use sva_core::Access;
use sva_devices::{Descriptor, Status};
use sva_testkit::PAGE;

use crate::rig::{BASE, Rig, page_by_page};

const LIST: u64 = 4 * PAGE;

fn status_at(rig: &Rig, address: u64) -> Status {
    Status(rig.space.peek(address, 1)[0])
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn a_batch_executes_its_descriptors_in_order() {
    let rig = Rig::new(6);
    let list = rig.list(
        LIST,
        &[
            Descriptor::fill([1; 8], BASE, 64),
            Descriptor::memory_move(BASE, BASE + PAGE, 32),
            Descriptor::crc(BASE + PAGE, 32, 0).with_completion(BASE + 2 * PAGE),
        ],
    );
    let completion = rig.run(Descriptor::batch(list, 3).with_completion(BASE + 2 * PAGE + 32));
    assert!(completion.is_success(), "{}", completion.record);
    assert_eq!(completion.record.bytes_completed.get(), 3);
    assert_eq!(rig.space.peek(BASE + 2 * PAGE + 16, 4), crc32c::crc32c(&[1; 32]).to_le_bytes());
    assert_eq!(status_at(&rig, BASE + 2 * PAGE + 32), Status::SUCCESS);
}

// shows S2: nesting ends at the first level
#[test]
fn a_batch_in_a_batch_is_refused_also_where_it_is_the_batch_itself() {
    let rig = Rig::new(6);
    let own = Descriptor::batch(BASE + LIST, 2);
    let list =
        rig.list(LIST, &[own.with_completion(BASE), Descriptor::fill([1; 8], BASE + PAGE, 8)]);
    let completion = rig.run(Descriptor::batch(list, 2));
    assert_eq!((completion.record.status, completion.record.result), (Status::BATCH_FAIL, 1));
    assert_eq!(completion.record.bytes_completed.get(), 2);
    assert_eq!(status_at(&rig, BASE), Status::UNSUPPORTED_OPCODE);
    assert_eq!(rig.space.peek(BASE + PAGE, 8), [1; 8]);
}

// shows S2: descriptors are fetched once
#[test]
fn a_batch_that_overwrites_its_own_descriptors_executes_those_that_it_read() {
    let rig = Rig::new(6);
    let list = BASE + LIST;
    rig.list(
        LIST,
        &[
            Descriptor::fill([0xee; 8], list, 4 * 64).with_completion(list + 64),
            Descriptor::fill([2; 8], BASE, 8).with_completion(list + 128),
            Descriptor::fill([3; 8], BASE + 8, 8),
            Descriptor::fill([4; 8], BASE + 16, 8),
        ],
    );
    assert!(rig.run(Descriptor::batch(list, 4)).is_success());
    assert_eq!(rig.space.peek(BASE, 24), [[2; 8], [3; 8], [4; 8]].concat());
    let in_list = |at: u64| (list..list + 256).contains(&at);
    let fetches = rig
        .log
        .take()
        .into_iter()
        .filter(|done| done.access == Access::READ && in_list(done.address))
        .count();
    assert_eq!(fetches, 1, "one read of the list");
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn a_fence_after_a_failure_abandons_the_rest() {
    let rig = Rig::new(6);
    let fill = |byte: u8| Descriptor::fill([byte; 8], BASE + u64::from(byte) * 8, 8);
    let differs = Descriptor::compare_pattern(BASE, [1; 8], 8).expect_result(0);
    let list = rig.list(LIST, &[fill(1).fence(), differs, fill(2), fill(3).fence(), fill(4)]);
    let completion = rig.run(Descriptor::batch(list, 5));
    assert_eq!(
        (completion.record.status, completion.record.bytes_completed.get()),
        (Status::BATCH_FAIL, 3)
    );
    assert_eq!(rig.space.peek(BASE, 40), [[0; 8], [1; 8], [2; 8], [0; 8], [0; 8]].concat());
}

// shows T5
#[test]
fn a_list_that_cannot_be_read_to_its_end_is_executed_as_far_as_it_was_read() {
    let rig = Rig::new(5);
    let end = BASE + 5 * PAGE;
    let fill = |byte: u8| Descriptor::fill([byte; 8], BASE + u64::from(byte) * 8, 8);
    let list = rig.list(5 * PAGE - 128, &[fill(1), fill(2)]);
    let completion = rig.run(Descriptor::batch(list, 4));
    assert_eq!(
        (completion.record.status, completion.record.fault_address.get()),
        (Status::BATCH_PAGE_FAULT, end)
    );
    assert_eq!((completion.record.bytes_completed.get(), completion.record.result), (2, 0));
    assert_eq!(rig.space.peek(BASE, 24), [[0; 8], [1; 8], [2; 8]].concat());
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn a_record_of_the_batch_that_cannot_be_written_fails_the_batch() {
    let rig = Rig::new(6);
    let lost = Descriptor::no_op().with_completion(BASE + 32 * PAGE);
    let list = rig.list(LIST, &[lost, Descriptor::no_op()]);
    assert_eq!(rig.run(Descriptor::batch(list, 2)).record.status, Status::BATCH_FAIL);
}

// shows S2
#[test]
fn counts_and_addresses_of_lists_are_checked() {
    let rig = Rig::with(6, page_by_page().max_batch(4));
    let list = rig.list(LIST, &[Descriptor::no_op(); 4]);
    for (address, count, status) in [
        (list, 0, Status::DESCRIPTOR_COUNT),
        (list, 1, Status::DESCRIPTOR_COUNT),
        (list, 5, Status::DESCRIPTOR_COUNT),
        (list, u32::MAX, Status::DESCRIPTOR_COUNT),
        (list + 32, 2, Status::LIST_ALIGNMENT),
        (u64::MAX - 63, 2, Status::DESCRIPTOR_COUNT),
        (u64::MAX - 127, 2, Status::BATCH_PAGE_FAULT),
        (list, 4, Status::SUCCESS),
    ] {
        assert_eq!(
            rig.run(Descriptor::batch(address, count)).record.status,
            status,
            "{count} at {address:#x}"
        );
    }
    assert_eq!(
        rig.run(Descriptor::batch(list, 2).block_on_fault()).record.status,
        Status::INVALID_FLAGS
    );
}
