//! The reader of fabric files: what it takes, how it says what it refuses, and that no text breaks
//! it.

mod common;

use common::at;
use common::small::{SMALL, edited, refused};
use sva_core::AddrRange;
use sva_core::topology::PathPolicy;
use sva_pci::{AcsBits, BarSpec, ConfigError, Fabric, FabricSpec, PortKind, SpecError, limit};

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
