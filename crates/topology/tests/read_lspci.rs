//! Text of `lspci`, in all the states in which people save and send it. The dumps are made up, one
//! rule each.

#[path = "common/texts.rs"]
mod texts;

use sva_topology::AcsBits;
use sva_topology::machine::{
    Anomaly, Basis, Class, ExpressKind, Header, Ids, ListState, Machine, Source,
};
use sva_topology::read::{ReadError, from_text, parse};
use texts::{ONE_PORT, bdf, function, machine};

const ISOLATION: AcsBits = AcsBits::ISOLATION;

fn kind(machine: &Machine, at: &str) -> Option<ExpressKind> {
    function(machine, at).express.value.map(|express| express.kind)
}

// shows G1: what decides a group stands in the machine as the text says it.
#[test]
fn a_verbose_text_gives_ids_buses_types_and_acs_bits() {
    let machine = texts::machine(ONE_PORT);
    let port = function(&machine, "00:01.0");
    assert_eq!(port.ids.map(|ids| ids.value), Some(Ids { vendor: 0x1af4, device: 0x0101 }));
    assert_eq!(port.class.map(|class| class.value), Some(Class(0x06_0400)));
    assert_eq!(port.name.as_deref(), Some("Made Up Root Port"));
    let Header::Bridge(bridge) = &port.header.value else { panic!("{:?}", port.header) };
    assert_eq!((bridge.secondary, bridge.subordinate), (1, 2));
    assert_eq!(
        bridge.windows.iter().map(|window| (window.first(), window.last())).collect::<Vec<_>>(),
        [(0x8000_0000, 0x81ff_ffff)]
    );
    let acs = port.acs.value.expect("it has ACS");
    assert_eq!(acs.implemented.value, ISOLATION | AcsBits::TB);
    assert_eq!(acs.enabled.value, AcsBits::SV | AcsBits::RR);
    assert_eq!((acs.enabled.source, port.express.source), (Source::Read, Source::Read));
    assert_eq!(
        port.express.value.map(|express| (express.kind, express.end_to_end_prefix.value)),
        Some((ExpressKind::RootPort, true))
    );
    let card = function(&machine, "01:00.0");
    assert_eq!(
        card.pasid.value.map(|pasid| (pasid.width.value, pasid.execute, pasid.enabled.value)),
        Some((20, true, true))
    );
    assert_eq!(
        card.pri.value.map(|pri| (pri.capacity, pri.enabled.value)),
        Some((Some(0x100), false))
    );
    assert_eq!(card.ats.value.map(|ats| ats.enabled.value), Some(true));
    assert_eq!(
        card.bars.iter().map(|bar| (bar.index, bar.address, bar.size)).collect::<Vec<_>>(),
        [(0, 0x8000_0000, Some(16 << 20)), (4, 0x40_0000_0000, Some(256 << 20))]
    );
    assert_eq!(card.driver.as_deref(), Some("made_up"));
    assert_eq!(card.acs.source, Source::Inferred(Basis::CompleteList));
}

// shows G1: people cut descriptions short, and edit them.
#[test]
fn what_follows_a_long_title_directly_is_no_part_of_it() {
    let title =
        "00:02.0 PCI bridge [0604]: Made Up Corporation of Somewhere Bridge [1af4:0102] (rev 01)";
    for first in [
        "Bus: primary=00, secondary=05, subordinate=05, sec-latency=0",
        "Memory behind bridge: 80000000-800fffff [size=1M]",
    ] {
        let rest = if first.starts_with("Bus") {
            "IOMMU group: 7"
        } else {
            "Bus: primary=00, secondary=05, subordinate=05, sec-latency=0"
        };
        let machine = texts::machine(&format!(
            "{title}\n\t{first}\n\t{rest}\n\tCapabilities: [40] Express Root Port (Slot+), MSI 00\n"
        ));
        let Header::Bridge(bridge) = &function(&machine, "00:02.0").header.value else {
            panic!("{first}")
        };
        assert_eq!((bridge.secondary, bridge.subordinate), (5, 5), "{first}");
    }
    let machine =
        texts::machine(&format!("{title}\n\tIOMMU group: 7\n\tKernel driver in use: pcieport\n"));
    assert_eq!(function(&machine, "00:02.0").kernel_group, Some(Some(7)));
}

// shows S2: mail programs, Windows and editors change everything but the words.
#[test]
fn a_text_that_went_through_mail_reads_the_same() {
    let original = parse(ONE_PORT.as_bytes()).expect("it reads");
    let lines = |change: &dyn Fn(&str) -> String| {
        ONE_PORT.lines().map(|line| change(line) + "\n").collect::<String>()
    };
    let mails = [
        ("carriage returns", ONE_PORT.replace('\n', "\r\n")),
        ("one quote mark", lines(&|line| format!("> {line}"))),
        ("nested quote marks", lines(&|line| format!(">> > {line}"))),
        ("spaces for tabs", ONE_PORT.replace('\t', "        ")),
        ("no indentation", lines(&|line| line.trim_start().to_owned())),
        ("more indentation", lines(&|line| format!("    {line}"))),
        ("wrapped", wrapped(ONE_PORT, 72)),
        (
            "wrapped narrowly and quoted",
            wrapped(ONE_PORT, 60).lines().map(|line| format!("> {line}\n")).collect(),
        ),
        ("double-spaced", lines(&|line| format!("{line}\n"))),
        (
            "text before and after",
            format!(
                "Hello all,\n\nsee below: it fails.\n\n{ONE_PORT}\nMemory: 16 GiB\n\nThanks,\n\
                 someone\n-- \nsignature"
            ),
        ),
        ("a byte order mark", format!("\u{feff}{ONE_PORT}")),
        ("quoted-printable", quoted_printable(ONE_PORT)),
    ];
    for (what, text) in mails {
        assert_eq!(parse(text.as_bytes()).expect(what).functions, original.functions, "{what}");
    }
}

/// Lines broken at blanks, the rest without indentation.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut length = 0;
        for word in line.split_inclusive(char::is_whitespace) {
            if length > 0 && length + word.trim_end().len() > width {
                out.push('\n');
                length = 0;
            }
            out.push_str(word);
            length += word.len();
        }
        out.push('\n');
    }
    out
}

fn quoted_printable(text: &str) -> String {
    text.lines()
        .map(|line| line.replace('=', "=3D").replace("ACSCap:", "ACSC=\nap:") + "\n")
        .collect()
}

// shows S2
#[test]
fn bytes_that_are_not_text_do_not_stop_the_reader() {
    let mut text = b"\xff\xfe\x00 noise \xc3\x28\n".to_vec();
    text.extend(ONE_PORT.replace("Made Up", "Mad\u{7}e").into_bytes());
    text.extend(b"\xf0\x9f");
    let machine = from_text(&text).expect("it reads");
    assert_eq!(function(&machine, "00:01.0").name.as_deref(), Some("Mad e Root Port"));
}

// shows S2: the place where nothing was found, and what to give instead.
#[test]
fn a_text_without_functions_is_an_error_with_line_and_column() {
    let error = from_text(b"no devices\n  here either").expect_err("nothing to read");
    assert!(matches!(error, ReadError::NoFunctions { line: 2, column: 14 }), "{error:?}");
    assert!(
        error.to_string().starts_with("line 2, column 14: ")
            && error.to_string().contains("lspci -vvv -nn"),
        "{error}"
    );
    assert!(matches!(from_text(b""), Err(ReadError::NoFunctions { line: 1, column: 1 })));
}

// shows S2
#[test]
fn more_functions_than_are_taken_are_an_error_with_line_and_column() {
    let all = (0..=0x1_0000_u32).map(|n| {
        format!(
            "{:04x}:{:02x}:{:02x}.{} PCI bridge: x\n",
            n >> 16,
            n >> 8 & 0xff,
            n >> 3 & 31,
            n & 7
        )
    });
    let text: String = all.collect();
    let error = from_text(text.as_bytes()).expect_err("too many");
    assert!(matches!(error, ReadError::TooManyFunctions { line: 65_537, column: 1 }), "{error:?}");
}

// shows G1: where only the name of the capability was printed, what Linux does to such a port is
// assumed, and said to be.
#[test]
fn acs_without_its_registers_is_assumed_to_be_as_linux_sets_it() {
    let text: String = ONE_PORT
        .lines()
        .filter(|line| !line.contains("ACSC"))
        .map(|line| format!("{line}\n"))
        .collect();
    let machine = texts::machine(&text);
    let acs = function(&machine, "00:01.0").acs.value.expect("it has ACS");
    assert_eq!((acs.implemented.value, acs.enabled.value), (ISOLATION, ISOLATION));
    assert_eq!(acs.implemented.source, Source::Assumed(Basis::NotPrinted));
    assert_eq!(acs.enabled.source, Source::Assumed(Basis::LinuxEnablesAcs));
}

// shows G1: ACS that is switched off was read so, and is not assumed to be on.
#[test]
fn acs_that_is_switched_off_stays_off() {
    let off = ONE_PORT.replace(
        "ACSCtl:\tSrcValid+ TransBlk- ReqRedir+",
        "ACSCtl:\tSrcValid- TransBlk- ReqRedir-",
    );
    let acs = function(&machine(&off), "00:01.0").acs.value.expect("it has ACS");
    assert_eq!((acs.enabled.value, acs.enabled.source), (AcsBits::NONE, Source::Read));
}

const HIDDEN: &str = "\
00:01.0 PCI bridge [0604]: Made Up Port [1af4:0101] (prog-if 00 [Normal decode])
\tFlags: bus master, fast devsel, latency 0
\tBus: primary=00, secondary=01, subordinate=03, sec-latency=0
\tCapabilities: <access denied>

00:1e.0 PCI bridge [0604]: Made Up Old Bridge [1af4:0102] (prog-if 01 [Subtractive decode])
\tFlags: bus master, fast devsel, latency 0
\tBus: primary=00, secondary=08, subordinate=08, sec-latency=32
\tCapabilities: <access denied>

01:00.0 PCI bridge [0604]: Made Up Switch [1af4:0103]
\tFlags: bus master, fast devsel, latency 0
\tBus: primary=01, secondary=02, subordinate=03, sec-latency=0
\tCapabilities: <access denied>

02:00.0 PCI bridge [0604]: Made Up Switch [1af4:0103]
\tFlags: bus master, fast devsel, latency 0
\tBus: primary=02, secondary=03, subordinate=03, sec-latency=0
\tCapabilities: <access denied>

03:00.0 Ethernet controller [0200]: Made Up Card [1af4:0104]
\tFlags: bus master, fast devsel, latency 0
\tCapabilities: <access denied>

08:00.0 Multimedia controller [0400]: Made Up Tuner [1af4:0105]
\tFlags: bus master, medium devsel, latency 32
\tCapabilities: <access denied>
";

// shows G1: a text made without root shows no capability; place and class tell the likeliest, and
// each is marked so.
#[test]
fn hidden_capabilities_are_assumed_from_the_place_in_the_hierarchy() {
    let machine = texts::machine(HIDDEN);
    let kinds = ["00:01.0", "01:00.0", "02:00.0", "03:00.0", "00:1e.0", "08:00.0"]
        .map(|at| kind(&machine, at));
    assert_eq!(
        kinds,
        [
            Some(ExpressKind::RootPort),
            Some(ExpressKind::Upstream),
            Some(ExpressKind::Downstream),
            Some(ExpressKind::Endpoint),
            None,
            None
        ]
    );
    let all_assumed = machine
        .functions()
        .iter()
        .all(|function| function.express.source == Source::Assumed(Basis::Position));
    assert!(
        all_assumed,
        "{:?}",
        machine.functions().iter().map(|function| function.express.source).collect::<Vec<_>>()
    );
    let port = function(&machine, "02:00.0").acs;
    assert_eq!(
        (port.source, port.value.map(|acs| acs.enabled.value)),
        (Source::Assumed(Basis::CapabilitiesHidden), Some(ISOLATION))
    );
    assert_eq!(function(&machine, "03:00.0").acs.value, None);
}

// shows G1: what was denied is not absent, however the text says so.
#[test]
fn denied_capabilities_are_hidden_also_in_a_text_copied_from_a_page() {
    for (mark, state) in [
        ("<access denied>", ListState::Hidden),
        ("&lt;access denied&gt;", ListState::Hidden),
        ("<chain looped>", ListState::Truncated),
        ("(none of your business)", ListState::Truncated),
    ] {
        let text = format!(
            "00:01.0 PCI bridge [0604]: Made Up [1af4:0101]\n\tFlags: fast devsel\n\
             \tCapabilities: {mark}\n\tKernel driver in use: x\n"
        );
        let reading = parse(text.as_bytes()).expect("it reads");
        assert_eq!(reading.functions[0].capabilities, state, "{mark}");
    }
}

// shows G1
#[test]
fn a_bridge_whose_device_below_is_no_bridge_leads_to_conventional_pci() {
    let text = HIDDEN.replace("02:00.0 PCI bridge [0604]", "02:00.0 Ethernet controller [0200]");
    let machine = texts::machine(&text);
    assert_eq!(
        (kind(&machine, "01:00.0"), kind(&machine, "02:00.0")),
        (Some(ExpressKind::PcieToPci), None)
    );
}

// shows G1: some ports never had ACS.
#[test]
fn hidden_capabilities_of_a_port_without_acs_are_not_assumed_to_have_it() {
    let machine = texts::machine(&HIDDEN.replace("1af4:0101", "8086:1901"));
    let acs = function(&machine, "00:01.0").acs;
    assert_eq!((acs.value, acs.source), (None, Source::Assumed(Basis::CapabilitiesHidden)));
}

// shows G1: functions inside AMD's processors isolate; those of other devices do not.
#[test]
fn hidden_functions_of_one_device_isolate_inside_amds_processors_only() {
    let second = "03:00.1 Audio device [0403]: Made Up Second [1af4:0106]\n\tFlags: fast devsel\n\
                  \tCapabilities: <access denied>\n";
    let acs = |text: &str| function(&texts::machine(text), "03:00.1").acs;
    let text = format!("{HIDDEN}\n{second}");
    assert_eq!(acs(&text).value, None);
    let amd = acs(&text.replace("1af4:0104", "1022:15e2"));
    assert_eq!(
        (amd.value.map(|acs| acs.enabled.value), amd.source),
        (Some(AcsBits::FUNCTION_ISOLATION), Source::Assumed(Basis::CapabilitiesHidden))
    );
    let card = acs(&text.replace(
        "02:00.0 PCI bridge [0604]: Made Up Switch [1af4:0103]",
        "02:00.0 PCI bridge [0604]: Made Up Switch [1002:1479]",
    ));
    assert_eq!(card.value.map(|acs| acs.enabled.value), Some(AcsBits::FUNCTION_ISOLATION));
}

// shows G1: the wireless function of Intel's chipsets is the one integrated endpoint among
// conventional neighbours.
#[test]
fn hidden_wireless_of_intels_chipsets_is_an_integrated_endpoint() {
    let of = |class: &str| {
        kind(
            &texts::machine(&format!(
                "00:14.3 {class}: Made Up [8086:51f0]\n\tFlags: x\n\
                 \tCapabilities: <access denied>\n\n"
            )),
            "00:14.3",
        )
    };
    assert_eq!(
        (of("Network controller [0280]"), of("RAM memory [0500]")),
        (Some(ExpressKind::IntegratedEndpoint), None)
    );
}

// shows G1: a text that begins inside a switch.
#[test]
fn a_bridge_with_bridges_in_several_slots_below_is_no_root_port() {
    let text = HIDDEN
        .split_once("01:00.0")
        .map(|(_, rest)| format!("01:00.0{rest}"))
        .expect("it has a switch");
    let another = "02:01.0 PCI bridge [0604]: Made Up Switch [1af4:0103]\n\tFlags: x\n\
                   \tBus: primary=02, secondary=07, subordinate=07, sec-latency=0\n\
                   \tCapabilities: <access denied>\n";
    assert_eq!(kind(&texts::machine(&text), "01:00.0"), Some(ExpressKind::RootPort));
    let machine = texts::machine(&format!("{text}\n{another}"));
    assert_eq!(
        ["01:00.0", "02:00.0", "02:01.0"].map(|at| kind(&machine, at)),
        [Some(ExpressKind::Upstream), Some(ExpressKind::Downstream), Some(ExpressKind::Downstream)]
    );
}

// shows G1: a status register without the capability bit is a complete list, though the rest was
// hidden.
#[test]
fn a_function_without_any_capability_line_has_none() {
    let machine =
        texts::machine("00:00.0 Host bridge [0600]: Made Up [1af4:0001]\n\tFlags: fast devsel\n\n");
    assert_eq!(function(&machine, "00:00.0").express.source, Source::Inferred(Basis::CompleteList));
}

// shows G1
#[test]
fn bytes_in_hexadecimal_win_over_the_text() {
    let mut bytes = texts::port_config();
    bytes[0x1a] = 9;
    let text = ONE_PORT.replacen("\n\n", &format!("\n\n{}\n", texts::hex_lines(&bytes)), 1);
    let machine = texts::machine(&text);
    let port = function(&machine, "00:01.0");
    assert_eq!(port.bridge().map(|bridge| bridge.subordinate), Some(9));
    let acs = port.acs.value.expect("it has ACS");
    assert_eq!((acs.enabled.value, acs.dwords), (ISOLATION, Some([0x001d_005f, 0])));
    assert_eq!((port.multifunction.value, port.multifunction.source), (true, Source::Read));
}

// shows G1: bytes that belong to other bus numbers than the function's own do not tear the
// hierarchy apart.
#[test]
fn bus_numbers_of_a_renumbered_text_win_over_bytes_that_were_left_as_they_were() {
    let renumbered = ONE_PORT.replacen("00:01.0", "05:01.0", 1).replacen("01:00.0", "06:00.0", 1);
    let renumbered = renumbered.replacen(
        "primary=00, secondary=01, subordinate=02",
        "primary=05, secondary=06, subordinate=07",
        1,
    );
    let text = renumbered.replacen(
        "\n\n",
        &format!("\n\n{}\n", texts::hex_lines(&texts::port_config())),
        1,
    );
    let machine = texts::machine(&text);
    let port = function(&machine, "05:01.0");
    assert_eq!(port.bridge().map(|bridge| (bridge.secondary, bridge.subordinate)), Some((6, 7)));
    assert_eq!(
        port.acs.value.and_then(|acs| acs.dwords),
        Some([0x001d_005f, 0]),
        "the other bytes count"
    );
    assert_eq!(machine.anomalies(), []);
}

// shows S2: a dump of something else that follows, or of a device that does not answer, is not this
// function's.
#[test]
fn bytes_of_another_function_are_not_taken() {
    let mut bytes = texts::port_config();
    bytes[2] = 0x77;
    let other = ONE_PORT.replacen("\n\n", &format!("\n\n{}\n", texts::hex_lines(&bytes)), 1);
    let dead = ONE_PORT.replacen("\n\n", &format!("\n\n{}\n", texts::hex_lines(&[0xff; 256])), 1);
    for text in [other, dead] {
        assert_eq!(
            parse(text.as_bytes()).expect("it reads"),
            parse(ONE_PORT.as_bytes()).expect("it reads")
        );
    }
}

// shows G1: numbers follow from names, unless several models share one.
#[test]
fn names_give_the_numbers_that_the_text_lacks() {
    let text = "\
00:00.0 Host bridge: Intel Corporation 8th Gen Core Processor Host Bridge/DRAM Registers (rev 07)
00:01.0 PCI bridge: Intel Corporation 6th-10th Gen Core Processor PCIe Controller (x16) (rev 0d)
00:02.0 System peripheral: Intel Corporation Device 1234
00:03.0 System peripheral: Intel Corporation Thing That Never Was
00:04.0 Unassigned class [ff00]: Nobody at All Widget
00:05.0 System peripheral: Red Hat, Inc. Thing That Never Was
";
    let machine = texts::machine(text);
    let ids = |at| function(&machine, at).ids;
    assert_eq!(
        ids("00:01.0").map(|ids| (ids.value, ids.source)),
        Some((Ids { vendor: 0x8086, device: 0x1901 }, Source::Inferred(Basis::Name)))
    );
    assert_eq!(ids("00:02.0").map(|ids| ids.value.device), Some(0x1234));
    assert_eq!(
        ids("00:03.0").map(|ids| (ids.value, ids.source)),
        Some((Ids { vendor: 0x8086, device: Ids::UNKNOWN }, Source::Assumed(Basis::VendorName)))
    );
    assert_eq!(ids("00:04.0"), None);
    assert_eq!(
        ids("00:05.0").map(|ids| ids.source),
        Some(Source::Assumed(Basis::Name)),
        "two vendors have this name"
    );
    let class = |at| function(&machine, at).class.map(|class| class.value);
    assert_eq!(
        (class("00:00.0"), class("00:01.0"), class("00:04.0")),
        (Some(Class(0x06_0000)), Some(Class(0x06_0400)), Some(Class(0xff_0000)))
    );
    let shared = texts::machine(
        "00:00.0 Host bridge: Intel Corporation 8th Gen Core Processor Host Bridge/DRAM \
         Registers\n",
    );
    assert!(matches!(
        function(&shared, "00:00.0").ids.map(|ids| ids.source),
        Some(Source::Assumed(Basis::VendorName) | Source::Inferred(Basis::Name))
    ));
}

// shows G1: quirks go by number, and the database has renamed whole series since old distributions
// printed their names.
#[test]
fn names_that_the_database_has_changed_since_still_give_the_numbers() {
    for (name, device) in [
        ("Sunrise Point-H PCI Express Root Port #5 (rev f1)", 0xa114),
        ("Sunrise Point-H PCI Root Port #17 (rev f1)", 0xa167),
        ("Ibex Peak PCI Express Root Port 1 (rev 05)", 0x3b42),
        ("Cougar Point PCI Express Root Port 1 (rev b5)", 0x1c10),
        ("Panther Point PCI Express Root Port 1 (rev c4)", 0x1e10),
        ("Panther Point PCI Express Root Port 2 (rev c4)", 0x1e12),
        ("7 Series/C210 Series Chipset Family PCI Express Root Port 1 (rev c4)", 0x1e10),
        ("Patsburg PCI Express Root Port 8", 0x1d1e),
        ("Lynx Point PCI Express Root Port #2 (rev d5)", 0x8c12),
        ("Lynx Point-LP PCI Express Root Port 3 (rev e4)", 0x9c14),
        ("Wellsburg PCI Express Root Port #1 (rev d5)", 0x8d10),
        ("Sky Lake PCIe Controller (x16) (rev 07)", 0x1901),
    ] {
        let machine = texts::machine(&format!("00:1c.0 PCI bridge: Intel Corporation {name}\n"));
        let ids = function(&machine, "00:1c.0").ids.map(|ids| ids.value);
        assert_eq!(ids, Some(Ids { vendor: 0x8086, device }), "{name}");
    }
    let machine = texts::machine(
        "00:14.3 ISA bridge: ATI Technologies Inc SB700/SB800 LPC host controller\n",
    );
    assert_eq!(
        function(&machine, "00:14.3").ids.map(|ids| ids.value),
        Some(Ids { vendor: 0x1002, device: 0x439d })
    );
    let machine = texts::machine("00:15.0 PCI bridge: ATI Technologies Inc Unknown device 43a0\n");
    assert_eq!(
        function(&machine, "00:15.0").ids.map(|ids| ids.value),
        Some(Ids { vendor: 0x1002, device: 0x43a0 })
    );
}

// shows G1: AMD's FCHs have OHCI controllers 7807 and 7809 of one name, of which one has a quirk;
// and two generations have a PCI bridge of one name.
#[test]
fn of_several_models_with_one_name_the_one_numbered_nearest_to_its_device_is_taken() {
    let fch = |generation: &str, smbus: &str| {
        format!(
            "\
00:12.0 USB controller: Advanced Micro Devices, Inc. [AMD] FCH USB OHCI Controller
00:12.2 USB controller: Advanced Micro Devices, Inc. [AMD] Device {generation}08
00:14.0 SMBus: Advanced Micro Devices, Inc. [AMD] {smbus}
00:14.4 PCI bridge: Advanced Micro Devices, Inc. [AMD] FCH PCI Bridge \
(prog-if 01 [Subtractive decode])
00:14.5 USB controller: Advanced Micro Devices, Inc. [AMD] FCH USB OHCI Controller
"
        )
    };
    let old = texts::machine(&fch("78", "Device 780b"));
    let device =
        |machine: &Machine, at| function(machine, at).ids.map(|ids| (ids.value.device, ids.source));
    assert_eq!(device(&old, "00:12.0"), Some((0x7807, Source::Assumed(Basis::VendorName))));
    assert_eq!(device(&old, "00:14.5"), Some((0x7809, Source::Assumed(Basis::VendorName))));
    assert_eq!(device(&old, "00:14.4").map(|(device, _)| device), Some(0x780f));
    let new = texts::machine(&fch("79", "Device 790b"));
    assert_eq!(device(&new, "00:14.4").map(|(device, _)| device), Some(0x790f));
}

// shows G1
#[test]
fn numbers_alone_read_too() {
    let machine =
        texts::machine("00:1f.0 0601: 8086:a2ca (rev 02)\n00:02.0 Class 0300: 8086:5912\n");
    let of = |at| {
        (
            function(&machine, at).ids.map(|ids| ids.value),
            function(&machine, at).class.map(|class| class.value),
        )
    };
    assert_eq!(
        of("00:1f.0"),
        (Some(Ids { vendor: 0x8086, device: 0xa2ca }), Some(Class(0x06_0100)))
    );
    assert_eq!(
        of("00:02.0"),
        (Some(Ids { vendor: 0x8086, device: 0x5912 }), Some(Class(0x03_0000)))
    );
}

// shows G1: VMD's child domains have five digits.
#[test]
fn domains_of_five_digits_are_machines_of_their_own() {
    let machine = texts::machine(
        "0000:00:0e.0 RAID bus controller: a\n10000:e0:06.0 PCI bridge: b\n\
         10000:e1:00.0 Non-Volatile memory controller: c\n",
    );
    assert_eq!(
        machine.functions().iter().map(|function| function.bdf.segment()).collect::<Vec<_>>(),
        [0, 0x10000, 0x10000]
    );
}

// shows G1
#[test]
fn the_kernels_groups_are_read_and_functions_without_one_have_none() {
    let text = ONE_PORT.replacen("\tFlags:", "\tIOMMU group: 12\n\tFlags:", 1);
    let grouped = machine(&text);
    assert_eq!(function(&grouped, "00:01.0").kernel_group, Some(Some(12)));
    assert_eq!(function(&grouped, "01:00.0").kernel_group, Some(None));
    assert_eq!(grouped.host().iommu_in_use.map(|fact| fact.value), Some(true));
    assert_eq!(function(&machine(ONE_PORT), "01:00.0").kernel_group, None);
    // A list of all functions, then the description of one of them; and a text that ends before the
    // group's line.
    let titles: String = ONE_PORT
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
        .map(|line| format!("{line}\n"))
        .collect();
    let first = text.split("\n\n").next().expect("a function");
    assert_eq!(
        function(&machine(&format!("{titles}\n{first}\n\n")), "01:00.0").kernel_group,
        None,
        "only named"
    );
    let end = text.rfind("\tFlags:").expect("it is there");
    assert_eq!(function(&machine(&text[..end + 12]), "01:00.0").kernel_group, None, "cut");
}

// shows G1: as the kernel takes it.
#[test]
fn multifunction_follows_from_number_and_siblings() {
    let machine =
        texts::machine("00:01.0 PCI bridge: a\n00:02.0 PCI bridge: a\n00:02.3 PCI bridge: a\n");
    let of = |at| {
        (function(&machine, at).multifunction.value, function(&machine, at).multifunction.source)
    };
    assert_eq!(of("00:01.0"), (false, Source::Assumed(Basis::NoSiblings)));
    assert_eq!(of("00:02.0"), (true, Source::Inferred(Basis::Siblings)));
    assert_eq!(of("00:02.3"), (true, Source::Inferred(Basis::FunctionNumber)));
}

const VIRTUAL: &str = "\
03:00.0 Ethernet controller [0200]: Made Up NIC [1af4:0200]
\tFlags: bus master
\tCapabilities: [70] Express (v2) Endpoint, MSI 00
\tCapabilities: [160 v1] Single Root I/O Virtualization (SR-IOV)
\t\tIOVCap:\tMigration- 10BitTagReq- Interrupt Message Number: 000
\t\tIOVCtl:\tEnable+ Migration- Interrupt- MSE+ ARIHierarchy+
\t\tIOVSta:\tMigration-
\t\tInitial VFs: 8, Total VFs: 8, Number of VFs: 2, Function Dependency Link: 00
\t\tVF offset: 16, stride: 2, Device ID: 0201
\t\tSupported Page Size: 00000553, System Page Size: 00000001
\t\tRegion 0: Memory at 00000000e0a00000 (64-bit, prefetchable)

03:02.0 Ethernet controller [0200]: Made Up VF [1af4:0201]
\tFlags: bus master
\tCapabilities: [70] Express (v2) Endpoint, MSI 00

03:02.2 Ethernet controller [0200]: Made Up VF [1af4:0201]
\tFlags: bus master
\tCapabilities: [70] Express (v2) Endpoint, MSI 00

03:02.4 Ethernet controller [0200]: Made Up Other [1af4:0202]
\tFlags: bus master
\tCapabilities: [70] Express (v2) Endpoint, MSI 00
\tKernel modules: x
";

// shows G1: a virtual function is none of several functions of a device, whatever its number.
#[test]
fn virtual_functions_are_known_by_their_addresses() {
    let machine = texts::machine(VIRTUAL);
    let of = |at| function(&machine, at).physical_function.map(|fact| fact.value);
    assert_eq!(
        [of("03:02.0"), of("03:02.2"), of("03:02.4"), of("03:00.0")],
        [Some(bdf("03:00.0")), Some(bdf("03:00.0")), None, None]
    );
    let second = function(&machine, "03:02.2").multifunction;
    assert_eq!((second.value, second.source), (false, Source::Inferred(Basis::VirtualFunction)));
    assert!(function(&machine, "03:02.4").multifunction.value);
    assert!(
        function(&machine, "03:00.0").bars.is_empty(),
        "a BAR of virtual functions is not one of the physical function"
    );
}

// shows S2: what is missing at the end is not taken for absent.
#[test]
fn a_text_that_ends_in_the_middle_says_so() {
    let cut = ONE_PORT.split_once("Page Request").expect("it has one").0;
    let machine = texts::machine(cut);
    let card = function(&machine, "01:00.0");
    assert_eq!((card.pasid.value, card.pasid.source), (None, Source::Assumed(Basis::Truncated)));
    assert_eq!(card.express.source, Source::Read);
    assert_eq!(machine.anomalies(), [Anomaly::Truncated(bdf("01:00.0"))]);
    assert!(texts::machine(ONE_PORT).anomalies().is_empty());
}

// shows S2
#[test]
fn a_place_where_something_was_left_out_is_no_complete_list() {
    let text = ONE_PORT
        .replace("\tCapabilities: [220 v1] Access Control Services\n", "\t[...]\n\t...\n")
        .replace("\t\tACSC", "\t\tx");
    let reading = parse(text.as_bytes()).expect("it reads");
    let states: Vec<_> = reading
        .functions
        .iter()
        .map(|function| (function.capabilities, function.extended))
        .collect();
    assert_eq!(
        states,
        [(ListState::Truncated, ListState::Truncated), (ListState::Complete, ListState::Complete)]
    );
}

// shows G1: a listing at several verbosities is one machine.
#[test]
fn two_listings_in_one_text_complete_each_other() {
    let brief =
        "00:01.0 PCI bridge: Made Up Root Port\n01:00.0 Ethernet controller: Made Up Card\n\n";
    let both = parse(format!("{brief}{ONE_PORT}").as_bytes()).expect("it reads");
    assert_eq!(both.functions, parse(ONE_PORT.as_bytes()).expect("it reads").functions);
    // Of two full ones, as from before and after a change, the first holds.
    let off = ONE_PORT.replace("ReqRedir+", "ReqRedir-");
    let both = parse(format!("{ONE_PORT}\n{off}").as_bytes()).expect("it reads");
    assert_eq!(both.functions, parse(ONE_PORT.as_bytes()).expect("it reads").functions);
}

// shows G1
#[test]
fn a_bridge_without_bus_numbers_is_reported() {
    let machine = texts::machine("00:01.0 PCI bridge: Made Up Root Port\n");
    assert_eq!(machine.anomalies(), [Anomaly::NoBuses(bdf("00:01.0"))]);
}
