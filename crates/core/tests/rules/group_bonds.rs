//! Bonds of a whole group (rules B1, B2, G2, G6).

use sva_core::device::Feature;
use sva_core::error::{BindGroupError, Refusal};
use sva_core::topology::RequesterId;
use sva_core::{Bind, FaultReason, Features, Removal};

use crate::support::*;

// shows B2
#[test]
fn bind_group_binds_every_capable_member_and_lists_the_others_with_the_reason() {
    let world = World::grouped(3);
    let (space, first, third) = (space(), world.plug(1), world.plug(3));
    let second = world.plug_as(2, plain()).device;
    let bond = world
        .iommu
        .bind_group(first.group(), &space.handle(), Bind::new("drvdata"))
        .expect("capable");
    assert_eq!(bond.members(), [bdf(1), bdf(3)]);
    assert_eq!(bond.left_out(), [Refusal::NoPasidCapability { device: bdf(2) }]);
    assert_eq!(
        (bond.group(), bond.space(), *bond.drvdata()),
        (first.group(), space.handle().id(), "drvdata")
    );
    for device in [&first, &third] {
        assert_eq!(refused(&device.port(), bond.pasid()), None);
    }
    assert_eq!(refused(&second.port(), bond.pasid()), Some(FaultReason::CannotIssuePasid));
    let pasid = bond.pasid();
    bond.unbind();
    for device in [&first, &third] {
        assert_eq!(refused(&device.port(), pasid), Some(FaultReason::NotBound));
    }
}

// shows B2
#[test]
fn bind_group_refuses_what_is_no_group_or_cannot_issue_a_pasid() {
    let world = World::grouped(2);
    let (space, first) = (space(), world.plug_as(1, plain()).device);
    let _ = world.plug_as(2, plain());
    let error = world
        .iommu
        .bind_group(first.group(), &space.handle(), Bind::new(()))
        .map(drop)
        .expect_err("nobody can");
    let text = "no member of group 0 can issue a PASID: \
                0000:01:01.0 has no PASID capability: it can only use the group's domain (map), \
                0000:01:02.0 has no PASID capability: it can only use the group's domain (map)";
    assert_eq!(error.to_string(), text);
    assert!(matches!(
        error,
        BindGroupError::NoCapableMember { group, ref left_out }
            if group == first.group() && left_out.len() == 2
    ));
    let gone = world.plug(5);
    world.iommu.remove(&gone, Removal::Orderly).expect("plugged");
    let error = world
        .iommu
        .bind_group(gone.group(), &space.handle(), Bind::new(()))
        .map(drop)
        .expect_err("no group");
    assert_eq!(error.to_string(), format!("there is no {}", gone.group()));
    let container = world.container(&[first.group()]);
    let error = world
        .iommu
        .bind_group(first.group(), &space.handle(), Bind::new(()))
        .map(drop)
        .expect_err("in a container");
    assert_eq!(error.to_string(), "group 0 is in container 0; bind there");
    drop(container);
    assert_eq!(world.iommu.groups().len(), 1);
}

// shows B2
#[test]
fn a_group_bond_takes_the_pasid_that_its_narrowest_member_can_issue() {
    let world = World::grouped(2);
    let (narrow, wide, lone) = (world.plug_as(1, capable(1)).device, world.plug(2), world.plug(3));
    let (first, second, filler) = (space(), space(), space());
    let _filler = world.bind(&lone, &filler);
    let error = world
        .iommu
        .bind_group(narrow.group(), &first.handle(), Bind::new(()))
        .map(drop)
        .expect_err("1 is taken");
    assert!(error.to_string().starts_with("no PASID of 1 bits is left"), "{error}");
    drop(_filler);
    let bond =
        world.iommu.bind_group(narrow.group(), &first.handle(), Bind::new(())).expect("1 is free");
    assert_eq!(bond.pasid().get(), 1);
    assert_eq!(refused(&wide.port(), bond.pasid()), None);
    drop(world.bind(&lone, &second));
}

// shows G6
#[test]
fn a_group_bond_whose_members_are_gone_still_keeps_the_group_out_of_a_container() {
    let world = World::grouped(2);
    let (own, other) = (space(), space());
    let (going, without) = (world.plug(1), world.plug_as(2, plain()).device);
    let group = going.group();
    let bond = world.iommu.bind_group(group, &own.handle(), Bind::new(())).expect("capable");
    world.iommu.remove(&going, Removal::Surprise).expect("plugged");
    let container = world.container(&[]);
    let error = container.add(group).expect_err("a device that comes back would have two owners");
    assert_eq!(error.to_string(), "group 0 has 1 bonds of its own; unbind them first");
    drop(bond);
    container.add(group).expect("free");
    let back = world.plug_as(1, everything());
    assert!(back.joined.is_empty());
    container.bind(&other.handle(), Bind::new(())).expect("capable");
    drop(without);
}

// shows G2, B1
#[test]
fn devices_with_one_requester_id_are_bound_and_unbound_as_one() {
    let world = World::grouped(2);
    for number in 1..=2 {
        world.bus.alias(bdf(number), RequesterId(bdf(20)));
    }
    let (space, model) = (space(), Model::new());
    let (one, two) = (world.plug(1), world.plug_model(2, model.clone()));
    let container = world.container(&[one.group()]);
    let bound = container.bind(&space.handle(), Bind::new(())).expect("capable");
    assert_eq!((one.requester(), two.requester()), (RequesterId(bdf(20)), RequesterId(bdf(20))));
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), bound.pasid), None);
    }
    container.unbind(id_of(&space)).expect("bound");
    assert_eq!(model.stopped(), [bound.tag], "the models of all of them are to stop");
    for device in [&one, &two] {
        assert_eq!(refused(&device.port(), bound.pasid), Some(FaultReason::NotBound));
    }
    let features = Features { execute: true, ..Features::default() };
    let bound =
        container.bind(&space.handle(), Bind::new(()).features(features)).expect("both can");
    let newcomer = world.plug_as(3, capable(20));
    drop(newcomer);
    let lacks = Refusal::DeviceLacks { device: bdf(4), feature: Feature::Execute };
    world.share(&[1, 2, 4]);
    let late = world.plug_as(4, capable(20));
    assert_eq!(
        (late.not_joined.len(), late.not_joined[0].because, late.not_joined[0].pasid),
        (1, lacks, bound.pasid)
    );
}
