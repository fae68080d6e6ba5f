//! Models that Linux knows to isolate, or not to, whatever their ACS capability says
//! (drivers/pci/quirks.c, as of 7.0).
//!
//! The table keeps the kernel's order: the first row that has an answer for a function gives it. A
//! row whose conditions are not met has none.

use crate::acs::AcsBits;
use crate::machine::{Basis, ExpressKind, Fact, Ids, PciFunction, Source};

/// What a quirk says of the functions that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcsEffect {
    /// The function behaves as if these services were enabled.
    Gives(AcsBits),
    /// As if none were enabled, even where it has a capability.
    Denies,
    /// Functions of a multifunction device on a root bus of a machine with an AMD IOMMU redirect
    /// requests and completions (RR, CR); the other services are not asked of them.
    AmdSouthbridge,
    /// A root port without the capability, which Linux makes isolate by registers of its chipset.
    IntelPch,
    /// What the out-of-tree override declares isolated: ports and multifunction devices without an
    /// ACS capability. Under [`Policy::Override`](super::Policy::Override) only.
    Override,
    /// A root port whose control register is at 8, behind a capability register of 32 bits.
    IntelSunrisePoint,
}

/// One row: models, conditions, effect.
#[derive(Debug)]
pub struct AcsQuirk {
    /// The kernel's function.
    pub kernel: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// What the quirk says of the services.
    pub effect: AcsEffect,
    vendor: u16,
    /// First and last device number of each range, inclusive.
    devices: &'static [(u16, u16)],
    ports: Ports,
}

/// Which functions of a model a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Any,
    Root,
    RootOrDownstream,
    Integrated,
}

const ANY: &[(u16, u16)] = &[(0, 0xffff)];
/// All but the number that stands for an unknown one: nothing is said against a model that was not
/// read.
const ANY_KNOWN: &[(u16, u16)] = &[(0, 0xfffe)];
/// SV, RR, CR and UF.
const PORT: AcsEffect = AcsEffect::Gives(AcsBits::ISOLATION);
/// All services but egress control: the vendor says that the functions have no path to each other.
const ENDPOINT: AcsEffect =
    AcsEffect::Gives(AcsBits::ISOLATION.union(AcsBits::TB).union(AcsBits::DT));

const fn row(
    vendor: u16,
    devices: &'static [(u16, u16)],
    ports: Ports,
    effect: AcsEffect,
    kernel: &'static str,
    what: &'static str,
) -> AcsQuirk {
    AcsQuirk { kernel, what, effect, vendor, devices, ports }
}

const fn endpoint(vendor: u16, devices: &'static [(u16, u16)], what: &'static str) -> AcsQuirk {
    row(vendor, devices, Ports::Any, ENDPOINT, "pci_quirk_mf_endpoint_acs", what)
}

const ANY_VENDOR: u16 = 0xffff;
const INTEL: u16 = 0x8086;
const CAVIUM: u16 = 0x177d;
const ZHAOXIN: u16 = 0x1d17;
const WANGXUN: u16 = 0x8088;
const BROADCOM: u16 = 0x14e4;
/// Of [`broken_source_validation`] alone.
const IDT: u16 = 0x111d;

/// The rows for a function, in order; those whose effect has conditions of its own included.
pub(super) fn rows(function: &PciFunction) -> impl Iterator<Item = &'static AcsQuirk> {
    let ids = function.ids.map_or(UNKNOWN, |ids| ids.value);
    let kind = function.express.value.map(|express| express.kind);
    ACS.iter().filter(move |row| row.is_for(ids, kind))
}

/// How well it is known that no row is for a function: as well as its numbers are, or as its vendor
/// is where no row is for that one.
pub(super) fn none_is_for(function: &PciFunction) -> Source {
    match function.ids {
        Some(Fact { value, source: Source::Assumed(Basis::VendorName) })
            if !names_vendor(value.vendor) =>
        {
            Source::Inferred(Basis::VendorName)
        }
        ids => ids.map_or(Source::Assumed(Basis::NotPrinted), |ids| ids.source),
    }
}

fn names_vendor(vendor: u16) -> bool {
    vendor == IDT || ACS.iter().any(|row| row.vendor == vendor)
}

/// No row names these numbers.
const UNKNOWN: Ids = Ids { vendor: 0xfffe, device: 0xffff };

impl AcsQuirk {
    fn is_for(&self, ids: Ids, kind: Option<ExpressKind>) -> bool {
        (self.vendor == ids.vendor || self.vendor == ANY_VENDOR)
            && self.devices.iter().any(|(first, last)| (*first..=*last).contains(&ids.device))
            && match self.ports {
                Ports::Any => true,
                Ports::Root => kind == Some(ExpressKind::RootPort),
                Ports::RootOrDownstream => {
                    matches!(kind, Some(ExpressKind::RootPort | ExpressKind::Downstream))
                }
                Ports::Integrated => kind == Some(ExpressKind::IntegratedEndpoint),
            }
    }
}

/// Downstream ports of IDT switches that apply source validation to completions too; Linux takes SV
/// as not implemented (pci_disable_broken_acs_cap).
pub(super) fn broken_source_validation(function: &PciFunction) -> bool {
    matches!(function.ids.map(|ids| ids.value), Some(Ids { vendor: IDT, device: 0x80b5 | 0x8090 }))
}

static ACS: &[AcsQuirk] = &[
    row(
        0x1002,
        &[(0x4383, 0x4385), (0x4399, 0x4399), (0x439c, 0x439d)],
        Ports::Any,
        AcsEffect::AmdSouthbridge,
        "pci_quirk_amd_sb_acs",
        "AMD southbridge",
    ),
    row(
        0x1022,
        &[(0x7809, 0x7809), (0x780f, 0x780f)],
        Ports::Any,
        AcsEffect::AmdSouthbridge,
        "pci_quirk_amd_sb_acs",
        "AMD FCH",
    ),
    endpoint(0x1924, &[(0x0903, 0x0903), (0x0923, 0x0923), (0x0a03, 0x0a03)], "Solarflare NIC"),
    endpoint(INTEL, INTEL_NICS, "Intel NIC"),
    row(INTEL, ANY, Ports::Integrated, PORT, "pci_quirk_rciep_acs", "Intel integrated endpoint"),
    row(
        0x17cb,
        &[(0x0111, 0x0111), (0x0115, 0x0115), (0x0120, 0x0120), (0x0400, 0x0401)],
        Ports::Any,
        PORT,
        "pci_quirk_qcom_rp_acs",
        "Qualcomm root port",
    ),
    row(0x1dbf, &[(0x0401, 0x0401)], Ports::Any, PORT, "pci_quirk_qcom_rp_acs", "HXT root port"),
    row(
        INTEL,
        INTEL_PCH,
        Ports::Root,
        AcsEffect::IntelPch,
        "pci_quirk_intel_pch_acs",
        "Intel PCH root port without ACS",
    ),
    row(
        INTEL,
        &[(0x9d10, 0x9d1b), (0xa110, 0xa11f), (0xa167, 0xa16a), (0xa290, 0xa29f), (0xa2e7, 0xa2ee)],
        Ports::Root,
        AcsEffect::IntelSunrisePoint,
        "pci_quirk_intel_spt_pch_acs",
        "Intel Sunrise or Union Point root port",
    ),
    endpoint(0x19a2, &[(0x0710, 0x0710)], "Emulex BE3-R"),
    endpoint(0x10df, &[(0x0720, 0x0720)], "Emulex Skyhawk-R"),
    // Where the patch puts it: after what Intel's and before what Zhaoxin's and Wangxun's rows
    // say.
    row(ANY_VENDOR, ANY, Ports::Any, AcsEffect::Override, "pcie_acs_overrides", "ACS override"),
    row(
        CAVIUM,
        &[(0xa000, 0xa7ff), (0xaf84, 0xaf84), (0xb884, 0xb884)],
        Ports::Root,
        PORT,
        "pci_quirk_cavium_acs",
        "Cavium ThunderX root port",
    ),
    endpoint(
        CAVIUM,
        &[(0xa026, 0xa026), (0xa059, 0xa059), (0xa060, 0xa060)],
        "Cavium multifunction device",
    ),
    row(
        0x10e8,
        &[(0xe004, 0xe004)],
        Ports::Any,
        PORT,
        "pci_quirk_xgene_acs",
        "APM X-Gene root port",
    ),
    row(0x1def, &[(0xe005, 0xe00c)], Ports::Any, PORT, "pci_quirk_xgene_acs", "Ampere root port"),
    endpoint(BROADCOM, &[(0x16d7, 0x16d7), (0x1750, 0x1752), (0x1760, 0x1763)], "Broadcom NIC"),
    row(
        BROADCOM,
        &[(0xd714, 0xd714)],
        Ports::Any,
        PORT,
        "pci_quirk_brcm_acs",
        "Broadcom iProc root port",
    ),
    row(0x0014, LOONGSON, Ports::Any, PORT, "pci_quirk_loongson_acs", "Loongson root port"),
    row(
        0x1c36,
        &[(0x0031, 0x0031)],
        Ports::Root,
        PORT,
        "pci_quirk_al_acs",
        "Annapurna Labs root port",
    ),
    endpoint(
        ZHAOXIN,
        &[(0x3038, 0x3038), (0x3104, 0x3104), (0x9083, 0x9083)],
        "Zhaoxin multifunction device",
    ),
    row(0x1957, NXP, Ports::Any, PORT, "pci_quirk_nxp_rp_acs", "NXP LX2 root port"),
    row(
        ZHAOXIN,
        &[(0x0710, 0x071e), (0x0721, 0x0721), (0x0723, 0x0752)],
        Ports::RootOrDownstream,
        PORT,
        "pci_quirk_zhaoxin_pcie_ports_acs",
        "Zhaoxin port",
    ),
    row(
        ZHAOXIN,
        ANY_KNOWN,
        Ports::RootOrDownstream,
        AcsEffect::Denies,
        "pci_quirk_zhaoxin_pcie_ports_acs",
        "Zhaoxin port that Linux does not know",
    ),
    row(WANGXUN, WANGXUN_NICS, Ports::Any, PORT, "pci_quirk_wangxun_nic_acs", "Wangxun NIC"),
    row(
        WANGXUN,
        ANY_KNOWN,
        Ports::Any,
        AcsEffect::Denies,
        "pci_quirk_wangxun_nic_acs",
        "Wangxun device that Linux does not know",
    ),
];

const INTEL_NICS: &[(u16, u16)] = &[
    (0x105e, 0x1060), // 82571, but the quad ports, which have a switch without ACS
    (0x10a7, 0x10a7), // 82575
    (0x10a9, 0x10a9),
    (0x10c6, 0x10c6), // 82598
    (0x10c9, 0x10c9), // 82576
    (0x10d6, 0x10d6),
    (0x10d9, 0x10d9),
    (0x10db, 0x10db),
    (0x10dd, 0x10dd),
    (0x10e1, 0x10e1),
    (0x10e6, 0x10e8),
    (0x10f1, 0x10f1),
    (0x10f7, 0x10fc), // 82598, 82599
    (0x1507, 0x1507),
    (0x1509, 0x150a), // 82580, 82576
    (0x150d, 0x1511),
    (0x1514, 0x1514),
    (0x1516, 0x1516),
    (0x1518, 0x1518),
    (0x151c, 0x151c),
    (0x1521, 0x1524), // I350
    (0x1526, 0x1527),
    (0x1529, 0x152a),
    (0x154d, 0x154d),
    (0x154f, 0x154f),
    (0x1551, 0x1551),
    (0x1558, 0x1558),
    (0x15b7, 0x15b8), // I219
];

const INTEL_PCH: &[(u16, u16)] = &[
    (0x1c10, 0x1c1f), // Cougar Point
    (0x1d10, 0x1d10), // Patsburg: the even numbers
    (0x1d12, 0x1d12),
    (0x1d14, 0x1d14),
    (0x1d16, 0x1d16),
    (0x1d18, 0x1d18),
    (0x1d1a, 0x1d1a),
    (0x1d1c, 0x1d1c),
    (0x1d1e, 0x1d1e),
    (0x1e10, 0x1e1f), // Panther Point
    (0x3b42, 0x3b51), // Ibex Peak
    (0x8c10, 0x8c1f), // Lynx Point-H
    (0x8c90, 0x8c90), // Lynx Point refresh: the even numbers
    (0x8c92, 0x8c92),
    (0x8c94, 0x8c94),
    (0x8c96, 0x8c96),
    (0x8c98, 0x8c98),
    (0x8c9a, 0x8c9a),
    (0x8c9c, 0x8c9c),
    (0x8c9e, 0x8c9e),
    (0x8d10, 0x8d1e), // Wellsburg
    (0x9c10, 0x9c1b), // Lynx Point-LP
    (0x9c90, 0x9c9b), // Wildcat Point
];

const LOONGSON: &[(u16, u16)] = &[
    (0x3c09, 0x3c09),
    (0x3c19, 0x3c19),
    (0x3c29, 0x3c29),
    (0x7a09, 0x7a09),
    (0x7a19, 0x7a19),
    (0x7a29, 0x7a29),
    (0x7a39, 0x7a39),
    (0x7a49, 0x7a49),
    (0x7a59, 0x7a59),
    (0x7a69, 0x7a69),
];

const NXP: &[(u16, u16)] = &[
    (0x8d80, 0x8d83),
    (0x8d88, 0x8d8b),
    (0x8d90, 0x8d93),
    (0x8d98, 0x8d9b),
    (0x8da0, 0x8da1),
    (0x8da8, 0x8da9),
    (0x8db0, 0x8db1),
    (0x8db8, 0x8db9),
];

const WANGXUN_NICS: &[(u16, u16)] = &[
    (0x0100, 0x010f),
    (0x1001, 0x1001),
    (0x2001, 0x2001),
    (0x5010, 0x5010),
    (0x5025, 0x5025),
    (0x5040, 0x5040),
    (0x5110, 0x5110),
    (0x5125, 0x5125),
    (0x5140, 0x5140),
];
