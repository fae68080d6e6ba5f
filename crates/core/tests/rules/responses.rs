//! Responses to page request groups: which group they fit, late ones, failures (rules F2, U6).

use std::sync::Arc;
use std::time::Duration;

use sva_core::ats::Translation;
use sva_core::link::ToDevice;
use sva_core::port::HostFailure;
use sva_core::pri::{GroupOutcome, PageRequestError, PageResponse, PrgIndex};
use sva_core::pri::{PageRequestGroup, ResponseCode};
use sva_core::space::{SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, Bind, Capabilities, EndReason, Event, FaultReason, Iommu,
    IommuConfig, Pasid, Segment, SpaceCapabilities, SpaceId, SpaceWatcher, StopCause, Stopped,
};
use sva_testkit::PAGE;

use crate::manual_link::*;
use crate::paging::*;
use crate::support::{World, bdf, reason, watched};

fn number(n: u32) -> Pasid {
    Pasid::new(n).expect("not zero, and 20 bits")
}

// shows F2
#[test]
fn a_response_names_the_pasid_where_the_device_wants_it() {
    for response_pasid in [true, false] {
        let world = World::new();
        let requester = world.requester(1, Capabilities { response_pasid, ..requesting() });
        let space = absent();
        let bond = world.bind(&requester.device, &space);
        requester.link.hold(page_responses);
        let group = requester.request(Some(bond.pasid()), &[page(0)]);
        world.resolve();
        let packet = requester.link.take(page_responses);
        let sent = response(packet.message);
        assert_eq!(
            (sent.pasid, sent.index),
            (Some(bond.pasid()).filter(|_| response_pasid), group)
        );
        packet.deliver();
        assert_eq!(requester.outcome(group), SUCCESS);
    }
}

// shows F2, U6
#[test]
fn a_response_that_fits_no_group_that_waits_is_counted_and_answers_nobody() {
    let Setting { world, requester, space: _space, bond } = Setting::new();
    let unexpected = || requester.device.page_request_counts().unexpected;
    let (sent, open) = (
        requester.request(Some(bond.pasid()), &[page(0)]),
        requester.request_part(Some(bond.pasid()), &[page(1)]),
    );
    requester.link.hold(page_responses);
    world.resolve();
    let packet = requester.link.take(page_responses);
    let right = response(packet.message);
    let wrong = [
        PageResponse { pasid: Some(number(9)), ..right },
        PageResponse { pasid: None, ..right },
        PageResponse { index: PrgIndex::new(300).expect("small"), ..right },
        PageResponse { index: open, ..right },
    ];
    for (n, wrong) in wrong.into_iter().enumerate() {
        packet.clone().changed(Message::Down(ToDevice::Response(wrong))).deliver();
        assert_eq!(
            (requester.outcome(sent), requester.outcome(open), unexpected()),
            (None, None, n as u64 + 1),
            "{wrong:?}"
        );
    }
    packet.clone().deliver();
    packet
        .changed(Message::Down(ToDevice::Response(PageResponse {
            code: ResponseCode::InvalidRequest,
            ..right
        })))
        .deliver();
    assert_eq!(
        (requester.outcome(sent), unexpected()),
        (SUCCESS, 5),
        "the second answer changes nothing"
    );
}

// shows F2
#[test]
fn after_a_response_failure_the_device_asks_for_nothing_until_it_is_reset() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let owned = absent();
    let fail = Arc::new(|group: PageRequestGroup| {
        group.answer(ResponseCode::ResponseFailure).expect("it is pending")
    });
    let bond = world
        .iommu
        .bind_device(&requester.device, &owned.handle(), Bind::new(()).on_page_requests(fail))
        .expect("free");
    let sound = absent();
    let sound_bond = world.bind(&requester.device, &sound);
    let group = requester.request(Some(bond.pasid()), &[page(0)]);
    let waiting = requester.request_part(Some(sound_bond.pasid()), &[page(0)]);
    world.resolve();
    assert_eq!(requester.outcome(group), FAILURE);
    assert_eq!(requester.port.open_group(Some(sound_bond.pasid())), Err(PageRequestError::Failed));
    assert_eq!(
        requester.port.request_page(waiting, page(1), Access::READ, true),
        Err(PageRequestError::Failed)
    );
    // A device that goes on all the same is told again, and nothing is resolved for it.
    let before = world.iommu.page_queue_counts();
    requester.send(Some(sound_bond.pasid()), 40, page(2), false);
    requester.send(Some(sound_bond.pasid()), 40, page(3), true);
    let after = world.iommu.page_queue_counts();
    assert_eq!(
        (after.dropped - before.dropped, after.failed - before.failed, world.resolve()),
        (2, 1, 0)
    );
    // Switching page requests off and on again is no reset.
    requester.device.disable_pri().expect("they were on");
    requester.device.enable_pri().expect("they were off");
    assert_eq!(requester.port.open_group(Some(sound_bond.pasid())), Err(PageRequestError::Failed));
    requester.send(Some(sound_bond.pasid()), 41, page(3), true);
    assert_eq!((world.iommu.page_queue_counts().failed - after.failed, world.resolve()), (1, 0));
    requester.device.reset().expect("plugged").end();
    let group = requester.request(Some(sound_bond.pasid()), &[page(0)]);
    assert_eq!((world.resolve(), requester.outcome(group), sound.resolved()), (1, SUCCESS, 1));
}

// shows S3, F5
#[test]
fn a_space_whose_machine_fails_takes_nothing_from_the_devices_other_spaces() {
    let world = World::new();
    let requester = world.requester(1, requesting());
    let broken = Arc::new(Broken(SpaceId::unique()));
    let bond = world.iommu.bind_device(&requester.device, &broken, Bind::new(())).expect("free");
    let sound = absent();
    let sound_bond = world.bind(&requester.device, &sound);
    let (failing, group) = (
        requester.request(Some(bond.pasid()), &[page(0)]),
        requester.request(Some(sound_bond.pasid()), &[page(0)]),
    );
    world.resolve();
    assert_eq!(
        requester.outcome(failing),
        Some(GroupOutcome::Response(ResponseCode::InvalidRequest))
    );
    let failure = Event::HostFailure { device: bdf(1), call: "resolve", errno: Some(5) };
    assert_eq!(world.events(), [failure]);
    assert_eq!((requester.outcome(group), sound.resolved()), (SUCCESS, 1));
}

// shows F2
#[test]
fn a_group_without_an_answer_in_time_is_given_up_and_its_index_kept_from_use_until_a_reset() {
    let clock = ScriptedClock::new();
    let config = IommuConfig::default().response_limit(Duration::from_secs(10));
    let world =
        World { iommu: Iommu::with_clock(World::new().bus, config, clock.clone()), ..World::new() };
    let requester = world.requester(1, requesting());
    let space = absent();
    let bond = world.bind(&requester.device, &space);
    let group = requester.request(Some(bond.pasid()), &[page(0)]);
    requester.link.hold(page_responses);
    world.resolve();
    clock.advance(Duration::from_millis(9_999));
    world.iommu.tick();
    assert_eq!(requester.outcome(group), None);
    clock.advance(Duration::from_millis(1));
    world.iommu.tick();
    assert_eq!(requester.outcome(group), Some(GroupOutcome::TimedOut));
    assert_eq!(world.events(), [Event::ResponseOverdue { device: bdf(1), groups: 1 }]);
    requester.link.hold(no_message);
    for _ in 0..600 {
        let next = requester.request(Some(bond.pasid()), &[page(1)]);
        assert_ne!(next, group, "the late answer would be taken for this group's");
        world.resolve();
        assert_eq!(requester.outcome(next), SUCCESS);
    }
    requester.link.deliver_all(page_responses);
    assert_eq!(
        (requester.outcome(group), requester.device.page_request_counts().unexpected),
        (Some(GroupOutcome::TimedOut), 1)
    );
    requester.device.reset().expect("plugged").end();
    assert_eq!(requester.outcome(group), Some(GroupOutcome::Forgotten));
}

// shows F2, G5
#[test]
fn an_access_whose_credit_is_lost_for_good_ends_as_timed_out() {
    watched(|| {
        let clock = ScriptedClock::new();
        let world = World {
            iommu: Iommu::with_clock(World::new().bus, IommuConfig::default(), clock.clone()),
            ..World::new()
        };
        let requester = world.requester(1, Capabilities { pri: Some(1), ..requesting() });
        let space = absent();
        let bond = world.bind(&requester.device, &space);
        requester.link.hold(page_responses);
        for _ in 0..2 {
            let (port, pasid) = (requester.port.clone(), bond.pasid());
            let access =
                std::thread::spawn(move || reason(port.read(Some(pasid), page(0), &mut [0; 8])));
            while !access.is_finished() {
                world.resolve();
                space.absent(page(0), PAGE);
                clock.advance(Duration::from_secs(1));
                std::thread::yield_now();
            }
            assert_eq!(access.join().expect("no panic"), Some(FaultReason::TimedOut));
        }
        requester.device.reset().expect("plugged").end();
        requester.link.hold(no_message);
        let group = requester.request(Some(bond.pasid()), &[page(0)]);
        assert_eq!((world.resolve(), requester.outcome(group)), (1, SUCCESS));
    });
}

/// A space whose machine fails whenever a page is to be brought in.
struct Broken(SpaceId);

impl AddressSpace for Broken {
    fn id(&self) -> SpaceId {
        self.0
    }

    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities { page_faults: true, ..SpaceCapabilities::default() }
    }

    fn ended(&self) -> Option<EndReason> {
        None
    }

    fn watch(&self, _: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        Ok(WatchToken(0))
    }

    fn unwatch(&self, _: WatchToken) {}

    fn read(&self, _: &[Segment], _: &mut [u8], _: Access) -> Result<(), Stopped> {
        Err(Stopped { done: 0, cause: StopCause::NotPresent })
    }

    fn write(&self, _: &[Segment], _: &[u8], _: Access) -> Result<(), Stopped> {
        Err(Stopped { done: 0, cause: StopCause::NotPresent })
    }

    fn translate(&self, _: u64, _: bool) -> Result<Translation, StopCause> {
        Err(StopCause::NotPresent)
    }

    fn resolve(&self, _: u64, access: Access) -> Result<(), StopCause> {
        assert!(!access.is_present_only());
        Err(StopCause::Host(HostFailure {
            call: "resolve",
            source: std::io::Error::from_raw_os_error(5),
        }))
    }

    fn mapped_within(&self, _: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(Vec::new())
    }
}
