//! Binding: what is refused, with which values and which advice (rules B1, B2, B4 to B8).

use sva_core::device::Feature;
use sva_core::error::Sibling;
use sva_core::error::{BindError, Refusal, SpaceRefusal};
use sva_core::space::SpaceEnded;
use sva_core::topology::{PathDefect, PathPolicy, SharedBecause};
use sva_core::{Bind, Features, SpaceCapabilities};
use sva_core::{EndReason, FaultReason, IommuConfig, Removal};
use sva_testkit::MemorySpace;

use crate::support::*;

fn refusal(
    world: &World,
    device: &sva_core::Device,
    space: &MemorySpace,
    features: Features,
) -> BindError {
    world
        .iommu
        .bind_device(device, &space.handle(), Bind::new(()).features(features))
        .map(drop)
        .expect_err("refused")
}

fn device_refusal(error: BindError) -> (Refusal, String) {
    let text = error.to_string();
    let BindError::Device(refusal) = error else { panic!("not about the device: {error}") };
    (refusal, text)
}

// shows B1
#[test]
fn a_bound_device_reaches_the_memory_by_the_space_s_pasid_and_by_no_other() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let bond = world.bind(&device, &space);
    space.poke(BASE + 4090, b"across a page");
    let mut buf = [0; 13];
    device.port().read(Some(bond.pasid()), BASE + 4090, &mut buf).expect("bound");
    assert_eq!(&buf, b"across a page");
    device.port().write(Some(bond.pasid()), BASE + 8190, b"back").expect("bound");
    assert_eq!(space.peek(BASE + 8190, 4), b"back");
    let other = sva_core::Pasid::new(bond.pasid().get() + 1).expect("small");
    assert_eq!(refused(&device.port(), other), Some(FaultReason::NotBound));
    assert_eq!(
        reason(device.port().read(None, BASE, &mut buf)),
        Some(FaultReason::NoDomainMapping),
        "no PASID, no bond"
    );
}

// shows B1
#[test]
fn bind_device_in_a_group_names_the_other_members_and_says_to_bind_the_group() {
    let world = World::new();
    let space = space();
    world.bus.share(&[bdf(1), bdf(2), bdf(3)], SharedBecause::NoAcs { port: bdf(30) });
    let device = world.plug(1);
    let _ = world.plug_as(3, plain());
    world.plug(2);
    let error = refusal(&world, &device, &space, Features::default());
    let BindError::NotSingleton { device: named, group, ref siblings } = error else {
        panic!("another refusal: {error}")
    };
    let because = SharedBecause::NoAcs { port: bdf(30) };
    assert_eq!((named, group), (bdf(1), device.group()));
    assert_eq!(
        siblings[..],
        [Sibling { device: bdf(2), because }, Sibling { device: bdf(3), because }]
    );
    assert_eq!(
        error.to_string(),
        "0000:01:01.0 shares group 0 with \
         0000:01:02.0 (port 0000:01:1e.0 on the way has no sufficient ACS), \
         0000:01:03.0 (port 0000:01:1e.0 on the way has no sufficient ACS); \
         use bind_group, or separate them"
    );
}

// shows B1
#[test]
fn a_device_without_pasid_is_refused_and_pointed_to_the_domain() {
    let world = World::new();
    let device = world.plug_as(1, plain()).device;
    let (refusal, text) = device_refusal(refusal(&world, &device, &space(), Features::default()));
    assert_eq!(refusal, Refusal::NoPasidCapability { device: bdf(1) });
    assert_eq!(
        text,
        "0000:01:01.0 has no PASID capability: it can only use the group's domain (map)"
    );
}

// shows B1
#[test]
fn each_defect_of_the_path_is_refused_under_the_strict_policy_and_passed_under_the_permissive_one()
{
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let defects = [
        (PathDefect::NoRequestRedirect(bdf(30)), "does not redirect peer requests (ACS RR)"),
        (
            PathDefect::NoUpstreamForwarding(bdf(30)),
            "does not forward redirected requests upstream (ACS UF)",
        ),
        (PathDefect::NoTlpPrefix(bdf(30)), "does not carry the PASID TLP prefix"),
    ];
    for (defect, what) in defects {
        world.bus.policy(PathPolicy::Strict).defect(bdf(1), Some(defect));
        let (refusal, text) = device_refusal(refusal(&world, &device, &space, Features::default()));
        assert_eq!(refusal, Refusal::Path { device: bdf(1), defect });
        let advice = "enable it there, or use a fabric with the policy `permissive`";
        assert_eq!(text, format!("0000:01:01.0: 0000:01:1e.0 {what}; {advice}"));
        world.bus.policy(PathPolicy::Permissive);
        drop(world.bind(&device, &space));
    }
    world.bus.policy(PathPolicy::Strict).defect(bdf(1), None);
    drop(world.bind(&device, &space));
}

// shows B1
#[test]
fn each_feature_that_the_device_or_the_provider_lacks_is_refused_by_name() {
    let world = World::new();
    let poor =
        world.plug_as(1, sva_core::Capabilities { page_faults: false, ..capable(20) }).device;
    let rich = world.plug(2);
    let bare = MemorySpace::with_capabilities(SpaceCapabilities::default());
    let none = Features::NONE;
    let cases = [
        (Features { execute: true, ..none }, Feature::Execute, "execute requests"),
        (Features { privileged: true, ..none }, Feature::Privileged, "privileged requests"),
        (Features { page_faults: true, ..none }, Feature::PageFaults, "page faults"),
    ];
    for (features, feature, name) in cases {
        let (by_device, text) = device_refusal(refusal(&world, &poor, &space(), features));
        assert_eq!(by_device, Refusal::DeviceLacks { device: bdf(1), feature });
        assert_eq!(text, format!("0000:01:01.0 does not support {name}; bind without it"));
        let (by_space, text) = device_refusal(refusal(&world, &rich, &bare, features));
        assert_eq!(by_space, Refusal::SpaceLacks { space: bare.handle().id(), feature });
        assert_eq!(text, format!("{} cannot provide {name}; bind without it", bare.handle().id()));
        let bond = world
            .iommu
            .bind_device(&rich, &space().handle(), Bind::new(()).features(features))
            .map(drop);
        bond.expect("the device and the provider have it");
    }
    world
        .iommu
        .bind_device(&poor, &bare.handle(), Bind::new(()).features(none))
        .map(drop)
        .expect("nothing is asked for");
}

// shows B1, B5
#[test]
fn a_second_bind_is_refused_with_the_pasid_and_the_first_bond_lives_on() {
    let world = World::new();
    let (space, device) = (space(), world.plug(1));
    let bond = world.bind(&device, &space);
    // Another handle of the same space.
    let (again, text) = device_refusal(refusal(&world, &device, &space, Features::default()));
    assert_eq!(again, Refusal::AlreadyBound { device: bdf(1), pasid: bond.pasid() });
    assert_eq!(
        text,
        "0000:01:01.0 is bound to this address space already, with PASID 1; unbind that first or \
         use it"
    );
    assert_eq!(refused(&device.port(), bond.pasid()), None);
    bond.unbind();
    drop(world.bind(&device, &space));
}

// shows B1
#[test]
fn a_pasid_that_a_narrow_device_cannot_issue_is_refused_with_both_numbers() {
    let world = World::new();
    let (wide, narrow, late) = (world.plug(1), world.plug_as(2, capable(1)).device, space());
    let first = space();
    let _first = world.bind(&wide, &first);
    let _late = world.bind(&wide, &late);
    let (refusal, text) = device_refusal(refusal(&world, &narrow, &late, Features::default()));
    let pasid = sva_core::Pasid::new(2).expect("small");
    assert_eq!(refusal, Refusal::PasidTooWide { device: bdf(2), pasid, width: width(1) });
    assert_eq!(
        text,
        "0000:01:02.0 issues PASIDs of 1 bits, and the address space has PASID 2; bind the \
         narrowest device first"
    );
    assert_eq!(
        world.bind(&narrow, &first).pasid().get(),
        1,
        "one PASID a space, and this one fits"
    );
}

// shows B1
#[test]
fn the_last_pasid_of_a_width_gone_is_refused_with_the_number_in_use() {
    let world = World::new();
    let (narrow, wide) = (world.plug_as(1, capable(2)).device, world.plug(2));
    let spaces: Vec<_> = (0..5).map(|_| space()).collect();
    let bonds: Vec<_> = spaces[..3].iter().map(|space| world.bind(&narrow, space)).collect();
    let _wide = world.bind(&wide, &spaces[4]);
    let error = refusal(&world, &narrow, &spaces[3], Features::default());
    let text = error.to_string();
    assert!(
        matches!(
            error,
            BindError::Space(SpaceRefusal::NoPasidLeft { width: w, in_use: 4 })
                if w == width(2)
        ),
        "{error:?}"
    );
    assert_eq!(
        text,
        "no PASID of 2 bits is left: 4 are in use; unbind address spaces that have ended"
    );
    assert_eq!(bonds[2].pasid().get(), 3);
    drop(bonds);
    drop(world.bind(&narrow, &spaces[3]));
}

// shows B1
#[test]
fn the_iommu_s_own_width_limits_a_wide_device() {
    let world = World::with(IommuConfig::default().pasid_width(width(1)));
    let (device, first, second) = (world.plug(1), space(), space());
    let _first = world.bind(&device, &first);
    let error = refusal(&world, &device, &second, Features::default());
    assert!(
        matches!(
            error,
            BindError::Space(SpaceRefusal::NoPasidLeft { width: w, in_use: 1 })
                if w == width(1)
        ),
        "{error:?}"
    );
}

// shows B1, U4
#[test]
fn a_space_that_has_ended_is_refused_with_the_way_it_ended() {
    let world = World::new();
    let device = world.plug(1);
    for (reason, text) in [
        (EndReason::Exited, "its last task exited"),
        (EndReason::Execed, "its last task left it by exec"),
        (EndReason::RightsLost, "the right to access it was lost"),
        (EndReason::Closed, "its owner closed it"),
    ] {
        let (bound, fresh) = (space(), space());
        let bond = world.bind(&device, &bound);
        bound.end(reason);
        fresh.end(reason);
        for gone in [&bound, &fresh] {
            let error = refusal(&world, &device, gone, Features::default());
            assert_eq!(error.to_string(), format!("the address space has ended: {text}"));
            assert!(
                matches!(
                    error,
                    BindError::Space(SpaceRefusal::Ended(SpaceEnded(r)))
                        if r == reason
                ),
                "{error:?}"
            );
        }
        drop(bond);
    }
    drop(device);
    assert_eq!(world.iommu.object_counts().pasids, 0);
}

// shows B1, G6
#[test]
fn a_device_in_a_container_is_bound_there_and_nowhere_else() {
    let world = World::new();
    let (device, space) = (world.plug(1), space());
    let container = world.container(&[device.group()]);
    let error = refusal(&world, &device, &space, Features::default());
    assert_eq!(error.to_string(), "0000:01:01.0 is in container 0; bind there");
    assert!(
        matches!(
            error,
            BindError::InContainer { device: d, container: c }
                if d == bdf(1) && c == container.id()
        ),
        "{error:?}"
    );
    drop(container);
    drop(world.bind(&device, &space));
}

// shows B1, G5
#[test]
fn a_removed_device_is_refused() {
    let world = World::new();
    let device = world.plug(1);
    world.iommu.remove(&device, Removal::Orderly).expect("plugged");
    let (refusal, text) = device_refusal(refusal(&world, &device, &space(), Features::default()));
    assert_eq!(refusal, Refusal::DeviceRemoved { device: bdf(1) });
    assert_eq!(text, "0000:01:01.0 has been removed from this IOMMU; plug it in again");
}

// shows B1, S2
#[test]
fn a_device_of_another_iommu_is_no_device_of_this_one() {
    let (here, there) = (World::new(), World::new());
    let (mine, foreign) = (here.plug(1), there.plug(1));
    let (refusal, _) = device_refusal(refusal(&here, &foreign, &space(), Features::default()));
    assert_eq!(refusal, Refusal::DeviceRemoved { device: bdf(1) });
    assert!(here.iommu.remove(&foreign, Removal::Orderly).is_err());
    assert!(!mine.is_removed());
    drop(there.bind(&foreign, &space()));
}

// shows B5
#[test]
fn one_space_has_one_pasid_on_every_device_and_two_spaces_have_two() {
    let world = World::new();
    let (first, second, one, two) = (world.plug(1), world.plug(2), space(), space());
    let on_first = world.bind(&first, &one);
    let on_second = world.bind(&second, &one);
    let other = world.bind(&first, &two);
    assert_eq!(on_first.tag(), on_second.tag());
    assert_ne!(on_first.pasid(), other.pasid());
    assert_eq!(world.iommu.pasid_of(one.handle().id()), Some(on_first.tag()));
    assert_eq!(one.watches(), 1, "one watch a space, however many bonds");
    one.poke(BASE, b"one");
    two.poke(BASE, b"two");
    let read = |device: &sva_core::Device, pasid| {
        let mut buf = [0; 3];
        device.port().read(Some(pasid), BASE, &mut buf).map(|()| buf)
    };
    assert_eq!(read(&first, on_first.pasid()).expect("bound"), *b"one");
    assert_eq!(read(&second, on_first.pasid()).expect("bound"), *b"one");
    assert_eq!(read(&first, other.pasid()).expect("bound"), *b"two");
    assert_eq!(reason(read(&second, other.pasid()).map(drop)), Some(FaultReason::NotBound));
}

// shows B6
#[test]
fn the_bond_owns_its_drvdata_and_lets_go_of_it_when_it_is_unbound() {
    let world = World::new();
    let (device, space) = (world.plug(1), space());
    let data = std::sync::Arc::new("drvdata");
    let bind = Bind::new(data.clone()).on_exit(|_, _| ()).on_isolation_change(|_, _| ());
    let bond = world.iommu.bind_device(&device, &space.handle(), bind).expect("free");
    assert_eq!(**bond.drvdata(), "drvdata");
    assert!(std::sync::Arc::strong_count(&data) > 1);
    bond.unbind();
    assert_eq!(std::sync::Arc::strong_count(&data), 1, "nothing of the bond is left");
}

// shows B8
#[test]
fn a_device_beside_the_bound_one_is_blocked() {
    let world = World::new();
    let (bound, beside, space) = (world.plug(1), world.plug(2), space());
    let bond = world.bind(&bound, &space);
    assert_eq!(refused(&beside.port(), bond.pasid()), Some(FaultReason::NotBound));
    let without = world.plug_as(3, plain()).device;
    assert_eq!(refused(&without.port(), bond.pasid()), Some(FaultReason::CannotIssuePasid));
    assert_eq!(space.peek(BASE, 64), [0; 64], "nothing was written");
}
