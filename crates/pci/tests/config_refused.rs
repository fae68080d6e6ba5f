//! What no fabric is: each description that the reader of fabric files refuses, and the reason.

mod common;

use common::at;
use common::small::refused;
use sva_core::AddrRange;
use sva_pci::{AcsBits, ConfigError, Decoder, Fabric, PortKind, SpecError};

fn range(first: u64, last: u64) -> AddrRange {
    AddrRange::inclusive(first, last).expect("a range in a test")
}

// shows S2
#[test]
fn two_devices_at_one_address_and_overlapping_windows_are_refused_with_both_named() {
    assert_eq!(refused("04:00.1", "04:00.0"), SpecError::DuplicateAddress { bdf: at("04:00.0") });
    assert_eq!(
        refused("bdf = \"02:01.0\"", "bdf = \"02:00.0\""),
        SpecError::DuplicateAddress { bdf: at("02:00.0") }
    );
    let bar = |device, index| Decoder::Bar { device: at(device), index };
    assert_eq!(
        refused(
            "address = \"0x80001000\", size = \"4K\"",
            "address = \"0x80000800\", size = \"2K\""
        ),
        SpecError::Overlap {
            a: bar("03:00.0", 0),
            a_range: range(0x8000_0000, 0x8000_0fff),
            b: bar("03:00.0", 2),
            b_range: range(0x8000_0800, 0x8000_0fff),
        }
    );
    assert_eq!(
        refused("0x80400000", "0x80200000"),
        SpecError::Overlap {
            a: Decoder::Port(at("02:00.0")),
            a_range: range(0x8000_0000, 0x803f_ffff),
            b: Decoder::Port(at("02:01.0")),
            b_range: range(0x8020_0000, 0x802f_ffff),
        }
    );
    let two = "windows = [{ address = \"0x80000000\", size = \"256M\" }, { address = \
               \"0x8ff00000\", size = \"2M\" }]";
    let host = Decoder::HostBridge(at("00:00.0"));
    assert_eq!(
        refused("windows = [{ address = \"0x80000000\", size = \"256M\" }]", two),
        SpecError::Overlap {
            a: host,
            a_range: range(0x8000_0000, 0x8fff_ffff),
            b: host,
            b_range: range(0x8ff0_0000, 0x900f_ffff)
        }
    );
}

// shows S2
#[test]
fn ranges_that_are_empty_wrap_misalign_cross_or_lie_outside_are_refused() {
    let bar = |device, index| Decoder::Bar { device: at(device), index };
    let (da, rc) = (Decoder::Port(at("02:00.0")), Decoder::HostBridge(at("00:00.0")));
    let db = "\"0x80400000\", size = \"4K\"";
    let cases = [
        (
            db,
            "\"0x80400000\", size = 0",
            SpecError::Empty { decoder: bar("04:00.0", 0), address: 0x8040_0000 },
        ),
        (db, "\"0xffffffffffffff80\", size = 256", {
            SpecError::Wraps {
                decoder: bar("04:00.0", 0),
                address: 0xffff_ffff_ffff_ff80,
                size: 256,
            }
        }),
        (
            db,
            "\"0x80400000\", size = 24",
            SpecError::BarSize { bdf: at("04:00.0"), index: 0, size: 24 },
        ),
        (
            db,
            "\"0x80400000\", size = 8",
            SpecError::BarSize { bdf: at("04:00.0"), index: 0, size: 8 },
        ),
        (db, "\"0x80400800\", size = \"4K\"", {
            SpecError::Misaligned {
                decoder: bar("04:00.0", 0),
                range: range(0x8040_0800, 0x8040_17ff),
                to: 4096,
            }
        }),
        (
            db,
            "0, size = \"8G\"",
            SpecError::CrossesFourGib {
                decoder: bar("04:00.0", 0),
                range: range(0, (8 << 30) - 1),
            },
        ),
        (db, "\"0x90000000\", size = \"4K\"", {
            SpecError::OutsideWindow {
                decoder: bar("04:00.0", 0),
                range: range(0x9000_0000, 0x9000_0fff),
                above: at("00:00.0"),
            }
        }),
        (
            "\"0x80300000\", size = \"1M\"",
            "\"0x80300000\", size = \"0\"",
            SpecError::Empty { decoder: da, address: 0x8030_0000 },
        ),
        ("\"0x80300000\", size = \"1M\"", "\"0x80300000\", size = \"1K\"", {
            SpecError::Misaligned {
                decoder: da,
                range: range(0x8030_0000, 0x8030_03ff),
                to: 1 << 20,
            }
        }),
        ("\"0x80300000\", size = \"1M\"", "\"0xfff00000\", size = \"2M\"", {
            SpecError::CrossesFourGib { decoder: da, range: range(0xfff0_0000, 0x1_000f_ffff) }
        }),
        ("secondary = 4", "secondary = 4\nwindows = [{ address = 0x90000000, size = \"1M\" }]", {
            SpecError::OutsideWindow {
                decoder: Decoder::Port(at("00:01.0")),
                range: range(0x8000_0000, 0x900f_ffff),
                above: at("00:00.0"),
            }
        }),
        (
            "address = \"0x80000000\", size = \"256M\"",
            "address = \"0xfffffffffff00000\", size = \"2M\"",
            { SpecError::Wraps { decoder: rc, address: 0xffff_ffff_fff0_0000, size: 2 << 20 } },
        ),
        (
            "size = \"256M\" }]",
            "size = \"256M\" }]\nreserved = [{ address = \"0x8fffffff\", size = 1 }]",
            {
                SpecError::WindowReserved {
                    host: at("00:00.0"),
                    window: range(0x8000_0000, 0x8fff_ffff),
                    reserved: range(0x8fff_ffff, 0x8fff_ffff),
                }
            },
        ),
        ("size = \"256M\" }]", "size = \"256M\" }]\nreserved = [{ address = 0, size = 0 }]", {
            SpecError::Empty { decoder: Decoder::Reserved(at("00:00.0")), address: 0 }
        }),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refused(from, to), expected, "{to}");
    }
}

// shows S2
#[test]
fn hierarchies_that_are_none_are_refused() {
    let misplaced = |bdf, kind, parent: &str, parent_kind| SpecError::PortMisplaced {
        bdf: at(bdf),
        kind,
        parent: parent.into(),
        parent_kind,
    };
    let cases = [
        (
            "parent = \"up\"",
            "parent = \"nowhere\"",
            SpecError::UnknownParent { bdf: at("02:00.0"), parent: "nowhere".into() },
        ),
        ("parent = \"rc\"", "parent = \"da\"", SpecError::Cycle { id: "rp".into() }),
        ("parent = \"rc\"", "parent = \"rp\"", SpecError::Cycle { id: "rp".into() }),
        ("id = \"db\"", "id = \"da\"", SpecError::DuplicateId { id: "da".into() }),
        ("id = \"db\"", "id = \"\"", SpecError::BadName { name: String::new() }),
        ("id = \"db\"", "id = \"\\u001b[31m\"", SpecError::BadName { name: "\u{1b}[31m".into() }),
        (
            "kind = \"upstream\"",
            "kind = \"downstream\"",
            misplaced("01:00.0", PortKind::Downstream, "rp", "root-port"),
        ),
        ("kind = \"root-port\"", "kind = \"upstream\"\ntlp_prefix = true", {
            SpecError::AcsMisplaced { bdf: at("00:01.0"), kind: PortKind::Upstream }
        }),
        (
            "kind = \"downstream\"",
            "kind = \"pci-bridge\"",
            misplaced("02:00.0", PortKind::PciBridge, "up", "upstream"),
        ),
        ("parent = \"db\"\nbdf = \"04:00.0\"", "parent = \"up\"\nbdf = \"02:02.0\"", {
            SpecError::FunctionMisplaced { bdf: at("02:02.0"), parent: "up".into() }
        }),
        ("bdf = \"04:00.0\"", "bdf = \"05:00.0\"", {
            SpecError::WrongBus { bdf: at("05:00.0"), parent: "db".into(), segment: 0, bus: 4 }
        }),
        ("bdf = \"04:00.1\"", "bdf = \"1:04:00.1\"", {
            SpecError::WrongBus { bdf: at("1:04:00.1"), parent: "db".into(), segment: 0, bus: 4 }
        }),
        (
            "bdf = \"04:00.0\"",
            "bdf = \"04:01.0\"",
            SpecError::NotDeviceZero { bdf: at("04:01.0"), port: at("02:01.0") },
        ),
        ("bdf = \"01:00.0\"\nsecondary = 2", "bdf = \"01:00.0\"\nsecondary = 1", {
            SpecError::WrongBus { bdf: at("02:00.0"), parent: "up".into(), segment: 0, bus: 1 }
        }),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refused(from, to), expected, "{to}");
    }
}

// shows S2
#[test]
fn bus_numbers_that_do_not_nest_are_refused() {
    let conflict = |port, first, last, other, other_first, other_last| SpecError::BusConflict {
        port: at(port),
        first,
        last,
        other: at(other),
        other_first,
        other_last,
    };
    // A bridge below bus 0 whose bus is 0 as well.
    let text = "[[host_bridge]]\nid='rc'\nwindows=[]\n[[port]]\nid='a'\nparent='rc'\n\
                kind='root-port'\nbdf='00:01.0'\nsecondary=0\n";
    let error = Fabric::from_toml(text).expect_err("a conflict");
    assert!(
        matches!(
            &error,
            ConfigError::Spec(found)
                if *found == conflict("00:01.0", 0, 0, "00:00.0", 0, 0)
        ),
        "{error}"
    );
    // A root port whose bus lies within the range of the one beside it.
    let beside = "parent = \"rc\"\nkind = \"root-port\"\nbdf = \"00:02.0\"\nsecondary = 3\n\n\
                  [[port]]\nid = \"up\"";
    let expected = conflict("00:01.0", 1, 4, "00:02.0", 3, 3);
    assert_eq!(refused("id = \"up\"", &format!("id = \"beside\"\n{beside}")), expected);
    // Two host bridges whose hierarchies share a bus; in another segment they do not.
    let two = |segment| {
        let host = |id, segment, bus| {
            format!("[[host_bridge]]\nid='{id}'\nsegment={segment}\nbus={bus}\nwindows=[]\n")
        };
        let port = "[[port]]\nid='a'\nparent='rc'\nkind='root-port'\nbdf='00:01.0'\nsecondary=5\n";
        Fabric::from_toml(&[host("rc", 0, 0), host("rc2", segment, 5), port.to_owned()].concat())
    };
    let error = two(0).expect_err("a conflict");
    assert!(
        matches!(
            &error,
            ConfigError::Spec(found)
                if *found == conflict("00:00.0", 0, 5, "05:00.0", 5, 5)
        ),
        "{error}"
    );
    two(1).expect("another segment");
}

// shows S2
#[test]
fn devices_made_of_things_that_do_not_go_together_are_refused() {
    let beside = "\n[[device]]\nparent = \"rp\"\nbdf = \"01:00.1\"\n\n[[port]]\nid = \"da\"";
    let expected =
        SpecError::MixedSlot { a: at("01:00.0"), kind: PortKind::Upstream, b: at("01:00.1") };
    assert_eq!(refused("\n[[port]]\nid = \"da\"", beside), expected);
    let acs = "bdf = \"04:00.1\"\nacs = [\"RR\", \"CR\"]";
    assert_eq!(
        refused("bdf = \"04:00.1\"", acs),
        SpecError::MixedFunctionAcs { with: at("04:00.1"), without: at("04:00.0") }
    );
}

// shows S2
#[test]
fn capabilities_that_no_device_has_are_refused() {
    let port = |acs: &str| format!("secondary = 4\n{acs}");
    let function = |acs: &str| format!("bdf = \"04:00.1\"\n{acs}");
    let bars = "\"0x80400000\", size = \"4K\" }";
    for (from, to, expected) in [
        ("width = 20", "width = 0", SpecError::PasidWidth { bdf: at("03:00.0"), width: 0 }),
        ("width = 20", "width = 21", SpecError::PasidWidth { bdf: at("03:00.0"), width: 21 }),
        ("width = 20", "width = 276", SpecError::PasidWidth { bdf: at("03:00.0"), width: 276 }),
        ("pasid = { width = 20 }", "pri = 8", SpecError::PriWithoutAts { bdf: at("03:00.0") }),
        ("index = 2", "index = 6", SpecError::BarIndex { bdf: at("03:00.0"), index: 6 }),
        ("index = 2", "index = 0", SpecError::DuplicateBar { bdf: at("03:00.0"), index: 0 }),
        (
            "secondary = 4",
            &port("acs = [\"EC\"]"),
            SpecError::AcsNotImplemented { bdf: at("02:01.0"), bits: AcsBits::EC },
        ),
        (
            "secondary = 4",
            &port("acs = [\"EC\"]\nacs_implemented = [\"EC\"]"),
            SpecError::EgressControl { bdf: at("02:01.0") },
        ),
        (
            "bdf = \"04:00.1\"",
            &function("acs = [\"SV\"]"),
            SpecError::AcsNotImplemented { bdf: at("04:00.1"), bits: AcsBits::SV },
        ),
        ("bdf = \"04:00.1\"", &function("acs_implemented = [\"UF\", \"RR\"]"), {
            SpecError::AcsNotForFunctions { bdf: at("04:00.1"), bits: AcsBits::UF }
        }),
        (
            "bdf = \"04:00.1\"",
            &function("model = \"two words\""),
            SpecError::BadName { name: "two words".into() },
        ),
        (bars, &format!("{bars}, {}", "{ address = 0, size = 16 }, ".repeat(6)), {
            SpecError::TooMany { what: "BARs of a function", count: 7, limit: 6 }
        }),
    ] {
        assert_eq!(refused(from, to), expected, "{to}");
    }
    let text = "[[host_bridge]]\nid='rc'\nwindows=[]\n[[port]]\nid='a'\nparent='rc'\n\
                kind='pci-bridge'\nbdf='00:01.0'\nsecondary=1\n";
    Fabric::from_toml(text).expect("a bridge without prefixes");
    let error = Fabric::from_toml(&format!("{text}tlp_prefix=true"))
        .expect_err("a conventional bus has no prefixes");
    assert!(
        matches!(error, ConfigError::Spec(SpecError::PrefixOnPci { bdf }) if bdf == at("00:01.0")),
        "{error}"
    );
}
