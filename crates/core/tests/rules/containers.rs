//! What is bound and mapped in a container (rules B5, G2, G3, U3, U4).

use std::sync::Arc;

use sva_core::error::{ContainerBindError, ContainerUnbindError, MapError, Refusal, UnmapError};
use sva_core::{Bind, EndReason, FaultReason, Features, Removal, UnbindReport};
use sva_sync::Mutex;
use sva_testkit::PAGE;

use crate::support::*;

// shows B5
#[test]
fn a_container_s_bind_is_idempotent_and_one_unbind_undoes_it() {
    let world = World::new();
    let (space, one, two) = (space(), world.plug(1), world.plug(2));
    let container = world.container(&[one.group(), two.group()]);
    let first = container.bind(&space.handle(), Bind::new("drvdata")).expect("capable");
    assert!(!first.already_bound);
    for _ in 0..3 {
        let again = container.bind(&space.handle(), Bind::new("drvdata")).expect("the same again");
        assert_eq!((again.tag, again.pasid, again.already_bound), (first.tag, first.pasid, true));
    }
    assert_eq!(
        (world.iommu.object_counts().bonds, container.bound()),
        (1, vec![space.handle().id()])
    );
    for other in [Bind::new("other"), Bind::new("drvdata").features(Features::NONE)] {
        let error = container.bind(&space.handle(), other).map(drop).expect_err("different");
        let text = format!(
            "container 0 has bound {} already, with PASID 1 and other features or drvdata; unbind \
             that first",
            id_of(&space)
        );
        assert_eq!(error.to_string(), text);
    }
    let error = container
        .bind(&space.handle(), Bind::new(7_u8))
        .map(drop)
        .expect_err("another type of drvdata");
    assert!(matches!(error, ContainerBindError::Different { .. }), "{error:?}");
    assert_eq!(container.unbind(id_of(&space)).expect("bound"), UnbindReport::default());
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), first.pasid), Some(FaultReason::NotBound));
    }
    let error = container.unbind(id_of(&space)).expect_err("once is enough");
    assert_eq!(
        error,
        ContainerUnbindError::NotBound { container: container.id(), space: id_of(&space) }
    );
    assert_eq!(error.to_string(), format!("container 0 has not bound {}", id_of(&space)));
}

/// drvdata whose comparison calls into the core, as any of the caller's code may.
struct AsksWhenCompared(sva_core::Iommu);

impl PartialEq for AsksWhenCompared {
    fn eq(&self, _: &Self) -> bool {
        self.0.object_counts().bonds == 1
    }
}

// shows B5, U3
#[test]
fn drvdata_is_compared_with_no_lock_of_the_core_held() {
    watched(|| {
        let world = World::new();
        let (space, device) = (space(), world.plug(1));
        let container = world.container(&[device.group()]);
        let data = || AsksWhenCompared(world.iommu.clone());
        container.bind(&space.handle(), Bind::new(data())).expect("capable");
        assert!(
            container.bind(&space.handle(), Bind::new(data())).expect("the same").already_bound
        );
        container.unbind(id_of(&space)).expect("bound");
        container.close();
    });
}

// shows B5, U4
#[test]
fn a_second_bind_of_a_space_that_has_ended_says_so_until_it_is_unbound() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let container = world.container(&[device.group()]);
    let runs = Arc::new(Mutex::new(Vec::new()));
    let count = runs.clone();
    let bind =
        Bind::new("drvdata").on_exit(move |end, data| count.lock().push((end.reason, *data)));
    container.bind(&space.handle(), bind).expect("capable");
    space.end(EndReason::Execed);
    assert_eq!(runs.lock()[..], [(EndReason::Execed, "drvdata")]);
    let error = container.bind(&space.handle(), Bind::new("drvdata")).map(drop).expect_err("ended");
    assert_eq!(error.to_string(), "the address space has ended: its last task left it by exec");
    assert!(container.unbind(id_of(&space)).expect("bound").handler_ran);
    assert_eq!(runs.lock().len(), 1);
}

// shows G2
#[test]
fn map_and_bind_reach_every_group_and_unmap_and_unbind_take_them_from_every_group() {
    let world = World::new();
    let (bound, backing) = (space(), space());
    let (one, two, without) = (world.plug(1), world.plug(2), world.plug_as(3, plain()).device);
    let container = world.container(&[one.group(), two.group(), without.group()]);
    container.map(&mapping(0x10000, 2, &backing, BASE)).expect("free");
    let result = container.bind(&bound.handle(), Bind::new(())).expect("capable");
    assert_eq!(result.left_out, [Refusal::NoPasidCapability { device: bdf(3) }]);
    for device in [&one, &two, &without] {
        device.port().write(None, 0x11ff8, &[device.bdf().device(); 8]).expect("mapped");
        assert_eq!(backing.peek(BASE + 0x1ff8, 8), [device.bdf().device(); 8]);
    }
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), result.pasid), None);
    }
    assert_eq!(container.unmap(0x10000, 2 * PAGE).expect("mapped").bytes, 2 * PAGE);
    container.unbind(id_of(&bound)).expect("bound");
    for device in [&one, &two, &without] {
        assert_eq!(
            reason(device.port().read(None, 0x10000, &mut [0])),
            Some(FaultReason::NoDomainMapping)
        );
        assert!(refused(&device.port(), result.pasid).is_some());
    }
}

// shows G2
#[test]
fn a_refused_map_or_unmap_changes_nothing_in_any_group() {
    let world = World::new();
    let backing = space();
    let (one, two) = (world.plug(1), world.plug(2));
    let container = world.container(&[one.group(), two.group()]);
    container.map(&mapping(0x10000, 2, &backing, BASE)).expect("free");
    let reserved = sva_core::AddrRange::new(0x30000, PAGE).expect("a range");
    world.bus.reserve(bdf(2), &[reserved]);
    let error =
        container.map(&mapping(0x30000, 1, &backing, BASE)).expect_err("reserved for the second");
    assert_eq!(error, MapError::Reserved { range: reserved, reserved, device: bdf(2) });
    let error = container.unmap(0x10000, PAGE).expect_err("would split");
    assert!(matches!(error, UnmapError::WouldSplit { .. }));
    assert_eq!(
        container.mappings(),
        [sva_core::AddrRange::new(0x10000, 2 * PAGE).expect("a range")]
    );
    for device in [&one, &two] {
        assert_eq!(
            reason(device.port().read(None, 0x30000, &mut [0])),
            Some(FaultReason::NoDomainMapping)
        );
        assert_eq!(reason(device.port().read(None, 0x10000, &mut [0])), None);
    }
}

// regression 24: everything that takes more than one lock runs against everything else.
#[test]
fn joins_binds_maps_and_ends_from_four_threads_do_not_deadlock() {
    watched(|| {
        let world = World::new();
        let (one, two) = (world.plug(1), world.plug(2));
        let shared = space();
        let container = world.container(&[]);
        std::thread::scope(|scope| {
            for device in [&one, &two] {
                let (container, world, shared) = (&container, &world, &shared);
                scope.spawn(move || {
                    for _ in 0..300 {
                        if container.add(device.group()).is_ok() {
                            let _ = container.remove(device.group());
                        }
                        let _ = world
                            .iommu
                            .bind_device(device, &shared.handle(), Bind::new(()))
                            .map(drop);
                    }
                });
            }
            scope.spawn(|| {
                for n in 0..300 {
                    let dying = space();
                    let _ = container.bind(&dying.handle(), Bind::new(n));
                    dying.end(EndReason::Exited);
                    let _ = container.unbind(id_of(&dying));
                }
            });
            scope.spawn(|| {
                for n in 0..300 {
                    let _ = container.map(&mapping(n * PAGE, 1, &shared, BASE));
                    let _ = world.iommu.map(one.group(), &mapping(n * PAGE, 1, &shared, BASE));
                    let _ = one.port().read(None, n * PAGE, &mut [0; 8]);
                    let _ = container.unmap(0, 1 << 40);
                    let _ = world.iommu.unmap(one.group(), 0, 1 << 40);
                }
            });
        });
        drop(container);
        for device in [&one, &two] {
            world.iommu.remove(device, Removal::Orderly).expect("plugged");
        }
        assert_eq!(
            (
                world.iommu.object_counts().bonds,
                world.iommu.object_counts().pasids,
                shared.watches()
            ),
            (0, 0, 0)
        );
    });
}
