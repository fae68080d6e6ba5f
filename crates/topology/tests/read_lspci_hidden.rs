//! Text of `lspci` in which capabilities are hidden from who asked, or left out, and what is
//! assumed of them.

#[path = "common/texts.rs"]
mod texts;

use sva_topology::AcsBits;
use sva_topology::machine::{Basis, ExpressKind, ListState, Machine, Source};
use sva_topology::read::parse;
use texts::{ONE_PORT, function, machine};

fn kind(machine: &Machine, at: &str) -> Option<ExpressKind> {
    function(machine, at).express.value.map(|express| express.kind)
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
    assert_eq!(
        (acs.implemented.value, acs.enabled.value),
        (AcsBits::ISOLATION, AcsBits::ISOLATION)
    );
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
        (Source::Assumed(Basis::CapabilitiesHidden), Some(AcsBits::ISOLATION))
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
