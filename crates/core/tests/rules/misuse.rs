//! What a careless device, link or driver can do to translation services and page requests, and
//! what is left when all handles are gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sva_core::ats::Frame;
use sva_core::pri::WorkerConfig;
use sva_core::pri::{FaultQueue, ResponseCode};
use sva_core::topology::PeerWindow;
use sva_core::{
    Access, AddrRange, Bind, Capabilities, Clock, Device, DeviceSpec, FaultReason, Iommu,
    IommuConfig, Plug, Removal, Workers,
};
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_testkit::{FlatTopology, MemorySpace, PAGE, Protection};

use crate::manual_link::{
    ManualLink, any_message, invalidation_completions, invalidation_requests, no_message,
    page_responses,
};
use crate::support::*;

fn translating() -> Capabilities {
    Capabilities::translating(width(20), 8)
}

/// A device with all its services on, over `link`.
fn plug(iommu: &Iommu, number: u8, link: &Arc<ManualLink>) -> Device {
    let spec = DeviceSpec { bdf: bdf(number), capabilities: translating() };
    let device = iommu.plug(Plug::new(spec).link(link.clone())).expect("free").device;
    device.enable_ats().expect("it has ATS");
    device.enable_pri().expect("and page requests");
    device
}

struct RunningClock(Instant);

impl Clock for RunningClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

fn with_short_limits() -> Iommu {
    let limit = Duration::from_millis(20);
    let config = IommuConfig::default().invalidation_limit(limit).response_limit(limit);
    Iommu::with_clock(Arc::new(FlatTopology::new()), config, Arc::new(RunningClock(Instant::now())))
}

// shows T2
#[test]
fn a_device_that_does_not_answer_is_cut_off_however_much_else_goes_on() {
    watched(|| {
        let iommu = with_short_limits();
        let (link, space, others) = (ManualLink::new(invalidation_completions), space(), space());
        let (silent, busy) =
            (plug(&iommu, 1, &link), plug(&iommu, 2, &ManualLink::new(no_message)));
        let bond = iommu.bind_device(&silent, &space.handle(), Bind::new(())).expect("free");
        silent.ats_port().read(Some(bond.pasid()), BASE, &mut [0; 8]).expect("mapped");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                space.unmap(BASE, PAGE);
                done.store(true, Ordering::Release);
            });
            let start = Instant::now();
            // News for everybody who waits, all the time.
            while !done.load(Ordering::Acquire) && start.elapsed() < LIMIT / 6 {
                iommu.bind_device(&busy, &others.handle(), Bind::new(())).expect("free").unbind();
            }
            assert!(
                done.load(Ordering::Acquire),
                "the change still waits after {:?}",
                start.elapsed()
            );
        });
        assert!(silent.is_cut_off());
    });
}

// shows F2
#[test]
fn an_answer_that_is_lost_is_given_up_however_much_else_the_device_is_told() {
    watched(|| {
        let iommu = with_short_limits();
        let (link, space) = (ManualLink::new(page_responses), space());
        let device = plug(&iommu, 1, &link);
        let _workers = Workers::start(&iommu, WorkerConfig::default()).expect("threads");
        let bond = iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
        let (port, pasid, done) = (device.ats_port(), Some(bond.pasid()), AtomicBool::new(false));
        space.absent(BASE, PAGE);
        std::thread::scope(|scope| {
            let requester = scope.spawn(|| {
                let outcome = port.read(pasid, BASE, &mut [0; 8]);
                done.store(true, Ordering::Release);
                outcome
            });
            let (other, start) = (device.ats_port(), Instant::now());
            while !done.load(Ordering::Acquire) && start.elapsed() < LIMIT / 6 {
                let request =
                    other.request_translation(pasid, BASE + PAGE, Access::READ).expect("ATS is on");
                other.abandon_translation(request);
            }
            assert!(
                done.load(Ordering::Acquire),
                "the access still waits after {:?}",
                start.elapsed()
            );
            assert_eq!(reason(requester.join().expect("no panic")), Some(FaultReason::TimedOut));
        });
    });
}

// shows U2, F7
#[test]
fn a_bond_of_a_device_that_vanished_is_not_unbound_while_a_group_of_it_can_still_be_answered() {
    watched(|| {
        let world = World::new();
        let device = plug(&world.iommu, 1, &ManualLink::new(no_message));
        let (bound, mapped) = (space(), space());
        let queue = FaultQueue::new(4, || {});
        let bond = world
            .iommu
            .bind_device(&device, &bound.handle(), Bind::new(()).on_page_requests(queue.handler()))
            .expect("free");
        let port = device.ats_port();
        let group = port.open_group(Some(bond.pasid())).expect("credit");
        port.request_page(group, BASE, Access::READ, true).expect("credit");
        while world.iommu.sort_page_request() {}
        world.iommu.next_page_request_job().expect("a group").run();
        let mut cookies = Vec::new();
        queue.read(8, |cookie, _, _| cookies.push(cookie)).expect("room");
        // An access of something else keeps the removal waiting.
        world.iommu.map(device.group(), &mapping(0x1000, 1, &mapped, PARK)).expect("free");
        let parked = Parked::at(&mapped, &device.port(), None, 0x1000);
        let (iommu, gone) = (world.iommu.clone(), device.clone());
        let remover = std::thread::spawn(move || iommu.remove(&gone, Removal::Surprise));
        eventually("the removal has begun", || device.is_removed());
        assert!(bond.unbind().already_ended);
        let answer = sva_core::pri::GroupAnswer { cookie: cookies[0], code: ResponseCode::Success };
        assert!(queue.answer(&[answer]).is_err(), "a group of a bond that is gone was answered");
        assert_eq!(world.iommu.object_counts().page_groups, 0);
        parked.release().expect("it was under way");
        remover.join().expect("no panic").expect("plugged");
        world.iommu.unmap(device.group(), 0, 1 << 30).map(drop).unwrap_or_default();
    });
}

// shows F4
#[test]
fn when_the_last_handles_are_dropped_nothing_of_a_translating_device_is_left() {
    let (link, space) = (ManualLink::new(no_message), space());
    let handle = space.handle();
    let handles = Arc::strong_count(&handle);
    {
        let world = World::new();
        let device = plug(&world.iommu, 1, &link);
        world.iommu.map(device.group(), &mapping(0x1000, 1, &space, BASE)).expect("free");
        let bond = world.bind(&device, &space);
        let port = device.ats_port();
        port.read(Some(bond.pasid()), BASE, &mut [0; 8]).expect("mapped");
        let guard = port.use_translation(Some(bond.pasid()), BASE, Access::READ).expect("cached");
        let reset = device.reset().expect("plugged");
        drop((bond, guard, port, reset, device, world));
    }
    assert_eq!((Arc::strong_count(&link), Arc::strong_count(&handle)), (1, handles));
}

// shows T2
#[test]
fn any_number_of_changes_waits_for_one_use_and_ends_with_it() {
    const CHANGES: usize = 20_000;
    let run = || {
        let world = World::new();
        // A link that hands messages over at once: what follows from a completion comes inside the
        // call that delivers it.
        let device = world.plug_as(1, translating()).device;
        device.enable_ats().expect("it has ATS");
        let space = space();
        let bond = world.bind(&device, &space);
        let port = device.ats_port();
        port.read(Some(bond.pasid()), BASE, &mut [0; 8]).expect("mapped");
        let guard = port.use_translation(Some(bond.pasid()), BASE, Access::READ).expect("cached");
        let changes: Vec<_> = (0..CHANGES).map(|_| space.begin_replace(BASE, PAGE)).collect();
        assert_eq!(device.outstanding_invalidations(), CHANGES);
        drop(guard);
        assert!(changes.iter().all(sva_testkit::Change::is_over));
    };
    std::thread::Builder::new()
        .stack_size(1 << 20)
        .spawn(run)
        .expect("a thread")
        .join()
        .expect("no panic");
}

// shows T4
#[test]
fn the_last_byte_of_the_address_space_is_a_byte_like_any_other() {
    let world = World::new();
    let device = plug(&world.iommu, 1, &ManualLink::new(no_message));
    let space = MemorySpace::new();
    let top = u64::MAX - (PAGE - 1);
    space.map(top, PAGE, Protection::READ_WRITE);
    let bond = world.bind(&device, &space);
    let (port, pasid) = (device.ats_port(), Some(bond.pasid()));
    port.write(pasid, u64::MAX, &[7]).expect("mapped");
    assert_eq!(space.peek(u64::MAX, 1), [7]);
    assert_eq!(port.use_translation(pasid, u64::MAX, Access::READ).expect("cached").len(), 1);
    assert_eq!(reason(port.read(pasid, u64::MAX, &mut [0; 2])), Some(FaultReason::Wraps));
    let mut page = [0; PAGE as usize];
    port.read(pasid, top, &mut page).expect("all of the last page");
    assert_eq!(page[PAGE as usize - 1], 7);
    let untranslated = Access::READ.present_only();
    assert_eq!(port.try_read(pasid, u64::MAX, &mut [0; 9], untranslated).expect("cached"), Some(1));
    assert_eq!(
        reason(device.port().read_translated(pasid, Frame(u64::MAX), &mut [0; 2], Access::READ)),
        Some(FaultReason::NoSuchFrame)
    );
    space.unmap(top, PAGE);
    assert_eq!(device.atc_len(), 0);
    let everything = PeerWindow {
        range: AddrRange::inclusive(0, u64::MAX).expect("in order"),
        decoder: bdf(9),
        claimed: true,
    };
    world.bus.translated_windows(device.bdf(), Some(&[everything]));
    device
        .port()
        .read_translated(pasid, Frame(0), &mut [0; 8], Access::READ)
        .expect("the peer answers");
}

#[test]
fn an_invalidation_that_a_link_repeats_for_ever_is_recorded_once() {
    let world = World::new();
    let link = ManualLink::new(invalidation_requests);
    let device = plug(&world.iommu, 1, &link);
    let space = space();
    let bond = world.bind(&device, &space);
    let port = device.ats_port();
    port.read(Some(bond.pasid()), BASE, &mut [0; 8]).expect("mapped");
    let guard = port.use_translation(Some(bond.pasid()), BASE, Access::READ).expect("cached");
    let change = space.begin_unmap(BASE, PAGE);
    let packet = link.take(any_message);
    (0..1000).for_each(|_| packet.clone().deliver());
    drop(packet);
    link.hold(no_message);
    let work = world.iommu.object_counts().device_work;
    drop(guard);
    assert_eq!(work, 2, "the use, and the invalidation that waits for it");
    assert!(change.is_over());
    assert_eq!(
        (device.invalidation_counts().completed, device.invalidation_counts().unexpected),
        (1, 0)
    );
}
