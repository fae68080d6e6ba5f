//! Models that Linux' tables name: who isolates without saying so, and who does not although it
//! says so.

#[path = "common/machines.rs"]
mod machines;

use machines::{ALL, endpoint, groups, groups_by, machine, pci, pcie, root, to_pci};
use sva_topology::AcsBits;
use sva_topology::groups::{AcsRule, Policy, acs_verdict};
use sva_topology::machine::{Basis, ExpressKind, Fact, Host, Ids, Machine, Source};

/// Whether a root port of this model without ACS isolates.
fn port_isolates(vendor: u16, device: u16) -> bool {
    groups(&machine([root("00:1c.0", 1, 1).ids(vendor, device), endpoint("01:00.0")])).len() == 2
}

/// Whether two functions of this model without ACS are isolated from each other.
fn functions_isolate(vendor: u16, device: u16) -> bool {
    let pair = [
        endpoint("01:00.0").multifunction().ids(vendor, device),
        endpoint("01:00.1").ids(vendor, device),
    ];
    groups(&machine([root("00:01.0", 1, 1).isolating()].into_iter().chain(pair))).len() == 3
}

fn range(first: u16, last: u16) -> impl Iterator<Item = u16> {
    first..=last
}

// shows G1
#[test]
fn intel_root_ports_before_skylake_isolate_by_registers_of_the_chipset() {
    let ranges = [
        (0x1c10, 0x1c1f),
        (0x1e10, 0x1e1f),
        (0x3b42, 0x3b51),
        (0x8c10, 0x8c1f),
        (0x8d10, 0x8d1e),
        (0x9c10, 0x9c1b),
        (0x9c90, 0x9c9b),
    ];
    for (first, last) in ranges {
        assert!(
            range(first, last).all(|device| port_isolates(0x8086, device)),
            "{first:#06x}..={last:#06x}"
        );
        assert!(
            !port_isolates(0x8086, first - 1) && !port_isolates(0x8086, last + 1),
            "beside {first:#06x}..={last:#06x}"
        );
    }
    for even in [0x1d10, 0x8c90] {
        assert!(
            range(even, even + 15).all(|device| port_isolates(0x8086, device) == (device % 2 == 0)),
            "{even:#06x}"
        );
    }
    assert!(!port_isolates(0x10de, 0x1c10), "another vendor's");
}

// shows G1
#[test]
fn the_chipset_quirk_rests_on_linux_having_enabled_it() {
    let source = |in_use: Option<Fact<bool>>| {
        let port = root("00:1c.0", 1, 1).ids(0x8086, 0x1c10).0;
        let machine = Machine::new(vec![port], Host { iommu_in_use: in_use, ..Host::default() });
        acs_verdict(&machine, 0, ALL, Policy::Linux).source
    };
    assert_eq!(source(None), Source::Assumed(Basis::LinuxEnablesQuirk));
    assert_eq!(source(Some(Fact::read(true))), Source::Inferred(Basis::LinuxEnablesQuirk));
}

// shows G1
#[test]
fn sunrise_point_ports_have_their_control_register_two_bytes_further() {
    let all = u32::from(ALL.bits());
    let with = |device, dwords: Option<[u32; 2]>| {
        // What a reader of the standard layout sees: the upper half of the capability dword, which
        // is 0.
        let port = root("00:1c.0", 1, 1).ids(0x8086, device).acs(ALL, AcsBits::NONE);
        let port = match dwords {
            Some(dwords) => port.dwords(dwords),
            None => port,
        };
        groups(&machine([port, endpoint("01:00.0")])).len() == 2
    };
    for device in [0xa110, 0xa11f, 0xa167, 0xa16a, 0xa290, 0xa29f, 0xa2e7, 0xa2ee, 0x9d10, 0x9d1b] {
        assert!(with(device, Some([all, all])), "{device:#06x}: both dwords read");
        assert!(
            !with(device, Some([all, all & !u32::from(AcsBits::RR.bits())])),
            "{device:#06x}: RR is off in the second dword"
        );
        assert!(
            with(
                device,
                Some([all & !u32::from(AcsBits::RR.bits()), all & !u32::from(AcsBits::RR.bits())])
            ),
            "{device:#06x}: RR not implemented"
        );
        assert!(
            with(device, None),
            "{device:#06x}: from text, where the second dword is not visible, Linux has enabled it"
        );
    }
    for device in [0xa10f, 0xa120, 0xa166, 0xa16b, 0xa28f, 0xa2a0, 0xa2e6, 0xa2ef, 0x9d0f, 0x9d1c] {
        assert!(!with(device, Some([all, all])), "{device:#06x} has the standard layout");
    }
    let bare = machine([root("00:1c.0", 1, 1).ids(0x8086, 0xa110), endpoint("01:00.0")]);
    assert_eq!(groups(&bare).len(), 1, "a port without the capability has no quirk");
}

/// A port with a device below, as `lspci -nnvv` prints them, with all services implemented and none
/// enabled.
fn as_text(port: &str) -> String {
    let acs = "SrcValid{} TransBlk- ReqRedir{} CmpltRedir{} UpstreamFwd{} EgressCtrl- DirectTrans-";
    [
        format!("00:1c.0 PCI bridge [0604]: A port [{port}] (rev f0) (prog-if 00 [Normal decode])"),
        "\tControl: I/O+ Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- \
         FastB2B- DisINTx+"
            .to_owned(),
        "\tBus: primary=00, secondary=01, subordinate=01, sec-latency=0".to_owned(),
        "\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00".to_owned(),
        "\tCapabilities: [140 v1] Access Control Services".to_owned(),
        format!("\t\tACSCap:\t{}", acs.replace("{}", "+")),
        format!("\t\tACSCtl:\t{}", acs.replace("{}", "-")),
        String::new(),
        "01:00.0 Ethernet controller [0200]: A device [1af4:0001]".to_owned(),
        "\tCapabilities: [40] Express (v2) Endpoint, MSI 00".to_owned(),
        "\tCapabilities: [100 v1] Advanced Error Reporting".to_owned(),
        String::new(),
    ]
    .join("\n")
}

// shows G1
#[test]
fn text_shows_the_wrong_control_register_of_sunrise_point_and_the_right_one_of_others() {
    let of = |port| {
        groups(&sva_topology::read::from_text(as_text(port).as_bytes()).expect("text of lspci"))
    };
    assert_eq!(of("8086:a294"), ["00:1c.0", "01:00.0"]);
    assert_eq!(of("8086:a394"), ["00:1c.0 01:00.0"]);
}

// shows G1
#[test]
fn any_integrated_endpoint_of_intel_isolates_and_no_other_vendors() {
    let pair = |vendor| {
        let function = |bdf: &str| pcie(bdf, ExpressKind::IntegratedEndpoint).ids(vendor, 0x1234);
        groups(&machine([function("00:14.0").multifunction(), function("00:14.2")])).len()
    };
    assert_eq!((pair(0x8086), pair(0x1022)), (2, 1));
    let conventional = machine([
        pci("00:14.0").multifunction().ids(0x8086, 0x1234),
        pci("00:14.2").ids(0x8086, 0x1235),
    ]);
    assert_eq!(groups(&conventional).len(), 1, "Intel's conventional functions do not");
}

// shows G1
#[test]
fn an_amd_southbridge_isolates_in_multifunction_devices_on_a_root_bus() {
    let models = [
        (0x1002, 0x4383),
        (0x1002, 0x4384),
        (0x1002, 0x4385),
        (0x1002, 0x4399),
        (0x1002, 0x439c),
        (0x1002, 0x439d),
        (0x1022, 0x7809),
        (0x1022, 0x780f),
    ];
    for (vendor, device) in models {
        let all = machine([
            pci("00:14.0").multifunction().ids(vendor, device),
            pci("00:14.1"),
            pci("00:14.2"),
        ]);
        assert_eq!(groups(&all), ["00:14.0", "00:14.1 00:14.2"], "{vendor:04x}:{device:04x}");
    }
    let below = machine([
        root("00:01.0", 1, 1).isolating(),
        pci("01:14.0").multifunction().ids(0x1002, 0x4385),
        pci("01:14.1"),
    ]);
    assert_eq!(groups(&below), ["00:01.0", "01:14.0 01:14.1"], "not on a root bus");
    // A single function is not asked: it fails as a conventional bridge does, and what is below
    // joins it.
    let single = machine([pci("00:14.4").ids(0x1002, 0x4384).below(1, 1), pci("01:05.0")]);
    assert_eq!(groups(&single), ["00:14.4 01:05.0"]);
}

// shows G1
#[test]
fn nics_and_other_devices_that_vendors_vouch_for_are_split_without_acs() {
    let models = [
        (0x1924, 0x0903),
        (0x1924, 0x0a03),
        (0x8086, 0x10fb),
        (0x8086, 0x1521),
        (0x8086, 0x1524),
        (0x8086, 0x105e),
        (0x8086, 0x15b8),
        (0x19a2, 0x0710),
        (0x10df, 0x0720),
        (0x177d, 0xa026),
        (0x177d, 0xa059),
        (0x177d, 0xa060),
        (0x14e4, 0x16d7),
        (0x14e4, 0x1752),
        (0x14e4, 0x1763),
        (0x1d17, 0x3038),
        (0x1d17, 0x9083),
        (0x8088, 0x0100),
        (0x8088, 0x010f),
        (0x8088, 0x2001),
        (0x8088, 0x5140),
    ];
    for (vendor, device) in models {
        assert!(functions_isolate(vendor, device), "{vendor:04x}:{device:04x}");
    }
    for (vendor, device) in [
        (0x8086, 0x10a4),
        (0x8086, 0x1525),
        (0x14e4, 0x1753),
        (0x177d, 0xa05a),
        (0x8088, 0x0110),
        (0x15b3, 0x1017),
    ] {
        assert!(!functions_isolate(vendor, device), "{vendor:04x}:{device:04x}");
    }
}

// shows G1
#[test]
fn root_ports_of_arm_and_other_servers_isolate_without_acs() {
    let models = [
        (0x17cb, 0x0400),
        (0x17cb, 0x0401),
        (0x17cb, 0x0111),
        (0x17cb, 0x0115),
        (0x17cb, 0x0120),
        (0x1dbf, 0x0401),
        (0x177d, 0xa000),
        (0x177d, 0xa7ff),
        (0x177d, 0xaf84),
        (0x177d, 0xb884),
        (0x10e8, 0xe004),
        (0x1def, 0xe005),
        (0x1def, 0xe00c),
        (0x14e4, 0xd714),
        (0x0014, 0x3c09),
        (0x0014, 0x7a69),
        (0x1c36, 0x0031),
        (0x1957, 0x8d80),
        (0x1957, 0x8db9),
        (0x1d17, 0x0710),
        (0x1d17, 0x071e),
        (0x1d17, 0x0721),
        (0x1d17, 0x0752),
    ];
    for (vendor, device) in models {
        assert!(port_isolates(vendor, device), "{vendor:04x}:{device:04x}");
    }
    for (vendor, device) in [
        (0x177d, 0xa800),
        (0x1def, 0xe00d),
        (0x1957, 0x8d84),
        (0x0014, 0x7a79),
        (0x17cb, 0x0402),
        (0x1c36, 0x0032),
    ] {
        assert!(!port_isolates(vendor, device), "{vendor:04x}:{device:04x}");
    }
}

// shows G1
#[test]
fn a_zhaoxin_port_or_wangxun_device_that_linux_does_not_know_fails_even_with_acs() {
    let port = |device| {
        groups(&machine([
            root("00:03.0", 1, 1).ids(0x1d17, device).isolating(),
            endpoint("01:00.0"),
        ]))
        .len()
    };
    assert_eq!((port(0x0720), port(0x0723)), (1, 2));
    assert_eq!(port(0xffff), 2, "a number that was not read is no reason");
    let nic = |device| {
        let function = |bdf: &str| endpoint(bdf).ids(0x8088, device).isolating();
        groups(&machine([
            root("00:01.0", 1, 1).isolating(),
            function("01:00.0").multifunction(),
            function("01:00.1"),
        ]))
        .len()
    };
    assert_eq!((nic(0x7777), nic(0x0100)), (2, 3));
}

// shows G1
#[test]
fn source_validation_of_two_idt_switches_counts_as_not_implemented() {
    let port = |device| {
        groups(&machine([
            root("00:01.0", 1, 1).ids(0x111d, device).acs(ALL, ALL & !AcsBits::SV),
            endpoint("01:00.0"),
        ]))
        .len()
    };
    assert_eq!((port(0x80b5), port(0x8090), port(0x8091)), (2, 2, 1));
}

// shows G1
#[test]
fn the_override_comes_after_what_quirks_deny_of_intel_and_before_what_they_deny_of_others() {
    let port = |vendor, device| {
        groups_by(
            &machine([root("00:01.0", 1, 1).ids(vendor, device), endpoint("01:00.0")]),
            Policy::Override,
        )
        .len()
    };
    assert_eq!((port(0x1af4, 1), port(0x1d17, 0x0720)), (2, 2));
    let bridge = machine([
        root("00:01.0", 1, 2).isolating(),
        to_pci("01:00.0", 2, 2),
        pci("02:00.0"),
        pci("02:00.1"),
    ]);
    assert_eq!(
        groups_by(&bridge, Policy::Override),
        ["00:01.0", "01:00.0 02:00.0 02:00.1"],
        "no conventional PCI"
    );
}

// shows G1
#[test]
fn a_verdict_names_the_rule_and_the_bits() {
    let all = machine([
        root("00:01.0", 1, 1).acs(ALL, AcsBits::SV),
        root("00:1c.0", 2, 2).ids(0x8086, 0x1c10),
        root("00:1d.0", 3, 3),
        pci("00:1e.0"),
    ]);
    let text: Vec<String> =
        (0..4).map(|index| acs_verdict(&all, index, ALL, Policy::Linux).to_string()).collect();
    assert_eq!(text[0], "lacks RR CR UF (implements SV RR CR UF; enabled SV)");
    assert_eq!(
        text[1],
        "isolates by quirk: Intel PCH root port without ACS (pci_quirk_intel_pch_acs)"
    );
    assert_eq!(text[2], "is a root port without the ACS capability");
    assert_eq!(text[3], "is conventional PCI, which never isolates");
    let redirect = acs_verdict(&all, 0, AcsBits::SV, Policy::Linux);
    assert!(
        redirect.given && matches!(redirect.rule, AcsRule::Capability { .. }),
        "other services can be asked for: {redirect:?}"
    );
}

// shows G1: a model that was guessed from its name may have a quirk only if its vendor has one.
#[test]
fn that_no_quirk_applies_is_known_by_the_vendor_alone_where_the_table_has_none_of_it() {
    let source = |vendor: u16, basis: Basis| {
        let mut port = root("00:01.0", 1, 1).isolating();
        port.0.ids = Some(Fact::assumed(Ids { vendor, device: Ids::UNKNOWN }, basis));
        acs_verdict(&machine([port]), 0, ALL, Policy::Linux).source
    };
    assert_eq!(source(0x10de, Basis::VendorName), Source::Inferred(Basis::VendorName));
    for listed in [0x8086, 0x14e4, 0x111d] {
        assert_eq!(
            source(listed, Basis::VendorName),
            Source::Assumed(Basis::VendorName),
            "{listed:x}"
        );
    }
    assert_eq!(
        source(0x10de, Basis::Name),
        Source::Assumed(Basis::Name),
        "several vendors have the name"
    );
}
