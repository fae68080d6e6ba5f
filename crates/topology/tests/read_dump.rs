//! Saved dumps.

#[path = "common/texts.rs"]
mod texts;

use proptest::prelude::*;
use sva_core::{AddrRange, Bdf};
use sva_topology::machine::{
    AcsReading, AtsReading, BarReading, Buses, Class, ExpressReading, FunctionReading,
    HeaderReading, Hex, HostReading, Ids, IommuKind, IommuReading, ListState, PasidReading,
    PriReading, Reading, SriovReading,
};
use sva_topology::read::{ReadError, from_text, parse, save};
use texts::ONE_PORT;

fn name() -> impl Strategy<Value = Option<String>> {
    prop::option::of(
        "[ -~é]{0,40}".prop_map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
    )
}

fn address() -> impl Strategy<Value = Bdf> {
    (prop_oneof![Just(0), Just(0x10000), any::<u32>()], any::<u8>(), 0..32_u8, 0..8_u8).prop_map(
        |(segment, bus, device, function)| {
            Bdf::new(segment, bus, device, function).expect("in range")
        },
    )
}

fn ids() -> impl Strategy<Value = Option<Ids>> {
    prop::option::of(any::<(u16, u16)>().prop_map(|(vendor, device)| Ids { vendor, device }))
}

fn state() -> impl Strategy<Value = ListState> {
    prop::sample::select(vec![
        ListState::Complete,
        ListState::Hidden,
        ListState::NotPrinted,
        ListState::Truncated,
    ])
}

fn ranges() -> impl Strategy<Value = Vec<AddrRange>> {
    let range = any::<(u64, u64)>()
        .prop_map(|(a, b)| AddrRange::inclusive(a.min(b), a.max(b)).expect("in order"));
    prop::collection::vec(range, 0..4)
}

type Capabilities = (
    Option<ExpressReading>,
    Option<AcsReading>,
    Option<AtsReading>,
    Option<PriReading>,
    Option<PasidReading>,
    Option<SriovReading>,
);

prop_compose! {
    fn capabilities()(
        kind in 0..16_u8,
        prefix: Option<bool>,
        has: [bool; 6],
        words: [Option<u16>; 2],
        dwords: Option<[u32; 2]>,
        flags: [Option<bool>; 4],
        capacity: Option<u32>,
        width in prop::option::of(0..32_u8),
        sriov: [Option<u16>; 3],
    ) -> Capabilities {
        let acs = AcsReading {
            implemented: words[0].map(Hex),
            enabled: words[1].map(Hex),
            dwords: dwords.map(|pair| pair.map(Hex)),
        };
        let [a, b, c, d] = flags;
        let [functions, offset, stride] = sriov;
        (
            has[0].then_some(ExpressReading { kind, end_to_end_prefix: prefix }),
            has[1].then_some(acs),
            has[2].then_some(AtsReading { enabled: a }),
            has[3].then_some(PriReading { enabled: b, capacity }),
            has[4].then_some(PasidReading { enabled: c, width, execute: d, privileged: a }),
            has[5].then_some(SriovReading { enabled: b, functions, offset, stride }),
        )
    }
}

fn header() -> impl Strategy<Value = HeaderReading> {
    prop::sample::select(vec![
        HeaderReading::Endpoint,
        HeaderReading::Bridge,
        HeaderReading::CardBus,
    ])
}

fn bar() -> impl Strategy<Value = BarReading> {
    (0..6_u8, any::<u64>(), any::<Option<u64>>()).prop_map(|(index, address, size)| BarReading {
        index,
        address: Hex(address),
        size: size.map(Hex),
    })
}

prop_compose! {
    fn any_function()(
        at in address(),
        ids in ids(),
        subsystem in ids(),
        class in prop::option::of(0..0x100_0000_u32),
        class_name in name(),
        title in name(),
        header in prop::option::of(header()),
        multifunction: Option<bool>,
        buses: Option<(u8, u8)>,
        windows in ranges(),
        states in (state(), state()),
        (express, acs, ats, pri, pasid, sriov) in capabilities().boxed(),
        physical in prop::option::of(address()),
        bars in prop::collection::vec(bar(), 0..6),
        driver in name(),
        kernel_group: Option<u32>,
    ) -> FunctionReading {
        FunctionReading {
            bdf: at,
            ids,
            subsystem,
            class: class.map(Class),
            class_name,
            name: title,
            header,
            multifunction,
            buses: buses.map(|(secondary, subordinate)| Buses { secondary, subordinate }),
            windows,
            capabilities: states.0,
            extended: states.1,
            express,
            acs,
            ats,
            pri,
            pasid,
            sriov,
            physical_function: physical,
            bars,
            driver,
            kernel_group,
        }
    }
}

fn iommu() -> impl Strategy<Value = IommuReading> {
    let kind = prop::sample::select(vec![
        IommuKind::VtD,
        IommuKind::AmdVi,
        IommuKind::Smmu,
        IommuKind::SmmuV3,
        IommuKind::RiscV,
        IommuKind::Virtio,
        IommuKind::Other,
    ]);
    let devices = prop::option::of(prop::collection::vec(address(), 0..4));
    let registers = any::<[Option<u64>; 2]>();
    ("[a-z0-9]{1,8}", kind, prop::option::of(address()), registers, devices).prop_map(
        |(name, kind, function, [capability, extended], devices)| IommuReading {
            name,
            kind,
            function,
            devices,
            capability: capability.map(Hex),
            extended: extended.map(Hex),
        },
    )
}

prop_compose! {
    fn any_reading()(
        functions in prop::collection::vec(any_function().boxed(), 1..12),
        lists_groups: bool,
        truncated: bool,
        kernel in name(),
        architecture in name(),
        options in prop::option::of(prop::collection::vec("[a-z_=.]{1,12}", 0..4)),
        iommu_in_use: Option<bool>,
        iommu_described: Option<bool>,
        iommus in prop::collection::vec(iommu(), 0..4),
    ) -> Reading {
        let host =
            HostReading { kernel, architecture, options, iommu_in_use, iommu_described, iommus };
        Reading { host, lists_groups, truncated, functions }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // shows G1: a dump decides as the machine that it was saved from.
    #[test]
    fn a_saved_dump_reads_back_the_same(reading in any_reading()) {
        let dump = save(&reading);
        let again = parse(dump.as_bytes()).expect("what was saved reads");
        prop_assert_eq!(&again, &reading);
        let machine = from_text(dump.as_bytes()).expect("what was saved reads");
        let original = reading.machine();
        prop_assert_eq!(machine.functions(), original.functions());
        prop_assert_eq!(machine.host(), original.host());
        prop_assert_eq!(machine.buses(), original.buses());
    }

    // shows S2
    #[test]
    fn any_reading_becomes_a_machine_with_all_of_its_addresses(reading in any_reading()) {
        let machine = reading.machine();
        for function in &reading.functions {
            prop_assert!(machine.find(function.bdf).is_some());
        }
    }
}

fn problem(text: &str) -> (usize, usize, String) {
    match parse(text.as_bytes()) {
        Err(error @ ReadError::Dump { line, column, .. }) => (line, column, error.to_string()),
        other => panic!("{other:?}"),
    }
}

// shows S2
#[test]
fn a_damaged_dump_is_an_error_with_line_and_column() {
    let dump = save(&parse(ONE_PORT.as_bytes()).expect("it reads"));
    let line =
        dump.lines().position(|line| line.contains("\"secondary\"")).expect("it is there") + 1;
    let (at, column, message) =
        problem(&dump.replacen("\"secondary\": 1", "\"secondary\": 999", 1));
    assert_eq!(at, line, "{message}");
    assert!(
        column > 1 && message.starts_with(&format!("line {line}, column {column}: ")),
        "{message}"
    );
    let (_, _, message) =
        problem(&dump.replacen("\"bdf\": \"0000:00:01.0\"", "\"bdf\": \"somewhere\"", 1));
    assert!(message.contains("`somewhere` is not a PCI address"), "{message}");
    let (_, _, message) =
        problem(&dump.replacen("\"buses\"", "\"bus\u{1b}es\"", 1).replace('\u{1b}', "\\u001b"));
    assert!(!message.contains('\u{1b}') && message.contains("unknown field"), "{message}");
    problem(&dump[..dump.len() / 2]);
    problem("{}");
}

// shows S2: few bytes in the file must not become many in memory.
#[test]
fn lists_are_bounded_while_they_are_read() {
    let ranges = "[\"0x0\",\"0x1\"],".repeat(100_000);
    let text = format!(
        "{{\"sva_topology_dump\":1,\"machine\":{{\
         \"functions\":[{{\"bdf\":\"00:00.0\",\"windows\":[{}]}}]}}}}",
        ranges.trim_end_matches(',')
    );
    let (line, _, message) = problem(&text);
    assert!(line == 1 && message.contains("more than 8 entries"), "{message}");
    let deep = |depth| {
        format!(
            "{{\"sva_topology_dump\":1,\"machine\":{}{}}}",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    problem(&deep(1_000_000));
}

// shows S2
#[test]
fn a_dump_of_another_version_is_refused_by_its_number() {
    let error = parse(b"{\n  \"sva_topology_dump\": 7,\n  \"machines\": []\n}")
        .expect_err("another version");
    assert!(matches!(error, ReadError::Version { line: 2, column: 3, found: 7 }), "{error:?}");
    assert!(error.to_string().contains("version 7"), "{error}");
}

// shows S2
#[test]
fn a_dump_without_functions_is_refused() {
    let error = parse(b"{\"sva_topology_dump\": 1, \"machine\": {\"functions\": []}}\n")
        .expect_err("nothing in it");
    assert!(matches!(error, ReadError::NoFunctions { line: 2, column: 1 }), "{error:?}");
}
