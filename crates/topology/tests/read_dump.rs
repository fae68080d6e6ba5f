//! Saved dumps and kernel logs.

#[path = "common/texts.rs"]
mod texts;

use proptest::prelude::*;
use sva_core::{AddrRange, Bdf};
use sva_topology::machine::{
    AcsReading, AtsReading, BarReading, Basis, Buses, Class, ExpressReading, Fact, FunctionReading,
    HeaderReading, Hex, HostReading, Ids, IommuKind, IommuReading, ListState, PasidReading,
    PriReading, Reading, Source, SriovReading,
};
use sva_topology::read::{LogMatch, ReadError, add_dmesg, from_text, parse, save};
use texts::{ONE_PORT, bdf, function};

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

const LOG: &str = "\
[    0.000000] Linux version 6.18.1-test (made@up) (gcc) #1 SMP
[    0.000000] Command line: BOOT_IMAGE=/vmlinuz root=UUID=12-34 intel_iommu=on quiet
[    0.021000] DMAR: IOMMU enabled
[    0.031000] DMAR: dmar0: reg_base_addr fed90000 ver 4:0 cap 1c0000c40660462 ecap 10020000000
[    0.611200] pci 0000:00:01.0: Adding to iommu group 4
[    0.611300] pci 0000:01:00.0: Adding to iommu group 4
[    9.000000] nvme 0000:01:00.0: Adding to iommu group 5
";

// shows G1: the kernel's own groups come from its log, wherever the line stands.
#[test]
fn a_kernel_log_gives_the_groups_the_iommus_and_the_options() {
    let prefixes: [fn(&str) -> String; 4] = [
        |line| line.to_owned(),
        |line| format!("> {line}"),
        |line| {
            format!(
                "Nov 02 12:00:01 host kernel: {}",
                line.split_once("] ").map_or(line, |(_, said)| said)
            )
        },
        |line| format!("<6>{line}\r"),
    ];
    for prefix in prefixes {
        let log: String = LOG.lines().map(|line| prefix(line) + "\n").collect();
        let mut reading = parse(ONE_PORT.as_bytes()).expect("it reads");
        assert_eq!(
            add_dmesg(&mut reading, log.as_bytes()).expect("it reads"),
            LogMatch { placed: 2, named: 2, missing: 0 },
            "{log}"
        );
        let machine = reading.machine();
        assert_eq!(function(&machine, "00:01.0").kernel_group, Some(Some(4)));
        assert_eq!(
            function(&machine, "01:00.0").kernel_group,
            Some(Some(5)),
            "the last line holds"
        );
        let host = machine.host();
        assert_eq!(host.kernel.as_deref(), Some("6.18.1-test"));
        assert_eq!(host.options.as_deref(), Some(["intel_iommu=on".to_owned()].as_slice()));
        assert_eq!(host.iommu_in_use.map(|fact| fact.value), Some(true));
        let unit = host.iommus.first().expect("one IOMMU");
        assert_eq!(
            (unit.name.as_str(), unit.page_requests.map(|fact| fact.value)),
            ("dmar0", Some(true))
        );
        assert_eq!(unit.pasid_width.map(|fact| fact.value), Some(1));
    }
}

#[test]
fn a_log_of_another_machine_is_told_by_the_functions_that_it_names() {
    let matched = |log: &str| {
        add_dmesg(&mut parse(ONE_PORT.as_bytes()).expect("it reads"), log.as_bytes())
            .expect("it reads")
    };
    let found = |bdf: &str| {
        format!(
            "[    0.4] pci 0000:{bdf}: [8086:a0a3] type 00 class 0x060100 conventional PCI \
             endpoint\n"
        )
    };
    let own = found("00:01.0") + &found("01:00.0") + "pci 0000:01:00.0: Adding to iommu group 4\n";
    assert_eq!(matched(&own), LogMatch { placed: 1, named: 2, missing: 0 });
    let half = own.clone()
        + &found("00:1f.0")
        + "pci 0000:00:02.0: Adding to iommu group 1\npci 0000:00:03.0: [Firmware Bug]: x\n";
    assert_eq!(matched(&half), LogMatch { placed: 1, named: 4, missing: 2 });
    assert!(!matched(&half).is_of_another_machine(), "no more than half is missing");
    let other = half + &found("00:1f.3");
    assert_eq!(matched(&other), LogMatch { placed: 1, named: 5, missing: 3 });
    assert!(matched(&other).is_of_another_machine() && !matched("").is_of_another_machine());
}

// shows G1
#[test]
fn the_words_of_older_kernels_and_other_iommus_are_known() {
    let log = "iommu: Adding device 0000:01:00.0 to group 9\n\
        pci 0000:00:00.2: AMD-Vi: Found IOMMU cap 0x40\n\
        AMD-Vi: Extended features (0x1000000012, 0x0): PPR GT\n\
        arm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x00000230)\n\
        pci 01:00.0: Adding to iommu group 3\nAdding to iommu group\n: Adding to iommu group 1\n";
    let mut reading = parse(ONE_PORT.as_bytes()).expect("it reads");
    assert_eq!(add_dmesg(&mut reading, log.as_bytes()).expect("it reads").placed, 1);
    let machine = reading.machine();
    assert_eq!(function(&machine, "01:00.0").kernel_group, Some(Some(9)));
    assert_eq!(
        function(&machine, "00:01.0").kernel_group,
        None,
        "the log does not begin at boot: a device without a line may have a group"
    );
    let of = |kind| {
        machine.host().iommus.iter().find(|unit| unit.kind == kind).cloned().expect("it is there")
    };
    let amd = of(IommuKind::AmdVi);
    assert_eq!(
        (amd.function, amd.pasid_width.map(|fact| fact.value)),
        (Some(bdf("00:00.2")), Some(17))
    );
    assert_eq!(
        (amd.page_requests.map(|fact| fact.value), amd.first_stage.map(|fact| fact.value)),
        (Some(true), Some(true))
    );
    let arm = of(IommuKind::SmmuV3);
    assert_eq!(
        [arm.page_requests, arm.device_tlb, arm.first_stage]
            .map(|fact| fact.map(|fact| fact.value)),
        [Some(true); 3]
    );
}

// shows G1: kernels from 6.7 on tell what AMD's IOMMUs can do without naming them.
#[test]
fn amd_features_without_a_named_iommu_are_those_of_the_functions_that_are_iommus() {
    let text = format!(
        "00:00.2 IOMMU: Advanced Micro Devices, Inc. [AMD] Strix IOMMU\n\
         \tFlags: fast devsel, IRQ 29\n\n{ONE_PORT}"
    );
    let fault = "pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0007 \
                 address=0xffffc02000 flags=0x0000]\n";
    for named in ["", "pci 0000:00:00.2: AMD-Vi: IOMMU performance counters supported\n"] {
        let log = format!("{named}{fault}AMD-Vi: Extended features (0x1000000012, 0x0): PPR GT\n");
        let mut reading = parse(text.as_bytes()).expect("it reads");
        add_dmesg(&mut reading, log.as_bytes()).expect("it reads");
        let machine = reading.machine();
        let units: Vec<_> =
            machine.host().iommus.iter().map(|unit| (unit.function, unit.pasid_width)).collect();
        assert_eq!(units, [(Some(bdf("00:00.2")), Some(Fact::read(17)))], "{log}");
    }
}

// shows G1: what the dump itself says is nearer to it than a log.
#[test]
fn a_log_does_not_overrule_the_text() {
    let text = ONE_PORT.replacen("\tFlags:", "\tIOMMU group: 12\n\tFlags:", 1);
    let mut reading = parse(text.as_bytes()).expect("it reads");
    add_dmesg(&mut reading, LOG.as_bytes()).expect("it reads");
    assert_eq!(function(&reading.machine(), "00:01.0").kernel_group, Some(Some(12)));
}

// shows G1: AMD's IOMMUs are PCI functions, known from the text alone.
#[test]
fn an_iommu_in_the_list_of_functions_is_one() {
    let machine = texts::machine(
        "00:00.2 IOMMU [0806]: Advanced Micro Devices, Inc. [AMD] Renoir/Cezanne IOMMU \
         [1022:1631]\n00:01.0 Host bridge: x\n",
    );
    let unit = machine.host().iommus.first().expect("one IOMMU");
    assert_eq!(
        (unit.kind, unit.function, unit.page_requests),
        (IommuKind::AmdVi, Some(bdf("00:00.2")), None)
    );
}

// shows G1
#[test]
fn groups_tell_that_an_iommu_is_in_use() {
    let text = ONE_PORT.replacen("\tFlags:", "\tIOMMU group: 12\n\tFlags:", 1);
    let fact = texts::machine(&text).host().iommu_in_use.expect("it is known");
    assert_eq!((fact.value, fact.source), (true, Source::Inferred(Basis::KernelGroups)));
}
