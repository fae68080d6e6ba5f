//! Windows and BARs: which are left out, and where those of host bridges may lie.

use std::collections::BTreeMap;

use sva_core::Topology;
use sva_topology::arbitrary::bare;
use sva_topology::machine::{Bar, PciFunction};

use super::*;

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
