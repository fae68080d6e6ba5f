//! Devices come (rules B1, B6, B7, B8, G4).

use sva_core::bond::IsolationChange;
use sva_core::device::Feature;
use sva_core::error::{PlugError, Refusal};
use sva_core::event::Overlap;
use sva_core::topology::RequesterId;
use sva_core::topology::{PathDefect, PathPolicy, PeerWindow};
use sva_core::{AddrRange, Bind, Event, FaultReason, Features};
use sva_testkit::PAGE;

use crate::hooked_bus::HookedBus;
use crate::support::*;

fn window(first: u64, len: u64, decoder: u8) -> PeerWindow {
    PeerWindow {
        range: AddrRange::new(first, len).expect("a range"),
        decoder: bdf(decoder),
        claimed: true,
    }
}

// shows G4
#[test]
fn a_newcomer_sees_the_mappings_and_joins_the_bonds_of_its_group() {
    let world = World::grouped(3);
    let (space, first) = (space(), world.plug(1));
    world.iommu.map(first.group(), &mapping(0x10000, 1, &space, BASE)).expect("free");
    let bond =
        world.iommu.bind_group(first.group(), &space.handle(), Bind::new(())).expect("capable");
    let plugged = world.plug_as(2, everything());
    assert_eq!((&plugged.joined[..], &plugged.not_joined[..]), (&[bond.pasid()][..], &[][..]));
    assert_eq!((plugged.reserved.len(), plugged.overlaps.len()), (0, 0));
    let port = plugged.device.port();
    assert_eq!(refused(&port, bond.pasid()), None);
    port.write(None, 0x10010, b"mapped").expect("the group's domain is the newcomer's");
    assert_eq!(space.peek(BASE + 0x10, 6), b"mapped");
    assert_eq!(bond.members(), [bdf(1), bdf(2)]);
    assert!(
        world.events().iter().all(|event| !matches!(event, Event::IsolationChanged { .. })),
        "no device bond, no such event"
    );
    bond.unbind();
    assert_eq!(
        refused(&port, plugged.joined[0]),
        Some(FaultReason::NotBound),
        "one bond, undone for all"
    );
}

// shows G4
#[test]
fn a_newcomer_in_a_container_gets_its_mappings_and_bindings() {
    let world = World::grouped(2);
    let (space, first) = (space(), world.plug(1));
    let container = world.container(&[first.group()]);
    container.map(&mapping(0x10000, 2, &space, BASE)).expect("free");
    let bound = container.bind(&space.handle(), Bind::new(())).expect("capable");
    let plugged = world.plug_as(2, everything());
    assert_eq!(plugged.joined, [bound.pasid]);
    assert_eq!(refused(&plugged.device.port(), bound.pasid), None);
    plugged.device.port().write(None, 0x11000, b"x").expect("mapped");
    drop(container);
    assert_eq!(refused(&plugged.device.port(), bound.pasid), Some(FaultReason::NotBound));
    assert_eq!(
        reason(plugged.device.port().write(None, 0x11000, b"x")),
        Some(FaultReason::NoDomainMapping)
    );
}

// shows G4, B8
#[test]
fn what_a_newcomer_could_not_join_is_reported_with_the_reason_and_stays_closed_to_it() {
    let world = World::grouped(4);
    let (wide, rich, first) = (space(), space(), world.plug(1));
    let narrow_one =
        world.iommu.bind_group(first.group(), &wide.handle(), Bind::new(())).expect("capable");
    let features = Features { execute: true, ..Features::default() };
    let second = world
        .iommu
        .bind_group(first.group(), &rich.handle(), Bind::new(()).features(features))
        .expect("capable");
    let third_space = space();
    let third = world
        .iommu
        .bind_group(first.group(), &third_space.handle(), Bind::new(()))
        .expect("capable");

    let plugged = world.plug_as(2, capable(1));
    assert_eq!(plugged.joined, [narrow_one.pasid()]);
    let because: Vec<_> = plugged.not_joined.iter().map(|not| (not.pasid, not.because)).collect();
    let lacks = Refusal::DeviceLacks { device: bdf(2), feature: Feature::Execute };
    let too_wide = Refusal::PasidTooWide { device: bdf(2), pasid: third.pasid(), width: width(1) };
    assert_eq!(because, [(second.pasid(), lacks), (third.pasid(), too_wide)]);
    assert_eq!(plugged.not_joined[0].space, rich.handle().id());
    assert_eq!(
        refused(&plugged.device.port(), second.pasid()),
        Some(FaultReason::CannotIssuePasid)
    );

    let without = world.plug_as(3, plain());
    assert!(without.joined.is_empty());
    assert!(
        without
            .not_joined
            .iter()
            .all(|not| not.because == Refusal::NoPasidCapability { device: bdf(3) })
    );
    assert_eq!(without.not_joined.len(), 3);

    let defect = PathDefect::NoRequestRedirect(bdf(30));
    world.bus.defect(bdf(4), Some(defect));
    let bad_path = world.plug_as(4, everything());
    assert!(
        bad_path
            .not_joined
            .iter()
            .all(|not| not.because == Refusal::Path { device: bdf(4), defect })
    );
    assert_eq!(refused(&bad_path.device.port(), second.pasid()), Some(FaultReason::NotBound));
}

// shows G4, B1, B6, B8
#[test]
fn the_owner_of_a_device_bond_hears_of_a_newcomer_that_stays_blocked() {
    let world = World::grouped(2);
    let (space, first) = (space(), world.plug(1));
    let heard: Noted<(IsolationChange, &str)> = Noted::default();
    let ears = heard.clone();
    let bind = Bind::new("drvdata")
        .on_isolation_change(move |change, data| ears.lock().push((*change, *data)));
    let bond = world.iommu.bind_device(&first, &space.handle(), bind).expect("alone in its group");
    let plugged = world.plug_as(2, everything());
    let change = IsolationChange { device: bdf(1), newcomer: bdf(2) };
    assert_eq!(heard.lock()[..], [(change, "drvdata")]);
    let event = Event::IsolationChanged { device: bdf(1), pasid: bond.pasid(), newcomer: bdf(2) };
    assert_eq!(world.events(), [event]);
    assert!(
        plugged.joined.is_empty() && plugged.not_joined.is_empty(),
        "a device bond is its device's alone"
    );
    assert_eq!(refused(&plugged.device.port(), bond.pasid()), Some(FaultReason::NotBound));
    assert_eq!(refused(&first.port(), bond.pasid()), None, "the bond lives on");
    let other = crate::support::space();
    for device in [&first, &plugged.device] {
        let error = world
            .iommu
            .bind_device(device, &other.handle(), Bind::new(()))
            .map(drop)
            .expect_err("two in the group");
        assert!(matches!(error, sva_core::error::BindError::NotSingleton { .. }), "{error:?}");
    }
}

// shows G4
#[test]
fn an_isolation_handler_that_panics_counts_as_run_and_the_plug_goes_on() {
    let world = World::grouped(2);
    let (space, first) = (space(), world.plug(1));
    let bind = Bind::new(()).on_isolation_change(|_, ()| panic!("as the test wants"));
    let bond = world.iommu.bind_device(&first, &space.handle(), bind).expect("alone");
    let second = world.plug(2);
    assert!(!second.is_removed());
    watched(move || drop(bond));
}

// shows G4
#[test]
fn reserved_regions_and_peer_windows_that_the_newcomer_brings_are_reported() {
    let world = World::grouped(2);
    let (space, first) = (space(), world.plug(1));
    world.iommu.map(first.group(), &mapping(0x10000, 2, &space, BASE)).expect("free");
    world.iommu.map(first.group(), &mapping(0x20000, 1, &space, BASE)).expect("free");
    let bond =
        world.iommu.bind_group(first.group(), &space.handle(), Bind::new(())).expect("capable");
    world.bus.reserve(bdf(2), &[AddrRange::new(0x11000, PAGE).expect("a range")]);
    world.bus.windows(bdf(2), &[window(0x20800, PAGE, 9), window(BASE + 2 * PAGE, PAGE, 8)]);
    let plugged = world.plug_as(2, everything());
    assert_eq!(plugged.reserved, [AddrRange::new(0x10000, 2 * PAGE).expect("a range")]);
    let in_domain = Overlap {
        device: bdf(2),
        range: AddrRange::new(0x20800, 0x800).expect("a range"),
        decoder: bdf(9),
    };
    let in_space = Overlap {
        device: bdf(2),
        range: AddrRange::new(BASE + 2 * PAGE, PAGE).expect("a range"),
        decoder: bdf(8),
    };
    assert_eq!(plugged.overlaps, [in_domain, in_space]);
    assert_eq!(world.events(), [Event::Overlap(in_domain), Event::Overlap(in_space)]);
    drop(bond);
}

// shows G4, B8
#[test]
fn devices_with_one_requester_id_share_a_table_and_the_newcomer_is_told_what_is_in_it() {
    let world = World::grouped(3);
    for number in 1..=3 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (one, two, first) = (space(), space(), world.plug(1));
    let narrow = world.bind(&first, &one);
    let wide = world.bind(&first, &two);
    let plugged = world.plug_as(2, everything());
    assert_eq!(plugged.joined.len(), 2);
    assert!(plugged.joined.contains(&narrow.pasid()) && plugged.joined.contains(&wide.pasid()));
    assert_eq!(
        refused(&plugged.device.port(), narrow.pasid()),
        None,
        "the IOMMU cannot tell the two apart"
    );
    let third = world.plug_as(3, capable(1));
    assert_eq!(third.joined, [narrow.pasid()], "it cannot issue the other");
    assert_eq!(refused(&third.device.port(), wide.pasid()), Some(FaultReason::CannotIssuePasid));
    narrow.unbind();
    for device in [&first, &plugged.device, &third.device] {
        assert!(refused(&device.port(), third.joined[0]).is_some(), "unbound as one");
    }
}

// shows G4
#[test]
fn a_newcomer_with_a_shared_requester_id_is_told_what_it_cannot_issue_but_of_no_ended_space() {
    let world = World::grouped(2);
    for number in 1..=2 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (gone, wide, first) = (space(), space(), world.plug(1));
    let _ended =
        world.iommu.bind_group(first.group(), &gone.handle(), Bind::new(())).expect("capable");
    let bond =
        world.iommu.bind_group(first.group(), &wide.handle(), Bind::new(())).expect("capable");
    gone.end(sva_core::EndReason::Exited);
    let plugged = world.plug_as(2, capable(1));
    assert!(plugged.joined.is_empty(), "{:?}", plugged.joined);
    let because: Vec<_> = plugged.not_joined.iter().map(|not| not.because).collect();
    assert_eq!(
        because,
        [Refusal::PasidTooWide { device: bdf(2), pasid: bond.pasid(), width: width(1) }]
    );
}

// shows G4
#[test]
fn an_occupied_address_is_refused_and_the_device_there_is_untouched() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let bond = world.bind(&device, &space);
    let spec = sva_core::DeviceSpec { bdf: bdf(1), capabilities: plain() };
    let error = world.iommu.plug(spec).map(drop).expect_err("occupied");
    assert_eq!(error, PlugError::Occupied { device: bdf(1) });
    assert_eq!(error.to_string(), "there is a device at 0000:01:01.0 already; remove it first");
    assert_eq!(refused(&device.port(), bond.pasid()), None);
}

// shows G4, B7
#[test]
fn what_the_bus_answers_anew_counts_from_the_next_transaction_on() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    world.bus.policy(PathPolicy::Permissive);
    let bond = world.bind(&device, &space);
    world.bus.windows(bdf(1), &[window(BASE, PAGE, 7)]);
    device.port().write(Some(bond.pasid()), BASE, b"swallowed").expect("the peer takes it");
    assert_eq!(space.peek(BASE, 9), [0; 9]);
    world.bus.windows(bdf(1), &[]);
    device.port().write(Some(bond.pasid()), BASE, b"delivered").expect("bound");
    assert_eq!(space.peek(BASE, 9), b"delivered");
}

// shows G4
#[test]
fn a_reserved_region_of_a_device_that_comes_during_a_map_is_noticed_by_one_of_the_two() {
    watched(|| {
        let space = space();
        let bus = HookedBus::new(bdf(1));
        bus.script
            .share(&[bdf(1), bdf(2)], sva_core::topology::SharedBecause::NoAcs { port: bdf(30) });
        bus.script.reserve(bdf(2), &[AddrRange::new(0x10000, PAGE).expect("a range")]);
        let iommu = sva_core::Iommu::new(bus.clone(), sva_core::IommuConfig::default());
        let spec = |number| sva_core::DeviceSpec { bdf: bdf(number), capabilities: everything() };
        let first = iommu.plug(spec(1)).expect("free").device;
        // The bus has changed: the map asks it again, and just then the other device comes.
        bus.script.windows(bdf(1), &[]);
        let (plugged, other) = (later(), iommu.clone());
        let result = plugged.clone();
        *bus.on_reserved.1.lock() = Some(Box::new(move || {
            let come = std::thread::spawn(move || other.plug(spec(2)).expect("free").reserved);
            *result.lock() = Some(come.join().expect("no panic"));
        }));
        let mapped = iommu.map(first.group(), &mapping(0x10000, 1, &space, BASE));
        let reserved = plugged.lock().take().expect("the device came");
        assert!(
            mapped.is_err() || !reserved.is_empty(),
            "mapped over a region reserved for a member, and nobody was told"
        );
    });
}
