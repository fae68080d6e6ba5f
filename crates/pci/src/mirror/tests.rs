//! One machine for each thing that has to be repaired or left out.

mod properties;
mod windows;

use sva_core::Topology;
use sva_core::topology::PathDefect;
use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;
use sva_topology::arbitrary::{acs, bare, bridge, express};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    Ats, Bar, Class, ExpressKind, Fact, Host, Machine, Pasid, PciFunction, Pri,
};

use super::{FunctionUnsupported, MODEL, Mirror, MirrorError, Note, RangeUnsupported, mirror};
use crate::fabric::{Fabric, PortKind, Route};

const ALL: AcsBits = AcsBits::ISOLATION;

fn at(text: &str) -> Bdf {
    text.parse().expect("an address in a test")
}

fn range(first: u64, last: u64) -> AddrRange {
    AddrRange::inclusive(first, last).expect("a range in a test")
}

fn of(functions: Vec<PciFunction>) -> Result<Mirror, MirrorError> {
    let machine = Machine::new(functions, Host::default());
    mirror(&machine, &Grouping::compute(&machine, Policy::Linux))
}

fn made(functions: Vec<PciFunction>) -> (Fabric, Mirror) {
    let mirror = of(functions).expect("a fabric");
    (Fabric::new(mirror.spec.clone()).expect("checked"), mirror)
}

fn root(bdf: &str, secondary: u8, last: u8) -> PciFunction {
    PciFunction {
        acs: acs(ALL, ALL),
        ..bridge(at(bdf), Some(ExpressKind::RootPort), secondary, last, Vec::new())
    }
}

fn endpoint(bdf: &str) -> PciFunction {
    express(at(bdf), ExpressKind::Endpoint)
}

// shows G1
#[test]
fn root_ports_of_one_device_without_acs_are_one_group_as_linux_makes_it() {
    let bare_port =
        |bdf, secondary| PciFunction { acs: Fact::read(None), ..root(bdf, secondary, secondary) };
    let mut first = bare_port("00:1c.0", 1);
    first.multifunction = Fact::read(true);
    let (fabric, mirror) =
        made(vec![first, bare_port("00:1c.4", 2), endpoint("01:00.0"), endpoint("02:00.0")]);
    assert_eq!(fabric.group(at("01:00.0")), fabric.group(at("02:00.0")));
    assert_eq!(mirror.notes, [Note::Declared { functions: vec![at("01:00.0"), at("02:00.0")] }]);
    assert_eq!(
        mirror.spec.groups,
        [["00:1c.0", "00:1c.4", "01:00.0", "02:00.0"].map(at)],
        "what is plugged below the ports joins it"
    );
}

// shows G1, B7
#[test]
fn a_weak_port_of_a_switch_does_not_join_its_siblings_in_linux_groups_but_reaches_them() {
    let port = |bdf, secondary| {
        bridge(at(bdf), Some(ExpressKind::Downstream), secondary, secondary, Vec::new())
    };
    let window = |mut it: PciFunction, first, last| {
        if let sva_topology::machine::Header::Bridge(bridge) = &mut it.header.value {
            bridge.windows = vec![range(first, last)];
        }
        it
    };
    let with_bar = |mut it: PciFunction, address| {
        it.bars = vec![Bar { index: 0, address, size: Some(4096) }];
        it
    };
    let functions = vec![
        window(root("00:01.0", 1, 4), 0x8000_0000, 0x801f_ffff),
        window(
            bridge(at("01:00.0"), Some(ExpressKind::Upstream), 2, 4, Vec::new()),
            0x8000_0000,
            0x801f_ffff,
        ),
        window(port("02:00.0", 3), 0x8000_0000, 0x800f_ffff),
        window(PciFunction { acs: acs(ALL, ALL), ..port("02:01.0", 4) }, 0x8010_0000, 0x801f_ffff),
        with_bar(endpoint("03:00.0"), 0x8000_0000),
        with_bar(endpoint("04:00.0"), 0x8010_0000),
    ];
    let (fabric, _) = made(functions);
    let (weak, strong) = (at("03:00.0"), at("04:00.0"));
    assert_ne!(fabric.group(weak), fabric.group(strong));
    assert_eq!(fabric.route(weak, 0x8010_0000), Route::Peer { bdf: strong, bar: 0 });
    assert_eq!(fabric.path_defect(weak), Some(PathDefect::NoRequestRedirect(at("02:00.0"))));
    assert_eq!(fabric.path_defect(strong), None);
}

// shows G1
#[test]
fn services_that_a_port_does_not_implement_count_as_in_linux_and_those_switched_off_do_not() {
    let port = |enabled| PciFunction {
        acs: acs(AcsBits::SV | AcsBits::RR, enabled),
        ..root("00:01.0", 1, 1)
    };
    let (fabric, mirror) = made(vec![port(AcsBits::SV | AcsBits::RR), endpoint("01:00.0")]);
    assert_eq!(fabric.path_defect(at("01:00.0")), None);
    assert_eq!(
        mirror.notes,
        [Note::AcsCounted { bdf: at("00:01.0"), bits: AcsBits::CR | AcsBits::UF }]
    );
    let (fabric, _) = made(vec![port(AcsBits::SV), endpoint("01:00.0")]);
    assert_eq!(
        fabric.path_defect(at("01:00.0")),
        Some(PathDefect::NoRequestRedirect(at("00:01.0")))
    );
}

// shows G1
#[test]
fn a_device_of_which_some_functions_isolate_keeps_its_groups_and_redirects() {
    let both = AcsBits::FUNCTION_ISOLATION;
    let mut first = endpoint("01:00.0");
    first.multifunction = Fact::read(true);
    let isolating = PciFunction { acs: acs(both, both), ..endpoint("01:00.2") };
    let (fabric, mirror) = made(vec![root("00:01.0", 1, 1), first, endpoint("01:00.1"), isolating]);
    assert_eq!(fabric.group(at("01:00.0")), fabric.group(at("01:00.1")));
    assert_ne!(fabric.group(at("01:00.0")), fabric.group(at("01:00.2")));
    assert_eq!(fabric.path_defect(at("01:00.2")), None);
    assert!(
        mirror.notes.contains(&Note::MixedFunctionAcs { slot: at("01:00.0") }),
        "{:?}",
        mirror.notes
    );
}

// shows B1
#[test]
fn capabilities_are_those_of_the_machine_and_functions_with_pasids_are_data_movers() {
    let mut able = endpoint("01:00.0");
    let off = Fact::read(false);
    able.pasid = Fact::read(Some(Pasid {
        enabled: off,
        width: Fact::read(16),
        execute: true,
        privileged: false,
    }));
    able.ats = Fact::read(Some(Ats { enabled: off }));
    able.pri = Fact::read(Some(Pri { enabled: off, capacity: Some(32) }));
    let mut odd = PciFunction { bdf: at("02:00.0"), ..able.clone() };
    odd.ats = Fact::read(None);
    odd.pasid = Fact::read(Some(Pasid {
        enabled: off,
        width: Fact::read(0),
        execute: true,
        privileged: false,
    }));
    let mut patient = PciFunction { bdf: at("03:00.0"), ..able.clone() };
    patient.pri = Fact::read(None);
    let (fabric, mirror) = made(vec![
        root("00:01.0", 1, 1),
        root("00:02.0", 2, 2),
        root("00:03.0", 3, 3),
        able,
        odd,
        patient,
    ]);
    assert!(fabric.function(at("03:00.0")).expect("there").capabilities.page_faults);
    let function = fabric.function(at("01:00.0")).expect("there");
    let can = function.capabilities;
    assert_eq!(
        (can.pasid.map(|pasid| (pasid.width.bits(), pasid.execute)), can.ats, can.pri),
        (Some((16, true)), true, Some(32))
    );
    assert_eq!(function.model.as_deref(), Some(MODEL));
    let function = fabric.function(at("02:00.0")).expect("there");
    assert_eq!((function.capabilities, function.model), (sva_core::Capabilities::default(), None));
    assert_eq!(
        mirror.notes,
        [
            Note::PriWithoutAts { bdf: at("02:00.0") },
            Note::PasidWidth { bdf: at("02:00.0") },
            Note::PageFaults { bdf: at("03:00.0") },
        ]
    );
}

// shows G1
#[test]
fn what_a_fabric_has_no_place_for_is_left_out_with_what_is_below() {
    let mut chipset = endpoint("01:00.0");
    chipset.multifunction = Fact::read(true);
    let mut host = bare(at("00:00.0"));
    host.class = Some(Fact::read(Class(0x06_0000)));
    let functions = vec![
        host,
        root("00:01.0", 1, 3),
        chipset,
        bridge(at("01:00.1"), Some(ExpressKind::Upstream), 2, 3, Vec::new()),
        PciFunction {
            acs: acs(ALL, ALL),
            ..bridge(at("02:00.0"), Some(ExpressKind::Downstream), 3, 3, Vec::new())
        },
        endpoint("03:00.0"),
        bridge(at("00:1e.0"), None, 5, 6, Vec::new()),
        bridge(at("05:01.0"), None, 6, 6, Vec::new()),
        bare(at("00:1e.1")),
        bare(at("05:02.0")),
        bare(at("06:00.0")),
    ];
    let (fabric, mirror) = made(functions);
    let there: Vec<Bdf> = fabric.devices().iter().map(|device| device.bdf).collect();
    assert_eq!(there, [at("01:00.0"), at("03:00.0"), at("05:02.0")]);
    assert_eq!(
        fabric.group(at("01:00.0")),
        fabric.group(at("03:00.0")),
        "beside the upstream port, and below it"
    );
    assert!(mirror.spec.groups.is_empty(), "the fabric's own rules say so");
    let left: Vec<&Note> = mirror
        .notes
        .iter()
        .filter(|note| matches!(note, Note::LeftOut { .. } | Note::RootComplex { .. }))
        .collect();
    let below = FunctionUnsupported::Below { above: at("00:1e.0"), kind: PortKind::PciBridge };
    assert_eq!(
        left,
        [
            &Note::LeftOut { bdf: at("05:01.0"), why: below, below: 1 },
            &Note::LeftOut {
                bdf: at("00:1e.1"),
                why: FunctionUnsupported::SharesDevice { with: at("00:1e.0") },
                below: 0
            },
            &Note::RootComplex { functions: vec![at("00:00.0")] },
        ]
    );
    assert!(
        mirror.notes.contains(&Note::Requester { functions: vec![at("05:02.0")] }),
        "{:?}",
        mirror.notes
    );
}

// shows G1
#[test]
fn an_excerpt_that_begins_with_a_switch_gets_a_root_port() {
    let functions = vec![
        bridge(at("03:00.0"), Some(ExpressKind::Upstream), 4, 5, Vec::new()),
        PciFunction {
            acs: acs(ALL, ALL),
            ..bridge(at("04:00.0"), Some(ExpressKind::Downstream), 5, 5, Vec::new())
        },
        endpoint("05:00.0"),
    ];
    let (fabric, mirror) = made(functions);
    assert_eq!(mirror.notes, [Note::RootPortAdded { bdf: at("02:01.0") }]);
    assert_eq!(fabric.path_defect(at("05:00.0")), None);
}

// shows B7
#[test]
fn a_child_domain_keeps_its_addresses_and_the_vmd_endpoint_loses_the_bar_around_them() {
    let mut vmd = bare(at("0000:00:0e.0"));
    vmd.bars = vec![Bar { index: 2, address: 0x8000_0000, size: Some(32 << 20) }];
    let mut port = root("10000:e0:06.0", 0xe1, 0xe1);
    port.header.value = sva_topology::machine::Header::Bridge(sva_topology::machine::Bridge {
        secondary: 0xe1,
        subordinate: 0xe1,
        windows: vec![range(0x8010_0000, 0x801f_ffff)],
    });
    let mut disk = endpoint("10000:e1:00.0");
    disk.bars = vec![Bar { index: 0, address: 0x8010_0000, size: Some(16 << 10) }];
    let (fabric, mirror) = made(vec![vmd, port, disk]);
    assert_eq!(fabric.function(at("10000:e1:00.0")).expect("there").bars.len(), 1);
    let around = Note::Bar {
        bdf: at("0000:00:0e.0"),
        index: 2,
        address: 0x8000_0000,
        why: RangeUnsupported::Overlaps(range(0x8010_0000, 0x801f_ffff)),
    };
    assert!(mirror.notes.contains(&around), "{:?}", mirror.notes);
}

// shows S2
#[test]
fn a_machine_without_a_function_that_fits_is_refused_and_so_are_buses_that_do_not_nest() {
    assert!(matches!(of(vec![root("00:01.0", 1, 1)]), Err(MirrorError::Nothing { functions: 1 })));
    let crossed = vec![
        root("00:01.0", 1, 4),
        root("00:02.0", 2, 2),
        bridge(at("01:00.0"), None, 4, 4, Vec::new()),
        endpoint("02:00.0"),
        bare(at("04:00.0")),
    ];
    assert!(matches!(of(crossed), Err(MirrorError::Spec(_))));
}
