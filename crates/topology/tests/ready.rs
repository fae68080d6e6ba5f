//! Readiness for shared virtual addressing, gate by gate, and the comparison of two machines.

use sva_core::Bdf;
use sva_topology::AcsBits;
use sva_topology::diff::{Difference, Membership, Side};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    AcsCapability, Ats, Basis, Bridge, Class, Express, ExpressKind, Fact, Header, Host, Ids,
    IommuKind, IommuUnit, Machine, Pasid, PciFunction, Pri, Source,
};
use sva_topology::ready::{Check, Finding, Gate, Outcome, Readiness, Verdict, readiness};

fn bdf(text: &str) -> Bdf {
    text.parse().expect("an address")
}

/// An Express function with nothing but its type, all of it read.
fn function(at: &str, kind: ExpressKind) -> PciFunction {
    PciFunction {
        ids: Some(Fact::read(Ids { vendor: 0x1234, device: 0x5678 })),
        class: Some(Fact::read(Class(0x0b_40_00))),
        multifunction: Fact::read(false),
        express: Fact::read(Some(Express { kind, end_to_end_prefix: Fact::read(true) })),
        ..PciFunction::new(bdf(at))
    }
}

fn port(at: &str, kind: ExpressKind, secondary: u8, subordinate: u8) -> PciFunction {
    PciFunction {
        class: Some(Fact::read(Class(0x06_04_00))),
        header: Fact::read(Header::Bridge(Bridge { secondary, subordinate, windows: Vec::new() })),
        acs: acs(AcsBits::ISOLATION, AcsBits::ISOLATION),
        ..function(at, kind)
    }
}

fn acs(implemented: AcsBits, enabled: AcsBits) -> Fact<Option<AcsCapability>> {
    Fact::read(Some(AcsCapability {
        implemented: Fact::read(implemented),
        enabled: Fact::read(enabled),
        dwords: None,
    }))
}

/// A device with all that shared virtual addressing wants, switched on.
fn accelerator(at: &str) -> PciFunction {
    PciFunction {
        ats: Fact::read(Some(Ats { enabled: Fact::read(true) })),
        pri: Fact::read(Some(Pri { enabled: Fact::read(true), capacity: Some(32) })),
        pasid: Fact::read(Some(Pasid {
            enabled: Fact::read(true),
            width: Fact::read(20),
            execute: false,
            privileged: false,
        })),
        ..function(at, ExpressKind::Endpoint)
    }
}

fn unit(kind: IommuKind) -> IommuUnit {
    IommuUnit {
        name: "unit0".to_owned(),
        kind,
        function: None,
        devices: None,
        pasid_width: Some(Fact::read(20)),
        page_requests: Some(Fact::read(true)),
        device_tlb: Some(Fact::read(true)),
        first_stage: Some(Fact::read(true)),
    }
}

/// A root port, a switch of one downstream port, and the accelerator below, under VT-d.
#[derive(Clone)]
struct Parts {
    functions: Vec<PciFunction>,
    host: Host,
}

const ROOT_PORT: usize = 0;
const DOWNSTREAM: usize = 2;
const DEVICE: usize = 3;

impl Parts {
    fn new() -> Self {
        let functions = vec![
            port("00:01.0", ExpressKind::RootPort, 1, 3),
            port("01:00.0", ExpressKind::Upstream, 2, 3),
            port("02:00.0", ExpressKind::Downstream, 3, 3),
            accelerator("03:00.0"),
        ];
        let host = Host {
            iommu_in_use: Some(Fact::read(true)),
            iommus: vec![unit(IommuKind::VtD)],
            ..Host::default()
        };
        Self { functions, host }
    }

    fn machine(&self) -> Machine {
        Machine::new(self.functions.clone(), self.host.clone())
    }

    /// The readiness of the accelerator, after a change.
    fn after(change: impl FnOnce(&mut Self)) -> Readiness {
        let mut parts = Self::new();
        change(&mut parts);
        let machine = parts.machine();
        let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
        let subject = machine.find(bdf("03:00.0")).expect("it is there");
        rows.into_iter().find(|row| row.function == subject).expect("it issues requests")
    }

    fn unit(&mut self) -> &mut IommuUnit {
        &mut self.host.iommus[0]
    }

    fn option(&mut self, option: &str) {
        self.host.options.get_or_insert_default().push(option.to_owned());
    }
}

#[test]
fn a_device_that_passes_every_gate_is_ready_and_bridges_have_no_row() {
    let row = Parts::after(|_| ());
    assert_eq!(row.verdict(), Verdict::Ready, "{row:?}");
    assert_eq!(
        row.check(Gate::Pasid).map(|check| &check.finding),
        Some(&Finding::Pasid { width: Some(20), shared: None })
    );
    assert_eq!(
        row.check(Gate::Prefix).map(|check| &check.finding),
        Some(&Finding::Prefix { ports: 3 })
    );
    assert_eq!(
        row.check(Gate::Redirect).map(|check| &check.finding),
        Some(&Finding::Redirect { hops: 4 })
    );
    assert!(row.checks.is_sorted_by_key(|check| check.gate), "in the order of the gates: {row:?}");
    let machine = Parts::new().machine();
    assert_eq!(readiness(&machine, &Grouping::compute(&machine, Policy::Linux)).len(), 1);
}

// Kernels that use VT-d only if told to show none of it until then.
#[test]
fn without_an_iommu_in_use_an_intel_machine_may_have_to_be_told_to_use_it() {
    let verdict = |vendor: u16, option: Option<&str>| {
        Parts::after(|parts| {
            let ids = Some(Fact::read(Ids { vendor, device: 1 }));
            parts.functions.push(PciFunction {
                ids,
                class: Some(Fact::read(Class(0x06_0000))),
                ..accelerator("00:00.0")
            });
            (parts.host.iommus, parts.host.iommu_in_use) = (Vec::new(), Some(Fact::read(false)));
            option.into_iter().for_each(|option| parts.option(option));
        })
        .verdict()
    };
    assert_eq!(verdict(0x8086, None), Verdict::SwitchedOff(Gate::InUse));
    assert_eq!(verdict(0x8086, Some("intel_iommu=sm_on")), Verdict::SwitchedOff(Gate::InUse));
    assert_eq!(
        verdict(0x8086, Some("intel_iommu=on,sm_on")),
        Verdict::Fails(Gate::Iommu),
        "told, and found none"
    );
    assert_eq!(
        verdict(0x1022, None),
        Verdict::Fails(Gate::Iommu),
        "AMD's is used without being asked for"
    );
}

// A machine whose firmware describes none is not told to switch one on; one whose firmware does is.
#[test]
fn what_firmware_describes_decides_where_the_kernel_shows_no_iommu() {
    let row = |described: Option<bool>, vendor: u16, change: Change| {
        Parts::after(|parts| {
            let ids = Some(Fact::read(Ids { vendor, device: 1 }));
            parts.functions.push(PciFunction {
                ids,
                class: Some(Fact::read(Class(0x06_0000))),
                ..accelerator("00:00.0")
            });
            (parts.host.iommus, parts.host.iommu_in_use) = (Vec::new(), Some(Fact::read(false)));
            parts.host.iommu_described = described.map(Fact::read);
            change(parts);
        })
    };
    let none = row(Some(false), 0x8086, |_| ());
    assert_eq!(none.verdict(), Verdict::Fails(Gate::Iommu));
    assert_eq!(
        none.check(Gate::Iommu).map(|check| &check.finding),
        Some(&Finding::NoIommuDescribed)
    );
    assert!(none.check(Gate::InUse).is_none() && none.check(Gate::Kernel).is_none(), "{none:?}");
    assert_eq!(
        row(Some(false), 0x8086, |parts| parts.option("intel_iommu=off")).verdict(),
        Verdict::Fails(Gate::Iommu)
    );
    for vendor in [0x8086, 0x1022] {
        let described = row(Some(true), vendor, |_| ());
        assert_eq!(described.verdict(), Verdict::SwitchedOff(Gate::InUse), "{vendor:x}");
        assert_eq!(
            described.check(Gate::Iommu).map(Check::outcome),
            Some(Outcome::Pass),
            "{vendor:x}"
        );
    }
    // What is there is there, whatever firmware says.
    assert_eq!(
        row(Some(false), 0x8086, |parts| parts.host.iommu_in_use = Some(Fact::read(true)))
            .check(Gate::Iommu)
            .map(Check::outcome),
        Some(Outcome::Pass)
    );
    assert_eq!(
        row(Some(false), 0x8086, |parts| parts.host.iommus.push(unit(IommuKind::VtD))).verdict(),
        Verdict::SwitchedOff(Gate::InUse)
    );
}

type Change = fn(&mut Parts);

/// Each breaks one thing in the machine that is ready, and names the gate that must then decide.
#[test]
fn each_gate_decides_alone() {
    let cases: &[(&str, Change, Verdict)] = &[
        (
            "no IOMMU",
            |p| (p.host.iommus, p.host.iommu_in_use) = (Vec::new(), Some(Fact::read(false))),
            Verdict::Fails(Gate::Iommu),
        ),
        (
            "nothing of an IOMMU",
            |p| (p.host.iommus, p.host.iommu_in_use) = (Vec::new(), None),
            Verdict::Unknown(Gate::Iommu),
        ),
        ("virtio-iommu", |p| p.unit().kind = IommuKind::Virtio, Verdict::Fails(Gate::Iommu)),
        (
            "not in use",
            |p| p.host.iommu_in_use = Some(Fact::read(false)),
            Verdict::SwitchedOff(Gate::InUse),
        ),
        (
            "intel_iommu=off",
            |p| (p.host.iommu_in_use, ()) = (None, p.option("intel_iommu=off")),
            Verdict::SwitchedOff(Gate::InUse),
        ),
        ("use not read", |p| p.host.iommu_in_use = None, Verdict::Unknown(Gate::InUse)),
        ("in no group", |p| untranslated(p), Verdict::Fails(Gate::Translated)),
        (
            "IOMMU without PASIDs",
            |p| p.unit().pasid_width = Some(Fact::read(0)),
            Verdict::Fails(Gate::IommuPasid),
        ),
        (
            "IOMMU's PASIDs not read",
            |p| p.unit().pasid_width = None,
            Verdict::Unknown(Gate::IommuPasid),
        ),
        (
            "scalable mode off",
            |p| p.option("intel_iommu=on,sm_off"),
            Verdict::SwitchedOff(Gate::IommuPasid),
        ),
        (
            "no first stage",
            |p| p.unit().first_stage = Some(Fact::read(false)),
            Verdict::Fails(Gate::FirstStage),
        ),
        (
            "no PASID capability",
            |p| p.functions[DEVICE].pasid = Fact::read(None),
            Verdict::Fails(Gate::Pasid),
        ),
        (
            "capabilities hidden",
            |p| p.functions[DEVICE].pasid = Fact::assumed(None, Basis::CapabilitiesHidden),
            Verdict::Unknown(Gate::Pasid),
        ),
        ("PASIDs of no bits", |p| pasid(p).width = Fact::read(0), Verdict::Fails(Gate::Pasid)),
        (
            "no prefix at the device",
            |p| prefix(p, DEVICE, Fact::read(false)),
            Verdict::Fails(Gate::Prefix),
        ),
        (
            "no prefix in the switch",
            |p| prefix(p, DOWNSTREAM, Fact::read(false)),
            Verdict::Fails(Gate::Prefix),
        ),
        (
            "no prefix at the root port",
            |p| prefix(p, ROOT_PORT, Fact::read(false)),
            Verdict::Fails(Gate::Prefix),
        ),
        (
            "prefix not printed",
            |p| prefix(p, ROOT_PORT, Fact::assumed(true, Basis::NotPrinted)),
            Verdict::Unknown(Gate::Prefix),
        ),
        (
            "no ACS in the switch",
            |p| p.functions[DOWNSTREAM].acs = Fact::read(None),
            Verdict::Fails(Gate::Redirect),
        ),
        (
            "ACS switched off",
            |p| p.functions[DOWNSTREAM].acs = acs(AcsBits::ISOLATION, AcsBits::SV),
            Verdict::SwitchedOff(Gate::Redirect),
        ),
        (
            "several functions without ACS",
            |p| p.functions[DEVICE].multifunction = Fact::read(true),
            Verdict::Fails(Gate::Redirect),
        ),
        (
            "no ATS under VT-d",
            |p| p.functions[DEVICE].ats = Fact::read(None),
            Verdict::Fails(Gate::Ats),
        ),
        (
            "VT-d without device TLBs",
            |p| p.unit().device_tlb = Some(Fact::read(false)),
            Verdict::Fails(Gate::Ats),
        ),
        ("pci=noats", |p| p.option("pci=realloc,noats"), Verdict::SwitchedOff(Gate::Ats)),
        (
            "AMD-Vi without page requests",
            |p| {
                (p.unit().kind, p.unit().page_requests) =
                    (IommuKind::AmdVi, Some(Fact::read(false)))
            },
            Verdict::Fails(Gate::PageRequests),
        ),
        (
            "page requests not read",
            |p| p.unit().page_requests = None,
            Verdict::Unknown(Gate::PageRequests),
        ),
        (
            "old kernel",
            |p| (p.unit().kind, p.host.kernel) = (IommuKind::AmdVi, Some("6.8.0".to_owned())),
            Verdict::Fails(Gate::Kernel),
        ),
        (
            "kernel of unknown updates",
            |p| p.host.kernel = Some("6.12.70".to_owned()),
            Verdict::Unknown(Gate::Kernel),
        ),
        (
            "PASIDs off",
            |p| pasid(p).enabled = Fact::read(false),
            Verdict::SwitchedOff(Gate::Enabled),
        ),
        (
            "vfio-pci",
            |p| p.functions[DEVICE].driver = Some("vfio-pci".to_owned()),
            Verdict::SwitchedOff(Gate::Enabled),
        ),
    ];
    for (what, change, expected) in cases {
        let row = Parts::after(change);
        assert_eq!(row.verdict(), *expected, "{what}: {row:#?}");
    }
}

fn untranslated(parts: &mut Parts) {
    parts.functions[ROOT_PORT].kernel_group = Some(Some(1));
    parts.functions[DEVICE].kernel_group = Some(None);
}

fn pasid(parts: &mut Parts) -> &mut Pasid {
    parts.functions[DEVICE].pasid.value.as_mut().expect("it has one")
}

fn prefix(parts: &mut Parts, function: usize, supported: Fact<bool>) {
    parts.functions[function].express.value.as_mut().expect("Express").end_to_end_prefix =
        supported;
}

#[test]
fn what_linux_does_not_ask_for_does_not_fail_a_device() {
    let cases: &[(&str, Change)] = &[
        ("iommu=pt", |p| p.option("iommu=pt")),
        ("iommu=noforce", |p| p.option("iommu=noforce")),
        ("an IOMMU in use whose option says off", |p| p.option("amd_iommu=off")),
        ("no ATS under AMD-Vi", |p| {
            (p.unit().kind, p.functions[DEVICE].ats) = (IommuKind::AmdVi, Fact::read(None))
        }),
        ("no page requests", |p| p.functions[DEVICE].pri = Fact::read(None)),
        ("VT-d without page requests", |p| p.unit().page_requests = Some(Fact::read(false))),
        ("services that ports do not implement", |p| {
            p.functions[DOWNSTREAM].acs = acs(AcsBits::SV, AcsBits::SV)
        }),
        ("a newer kernel", |p| p.host.kernel = Some("7.1.0".to_owned())),
        ("an integrated endpoint", |p| {
            p.functions[DEVICE] = PciFunction { bdf: bdf("03:00.0"), ..accelerator("03:00.0") };
            p.functions[DEVICE].express = Fact::read(Some(Express {
                kind: ExpressKind::IntegratedEndpoint,
                end_to_end_prefix: Fact::read(true),
            }));
            prefix(p, ROOT_PORT, Fact::read(false));
        }),
    ];
    for (what, change) in cases {
        let row = Parts::after(change);
        assert_eq!(row.verdict(), Verdict::Ready, "{what}: {row:#?}");
    }
    let row = Parts::after(|p| {
        p.functions[DOWNSTREAM].acs = Fact::read(None);
        p.host.kernel = Some("6.1.9".to_owned());
    });
    assert_eq!(
        row.check(Gate::Redirect).map(|check| &check.finding),
        Some(&Finding::RedirectNotWanted { release: (6, 1) })
    );
    let row = Parts::after(|p| p.functions[DEVICE].pri = Fact::read(None));
    assert_eq!(
        row.check(Gate::PageRequests).map(|check| check.outcome()),
        Some(Outcome::Limited),
        "but it is said"
    );
}

#[test]
fn what_fails_for_good_outweighs_what_is_off_or_not_known() {
    let row = Parts::after(|p| {
        p.host = Host { options: Some(vec!["intel_iommu=off".to_owned()]), ..Host::default() };
        p.functions[DEVICE].pasid = Fact::read(None);
        prefix(p, ROOT_PORT, Fact::assumed(false, Basis::NotPrinted));
    });
    assert_eq!(row.verdict(), Verdict::Fails(Gate::Pasid), "{row:#?}");
    assert_eq!(row.decisive().map(|check| &check.finding), Some(&Finding::NoPasid));
}

#[test]
fn a_virtual_function_has_the_pasids_of_its_physical_one() {
    let mut parts = Parts::new();
    let mut virtual_function = function("03:00.4", ExpressKind::Endpoint);
    virtual_function.physical_function = Some(Fact::read(bdf("03:00.0")));
    virtual_function.ats = Fact::read(Some(Ats { enabled: Fact::read(true) }));
    parts.functions.push(virtual_function);
    let machine = parts.machine();
    let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
    assert_eq!(rows.len(), 2);
    assert_eq!(
        rows[1].check(Gate::Pasid).map(|check| &check.finding),
        Some(&Finding::Pasid { width: Some(20), shared: Some(bdf("03:00.0")) })
    );
    assert_eq!(rows[1].verdict(), Verdict::Ready, "{rows:#?}");
}

#[test]
fn units_that_differ_say_nothing_of_a_device_unless_one_is_known_to_translate_it() {
    let two = |p: &mut Parts| {
        p.host.iommus.push(IommuUnit { pasid_width: Some(Fact::read(0)), ..unit(IommuKind::VtD) })
    };
    assert_eq!(Parts::after(two).verdict(), Verdict::Unknown(Gate::IommuPasid));
    let known = |unit: usize| {
        Parts::after(|p| (two(p), p.host.iommus[unit].devices = Some(vec![bdf("03:00.0")])).1)
    };
    assert_eq!(known(0).verdict(), Verdict::Ready);
    assert_eq!(known(1).verdict(), Verdict::Fails(Gate::IommuPasid));
}

#[test]
fn siblings_that_get_the_access_are_named() {
    let mut parts = Parts::new();
    for at in ["03:00.1", "03:00.2"] {
        parts.functions.push(PciFunction { multifunction: Fact::read(true), ..accelerator(at) });
    }
    parts.functions[DEVICE].multifunction = Fact::read(true);
    parts.functions[5].pasid = Fact::read(None);
    let machine = parts.machine();
    let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
    let finding = |row: usize| rows[row].check(Gate::Group).map(|check| check.finding.clone());
    assert_eq!(finding(0), Some(Finding::Shared { others: 1, some: vec![bdf("03:00.1")] }));
    assert_eq!(
        finding(2),
        Some(Finding::Shared { others: 2, some: vec![bdf("03:00.0"), bdf("03:00.1")] })
    );
    // A sibling of which nobody knows makes it no better than assumed.
    assert!(
        rows[0].check(Gate::Group).is_some_and(|check| check.source == Source::Read),
        "{rows:#?}"
    );
    parts.functions[5].pasid = Fact::assumed(None, Basis::CapabilitiesHidden);
    let machine = parts.machine();
    let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
    assert!(
        rows[0].check(Gate::Group).is_some_and(|check| matches!(check.source, Source::Assumed(_))),
        "{rows:#?}"
    );
}

/// A chain of conventional bridges with full buses: one group of them all.
fn crowd(buses: u8) -> Machine {
    let mut functions = vec![port("00:01.0", ExpressKind::PcieToPci, 1, buses)];
    for bus in 1..=buses {
        let last = if bus < buses { 31 } else { 32 };
        for (device, number) in
            (0..last).flat_map(|device| (0..8).map(move |number| (device, number)))
        {
            functions.push(accelerator(
                &Bdf::new(0, bus, device, number).expect("in range").to_string(),
            ));
        }
        if bus < buses {
            let at = Bdf::new(0, bus, 31, 0).expect("in range").to_string();
            functions.push(PciFunction {
                express: Fact::read(None),
                ..port(&at, ExpressKind::PcieToPci, bus + 1, buses)
            });
        }
    }
    Machine::new(functions, Host::default())
}

// shows S2
#[test]
fn one_group_of_many_devices_takes_time_in_proportion() {
    let begun = std::time::Instant::now();
    let machine = crowd(120);
    let grouping = Grouping::compute(&machine, Policy::Linux);
    let made = begun.elapsed();
    let begun = std::time::Instant::now();
    let rows = readiness(&machine, &grouping);
    let side = Side { machine: &machine, grouping: &grouping };
    let difference = Difference::between(side, side);
    let took = begun.elapsed();
    assert!(rows.len() > 29_000 && difference.is_empty());
    assert!(
        rows.iter()
            .filter_map(|row| row.check(Gate::Group))
            .filter(|check| {
                matches!(&check.finding, Finding::Shared { some, .. } if some.len() == 4)
            })
            .count()
            == rows.len()
    );
    assert!(took.as_secs() < 20, "grouping {made:?}, readiness {took:?}");
}

fn difference(before: &Parts, after: &Parts, policies: (Policy, Policy)) -> Difference {
    let (before, after) = (before.machine(), after.machine());
    let groupings = (Grouping::compute(&before, policies.0), Grouping::compute(&after, policies.1));
    Difference::between(
        Side { machine: &before, grouping: &groupings.0 },
        Side { machine: &after, grouping: &groupings.1 },
    )
}

const LINUX: (Policy, Policy) = (Policy::Linux, Policy::Linux);

#[test]
fn a_machine_does_not_differ_from_itself_whatever_its_groups_are_called() {
    let before = Parts::new();
    assert_eq!(difference(&before, &before, LINUX), Difference::default());
    // A device in front takes the first number; the partition of the others is the same.
    let mut after = before.clone();
    after.functions.push(function("00:00.0", ExpressKind::IntegratedEndpoint));
    let difference = difference(&before, &after, LINUX);
    assert_eq!(difference, Difference { added: vec![bdf("00:00.0")], ..Difference::default() });
}

// shows G1
#[test]
fn a_flipped_acs_bit_is_named_with_whom_it_regroups_and_whose_readiness_it_ends() {
    let before = Parts::new();
    let mut after = before.clone();
    after.functions[DOWNSTREAM].acs =
        acs(AcsBits::ISOLATION, AcsBits::SV | AcsBits::CR | AcsBits::UF);
    let difference = difference(&before, &after, LINUX);
    assert_eq!(difference.acs.len(), 1);
    assert_eq!(difference.acs[0].function, bdf("02:00.0"));
    assert_eq!(difference.acs[0].before, Some((AcsBits::ISOLATION, AcsBits::ISOLATION)));
    assert_eq!(difference.readiness.len(), 1);
    assert_eq!(
        (difference.readiness[0].before, difference.readiness[0].after),
        (Verdict::Ready, Verdict::SwitchedOff(Gate::Redirect))
    );
    let device = difference
        .regrouped
        .iter()
        .find(|piece| piece.members == [bdf("03:00.0")])
        .expect("the device shares its group with others");
    assert_eq!(device.before.as_ref().map(|membership| membership.others), Some(0));
    assert!(
        matches!(&device.after, Some(Membership { some, .. }) if some.contains(&bdf("02:00.0"))),
        "{device:?}"
    );
}

#[test]
fn an_assumption_that_differs_is_no_change_of_the_machine() {
    let before = Parts::new();
    let mut after = before.clone();
    after.functions[DOWNSTREAM].acs = Fact::assumed(None, Basis::CapabilitiesHidden);
    assert!(difference(&before, &after, LINUX).acs.is_empty());
    after.functions[DOWNSTREAM].acs = Fact::inferred(None, Basis::CompleteList);
    assert_eq!(difference(&before, &after, LINUX).acs.len(), 1);
}

#[test]
fn what_is_gone_or_something_else_is_named() {
    let before = Parts::new();
    let mut after = before.clone();
    after.functions[DEVICE].ids = Some(Fact::read(Ids { vendor: 0x1234, device: 1 }));
    after.functions.remove(ROOT_PORT);
    let difference = difference(&before, &after, LINUX);
    assert_eq!(
        (difference.removed, difference.replaced),
        (vec![bdf("00:01.0")], vec![bdf("03:00.0")])
    );
}

// shows G1
#[test]
fn two_policies_over_one_machine_differ_where_they_should() {
    let mut parts = Parts::new();
    parts.functions[ROOT_PORT].acs = Fact::read(None);
    let regrouped = difference(&parts, &parts, (Policy::Linux, Policy::Override)).regrouped;
    assert!(!regrouped.is_empty(), "the override declares the root port isolated");
    assert_eq!(difference(&parts, &parts, LINUX), Difference::default());
}
