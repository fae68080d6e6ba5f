//! The fabric under a real IOMMU: what B1 refuses, what B7 reports, what a peer swallows.

mod common;

use std::sync::Arc;

use common::at;
use sva_core::error::{BindError, Refusal};
use sva_core::topology::{PathDefect, SharedBecause};
use sva_core::{Bdf, Bind, Device, Fault, FaultReason, Iommu, IommuConfig};
use sva_pci::{AcsBits, Fabric};
use sva_testkit::{MemorySpace, Protection};

/// The built-in fabric with the policy `policy`, and all its devices plugged in.
fn plugged(policy: &str) -> (Arc<Fabric>, Iommu, impl Fn(&str) -> Device) {
    let text =
        sva_pci::DEFAULT_TOML.replacen("policy = \"strict\"", &format!("policy = \"{policy}\""), 1);
    let fabric = Arc::new(Fabric::from_toml(&text).expect("the built-in fabric"));
    let iommu = Iommu::new(fabric.clone(), IommuConfig::default());
    let devices: Vec<Device> = fabric
        .devices()
        .into_iter()
        .map(|spec| iommu.plug(spec).expect("a free place").device)
        .collect();
    let device = move |bdf: &str| {
        let bdf: Bdf = at(bdf);
        devices.iter().find(|device| device.bdf() == bdf).expect("plugged above").clone()
    };
    (fabric, iommu, device)
}

/// Memory where the BARs of the switch without ACS are: the own one, the peer's, and pages that no
/// device decodes.
fn space() -> MemorySpace {
    let space = MemorySpace::new();
    for address in [OWN, PEER, FREE] {
        space.map(address, 4096, Protection::READ_WRITE);
    }
    space
}

const OWN: u64 = 0x8040_0000;
const PEER: u64 = 0x8050_0000;
const FREE: u64 = 0x10_0000;

// shows G1
#[test]
fn groups_of_the_iommu_are_numbered_as_they_are_drawn() {
    let (fabric, iommu, _) = plugged("strict");
    let drawn = sva_pci::FabricView::new(&fabric).groups;
    let numbered = iommu.groups();
    assert_eq!(drawn.len(), numbered.len());
    for (drawn, group) in drawn.iter().zip(numbered) {
        assert_eq!(drawn.number, group.id.get() as usize);
        assert_eq!(drawn.members, group.members.iter().map(Bdf::to_string).collect::<Vec<_>>());
    }
}

// shows B1
#[test]
fn a_member_of_a_group_of_two_is_refused_with_the_port_that_does_not_isolate() {
    let (_, iommu, device) = plugged("strict");
    match iommu.bind_device(&device("06:00.0"), &space().handle(), Bind::new(())).map(|_| ()) {
        Err(BindError::NotSingleton { device, siblings, .. }) => {
            let siblings: Vec<_> =
                siblings.iter().map(|sibling| (sibling.device, sibling.because)).collect();
            assert_eq!(
                (device, siblings),
                (
                    at("06:00.0"),
                    vec![(at("07:00.0"), SharedBecause::NoAcs { port: at("05:00.0") })]
                )
            );
        }
        other => panic!("{other:?}"),
    }
}

// shows B1, B2
#[test]
fn a_group_with_redirecting_paths_is_bound_and_its_member_without_pasid_left_out() {
    let (_, iommu, device) = plugged("strict");
    let bond = iommu
        .bind_group(device("06:00.0").group(), &space().handle(), Bind::new(()))
        .expect("its paths have no defect");
    assert_eq!(bond.members(), [at("06:00.0")]);
    assert_eq!(bond.left_out(), [Refusal::NoPasidCapability { device: at("07:00.0") }]);
    let error = iommu
        .bind_group(device("0a:00.0").group(), &space().handle(), Bind::new(()))
        .map(|_| ())
        .expect_err("no ACS on the path");
    let defect = PathDefect::NoRequestRedirect(at("09:00.0"));
    assert!(
        matches!(
            error,
            sva_core::error::BindGroupError::Device(Refusal::Path { defect: found, .. })
                if found == defect
        ),
        "{error}"
    );
}

// shows B7
#[test]
fn a_peer_swallows_what_it_decodes_and_the_bind_said_so() {
    let (fabric, iommu, device) = plugged("permissive");
    let (space, mover) = (space(), device("0a:00.0"));
    let bond = iommu
        .bind_group(mover.group(), &space.handle(), Bind::new(()))
        .expect("the policy permits it");
    let reported: Vec<_> = bond
        .overlaps()
        .iter()
        .map(|overlap| (overlap.device, overlap.range.first(), overlap.decoder))
        .collect();
    assert_eq!(
        reported,
        [(at("0a:00.0"), OWN, at("09:00.0")), (at("0a:00.0"), PEER, at("0b:00.0"))]
    );

    let (port, pasid) = (mover.port(), Some(bond.pasid()));
    for address in [FREE, PEER, OWN] {
        port.write(pasid, address, b"data").expect("writes are posted");
    }
    assert_eq!(space.peek(FREE, 4), b"data");
    assert_eq!(
        (space.peek(PEER, 4), space.peek(OWN, 4)),
        (vec![0; 4], vec![0; 4]),
        "never reached the IOMMU"
    );
    assert_eq!(fabric.memory(at("0b:00.0"), 0).expect("the default model").peek(0, 4), b"data");
    let mut buf = [0; 4];
    port.read(pasid, PEER, &mut buf).expect("the peer answers");
    assert_eq!(&buf, b"data");
    let fault =
        port.read(pasid, OWN, &mut buf).expect_err("nobody answers").fault().expect("a fault");
    let reason = FaultReason::PeerAbort(at("09:00.0"));
    assert!(
        matches!(fault, Fault { address: OWN, reason: found, .. } if found == reason),
        "{fault}"
    );
}

// shows B1, B7
#[test]
fn acs_switched_at_run_time_is_seen_by_the_next_bind_and_the_next_transaction() {
    let (fabric, iommu, device) = plugged("strict");
    let (space, mover, root) = (space(), device("01:00.0"), at("00:01.0"));
    const BAR: u64 = 0x8000_0000;
    space.map(BAR, 4096, Protection::READ_WRITE);
    let bond = iommu.bind_device(&mover, &space.handle(), Bind::new(())).expect("isolated");
    assert_eq!(bond.overlaps(), []);
    mover.port().write(Some(bond.pasid()), BAR, b"one").expect("forwarded upstream");
    assert_eq!(space.peek(BAR, 3), b"one");

    fabric.set_acs(root, AcsBits::RR).expect("implemented");
    mover.port().write(Some(bond.pasid()), BAR, b"two").expect("writes are posted");
    assert_eq!(space.peek(BAR, 3), b"one", "the port dropped it");
    let other = MemorySpace::new();
    let error = iommu
        .bind_device(&mover, &other.handle(), Bind::new(()))
        .map(|_| ())
        .expect_err("no UF on the path");
    let defect = PathDefect::NoUpstreamForwarding(root);
    assert!(
        matches!(error, BindError::Device(Refusal::Path { defect: found, .. }) if found == defect),
        "{error}"
    );

    fabric.set_acs(root, AcsBits::ISOLATION).expect("implemented");
    mover.port().write(Some(bond.pasid()), BAR, b"two").expect("forwarded upstream");
    assert_eq!(space.peek(BAR, 3), b"two");
}

// shows G5
#[test]
fn a_device_pulled_out_of_the_fabric_reaches_nothing_even_before_the_iommu_knows() {
    let (fabric, iommu, device) = plugged("strict");
    let (space, mover) = (space(), device("01:00.0"));
    let bond = iommu.bind_device(&mover, &space.handle(), Bind::new(())).expect("isolated");
    fabric.remove(mover.bdf()).expect("it is there");
    let fault = mover
        .port()
        .write(Some(bond.pasid()), FREE, b"late")
        .expect_err("it is gone")
        .fault()
        .expect("a fault");
    assert_eq!(fault.reason, FaultReason::PeerAbort(mover.bdf()));
    assert_eq!(space.peek(FREE, 4), [0; 4]);
    iommu.remove(&mover, sva_core::Removal::Surprise).expect("plugged in");
    assert!(!bond.is_live());
}
