//! The reader of fabric files: what it takes, what it refuses and how it says so, and that no text
//! breaks it.

mod common;

use common::at;
use sva_core::AddrRange;
use sva_core::Topology;
use sva_core::topology::PathPolicy;
use sva_pci::{
    AcsBits, BarSpec, ConfigError, DEFAULT_TOML, Decoder, Fabric, FabricSpec, PortKind, SpecError,
    limit,
};

/// A small fabric as text, with `edit` made to it.
fn edited(from: &str, to: &str) -> Result<Fabric, ConfigError> {
    assert!(SMALL.contains(from), "`{from}` is not in the text");
    Fabric::from_toml(&SMALL.replacen(from, to, 1))
}

fn refused(from: &str, to: &str) -> SpecError {
    match edited(from, to) {
        Err(ConfigError::Spec(error)) => error,
        other => panic!("`{to}` in place of `{from}`: {other:?}"),
    }
}

const SMALL: &str = r#"
policy = "permissive"

[[host_bridge]]
id = "rc"
windows = [{ address = "0x80000000", size = "256M" }]

[[port]]
id = "rp"
parent = "rc"
kind = "root-port"
bdf = "00:01.0"
secondary = 1
acs = ["SV", "RR", "CR", "UF"]

[[port]]
id = "up"
parent = "rp"
kind = "upstream"
bdf = "01:00.0"
secondary = 2

[[port]]
id = "da"
parent = "up"
kind = "downstream"
bdf = "02:00.0"
secondary = 3
windows = [{ address = "0x80300000", size = "1M" }]

[[port]]
id = "db"
parent = "up"
kind = "downstream"
bdf = "02:01.0"
secondary = 4

[[device]]
parent = "da"
bdf = "03:00.0"
pasid = { width = 20 }
bars = [{ address = "0x80000000", size = "4K" }, { index = 2, address = "0x80001000", size = "4K" }]

[[device]]
parent = "db"
bdf = "04:00.0"
bars = [{ address = "0x80400000", size = "4K" }]

[[device]]
parent = "db"
bdf = "04:00.1"
"#;

fn range(first: u64, last: u64) -> AddrRange {
    AddrRange::inclusive(first, last).expect("a range in a test")
}

#[test]
fn every_key_of_the_format_is_read() {
    let text = r#"
        policy = "permissive"
        [[host_bridge]]
        id = "rc"
        segment = 0x10001
        bus = 0x20
        p2p = true
        windows = [{ address = 0x8000_0000, size = 0x100000 }]
        reserved = [{ address = "16", size = "1K" }]
        [[port]]
        id = "rp"
        parent = "rc"
        kind = "root-port"
        bdf = "10001:20:01.0"
        secondary = 0x21
        acs = ["UF"]
        acs_implemented = ["UF", "EC"]
        tlp_prefix = false
        windows = [{ address = "0x80000000", size = "1M" }]
        [[device]]
        parent = "rp"
        bdf = "10001:21:00.7"
        model = "data-mover"
        pasid = { width = 7, execute = true, privileged = true }
        ats = true
        pri = 9
        page_faults = true
        acs = ["RR"]
        bars = [{ index = 5, address = "0x80000000", size = 128 }]
    "#;
    let spec = FabricSpec::from_toml(text).expect("well-formed");
    let (host, port, function) = (&spec.host_bridges[0], &spec.ports[0], &spec.functions[0]);
    assert_eq!(spec.policy, PathPolicy::Permissive);
    assert_eq!((host.id.as_str(), host.segment, host.bus, host.p2p), ("rc", 0x10001, 0x20, true));
    assert_eq!(
        (&host.windows[..], &host.reserved[..]),
        (&[range(0x8000_0000, 0x800f_ffff)][..], &[range(16, 1039)][..])
    );
    assert_eq!(
        (port.kind, port.bdf, port.secondary, port.tlp_prefix),
        (PortKind::Root, at("10001:20:01.0"), 0x21, false)
    );
    assert_eq!(
        port.acs.map(|acs| (acs.enabled, acs.implemented)),
        Some((AcsBits::UF, AcsBits::UF | AcsBits::EC))
    );
    assert_eq!(port.windows, [range(0x8000_0000, 0x800f_ffff)]);
    assert_eq!(
        (function.bdf, function.model.as_deref()),
        (at("10001:21:00.7"), Some("data-mover"))
    );
    let capabilities = function.capabilities;
    assert_eq!(
        capabilities.pasid.map(|pasid| (pasid.width.bits(), pasid.execute, pasid.privileged)),
        Some((7, true, true))
    );
    assert_eq!(
        (capabilities.ats, capabilities.pri, capabilities.page_faults),
        (true, Some(9), true)
    );
    assert_eq!(function.acs.map(|acs| acs.enabled), Some(AcsBits::RR));
    assert_eq!(function.bars, [BarSpec { index: 5, address: 0x8000_0000, size: 128 }]);
    Fabric::new(spec).expect("a fabric");
}

// shows B1
#[test]
fn a_file_that_names_no_policy_is_strict_and_one_without_acs_has_no_capability() {
    let spec = FabricSpec::from_toml(&SMALL.replacen("policy = \"permissive\"", "", 1))
        .expect("well-formed");
    assert_eq!(spec.policy, PathPolicy::Strict);
    assert_eq!(spec.ports[2].acs, None);
    let spec =
        FabricSpec::from_toml(&SMALL.replacen("secondary = 4", "secondary = 4\nacs = []", 1))
            .expect("well-formed");
    assert_eq!(spec.ports[3].acs.map(|acs| acs.enabled), Some(AcsBits::NONE));
}

// shows S2
#[test]
fn malformed_text_is_refused_with_line_and_column() {
    for (from, to, line, column, says) in [
        ("kind = \"root-port\"", "kind = \"hub\"", 11, 8, "unknown variant `hub`"),
        ("secondary = 1", "secondary = 256", 13, 13, "256"),
        ("secondary = 1", "secondry = 1", 13, 1, "unknown field `secondry`"),
        ("bdf = \"00:01.0\"", "bdf = \"00:20.0\"", 12, 7, "`00:20.0` is not a PCI address"),
        ("\"SV\", ", "\"SV\", \"RX\", ", 14, 7, "`RX` is no ACS service"),
        ("size = \"256M\"", "size = \"256Q\"", 6, 45, "`256Q` is not a size"),
        ("size = \"256M\"", "size = -1", 6, 45, "-1"),
        ("\"permissive\"", "\"permissive", 2, 21, ""),
        ("policy = \"permissive\"", "policy = \"lax\"", 2, 10, "unknown variant `lax`"),
    ] {
        match edited(from, to) {
            Err(ConfigError::Toml { line: l, column: c, reason, .. }) => {
                assert_eq!((l, c), (line, column), "{to}: {reason}");
                assert!(reason.message().contains(says), "{to}: {reason}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
}

// shows S2
#[test]
fn a_message_about_foreign_text_is_one_short_line_that_no_terminal_obeys() {
    let long = "x".repeat(200_000);
    for (text, shown) in [
        (format!("policy = \"{long}\""), "policy = \"xxx"),
        (format!("{long} = 1"), "`xxx"),
        (format!("policy = [ \"{long}\", ] ]"), "xxx"),
        ("\u{1b}[31mred\u{7}\u{202e} = 1".to_owned(), "\\u{1b}[31mred\\u{7}\\u{202e} = 1"),
        ("\"\\u001b[31mred\" = 1\r\n".to_owned(), "\\u{1b}[31mred"),
    ] {
        let error = Fabric::from_toml(&text).expect_err("no fabric");
        let message = error.to_string();
        assert!(
            message.starts_with("line 1, column ") && message.contains(shown),
            "{message:.400}"
        );
        assert_eq!(message.matches("line 1").count(), 1, "{message:.400}");
        assert!(message.chars().count() < 500, "{} characters", message.chars().count());
        assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
        assert!(
            std::error::Error::source(&error).is_none(),
            "who prints the causes prints nothing else"
        );
    }
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

// shows S2
#[test]
fn what_passes_the_bounds_is_refused() {
    let long = format!("{SMALL}#{}", "x".repeat(limit::TEXT));
    assert!(
        matches!(Fabric::from_toml(&long), Err(ConfigError::TooLong { len }) if len == long.len())
    );
    assert!(matches!(Fabric::from_toml(""), Err(ConfigError::Spec(SpecError::NoHostBridge))));
    let name = "x".repeat(limit::NAME);
    edited("id = \"rc\"", &format!("id = \"{name}\"")).expect_err("its children know another name");
    assert_eq!(refused("id = \"db\"", &format!("id = \"{name}x\"")), SpecError::BadName { name });

    // One switch below another, each with one downstream port.
    let mut text = "[[host_bridge]]\nid='n0'\nwindows=[]\n".to_owned();
    for n in 1..=80 {
        let kind = if n == 1 { "root-port" } else { ["upstream", "downstream"][n % 2] };
        let (parent, device) = (n - 1, usize::from(n == 1));
        text += &format!(
            "[[port]]\nid='n{n}'\nparent='n{parent}'\nkind='{kind}'\n\
             bdf='{parent:02x}:{device:02x}.0'\nsecondary={n}\n"
        );
    }
    let error = Fabric::from_toml(&text).expect_err("too deep");
    assert!(
        matches!(
            &error,
            ConfigError::Spec(SpecError::TooDeep { id })
                if *id == format!("n{}", limit::DEPTH + 1)
        ),
        "{error}"
    );

    let count = limit::FUNCTIONS + 1;
    let many: String =
        (0..count).map(|n| format!("[[device]]\nparent='rc'\nbdf='{n:x}:0:1.0'\n")).collect();
    match Fabric::from_toml(&format!("[[host_bridge]]\nid='rc'\nwindows=[]\n{many}")) {
        Err(ConfigError::Spec(error)) => assert_eq!(
            error,
            SpecError::TooMany { what: "functions", count, limit: limit::FUNCTIONS }
        ),
        other => panic!("{other:?}"),
    }
}

// shows S2
#[test]
fn deeply_nested_toml_is_refused_and_not_followed() {
    for text in [
        format!("policy = {}", "[".repeat(100_000)),
        format!("policy = {}", "{a=".repeat(50_000)),
        "a.".repeat(100_000),
    ] {
        assert!(matches!(Fabric::from_toml(&text), Err(ConfigError::Toml { .. })));
    }
}

// shows S2
#[test]
fn the_drawing_of_a_full_bus_where_all_reach_all_stays_small() {
    // A conventional bus with all 256 functions, 6 BARs each: 1.5 million pairs of function and
    // peer BAR.
    let mut text = String::from(
        "[[host_bridge]]\nid='rc'\nwindows=[{address=0x80000000,size='1G'}]\n\
         [[port]]\nid='b'\nparent='rc'\nkind='pci-bridge'\nbdf='00:01.0'\nsecondary=1\n",
    );
    for n in 0..256u64 {
        let bars: String = (0..6)
            .map(|bar| format!("{{address={},size=4096}},", 0x8000_0000 + (n * 8 + bar) * 4096))
            .collect();
        text +=
            &format!("[[device]]\nparent='b'\nbdf='01:{:02x}.{}'\nbars=[{bars}]\n", n >> 3, n & 7);
    }
    let fabric = Fabric::from_toml(&text).expect("a fabric");
    let view = sva_pci::FabricView::new(&fabric);
    let sva_pci::NodeView::Port(bridge) = &view.host_bridges[0].children[0] else {
        panic!("a bridge")
    };
    for node in &bridge.children {
        let sva_pci::NodeView::Function(function) = node else { panic!("a function") };
        assert_eq!(function.caught.len(), limit::CAUGHT);
        // The BARs of 255 others, and the 256 gaps of the bridge's window: the own BARs are
        // nobody's and make one range with the gaps around them.
        let gaps = if function.bdf == "0000:01:00.0" { 256 } else { 255 };
        assert_eq!(
            function.caught.len() + function.caught_more,
            255 * 6 + gaps,
            "{}",
            function.bdf
        );
    }
    assert!(sva_pci::render(&fabric).len() < 2 << 20);
}

#[test]
fn the_default_fabric_shows_what_its_comments_say() {
    let fabric = Fabric::from_toml(DEFAULT_TOML).expect("the default");
    assert_eq!(fabric.policy(), PathPolicy::Strict);
    for alone in ["01:00.0", "02:00.0", "03:00.0"].map(at) {
        assert_eq!((fabric.path_defect(alone), fabric.windows(alone)), (None, vec![]));
        assert!(
            fabric.devices().iter().all(
                |device| device.bdf == alone || fabric.group(device.bdf) != fabric.group(alone)
            )
        );
    }
    let (mover, memory) = (at("06:00.0"), at("07:00.0"));
    assert_eq!(fabric.group(mover), fabric.group(memory));
    assert_eq!((fabric.path_defect(mover), fabric.path_defect(memory)), (None, None));
    assert!(fabric.function(memory).is_some_and(|function| function.capabilities.pasid.is_none()));
    for together in [["0a:00.0", "0b:00.0"], ["0c:00.0", "0c:00.1"]] {
        let [a, b] = together.map(at);
        assert_eq!(fabric.group(a), fabric.group(b));
        assert!(fabric.path_defect(a).is_some() && fabric.path_defect(b).is_some());
        assert!(fabric.windows(a).iter().any(|window| window.decoder == b && window.claimed));
    }
}

/// The keys of an object in the machine-readable form, sorted.
fn keys(value: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .map(|object| object.keys().map(String::as_str).collect())
        .unwrap_or_default();
    keys.sort();
    keys
}

// shows B7
#[test]
fn a_device_whose_path_stops_translated_requests_says_so_where_it_has_ats() {
    let told = |ats: bool, acs: &str| {
        let text = SMALL
            .replace("pasid = { width = 20 }", &format!("ats = {ats}"))
            .replace(r#"["SV", "RR", "CR", "UF"]"#, acs);
        let fabric = Fabric::from_toml(&text).expect("a fabric");
        let lines = sva_pci::render(&fabric)
            .lines()
            .filter(|line| line.ends_with("ATS: 0000:00:01.0 stops translated requests"))
            .count();
        (lines, fabric.translation_blocker(at("03:00.0")))
    };
    assert_eq!(told(true, r#"["TB"]"#), (1, Some(at("00:01.0"))));
    assert_eq!(told(false, r#"["TB"]"#), (0, Some(at("00:01.0"))));
    assert_eq!(told(true, r#"["DT"]"#), (0, None));
}

#[test]
fn the_machine_readable_form_keeps_its_names() {
    let fabric = Fabric::from_toml(SMALL).expect("a fabric");
    let view = serde_json::to_value(sva_pci::FabricView::new(&fabric)).expect("plain data");
    let port = &view["host_bridges"][0]["children"][0];
    let function = &port["children"][0]["children"][0]["children"][0];
    let function_keys = "acs ats bars bdf caught caught_more group model page_faults pasid \
                         path_defect pri requester translation_blocked type";
    assert_eq!(keys(&view), ["groups", "host_bridges", "policy"]);
    assert_eq!(
        keys(port).join(" "),
        "acs bdf children id kind secondary subordinate tlp_prefix type windows"
    );
    assert_eq!(keys(function).join(" "), function_keys);
    assert_eq!(
        function["bars"][1],
        serde_json::json!({ "index": 2, "first": "0x80001000", "last": "0x80001fff", "size": 4096 })
    );
    assert_eq!(port["acs"]["enabled"], serde_json::json!(["SV", "RR", "CR", "UF"]));
    assert_eq!(
        view["groups"][0]["members"],
        serde_json::json!(["0000:03:00.0", "0000:04:00.0", "0000:04:00.1"])
    );
}
