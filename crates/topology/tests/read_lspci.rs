//! Text of `lspci`, in all the states in which people save and send it. The dumps are made up, one
//! rule each.

#[path = "common/texts.rs"]
mod texts;

use sva_topology::AcsBits;
use sva_topology::machine::{Anomaly, Basis, Class, ExpressKind, Header, Ids, ListState, Source};
use sva_topology::read::{ReadError, from_text, parse};
use texts::{ONE_PORT, bdf, function, machine};

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
    assert_eq!(acs.implemented.value, AcsBits::ISOLATION | AcsBits::TB);
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
    assert_eq!((acs.enabled.value, acs.dwords), (AcsBits::ISOLATION, Some([0x001d_005f, 0])));
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
