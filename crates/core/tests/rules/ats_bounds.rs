//! What is bounded where a device never collects, never completes, or a link makes messages up
//! (rules S2, T4, T7).

use std::time::Duration;

use sva_core::ats::{InvalidationRequest, Itag, TranslationAnswer, TranslationRequestError};
use sva_core::link::ToDevice;
use sva_core::{Access, FaultReason, IommuConfig};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::support::*;
use crate::translating::*;

fn one_at_a_time() -> IommuConfig {
    config().translation_requests_each(1)
}

// shows S2
#[test]
fn a_device_that_collects_no_answer_has_so_many_translation_requests_and_no_more() {
    let rig = Rig::with(config().translation_requests_each(2));
    let request = || rig.port.request_translation(Some(rig.pasid), BASE, Access::READ);
    let full = Err(TranslationRequestError::TooMany {
        device: rig.device.bdf(),
        outstanding: 2,
        allowed: 2,
    });
    for round in 0..4 {
        let (first, second) = (request().expect("room for two"), request().expect("room for two"));
        for _ in 0..100 {
            assert_eq!(request(), full);
        }
        match round {
            0 => assert_eq!(rig.port.translation(first), Some(TranslationAnswer::Cached)),
            1 => rig.port.abandon_translation(first),
            2 => drop(rig.device.reset().expect("plugged in")),
            _ => {
                rig.device.disable_ats().expect("it was on");
                rig.device.enable_ats().expect("it was off");
            }
        }
        let third = request().expect("room for one more");
        if round < 2 {
            assert_eq!(request(), full);
        }
        [second, third].into_iter().for_each(|request| rig.port.abandon_translation(request));
    }
    assert_eq!(rig.world.iommu.object_counts().device_work, 0);
    rig.take_down();
}

// shows S2
#[test]
fn an_access_that_finds_too_many_translation_requests_goes_on_when_one_is_collected_or_given_up() {
    watched(|| {
        // Without a clock: nothing but the release of room wakes it.
        let world = World::with(one_at_a_time());
        let device = world.plug_translating(1, &ManualLink::new(no_message));
        let (space, port) = (space(), device.ats_port());
        let pasid = Some(world.bind_forever(&device, &space));
        // Whether the access waits already is chance: each round comes to it at another time.
        for round in 0..2000 {
            let page = BASE + round % PAGES * PAGE;
            space.absent(page, PAGE);
            let asked = port.request_translation(pasid, BASE, Access::READ).expect("the only one");
            std::thread::scope(|scope| {
                let access = scope.spawn(|| reason(port.read(pasid, page, &mut [0; 8])));
                (0..round % 20).for_each(|_| std::thread::yield_now());
                if round % 2 == 0 {
                    port.abandon_translation(asked);
                } else {
                    assert!(port.translation(asked).is_some());
                }
                // Page requests are off, and the page is absent.
                assert_eq!(access.join().expect("no panic"), Some(FaultReason::NoTranslation));
            });
        }
    });
}

// shows S2
#[test]
fn an_access_that_finds_too_many_translation_requests_gives_up_after_the_limit_of_a_response() {
    watched(|| {
        let rig = Rig::with(one_at_a_time());
        let asked = rig.send(BASE);
        let limit = rig.world.iommu.config().response_limit;
        let outcome = std::thread::scope(|scope| {
            let access = scope.spawn(|| rig.port.read(Some(rig.pasid), BASE + PAGE, &mut [0; 8]));
            eventually("the access gives up", || {
                rig.clock.advance(limit + Duration::from_secs(1));
                access.is_finished()
            });
            access.join().expect("no panic")
        });
        assert_eq!(reason(outcome), Some(FaultReason::TimedOut));
        rig.port.abandon_translation(asked);
        rig.take_down();
    });
}

// shows S2
#[test]
fn a_device_owes_one_completion_for_each_tag_whatever_serials_a_link_makes_up() {
    let rig = Rig::new();
    rig.fill(BASE);
    let guard = rig.port.use_translation(Some(rig.pasid), BASE, Access::WRITE).expect("cached");
    rig.link.hold(invalidation_requests);
    let change = rig.unmap(BASE);
    let packet = rig.link.take(invalidation_requests);
    let request = request_in(&packet);
    rig.link.hold(no_message);
    for made_up in 1..1000 {
        let tag = Itag::new((made_up % 32) as u8).expect("0..=31");
        let forged = InvalidationRequest { tag, serial: request.serial + made_up, ..request };
        packet.clone().changed(Message::Down(ToDevice::Invalidate(forged))).deliver();
    }
    let own_work = rig.world.iommu.object_counts().device_work;
    assert_eq!(own_work, 1 + Itag::COUNT, "one access, and a completion for each tag");
    packet.deliver();
    drop(guard);
    let counts = rig.device.invalidation_counts();
    assert_eq!(
        (counts.completed, counts.unexpected, rig.world.iommu.object_counts().device_work),
        (0, Itag::COUNT as u64, 0)
    );
    assert!(!change.is_over(), "a link that makes up messages has lost the one that counts");
    rig.answer_overdue();
    change.finish();
    rig.take_down();
}

// shows S2, T2, T4
#[test]
fn changes_that_a_silent_device_keeps_waiting_need_a_bounded_number_of_messages_without_a_clock() {
    watched(|| {
        const SPACES: usize = 40;
        let world = World::new();
        let link = ManualLink::new(no_message);
        let device = world.plug_translating(1, &link);
        let port = device.ats_port();
        let bound: Vec<_> = (0..SPACES)
            .map(|_| space())
            .map(|space| (world.bind(&device, &space), space))
            .collect();
        for (bond, space) in &bound {
            space.largest_translation(12);
            (0..PAGES).for_each(|page| {
                port.read(Some(bond.pasid()), BASE + page * PAGE, &mut [0]).expect("mapped")
            });
        }
        let all = SPACES * PAGES as usize;
        assert_eq!(device.atc_len(), all);
        link.hold(invalidation_requests);
        // One of each space in turn, so that neighbours do not follow one another.
        let pages = (0..PAGES)
            .flat_map(|page| bound.iter().map(move |(_, space)| (space, BASE + page * PAGE)));
        let changes: Vec<Begun> =
            pages.map(|(space, page)| Begun(Some(space.begin_unmap(page, PAGE)))).collect();
        assert_eq!(
            (link.count(invalidation_requests), world.iommu.object_counts().invalidations),
            (Itag::COUNT, all)
        );
        assert!(changes.iter().all(|change| !change.is_over()));
        assert!(link.deliver_all(invalidation_requests) <= 2 * Itag::COUNT);
        assert_eq!(device.atc_len(), 0);
        changes.into_iter().for_each(Begun::finish);
        let counts = device.invalidation_counts();
        assert_eq!((counts.completed, counts.sent + counts.merged), (all as u64, all as u64));
        assert!(counts.widened > 0);
        link.hold(no_message);
        drop(bound);
    });
}
