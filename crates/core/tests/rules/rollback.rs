//! All or nothing: what a refused bind, BIND, MAP or join leaves behind is what was there before
//! (rules B2, B3, G2, G3).

use sva_core::device::Feature;
use sva_core::error::{BindGroupError, ContainerBindError, JoinError, Refusal, SpaceRefusal};
use sva_core::topology::PathDefect;
use sva_core::{AddrRange, Bind, Device, EndReason, Features, SpaceCapabilities};
use sva_testkit::{Forwarding, ForwardingSpace, MemorySpace, PAGE};

use crate::support::*;

/// Runs an operation that is refused and checks that nothing of it is left: not in the system, not
/// at the space, not in a table, not in the log, nor any drvdata.
fn refused_without_a_trace<E: std::fmt::Debug>(
    world: &World,
    space: &MemorySpace,
    devices: &[&Device],
    operation: impl FnOnce(Bind<Tracer>) -> Result<(), E>,
) -> E {
    let data = std::sync::Arc::new(());
    world.events();
    let before = Before::of(&world.iommu, space, devices);
    let tracer = Tracer(data.clone());
    let bind = Bind::new(tracer)
        .on_exit(|_, _| panic!("a handler of a refused bind ran"))
        .on_isolation_change(|_, _| panic!("so did this one"));
    let error = operation(bind).expect_err("refused");
    assert_eq!(Before::of(&world.iommu, space, devices), before);
    assert_eq!(world.events(), []);
    assert_eq!(std::sync::Arc::strong_count(&data), 1, "the drvdata and the handlers are gone");
    error
}

/// drvdata whose life the test can see.
struct Tracer(std::sync::Arc<()>);

impl PartialEq for Tracer {
    fn eq(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}

// shows B3
#[test]
fn a_refused_bind_device_leaves_nothing() {
    let world = World::new();
    let (held, fresh, ended) = (space(), space(), space());
    let (device, narrow, bad_path) =
        (world.plug(1), world.plug_as(2, capable(1)).device, world.plug(3));
    ended.end(EndReason::Exited);
    world.bus.defect(bdf(3), Some(PathDefect::NoTlpPrefix(bdf(30))));
    let bond = world.bind(&device, &held);
    let filler = space();
    let _filler = world.bind(&device, &filler);
    let devices = [&device, &narrow, &bad_path];
    let try_bind = |device: &Device, space: &MemorySpace, features: Features| {
        refused_without_a_trace(&world, space, &devices, |bind| {
            world.iommu.bind_device(device, &space.handle(), bind.features(features)).map(drop)
        })
    };
    let default = Features::default();
    try_bind(&device, &held, default);
    try_bind(&device, &ended, default);
    try_bind(&bad_path, &fresh, default);
    try_bind(&narrow, &filler, default);
    try_bind(&narrow, &fresh, Features { execute: true, ..default });
    let bare = MemorySpace::with_capabilities(SpaceCapabilities::default());
    try_bind(&device, &bare, default);
    assert_eq!(
        refused(&device.port(), bond.pasid()),
        None,
        "the bonds that existed before still do"
    );
}

// shows B3
#[test]
fn a_space_that_ends_between_the_check_and_the_watch_costs_no_pasid() {
    /// Alive when it is asked, ended when it is watched.
    struct Slipping(std::sync::Arc<dyn sva_core::AddressSpace>);
    impl ForwardingSpace for Slipping {
        fn inner(&self) -> &dyn sva_core::AddressSpace {
            &*self.0
        }

        fn ended(&self) -> Option<EndReason> {
            None
        }
    }
    let world = World::new();
    let (space, device) = (space(), world.plug_as(1, capable(1)).device);
    space.end(EndReason::Execed);
    let handle: std::sync::Arc<dyn sva_core::AddressSpace> =
        std::sync::Arc::new(Forwarding(Slipping(space.handle())));
    let error = refused_without_a_trace(&world, &space, &[&device], |bind| {
        world.iommu.bind_device(&device, &handle, bind).map(drop)
    });
    assert!(matches!(
        error,
        sva_core::error::BindError::Space(SpaceRefusal::Ended(e))
            if e.0 == EndReason::Execed
    ));
    let other = crate::support::space();
    assert_eq!(world.bind(&device, &other).pasid().get(), 1, "the one PASID is free");
}

// shows B2, B3
#[test]
fn a_refused_bind_group_leaves_nothing_and_the_bonds_of_before_live_on() {
    let world = World::grouped(3);
    let (held, fresh) = (space(), space());
    let (first, second) = (world.plug(1), world.plug_as(2, capable(20)).device);
    let _ = world.plug_as(3, plain());
    let group = first.group();
    let bond = world.iommu.bind_group(group, &held.handle(), Bind::new(())).expect("capable");
    assert_eq!(bond.left_out(), [Refusal::NoPasidCapability { device: bdf(3) }]);
    assert_eq!(bond.members(), [bdf(1), bdf(2)]);
    let devices = [&first, &second];
    let again = refused_without_a_trace(&world, &held, &devices, |bind| {
        world.iommu.bind_group(group, &held.handle(), bind).map(drop)
    });
    assert!(
        matches!(
            again,
            BindGroupError::Device(Refusal::AlreadyBound { device, .. })
                if device == bdf(1)
        ),
        "{again:?}"
    );
    // The first member could be bound; the second cannot.
    let error = refused_without_a_trace(&world, &fresh, &devices, |bind| {
        let features = Features { execute: true, ..Features::default() };
        world.iommu.bind_group(group, &fresh.handle(), bind.features(features)).map(drop)
    });
    let lacks = Refusal::DeviceLacks { device: bdf(2), feature: Feature::Execute };
    assert!(matches!(error, BindGroupError::Device(refusal) if refusal == lacks), "{error:?}");
    world.bus.defect(bdf(2), Some(PathDefect::NoRequestRedirect(bdf(30))));
    let error = refused_without_a_trace(&world, &fresh, &devices, |bind| {
        world.iommu.bind_group(group, &fresh.handle(), bind).map(drop)
    });
    assert!(matches!(error, BindGroupError::Device(Refusal::Path { .. })), "{error:?}");
    for device in devices {
        assert_eq!(refused(&device.port(), bond.pasid()), None);
    }
}

// shows G2, B3
#[test]
fn a_refused_container_bind_leaves_nothing_in_any_of_its_groups() {
    let world = World::new();
    let (held, fresh, gone) = (space(), space(), space());
    let (rich, poor) = (world.plug(1), world.plug_as(2, capable(20)).device);
    let container = world.container(&[rich.group(), poor.group()]);
    let pasid = container.bind(&held.handle(), Bind::new(())).expect("capable").pasid;
    let devices = [&rich, &poor];
    let error = refused_without_a_trace(&world, &fresh, &devices, |bind| {
        let features = Features { privileged: true, ..Features::default() };
        container.bind(&fresh.handle(), bind.features(features)).map(drop)
    });
    let lacks = Refusal::DeviceLacks { device: bdf(2), feature: Feature::Privileged };
    assert!(matches!(error, ContainerBindError::Device(refusal) if refusal == lacks), "{error:?}");
    let error = refused_without_a_trace(&world, &held, &devices, |bind| {
        container.bind(&held.handle(), bind).map(drop)
    });
    assert!(
        matches!(error, ContainerBindError::Different { pasid: p, .. } if p == pasid),
        "{error:?}"
    );
    gone.end(EndReason::Exited);
    refused_without_a_trace(&world, &gone, &devices, |bind| {
        container.bind(&gone.handle(), bind).map(drop)
    });
    assert_eq!(container.bound(), [held.handle().id()]);
    for device in devices {
        assert_eq!(refused(&device.port(), pasid), None);
    }
}

// shows G3, B3
// regression 4: whatever the refusal is, the group can be given to the next.
#[test]
fn a_refused_join_leaves_the_group_free_and_the_container_as_it_was() {
    let world = World::new();
    let (bound, backing) = (space(), space());
    let (inside, narrow) = (world.plug(1), world.plug_as(2, capable(1)).device);
    let filler = world.plug(3);
    let other = space();
    let _filler = world.bind(&filler, &other);
    let container = world.container(&[inside.group()]);
    container.map(&mapping(0x10000, 1, &backing, BASE)).expect("free");
    let pasid = container.bind(&bound.handle(), Bind::new(())).expect("capable").pasid;
    assert_eq!(pasid.get(), 2);
    for _ in 0..3 {
        let error = refused_without_a_trace(&world, &bound, &[&inside, &narrow], |_| {
            container.add(narrow.group()).map(drop)
        });
        let too_wide = Refusal::PasidTooWide { device: bdf(2), pasid, width: width(1) };
        assert!(matches!(error, JoinError::Device(refusal) if refusal == too_wide), "{error:?}");
    }
    let reserved = AddrRange::new(0x10000, PAGE).expect("a range");
    world.bus.reserve(bdf(4), &[reserved]);
    let conflicting = world.plug(4);
    let error = refused_without_a_trace(&world, &bound, &[&inside, &conflicting], |_| {
        container.add(conflicting.group()).map(drop)
    });
    assert!(matches!(
        error,
        JoinError::Reserved { mapping, reserved: r, device }
            if mapping == reserved && r == reserved && device == bdf(4)
    ));
    let text = "the container's mapping [0x10000, 0x10fff] meets the region [0x10000, 0x10fff] \
         that is reserved for 0000:01:04.0";
    assert_eq!(error.to_string(), text);
    assert_eq!(container.groups(), [inside.group()]);
    for free in [&narrow, &conflicting] {
        assert_eq!(world.iommu.group(free.group()).expect("there").container, None);
        assert_eq!(
            reason(free.port().read(None, 0x10000, &mut [0])),
            Some(sva_core::FaultReason::NoDomainMapping)
        );
        world.container(&[free.group()]).close();
        world.iommu.remove(free, sva_core::Removal::Orderly).expect("plugged");
        assert!(world.iommu.group(free.group()).is_none(), "the group is not leaked");
    }
}
