//! Windows of peers: what a peer decodes goes to it, the rest of an access to memory (rules B7, F6,
//! T5).

use sva_core::event::Overlap;
use sva_core::topology::{PathPolicy, PeerWindow};
use sva_core::{Access, Bind, Event, FaultReason, Pasid};
use sva_testkit::{PAGE, PeerAccess, Protection};

use crate::data_path::{piece, range, window};
use crate::support::*;

// shows B7, T5
#[test]
fn what_a_peer_decodes_goes_there_and_the_rest_of_the_same_access_to_memory() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    let caught_range = range(BASE + PAGE, PAGE);
    world.bus.windows(bdf(1), &[window(BASE + PAGE, PAGE, true)]);
    let data: Vec<u8> = (0..3 * PAGE).map(|n| (n % 251) as u8).collect();
    device.port().write(Some(pasid), BASE, &data).expect("both take it");
    let page = PAGE as usize;
    assert_eq!(space.peek(BASE, page), data[..page]);
    assert_eq!(space.peek(BASE + PAGE, page), vec![0; page], "the peer has swallowed it");
    assert_eq!(space.peek(BASE + 2 * PAGE, page), data[2 * page..]);
    let access = PeerAccess {
        from: bdf(1),
        decoder: bdf(9),
        access: Access::WRITE,
        address: BASE + PAGE,
        bytes: data[page..2 * page].to_vec(),
    };
    assert_eq!(world.bus.caught(), [access]);
    let event = Event::Misrouted {
        device: bdf(1),
        pasid: Some(pasid),
        range: caught_range,
        decoder: bdf(9),
        claimed: true,
    };
    assert_eq!(world.events(), [event]);
    let mut back = vec![0; data.len()];
    device.port().read(Some(pasid), BASE, &mut back).expect("both answer");
    assert_eq!(back, data);
    // In pieces that begin inside and end outside of the window, and the other way round.
    let pieces = [piece(BASE + 2 * PAGE - 3, 6), piece(BASE + PAGE - 3, 6)];
    let mut parts = [0; 12];
    device.port().gather(Some(pasid), &pieces, &mut parts, Access::READ).expect("both answer");
    assert_eq!(parts, *[&data[2 * page - 3..2 * page + 3], &data[page - 3..page + 3]].concat());
}

// shows B7
#[test]
fn a_window_has_its_first_and_its_last_byte_and_none_beside_them() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    world.bus.windows(bdf(1), &[window(BASE + 16, 16, true), window(BASE + 40, 1, true)]);
    for at in 0..64 {
        device.port().write(Some(pasid), BASE + at, &[7]).expect("both take it");
        let caught = world.bus.caught().len() == 1;
        assert_eq!(caught, (16..32).contains(&at) || at == 40, "byte {at}");
        assert_eq!(space.peek(BASE + at, 1), [if caught { 0 } else { 7 }], "byte {at}");
    }
}

// shows B7
#[test]
fn routing_never_looks_at_the_pasid() {
    let world = World::new();
    let (device, without) = (world.plug(1), world.plug_as(2, plain()).device);
    let stranger = Pasid::new(99).expect("small");
    for (device, number) in [(&device, 1), (&without, 2)] {
        world.bus.windows(bdf(number), &[window(0x5000, PAGE, true)]);
        for pasid in [None, Some(stranger)] {
            let written = device.port().write(pasid, 0x5000, b"here");
            assert_eq!(
                reason(written),
                None,
                "the peer is reached with {pasid:?}, whatever the IOMMU would say"
            );
            let caught = world.bus.caught();
            assert_eq!((caught.len(), &caught[0].bytes[..]), (1, &b"here"[..]));
        }
    }
}

// shows B7, T5, F6
#[test]
fn a_peer_that_aborts_ends_the_access_at_the_window_s_first_byte() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    let lost = PeerWindow { range: range(BASE + 4 * PAGE, PAGE), decoder: bdf(10), claimed: false };
    world.bus.windows(bdf(1), &[window(BASE + PAGE, PAGE, true), lost]).abort(bdf(9));
    let pieces = [piece(BASE, 8), piece(BASE + PAGE - 8, 16)];
    let (done, fault) =
        stop(device.port().gather(Some(pasid), &pieces, &mut [0; 24], Access::READ));
    assert_eq!(
        (done, fault.address, fault.reason),
        (16, BASE + PAGE, FaultReason::PeerAbort(bdf(9)))
    );
    assert_eq!(
        fault.reason.to_string(),
        "0000:01:09.0 decoded the address and aborted the request"
    );
    let events = world.events();
    assert!(
        matches!(
            events[..],
            [Event::Misrouted { claimed: true, .. }, Event::Fault(logged)]
                if logged == fault
        ),
        "{events:?}"
    );
    device
        .port()
        .write(Some(pasid), BASE + 4 * PAGE, b"lost")
        .expect("a posted write reports nothing");
    assert!(matches!(
        world.events()[..],
        [Event::Misrouted { claimed: false, decoder, .. }]
            if decoder == bdf(10)
    ));
    let (_, fault) = stop(device.port().read(Some(pasid), BASE + 4 * PAGE, &mut [0; 4]));
    assert_eq!(fault.reason, FaultReason::PeerAbort(bdf(10)));
}

// shows T5, B7
#[test]
fn a_fault_behind_a_window_counts_the_bytes_before_it_on_both_ways() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let pasid = world.bind_forever(&device, &space);
    space.protect(BASE + 2 * PAGE, PAGE, Protection::READ);
    world.bus.windows(bdf(1), &[window(BASE + PAGE, PAGE, true)]);
    let (done, fault) =
        stop(device.port().write(Some(pasid), BASE + PAGE - 10, &vec![1; 2 * PAGE as usize]));
    assert_eq!(
        (done, fault.address, fault.reason),
        (10 + PAGE, BASE + 2 * PAGE, FaultReason::Denied)
    );
}

// shows B7
#[test]
fn an_overlap_of_memory_and_window_is_reported_at_bind_and_at_map() {
    let world = World::new();
    world.bus.policy(PathPolicy::Permissive);
    let (space, device) = (space(), world.plug(1));
    world.bus.windows(bdf(1), &[window(BASE + PAGE, 2 * PAGE, true), window(0x20000, PAGE, false)]);
    let expected = Overlap { device: bdf(1), range: range(BASE + PAGE, 2 * PAGE), decoder: bdf(9) };
    let bond = world.iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("permitted");
    assert_eq!(bond.overlaps(), [expected]);
    assert_eq!(world.events(), [Event::Overlap(expected)]);
    let text = "0000:01:01.0: [0x700000001000, 0x700000002fff] is decoded by 0000:01:09.0 and \
         never reaches the IOMMU";
    assert_eq!(expected.to_string(), text);
    let in_domain = Overlap { device: bdf(1), range: range(0x20000, PAGE), decoder: bdf(9) };
    let mapped = world.iommu.map(device.group(), &mapping(0x1f000, 2, &space, BASE)).expect("free");
    assert_eq!(mapped.overlaps, [in_domain]);
    assert_eq!(world.events(), [Event::Overlap(in_domain)]);
    let clear = world.iommu.map(device.group(), &mapping(0x30000, 1, &space, BASE)).expect("free");
    assert_eq!(clear.overlaps, []);
}
