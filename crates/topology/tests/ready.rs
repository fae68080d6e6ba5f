//! Readiness for shared virtual addressing, gate by gate.

#[path = "common/parts.rs"]
mod parts;

use parts::{DEVICE, DOWNSTREAM, Parts, ROOT_PORT, accelerator, acs, bdf, function, unit};
use sva_topology::AcsBits;
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    Ats, Basis, Class, Express, ExpressKind, Fact, Host, Ids, IommuKind, IommuUnit, Pasid,
    PciFunction,
};
use sva_topology::ready::{Check, Finding, Gate, Outcome, Verdict, readiness};

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
