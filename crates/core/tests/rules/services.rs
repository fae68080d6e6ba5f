//! Translation services and page requests together, as a device uses them (rules F1, F4, T2).

use std::time::Duration;

use sva_core::pri::FaultTimes;
use sva_core::pri::WorkerConfig;
use sva_core::{Bind, Capabilities, IommuConfig, PasidWidth, Workers};
use sva_testkit::PAGE;

use crate::manual_link::ScriptedClock;
use crate::support::*;

fn translating() -> Capabilities {
    Capabilities::translating(PasidWidth::MAX, 32)
}

// shows F1, F4, T2
#[test]
fn a_translating_device_faults_pages_in_caches_their_translations_and_drops_them_with_the_change() {
    let world = World::new();
    let device = world.plug_as(1, translating()).device;
    device.enable_ats().expect("it has ATS");
    device.enable_pri().expect("and page requests");
    let _workers = Workers::start(&world.iommu, WorkerConfig::default()).expect("threads");
    let space = space();
    space.poke(BASE + PAGE, b"hello");
    space.absent(BASE + PAGE, PAGE);
    let bond = world.iommu.bind_device(&device, &space.handle(), Bind::new(())).expect("free");
    let port = device.ats_port();
    let mut buf = [0; 5];
    port.read(Some(bond.pasid()), BASE + PAGE, &mut buf).expect("resolved");
    assert_eq!((&buf, space.resolved()), (b"hello", 1));
    port.write(Some(bond.pasid()), BASE + 2 * PAGE - 2, b"over").expect("over the edge of a page");
    assert_eq!(space.peek(BASE + 2 * PAGE - 2, 4), b"over");
    assert!(device.atc_len() > 0);
    space.unmap(BASE + PAGE, PAGE);
    let error = port.read(Some(bond.pasid()), BASE + PAGE, &mut buf).expect_err("gone");
    assert_eq!(error.done, 0, "{error}");
    port.read(Some(bond.pasid()), BASE + 3 * PAGE, &mut buf).expect("the rest is there");
    let report = bond.unbind();
    assert!(!report.deferred);
    assert_eq!(device.atc_len(), 0);
    assert_eq!(
        (
            world.iommu.object_counts().bonds,
            world.iommu.object_counts().invalidations,
            world.iommu.object_counts().page_groups
        ),
        (0, 0, 0)
    );
}

// shows F1
#[test]
fn a_bond_records_the_times_of_its_faults_part_by_part() {
    let clock = ScriptedClock::new();
    let world = World::with_clock(IommuConfig::default(), clock.clone());
    let device = world.plug_as(1, translating()).device;
    device.enable_ats().and_then(|()| device.enable_pri()).expect("it has both");
    let _workers = Workers::start(&world.iommu, WorkerConfig::default()).expect("threads");
    let (space, took) = (space(), Duration::from_millis(3));
    space.absent(BASE, 2 * PAGE);
    space.on_resolve(move |_| {
        clock.advance(took);
        true
    });
    let container = world.container(&[device.group()]);
    let bound = container.bind(&space.handle(), Bind::new(())).expect("capable");
    let mut buf = [0; 8];
    for page in 0..2 {
        device.ats_port().read(Some(bound.pasid), BASE + page * PAGE, &mut buf).expect("resolved");
    }
    let times = || container.fault_times(space.handle().id()).expect("bound");
    let counts = |times: FaultTimes| {
        [times.request, times.resolve, times.response, times.retry].map(|part| part.count())
    };
    // The thread that hands a response over notes its time when the device has it.
    eventually("all parts are noted", || counts(times()) == [2; 4]);
    assert_eq!((times().resolve.longest(), times().response.longest()), (took, took));
    assert!(container.fault_times(crate::support::space().handle().id()).is_none());
}
