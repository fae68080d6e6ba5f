//! A real machine's topology under an IOMMU: what its owner can try on the mirror of a dump.

use std::sync::Arc;

use sva_core::error::BindError;
use sva_core::topology::PathPolicy;
use sva_core::{Bdf, Bind, Device, Iommu, IommuConfig, Removal};
use sva_pci::Fabric;
use sva_pci::mirror::mirror;
use sva_testkit::{MemorySpace, Protection};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::read;

/// Where no BAR answers, and where the first function's does.
const FREE: u64 = 0x10_0000;
const PEER: u64 = 0x8000_0000;

/// A port that isolates, and below it a card with two functions that are not isolated from one
/// another.
const TWO_FUNCTIONS: &str = "\
00:01.0 PCI bridge [0604]: Made Up Root Port [1af4:0101] (prog-if 00 [Normal decode])
\tBus: primary=00, secondary=01, subordinate=01, sec-latency=0
\tMemory behind bridge: 80000000-81ffffff [size=32M] [32-bit]
\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00
\t\tDevCap2: ExtFmt+ EETLPPrefix+, MaxEETLPPrefixes 2
\tCapabilities: [220 v1] Access Control Services
\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-

01:00.0 Ethernet controller [0200]: Made Up Card [1af4:0102]
\tRegion 0: Memory at 80000000 (64-bit, non-prefetchable) [size=16M]
\tCapabilities: [70] Express (v2) Endpoint, MSI 00
\tCapabilities: [120 v1] Process Address Space ID (PASID)
\t\tPASIDCap: Exec+ Priv-, Max PASID Width: 14

01:00.1 Ethernet controller [0200]: Made Up Card [1af4:0102]
\tRegion 0: Memory at 81000000 (64-bit, non-prefetchable) [size=16M]
\tCapabilities: [70] Express (v2) Endpoint, MSI 00
\tCapabilities: [120 v1] Process Address Space ID (PASID)
\t\tPASIDCap: Exec+ Priv-, Max PASID Width: 14

";

fn bdf(text: &str) -> Bdf {
    text.parse().expect("an address in a test")
}

// shows B1, B2, B7, G4
#[test]
fn a_dump_s_group_is_bound_joined_by_hotplug_and_reached_past_the_iommu_as_on_the_machine() {
    let machine = read::from_text(TWO_FUNCTIONS.as_bytes()).expect("the text reads");
    let mut mirror =
        mirror(&machine, &Grouping::compute(&machine, Policy::Linux)).expect("it can be mirrored");
    mirror.spec.policy = PathPolicy::Permissive;
    let fabric = Arc::new(Fabric::new(mirror.spec).expect("a fabric"));
    let iommu = Iommu::new(fabric.clone(), IommuConfig::default());
    let devices: Vec<Device> = fabric
        .devices()
        .into_iter()
        .map(|spec| iommu.plug(spec).expect("a free place").device)
        .collect();
    assert_eq!(
        devices.iter().map(Device::bdf).collect::<Vec<_>>(),
        [bdf("01:00.0"), bdf("01:00.1")]
    );
    let space = MemorySpace::new();
    for address in [FREE, PEER] {
        space.map(address, 4096, Protection::READ_WRITE);
    }

    let refused = iommu.bind_device(&devices[0], &space.handle(), Bind::new(())).map(drop);
    assert!(matches!(
        refused,
        Err(BindError::NotSingleton { siblings, .. })
            if siblings[0].device == bdf("01:00.1")
    ));
    let bond = iommu
        .bind_group(devices[0].group(), &space.handle(), Bind::new(()))
        .expect("both can send PASIDs");
    let pasid = Some(bond.pasid());
    devices[0].port().write(pasid, FREE, b"first").expect("bound");

    let _report = iommu.remove(&devices[1], Removal::Orderly);
    assert!(devices[1].port().write(pasid, FREE, b"gone").is_err());
    let again =
        fabric.devices().into_iter().find(|spec| spec.bdf == bdf("01:00.1")).expect("it is there");
    let again = iommu.plug(again).expect("the place is free").device;
    let mut seen = [0; 5];
    again.port().read(pasid, FREE, &mut seen).expect("it joined the bond");
    assert_eq!(&seen, b"first");

    // The other function's BAR takes it before the IOMMU sees it.
    again.port().write(pasid, PEER, b"taken").expect("a posted write");
    devices[0].port().read(pasid, PEER, &mut seen).expect("its own BAR catches nothing of its own");
    assert_eq!(seen, [0; 5], "the process's memory there is untouched");
    assert!(!bond.overlaps().is_empty(), "and the bind said so");
}
