//! Translation requests, what a device caches of the answers, and the translated requests that it
//! makes (rules T1, T3, T4, B7, U4).

use std::io;

use sva_core::ats::Translation;
use sva_core::ats::{TranslationAnswer, TranslationRefusal, TranslationRequestError};
use sva_core::error::{Service, ServiceError};
use sva_core::port::HostFailure;
use sva_core::topology::PeerWindow;
use sva_core::topology::RequesterId;
use sva_core::{
    Access, AddrRange, Bind, Capabilities, EndReason, Event, FaultReason, Features, Frame,
    Permissions,
};
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_testkit::{PAGE, Protection};

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

const PRIVILEGED_READ: Access = Access::READ.union(Access::PRIVILEGED);
const EXECUTE: Access = Access::EXECUTE;

fn permits(text: &str) -> Permissions {
    let mut permissions = Permissions::empty();
    permissions.set(Permissions::READ, text.contains('r'));
    permissions.set(Permissions::WRITE, text.contains('w'));
    permissions.set(Permissions::EXECUTE, text.contains('x'));
    permissions
}

// shows T1
#[test]
fn a_translation_permits_what_both_the_space_and_the_bond_permit() {
    let without = Features::default();
    let execute = Features { execute: true, ..without };
    let privileged = Features { privileged: true, ..without };
    for (protection, features, access, expected) in [
        (Protection::READ, without, Access::READ, "r"),
        (Protection::READ, without, Access::WRITE, "r"),
        (Protection::READ_WRITE, without, Access::READ, "rw"),
        (Protection::READ_EXECUTE, without, EXECUTE, "r"),
        (Protection::READ_EXECUTE, execute, EXECUTE, "rx"),
        (Protection::READ_EXECUTE, execute, Access::READ, "r"),
        (Protection::NONE, execute, Access::READ, ""),
        (Protection::READ.privileged(), without, Access::READ, ""),
        (Protection::READ.privileged(), without, PRIVILEGED_READ, ""),
        (Protection::READ.privileged(), privileged, Access::READ, ""),
        (Protection::READ.privileged(), privileged, PRIVILEGED_READ, "r"),
    ] {
        let mut rig = Rig::new();
        drop(rig.take_bond());
        let bond = rig
            .world
            .iommu
            .bind_device(&rig.device, &rig.space.handle(), Bind::new(()).features(features))
            .expect("free");
        rig.space.protect(BASE, PAGE, protection);
        let found = rig.look(Some(bond.pasid()), BASE, access).expect("looked at");
        assert_eq!(found.permissions, permits(expected), "{protection} {features:?} {access:?}");
        assert_eq!(
            found.frame.is_none(),
            expected.is_empty(),
            "without permission there is nothing to cache"
        );
        drop(bond);
        rig.take_down();
    }
}

// shows T1
#[test]
fn what_was_translated_for_unprivileged_accesses_is_not_used_for_privileged_ones() {
    let mut rig = Rig::new();
    drop(rig.take_bond());
    rig.bond = Some(
        rig.world
            .iommu
            .bind_device(&rig.device, &rig.space.handle(), Bind::new(()).features(ALL_FEATURES))
            .expect("free"),
    );
    rig.pasid = rig.bond().pasid();
    rig.fill(BASE);
    assert!(rig.port.use_translation(Some(rig.pasid), BASE, Access::READ).is_some());
    assert!(rig.port.use_translation(Some(rig.pasid), BASE, PRIVILEGED_READ).is_none());
    assert!(
        rig.port.use_translation(Some(rig.pasid), BASE, EXECUTE).is_none(),
        "the page is not executable"
    );
    rig.take_down();
}

#[test]
fn a_translation_is_as_large_as_its_mapping_and_the_space_allow() {
    let rig = Rig::new();
    for (largest, address, first, bits) in [
        (12, BASE + 5 * PAGE + 7, BASE + 5 * PAGE, 12),
        (14, BASE + 5 * PAGE, BASE + 4 * PAGE, 14),
        (21, BASE + 5 * PAGE, BASE, 16),
        (21, BASE + 15 * PAGE, BASE, 16),
    ] {
        rig.space.largest_translation(largest);
        let range = rig.look(Some(rig.pasid), address, Access::READ).expect("looked at").range;
        assert_eq!((range.first(), range.bits()), (first, bits), "2^{largest} at {address:#x}");
    }
    rig.space.unmap(BASE, PAGE);
    let range = rig.look(Some(rig.pasid), BASE + 5 * PAGE, Access::READ).expect("looked at").range;
    assert_eq!(
        (range.first(), range.bits()),
        (BASE + 4 * PAGE, 14),
        "what is left of the mapping has no larger aligned part there"
    );
    rig.take_down();
}

// shows F5, U4
#[test]
fn a_translation_request_that_leads_nowhere_is_answered_that_nothing_is_permitted() {
    let rig = Rig::new();
    rig.space.absent(BASE + PAGE, PAGE);
    let nothing_at = |address| {
        assert_eq!(rig.look(Some(rig.pasid), address, Access::READ), Ok(Translation::none(address)))
    };
    nothing_at(BASE - PAGE);
    nothing_at(BASE + PAGE);
    nothing_at(u64::MAX);
    assert_eq!(rig.space.resolved(), 0, "a translation request brings nothing in");
    rig.space.end_unannounced(EndReason::Exited);
    nothing_at(BASE);
    rig.space.announce().into_iter().for_each(drop);
    nothing_at(BASE);
    rig.take_down();
}

// shows B8
#[test]
fn a_translation_request_with_a_pasid_that_is_not_the_devices_is_not_looked_at() {
    let mut rig = Rig::new();
    let (other, narrow) = (
        rig.world.plug_translating(2, &rig.link),
        rig.world.plug_over(3, Capabilities { ats: true, ..plain() }, &rig.link),
    );
    narrow.enable_ats().expect("it has ATS");
    for port in [other.ats_port(), narrow.ats_port()] {
        let request =
            port.request_translation(Some(rig.pasid), BASE, Access::READ).expect("ATS is on");
        assert_eq!(
            port.translation(request),
            Some(TranslationAnswer::Refused(TranslationRefusal::Unsupported))
        );
        let error = reason(port.read(Some(rig.pasid), BASE, &mut [0; 8]));
        assert_eq!(error, Some(FaultReason::Untranslatable(TranslationRefusal::Unsupported)));
    }
    // While it is being unbound, it is the device's no more.
    rig.fill(BASE);
    let parked = rig.park(BASE);
    let unbinding = rig.take_bond().begin_unbind();
    assert_eq!(rig.look(Some(rig.pasid), BASE, Access::READ), Err(TranslationRefusal::Unsupported));
    parked.release().expect("it had begun");
    assert!(unbinding.is_over());
    assert_eq!(rig.look(Some(rig.pasid), BASE, Access::READ), Err(TranslationRefusal::Unsupported));
}

// shows T8
#[test]
fn without_a_pasid_a_device_is_told_what_its_domain_permits_and_caches_nothing() {
    let rig = Rig::new();
    rig.space.poke(BASE, b"mapped");
    let target = space();
    target.poke(BASE, b"mapped");
    let mut request = mapping(0x10000, 1, &target, BASE);
    rig.world.iommu.map(rig.device.group(), &request).expect("free");
    (request.iova, request.permissions) = (0x20000, Permissions::READ);
    rig.world.iommu.map(rig.device.group(), &request).expect("free");
    for (iova, expected) in [(0x10000, "rw"), (0x20abc, "r"), (0x30000, "")] {
        let expected = Translation { permissions: permits(expected), ..Translation::none(iova) };
        assert_eq!(rig.look(None, iova, Access::READ), Ok(expected));
    }
    let mut buf = [0; 6];
    rig.port.read(None, 0x10000, &mut buf).expect("untranslated");
    assert_eq!((&buf, rig.device.atc_len()), (b"mapped", 0));
    assert_eq!(reason(rig.port.read(None, 0x30000, &mut buf)), Some(FaultReason::NoTranslation));
    rig.world.iommu.unmap(rig.device.group(), 0, 1 << 20).expect("whole mappings");
    rig.take_down();
}

#[test]
fn a_translation_that_the_machine_below_cannot_make_is_aborted_and_logged() {
    let rig = Rig::new();
    let source = io::Error::from_raw_os_error(5);
    rig.gated.fail_translation(HostFailure { call: "walk", source });
    assert_eq!(rig.request(BASE), TranslationAnswer::Refused(TranslationRefusal::Aborted));
    let device = rig.device.bdf();
    assert!(rig.world.events().contains(&Event::HostFailure {
        device,
        call: "walk",
        errno: Some(5)
    }));
    rig.take_down();
}

// shows B7
#[test]
fn a_port_that_blocks_translation_lets_neither_requests_for_it_nor_requests_by_it_through() {
    let rig = Rig::new();
    rig.fill(BASE);
    rig.world.bus.block_translation(rig.device.bdf(), Some(bdf(30)));
    assert_eq!(
        rig.request(BASE + PAGE),
        TranslationAnswer::Refused(TranslationRefusal::Unsupported)
    );
    assert_eq!(
        reason(rig.write_cached(BASE, b"x").map(drop)),
        Some(FaultReason::TranslationBlocked(bdf(30)))
    );
    rig.device
        .port()
        .write(Some(rig.pasid), BASE, b"plain")
        .expect("untranslated requests are not stopped");
    assert_eq!(rig.gated.frame_accesses(), 0);
    rig.world.bus.block_translation(rig.device.bdf(), None);
    assert!(rig.write_cached(BASE, b"x").expect("nothing is in the way"));
    rig.take_down();
}

// shows B7
#[test]
fn a_translation_request_that_a_peer_decodes_gets_no_translation() {
    let rig = Rig::new();
    let range = AddrRange::new(BASE, PAGE).expect("a page");
    rig.world
        .bus
        .windows(rig.device.bdf(), &[PeerWindow { range, decoder: bdf(9), claimed: true }]);
    assert_eq!(rig.request(BASE + 8), TranslationAnswer::Refused(TranslationRefusal::Unsupported));
    let (device, pasid) = (rig.device.bdf(), Some(rig.pasid));
    assert_eq!(
        rig.world.events(),
        [Event::Misrouted { device, pasid, range, decoder: bdf(9), claimed: true }]
    );
    assert_eq!(rig.request(BASE + PAGE), TranslationAnswer::Cached);
    rig.take_down();
}

// shows B7
#[test]
fn a_window_that_lets_translated_requests_through_takes_them_and_the_space_never_sees_them() {
    let rig = Rig::new();
    rig.space.poke(BASE, b"data");
    rig.fill(BASE);
    let frame =
        rig.port.use_translation(Some(rig.pasid), BASE, Access::READ).expect("cached").frame();
    let range = AddrRange::new(frame.0, PAGE).expect("a page");
    let window = PeerWindow { range, decoder: bdf(9), claimed: true };
    rig.world.bus.translated_windows(rig.device.bdf(), Some(&[window]));
    assert!(rig.write_cached(BASE, b"peer").expect("the peer takes it"));
    let caught = rig.world.bus.caught();
    assert_eq!(
        (caught.len(), caught[0].decoder, caught[0].address, &caught[0].bytes[..]),
        (1, bdf(9), frame.0, &b"peer"[..])
    );
    assert_eq!((rig.space.peek(BASE, 4), rig.gated.frame_accesses()), (b"data".to_vec(), 0));
    let (device, pasid, range) =
        (rig.device.bdf(), Some(rig.pasid), AddrRange::new(frame.0, 4).expect("4 bytes"));
    assert_eq!(
        rig.world.events(),
        [Event::Misrouted { device, pasid, range, decoder: bdf(9), claimed: true }]
    );
    let over = rig.device.port().write_translated(pasid, Frame(frame.0 + PAGE - 2), b"over");
    assert_eq!(
        reason(over),
        Some(FaultReason::PeerAbort(bdf(9))),
        "a request does not leave the window half way"
    );
    rig.take_down();
}

#[test]
fn a_device_without_translation_services_cannot_have_them_switched_on() {
    let world = World::new();
    let device = world.plug(1);
    assert_eq!(device.enable_ats(), Err(ServiceError::NoAts { device: device.bdf() }));
    assert_eq!(
        device.disable_ats(),
        Err(ServiceError::NotOn { device: device.bdf(), service: Service::Ats })
    );
}

// shows T2
#[test]
fn a_device_that_shares_a_requester_id_cannot_cache_translations() {
    let (world, link) = (World::new(), ManualLink::new(any_message));
    let requester = RequesterId(bdf(30));
    world.bus.alias(bdf(1), requester);
    let device = world.plug_over(1, translating(), &link);
    assert_eq!(
        device.enable_ats(),
        Err(ServiceError::SharedRequesterId { device: bdf(1), requester })
    );
    let off = device.ats_port().request_translation(None, 0, Access::READ);
    assert_eq!(
        (off, link.messages()),
        (Err(TranslationRequestError::Off { device: bdf(1) }), vec![])
    );
}

#[test]
fn services_are_switched_on_and_off_in_order() {
    let (world, link) = (World::new(), ManualLink::new(no_message));
    let device = world.plug_over(1, translating(), &link);
    let bdf = device.bdf();
    assert_eq!(
        device.disable_ats(),
        Err(ServiceError::NotOn { device: bdf, service: Service::Ats })
    );
    assert_eq!(device.enable_pri(), Err(ServiceError::AtsOff { device: bdf }));
    device.enable_ats().expect("it is off");
    device.enable_pri().expect("ATS is on");
    assert_eq!(device.disable_ats(), Err(ServiceError::PriOn { device: bdf }));
    assert!(
        device.ats_port().request_translation(None, 0, Access::READ).is_ok(),
        "a refusal changes nothing"
    );
    device.disable_pri().expect("it is on");
    device.disable_ats().expect("page requests are off");
}

// regression 25: two callers set up one device at once, and each took itself for the one who had.
#[test]
fn of_those_who_switch_ats_on_at_once_one_succeeds_and_the_others_are_told() {
    let (world, link) = (World::new(), ManualLink::new(no_message));
    let device = world.plug_over(1, translating(), &link);
    let start = std::sync::Barrier::new(8);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (start.wait(), device.enable_ats()).1)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let refused = Err(ServiceError::AlreadyOn { device: device.bdf(), service: Service::Ats });
    assert_eq!(
        (
            outcomes.iter().filter(|o| o.is_ok()).count(),
            outcomes.iter().filter(|o| **o == refused).count()
        ),
        (1, 7)
    );
}

#[test]
fn page_requests_are_never_on_with_ats_off_whoever_switches_at_the_same_time() {
    watched(|| {
        let (world, link) = (World::new(), ManualLink::new(no_message));
        let device = world.plug_over(1, translating(), &link);
        for round in 0..4000 {
            device.enable_ats().expect("it is off");
            let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
            let (off, on) = std::thread::scope(|scope| {
                let off = scope.spawn(|| {
                    ready.store(true, Ordering::Release);
                    eventually("it is time", || go.load(Ordering::Acquire));
                    device.disable_ats()
                });
                eventually("the other is there", || ready.load(Ordering::Acquire));
                go.store(true, Ordering::Release);
                // Each round meets the other at another moment.
                for _ in 0..round % 200 {
                    std::hint::spin_loop();
                }
                let on = device.enable_pri();
                (off.join().expect("no panic"), on)
            });
            assert_ne!(off.is_ok(), on.is_ok(), "one of them comes first: {off:?} {on:?}");
            if on.is_ok() {
                device.disable_pri().expect("it is on");
                device.disable_ats().expect("page requests are off");
            }
        }
    });
}
