//! What holds of every mirror, and one machine for each thing that has to be repaired or left out.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sva_core::Topology;
use sva_core::topology::PathDefect;
use sva_core::{AddrRange, Bdf};
use sva_topology::AcsBits;
use sva_topology::arbitrary::{acs, bare, bridge, express, machines};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    Ats, Bar, Class, ExpressKind, Fact, Host, Machine, Pasid, PciFunction, Pri,
};

use super::{FunctionUnsupported, MODEL, Mirror, MirrorError, Note, RangeUnsupported, mirror};
use crate::fabric::{Fabric, FabricSpec, PortKind, Route, limit};

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    // shows G1, S2
    #[test]
    fn a_mirror_has_the_groups_of_its_machine_and_accounts_for_every_function(
        machine in machines(),
        policy in prop::sample::select(&Policy::ALL[..]),
    ) {
        let grouping = Grouping::compute(&machine, policy);
        let Ok(Mirror { spec, notes }) = mirror(&machine, &grouping) else { return Ok(()) };
        let fabric = Fabric::new(spec.clone())?;
        let group = |bdf: Bdf| machine.find(bdf).and_then(|function| grouping.of(function));
        for a in &spec.functions {
            for b in &spec.functions {
                let together =
                    a.bdf == b.bdf || group(a.bdf).is_some() && group(a.bdf) == group(b.bdf);
                prop_assert_eq!(
                    fabric.group(a.bdf) == fabric.group(b.bdf),
                    together,
                    "{} and {}",
                    a.bdf,
                    b.bdf
                );
            }
        }
        let accounted: usize = notes
            .iter()
            .map(|note| match note {
                Note::RootComplex { functions } => functions.len(),
                Note::LeftOut { below, .. } => 1 + below,
                _ => 0,
            })
            .sum();
        let ports = spec.ports.iter().filter(|port| machine.get(port.bdf).is_some()).count();
        prop_assert_eq!(accounted + ports + spec.functions.len(), machine.functions().len());
    }

    // shows B7
    #[test]
    fn windows_and_routes_of_a_mirror_agree_and_its_text_reads_back(
        machine in machines(),
        picks in prop::collection::vec(0x8000_0000u64..0x8400_0000, 16),
    ) {
        let Ok(Mirror { spec, .. }) = mirror(&machine, &Grouping::compute(&machine, Policy::Linux))
        else {
            return Ok(());
        };
        let text = spec.to_toml();
        if text.len() <= limit::TEXT {
            prop_assert_eq!(
                &FabricSpec::from_toml(&text)
                    .map_err(|error| TestCaseError::fail(error.to_string()))?,
                &spec
            );
        }
        let fabric = Fabric::new(spec.clone())?;
        let bars = spec.functions.iter().flat_map(|function| &function.bars).map(|bar| bar.address);
        let addresses: Vec<u64> = bars.chain(picks).collect();
        for device in fabric.devices() {
            let windows = fabric.windows(device.bdf);
            for &address in &addresses {
                let window = windows
                    .iter()
                    .find(|window| window.range.contains(address))
                    .map(|window| (window.decoder, window.claimed));
                let route = match fabric.route(device.bdf, address) {
                    Route::Upstream => None,
                    Route::Peer { bdf, .. } => Some((bdf, true)),
                    Route::Dropped { bridge } => Some((bridge, false)),
                    Route::Blocked { port } => panic!("{port} stops an untranslated request"),
                };
                prop_assert_eq!(window, route, "{} at {:#x}", device.bdf, address);
            }
        }
    }
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

// shows S2
#[test]
fn bars_and_windows_that_cannot_be_are_left_out_with_the_reason() {
    let mut port = root("00:01.0", 1, 1);
    port.header.value = sva_topology::machine::Header::Bridge(sva_topology::machine::Bridge {
        secondary: 1,
        subordinate: 1,
        windows: vec![
            range(0x8000_0000, 0x800f_ffff),
            range(0x8010_0800, 0x8010_0fff),
            range(0xfee0_0000, 0xfeef_ffff),
        ],
    });
    let mut device = endpoint("01:00.0");
    let bar = |index, address, size| Bar { index, address, size };
    device.bars = vec![
        bar(0, 0x8000_0000, Some(4096)),
        bar(1, 0x8000_0800, Some(2048)),
        bar(2, 0x8020_0000, Some(4096)),
        bar(3, 0x8000_2000, None),
        bar(4, 0, Some(4096)),
        bar(5, 0x8000_3000, Some(3 << 10)),
    ];
    let (fabric, mirror) = made(vec![port, device]);
    assert_eq!(fabric.function(at("01:00.0")).expect("there").bars.len(), 1);
    let why: BTreeMap<u8, RangeUnsupported> = mirror
        .notes
        .iter()
        .filter_map(|note| {
            if let Note::Bar { index, why, .. } = note { Some((*index, *why)) } else { None }
        })
        .collect();
    let overlaps = RangeUnsupported::Overlaps(range(0x8000_0000, 0x8000_0fff));
    assert_eq!(
        why,
        BTreeMap::from([
            (1, overlaps),
            (2, RangeUnsupported::Outside),
            (3, RangeUnsupported::NoSize),
            (4, RangeUnsupported::Unassigned),
            (5, RangeUnsupported::Misaligned)
        ])
    );
    let windows: Vec<RangeUnsupported> = mirror
        .notes
        .iter()
        .filter_map(|note| if let Note::Window { why, .. } = note { Some(*why) } else { None })
        .collect();
    assert_eq!(windows, [RangeUnsupported::Misaligned, RangeUnsupported::Doorbells]);
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

/// A root bus with one device that has these BARs.
fn alone(bdf: &str, bars: &[(u64, u64)]) -> PciFunction {
    let mut it = bare(at(bdf));
    it.bars = (0..)
        .zip(bars)
        .map(|(index, (address, size))| Bar { index, address: *address, size: Some(*size) })
        .collect();
    it
}

// shows T8
#[test]
fn windows_of_a_host_bridge_avoid_the_doorbells_four_gib_and_other_host_bridges() {
    let first = alone(
        "00:02.0",
        &[(0xfe00_0000, 4096), (0xff00_0000, 4096), (0x1_0000_0000, 4096), (0x2_0000_0000, 4096)],
    );
    let second = alone("80:02.0", &[(0x1_8000_0000, 4096)]);
    let (fabric, mirror) = made(vec![first, second]);
    let unit = |first: u64| range(first, first + 0xf_ffff);
    let windows: Vec<_> =
        mirror.spec.host_bridges.iter().map(|host| host.windows.clone()).collect();
    let of_first =
        vec![unit(0xfe00_0000), unit(0xff00_0000), unit(0x1_0000_0000), unit(0x2_0000_0000)];
    assert_eq!(windows, [of_first, vec![unit(0x1_8000_0000)]]);
    assert_eq!(fabric.reserved(at("00:02.0")), [range(0xfee0_0000, 0xfeef_ffff)]);
    let (_, mirror) = made(vec![alone("00:02.0", &[(0x8000_0000, 4096), (0x9000_0000, 4096)])]);
    assert_eq!(
        mirror.spec.host_bridges[0].windows,
        [range(0x8000_0000, 0x900f_ffff)],
        "nothing is between"
    );
}

// shows S2
#[test]
fn two_host_bridges_do_not_share_a_mebibyte() {
    let (_, mirror) = made(vec![
        alone("00:02.0", &[(0x8000_0000, 4096)]),
        alone("80:02.0", &[(0x8000_1000, 4096)]),
    ]);
    let why = RangeUnsupported::Overlaps(range(0x8000_0000, 0x8000_0fff));
    assert_eq!(
        mirror.notes,
        [Note::Bar { bdf: at("80:02.0"), index: 0, address: 0x8000_1000, why }]
    );
}
