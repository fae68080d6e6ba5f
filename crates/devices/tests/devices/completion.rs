//! Completion records: when, where, and in which order.

use std::sync::Arc;

use sva_core::Access;
use sva_core::port::DmaCause;
use sva_devices::{Descriptor, Flags, RecordWrite, Status};
use sva_sync::Mutex;
use sva_testkit::{PAGE, Protection};
use zerocopy::IntoBytes;

use crate::rig::{BASE, Rig, page_by_page};

const RECORD: u64 = BASE + 3 * PAGE + 32;

// shows S2: a process that polls the status sees the rest of the record too
#[test]
fn the_status_is_written_last_and_after_the_data() {
    let rig = Rig::new(4);
    let completion =
        rig.run(Descriptor::fill([7; 8], BASE, PAGE as u32 + 8).with_completion(RECORD));
    assert!(matches!(completion.record_write, RecordWrite::Written));
    let writes: Vec<_> =
        rig.log.take().into_iter().filter(|done| done.access == Access::WRITE).collect();
    let [.., data, rest, status] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((data.address, data.bytes.len()), (BASE + PAGE, 8));
    assert_eq!((rest.address, rest.bytes.len()), (RECORD + 1, 31));
    assert_eq!((status.address, &status.bytes[..]), (RECORD, &[Status::SUCCESS.0][..]));
    assert_eq!(rig.space.peek(RECORD, 32), completion.record.as_bytes());
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn without_a_request_a_record_is_written_only_when_something_went_wrong() {
    let rig = Rig::new(4);
    let quiet = |descriptor: Descriptor| {
        let descriptor = descriptor.with_completion(RECORD);
        let flags = descriptor.flags().with_request_completion(false);
        rig.run(descriptor.with_flags(flags))
    };
    assert!(matches!(quiet(Descriptor::fill([1; 8], BASE, 8)).record_write, RecordWrite::NotDue));
    assert_eq!(rig.space.peek(RECORD, 32), [0; 32]);
    assert!(matches!(quiet(Descriptor::fill([1; 8], BASE, 0)).record_write, RecordWrite::Written));
    assert_eq!(rig.space.peek(RECORD, 1), [Status::TRANSFER_SIZE.0]);
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn a_submitter_without_memory_in_the_process_learns_the_outcome_too() {
    let rig = Rig::new(4);
    let completion = rig.run(Descriptor::crc(BASE, 64, 0));
    assert_eq!(
        (completion.record.status, completion.record.crc()),
        (Status::SUCCESS, crc32c::crc32c(&[0; 64]))
    );
    assert!(
        rig.log.take().iter().all(|done| done.access == Access::READ),
        "nothing is scribbled into the process"
    );
}

// shows S2
#[test]
fn a_record_that_cannot_be_written_is_reported_to_the_submitter() {
    let rig = Rig::new(4);
    rig.space.protect(BASE + 3 * PAGE, PAGE, Protection::READ);
    let completion = rig.run(Descriptor::fill([1; 8], BASE, 8).with_completion(RECORD));
    let RecordWrite::Failed(DmaCause::Fault(fault)) = &completion.record_write else {
        panic!("{completion:?}")
    };
    assert_eq!(fault.address, RECORD + 1);
    assert!(completion.record.status.is_success() && !completion.is_success());
    assert_eq!(rig.space.peek(BASE, 8), [1; 8]);
}

// shows S2
#[test]
fn a_record_may_lie_in_the_data() {
    let rig = Rig::new(4);
    let completion = rig.run(Descriptor::fill([9; 8], RECORD - 32, 96).with_completion(RECORD));
    assert_eq!(rig.space.peek(RECORD, 32), completion.record.as_bytes());
    assert_eq!(rig.space.peek(RECORD + 32, 32), [9; 32]);
}

// shows the descriptor semantics of the DSA specification; no rule of the contract
#[test]
fn a_completion_interrupt_comes_after_the_record_with_its_handle() {
    let raised = Arc::new(Mutex::new(Vec::new()));
    let log = raised.clone();
    let config = page_by_page().interrupts(3, move |handle| log.lock().push(handle));
    let rig = Rig::with(4, config);
    assert!(rig.run(Descriptor::no_op().with_interrupt(2).with_completion(RECORD)).is_success());
    assert_eq!(
        rig.run(Descriptor::no_op().with_interrupt(3)).record.status,
        Status::INTERRUPT_HANDLE
    );
    assert!(rig.run(Descriptor::no_op()).is_success());
    assert_eq!(*raised.lock(), [2]);
    assert_eq!(
        Rig::new(4).run(Descriptor::no_op().with_interrupt(0)).record.status,
        Status::INTERRUPT_HANDLE
    );
}

// shows S2
#[test]
fn invalid_flags_are_named_in_the_record() {
    let rig = Rig::new(4);
    let flags = Flags::new()
        .with_completion_valid(true)
        .with_request_completion(true)
        .with_check_result(true)
        .with_operation(0x80);
    let completion = rig.run(Descriptor::no_op().with_completion(RECORD).with_flags(flags));
    assert_eq!(completion.record.status, Status::INVALID_FLAGS);
    assert_eq!(
        completion.record.invalid_flags(),
        Flags::new().with_check_result(true).with_operation(0x80)
    );
    assert_eq!(rig.space.peek(RECORD, 1), [Status::INVALID_FLAGS.0]);
}
