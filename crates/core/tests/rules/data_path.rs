//! What a transaction comes to: exact counts, grants, the event log (rules F6, S2, T1, T5).

use sva_core::port::DmaCause;
use sva_core::topology::{PathPolicy, PeerWindow};
use sva_core::{
    Access, AddrRange, Bind, Event, Fault, FaultReason, Features, IommuConfig, Pasid, Segment,
};
use sva_testkit::{Forwarding, ForwardingSpace, PAGE, Protection, RecordingSpace};

use crate::support::*;

pub(crate) fn piece(address: u64, len: u64) -> Segment {
    Segment { address, len }
}

pub(crate) fn range(first: u64, len: u64) -> AddrRange {
    AddrRange::new(first, len).expect("a range")
}

pub(crate) fn window(first: u64, len: u64, claimed: bool) -> PeerWindow {
    PeerWindow { range: range(first, len), decoder: bdf(9), claimed }
}

// shows T5, F6
#[test]
fn an_access_that_runs_off_its_mapping_counts_its_bytes_and_names_the_address() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    let end = BASE + PAGES * PAGE;
    let mut buf = vec![7; 3 * PAGE as usize];
    let (done, fault) = stop(device.port().read(Some(pasid), end - PAGE - 5, &mut buf));
    let expected = Fault {
        device: bdf(1),
        pasid: Some(pasid),
        address: end,
        access: Access::READ,
        reason: FaultReason::NotMapped,
    };
    assert_eq!((done, fault), (PAGE + 5, expected));
    assert!(
        buf[..done as usize].iter().all(|byte| *byte == 0)
            && buf[done as usize..].iter().all(|byte| *byte == 7)
    );
    assert_eq!(world.events(), [Event::Fault(expected)]);
    assert_eq!(
        expected.to_string(),
        format!("0000:01:01.0: read at {end:#x} with PASID 1: nothing is mapped there")
    );
}

// shows T1, T5, F6
#[test]
fn a_scatter_that_meets_a_read_only_page_counts_over_all_its_pieces_and_changes_nothing_there() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    space.protect(BASE + PAGE, PAGE, Protection::READ);
    let pieces = [
        piece(BASE + 100, 10),
        piece(BASE, 0),
        piece(BASE + PAGE - 6, 20),
        piece(BASE + 5 * PAGE, 4),
    ];
    let data: Vec<u8> = (1..=34).collect();
    let (done, fault) = stop(device.port().scatter(Some(pasid), &pieces, &data, Access::WRITE));
    let expected = Fault {
        device: bdf(1),
        pasid: Some(pasid),
        address: BASE + PAGE,
        access: Access::WRITE,
        reason: FaultReason::Denied,
    };
    assert_eq!((done, fault), (16, expected));
    assert_eq!(space.peek(BASE + 100, 10), data[..10]);
    assert_eq!(space.peek(BASE + PAGE - 6, 6), data[10..16]);
    assert_eq!(space.peek(BASE + PAGE, PAGE as usize), vec![0; PAGE as usize]);
    assert_eq!(space.peek(BASE + 5 * PAGE, 4), [0; 4], "nothing after the fault");
    assert_eq!(world.events(), [Event::Fault(expected)]);
}

// shows T5
#[test]
fn pieces_that_take_one_way_go_to_the_provider_in_one_call() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let recording = RecordingSpace::new(space.handle());
    let handle: std::sync::Arc<dyn sva_core::AddressSpace> = recording.clone();
    let bond = world.iommu.bind_device(&device, &handle, Bind::new(())).expect("free");
    let pieces: Vec<Segment> = (0..1024).map(|n| piece(BASE + n * 33, 8)).collect();
    device
        .port()
        .gather(Some(bond.pasid()), &pieces, &mut vec![0; 8192], Access::READ)
        .expect("mapped");
    let record = recording.take();
    assert_eq!(record.len(), 1024);
    assert!(record.iter().all(|piece| piece.call == 0));
    world.bus.windows(bdf(1), &[window(BASE + 33 * 512, 8, true)]);
    device
        .port()
        .gather(Some(bond.pasid()), &pieces, &mut vec![0; 8192], Access::READ)
        .expect("mapped");
    let record = recording.take();
    let calls: std::collections::BTreeSet<u64> = record.iter().map(|piece| piece.call).collect();
    assert_eq!(
        (record.len(), calls.len()),
        (1023, 2),
        "one before the peer's piece and one after it"
    );
}

// shows T5, S2
#[test]
fn a_range_that_wraps_is_refused_at_its_first_address_after_what_came_before_it() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let last_page = u64::MAX - (PAGE - 1);
    space.map(last_page, PAGE, Protection::READ_WRITE);
    let pasid = world.bind_forever(&device, &space);
    let port = device.port();
    for windows in [&[][..], &[window(0x5000, PAGE, true)][..]] {
        world.bus.windows(bdf(1), windows);
        port.write(Some(pasid), u64::MAX - 7, &[3; 8]).expect("up to the very last byte");
        let pieces = [piece(BASE, 5), piece(u64::MAX - 3, 5), piece(BASE + 64, 5)];
        let (done, fault) = stop(port.scatter(Some(pasid), &pieces, &[9; 15], Access::WRITE));
        assert_eq!((done, fault.address, fault.reason), (5, u64::MAX - 3, FaultReason::Wraps));
        assert_eq!((space.peek(BASE, 5), space.peek(BASE + 64, 5)), (vec![9; 5], vec![0; 5]));
        assert_eq!(space.peek(u64::MAX - 7, 8), [3; 8], "nothing of a range that wraps is done");
        let (done, fault) = stop(port.write(None, u64::MAX, &[1, 2]));
        assert_eq!((done, fault.address, fault.reason), (0, u64::MAX, FaultReason::Wraps));
    }
}

// shows S2
#[test]
fn a_buffer_that_does_not_fit_the_pieces_is_an_error_of_the_model_and_no_fault() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    let pieces = [piece(BASE, u64::MAX), piece(BASE, u64::MAX)];
    let error = device
        .port()
        .gather(Some(pasid), &pieces, &mut [0; 8], Access::READ)
        .expect_err("too small");
    assert!(matches!(error.cause, DmaCause::Length { pieces: u64::MAX, buffer: 8 }), "{error}");
    assert_eq!((error.done, error.fault()), (0, None));
    assert_eq!(
        error.to_string(),
        "after 0 bytes: the pieces are 18446744073709551615 bytes and the buffer is 8"
    );
    assert!(device.port().scatter(Some(pasid), &[], &[1], Access::WRITE).is_err());
    assert_eq!(world.events(), []);
}

// shows S2
#[test]
fn nothing_at_all_is_a_transaction_like_any_other() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    let other = Pasid::new(77).expect("small");
    for windows in [&[][..], &[window(0x5000, PAGE, true)][..]] {
        world.bus.windows(bdf(1), windows);
        for address in [0, BASE, 0x5000, u64::MAX] {
            device.port().read(Some(pasid), address, &mut []).expect("nothing to refuse");
            device.port().write(None, address, &[]).expect("nothing to refuse");
            let (done, fault) = stop(device.port().read(Some(other), address, &mut []));
            assert_eq!((done, fault.address, fault.reason), (0, address, FaultReason::NotBound));
        }
    }
    assert_eq!(world.bus.caught(), []);
}

// shows T1, F6
#[test]
fn execute_and_privileged_requests_need_the_grant_of_the_bond_and_of_the_page() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    space.protect(BASE, PAGE, Protection::READ_EXECUTE);
    space.protect(BASE + PAGE, PAGE, Protection::READ_WRITE.privileged());
    let execute = Access::EXECUTE;
    let privileged = Access::READ | Access::PRIVILEGED;
    let fetch = |pasid, at, access| {
        reason(device.port().gather(Some(pasid), &[piece(at, 4)], &mut [0; 4], access))
    };

    let bond = world.bind(&device, &space);
    assert_eq!(fetch(bond.pasid(), BASE, execute), Some(FaultReason::NotGranted));
    assert_eq!(fetch(bond.pasid(), BASE + PAGE, privileged), Some(FaultReason::NotGranted));
    assert_eq!(fetch(bond.pasid(), BASE + PAGE, Access::READ), Some(FaultReason::Denied));
    bond.unbind();
    let features = Features { execute: true, privileged: true, ..Features::default() };
    let bond = world
        .iommu
        .bind_device(&device, &space.handle(), Bind::new(()).features(features))
        .expect("capable");
    assert_eq!(fetch(bond.pasid(), BASE, execute), None);
    assert_eq!(
        fetch(bond.pasid(), BASE + 2 * PAGE, execute),
        Some(FaultReason::Denied),
        "the page does not permit it"
    );
    assert_eq!(fetch(bond.pasid(), BASE + PAGE, privileged), None);
    assert_eq!(fetch(bond.pasid(), BASE + PAGE, Access::READ), Some(FaultReason::Denied));
    let write = Access::WRITE | Access::PRIVILEGED;
    assert_eq!(
        reason(device.port().scatter(Some(bond.pasid()), &[piece(BASE + PAGE, 4)], &[1; 4], write)),
        None
    );
    let mut logged = world.events().into_iter().filter_map(|event| {
        if let Event::Fault(fault) = event { Some(fault.access) } else { None }
    });
    assert_eq!(logged.next(), Some(Access::EXECUTE));
}

// shows F6, T1
#[test]
fn without_the_page_fault_feature_an_absent_page_aborts_even_where_the_device_would_wait() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    space.absent(BASE + PAGE, PAGE);
    let bond = world
        .iommu
        .bind_device(&device, &space.handle(), Bind::new(()).features(Features::NONE))
        .expect("free");
    let (done, fault) =
        stop(device.port().read(Some(bond.pasid()), BASE, &mut vec![0; 2 * PAGE as usize]));
    assert_eq!((done, fault.address, fault.reason), (PAGE, BASE + PAGE, FaultReason::NotPresent));
    assert_eq!(world.events(), [Event::Fault(fault)]);
    assert_eq!(space.resolved(), 0);
    bond.unbind();

    let bond = world.bind(&device, &space);
    let stopping = Access::READ.present_only();
    let refused =
        device.port().gather(Some(bond.pasid()), &[piece(BASE + PAGE, 4)], &mut [0; 4], stopping);
    assert_eq!(reason(refused), Some(FaultReason::NotPresent), "as the device asked");
    device.port().read(Some(bond.pasid()), BASE + PAGE, &mut [0; 4]).expect("resolved");
    assert_eq!(space.resolved(), 1);
}

// shows F6
#[test]
fn the_event_log_keeps_the_newest_and_counts_what_it_lost() {
    let world = World::with(IommuConfig::default().event_capacity(3));
    let (device, pasid) = (world.plug(1), Pasid::new(5).expect("small"));
    for n in 0..5 {
        let _ = device.port().read(Some(pasid), n * 8, &mut [0; 8]);
    }
    let drained = world.iommu.drain_events();
    let newest: Vec<Event> =
        (2..5).map(|n| not_bound(&device, pasid, n * 8, Access::READ)).collect();
    assert_eq!((drained.events, drained.lost), (newest, 2));
    let _ = device.port().write(Some(pasid), 40, &[0]);
    let drained = world.iommu.drain_events();
    assert_eq!(
        (drained.events, drained.lost),
        (vec![not_bound(&device, pasid, 40, Access::WRITE)], 0),
        "each loss is told once"
    );
}

// shows F6
#[test]
fn a_host_failure_is_no_fault_and_keeps_the_call_and_the_error() {
    let world = World::new();
    let (device, memory) = (world.plug(1), space());
    let handle: std::sync::Arc<dyn sva_core::AddressSpace> =
        std::sync::Arc::new(Forwarding(Broken(memory.handle())));
    let bond = world.iommu.bind_device(&device, &handle, Bind::new(())).expect("free");
    let error = device.port().read(Some(bond.pasid()), BASE, &mut [0; 8]).expect_err("broken");
    assert_eq!((error.done, error.fault()), (3, None));
    assert_eq!(
        error.to_string(),
        "after 3 bytes: process_vm_readv failed: Cannot allocate memory (os error 12)"
    );
    let DmaCause::Host(failure) = &error.cause else { panic!("{error}") };
    assert_eq!(failure.source.raw_os_error(), Some(12));
    assert_eq!(
        world.events(),
        [Event::HostFailure { device: bdf(1), call: "process_vm_readv", errno: Some(12) }]
    );
    world.bus.policy(PathPolicy::Permissive).windows(bdf(2), &[window(0x5000, PAGE, true)]);
    let error = world
        .iommu
        .bind_device(&world.plug(2), &handle, Bind::new(()))
        .map(drop)
        .expect_err("broken");
    let text = "the overlaps with peer windows could not be determined: process_vm_readv failed: \
         Cannot allocate memory (os error 12)";
    assert_eq!(error.to_string(), text);
    assert_eq!(world.iommu.object_counts().bonds, 1);
}

/// A provider whose machine fails below it.
struct Broken(std::sync::Arc<dyn sva_core::AddressSpace>);

fn failure() -> sva_core::port::HostFailure {
    sva_core::port::HostFailure {
        call: "process_vm_readv",
        source: std::io::Error::from_raw_os_error(12),
    }
}

impl ForwardingSpace for Broken {
    fn inner(&self) -> &dyn sva_core::AddressSpace {
        &*self.0
    }

    fn read(&self, _: &[Segment], _: &mut [u8], _: Access) -> Result<(), sva_core::Stopped> {
        Err(sva_core::Stopped { done: 3, cause: sva_core::StopCause::Host(failure()) })
    }

    fn write(&self, _: &[Segment], _: &[u8], _: Access) -> Result<(), sva_core::Stopped> {
        Err(sva_core::Stopped { done: 3, cause: sva_core::StopCause::Host(failure()) })
    }

    fn translate(
        &self,
        _: u64,
        _: bool,
    ) -> Result<sva_core::ats::Translation, sva_core::StopCause> {
        Err(sva_core::StopCause::Host(failure()))
    }

    fn extent(&self, _: u64, _: bool) -> Result<Option<sva_core::Extent>, sva_core::StopCause> {
        Err(sva_core::StopCause::Host(failure()))
    }

    fn resolve(&self, _: u64, _: Access) -> Result<(), sva_core::StopCause> {
        Err(sva_core::StopCause::Host(failure()))
    }

    fn mapped_within(
        &self,
        _: &[AddrRange],
    ) -> Result<Vec<AddrRange>, sva_core::port::HostFailure> {
        Err(failure())
    }
}
