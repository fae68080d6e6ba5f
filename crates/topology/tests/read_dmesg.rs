//! Kernel logs: the groups, the IOMMUs and the options that they tell.

#[path = "common/texts.rs"]
mod texts;

use sva_topology::machine::{Basis, Fact, IommuKind, Source};
use sva_topology::read::{LogMatch, add_dmesg, parse};
use texts::{ONE_PORT, bdf, function};

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
