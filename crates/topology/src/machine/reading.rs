//! What a reader found, before anything is concluded from it.
//!
//! Every reader fills the same [`Reading`]; [`Reading::machine`] infers and assumes the rest, in
//! one place for all of them. A saved dump is a reading: it keeps what was read and no conclusion,
//! so that a later version may conclude better. Nothing here identifies one machine among others of
//! its model: no serial numbers, no names of hosts, of the command line only the options that
//! concern IOMMU and PCI.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use sva_core::{AddrRange, Bdf};

use super::host::IommuKind;
use super::ids::{Class, Ids};
use super::json::{self, Hex, bounded};
use super::limit;

/// A machine as it was read, before anything is inferred.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Kernel and IOMMUs.
    #[serde(default)]
    pub host: HostReading,
    /// Whether the source says of every function that has an IOMMU group which one; a function
    /// without one then has none.
    #[serde(default)]
    pub lists_groups: bool,
    /// Whether the text ends in the middle.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// The functions, in the order in which they were read; each address once.
    #[serde(deserialize_with = "functions")]
    pub functions: Vec<FunctionReading>,
}

/// What was read of one function; `None` is what was not said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionReading {
    /// Where it sits.
    #[serde(with = "json::text")]
    pub bdf: Bdf,
    /// Vendor and device.
    #[serde(default, with = "json::optional_text", skip_serializing_if = "Option::is_none")]
    pub ids: Option<Ids>,
    /// Subsystem vendor and device.
    #[serde(default, with = "json::optional_text", skip_serializing_if = "Option::is_none")]
    pub subsystem: Option<Ids>,
    /// Class, subclass and programming interface.
    #[serde(default, with = "json::optional_text", skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The class in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// Vendor and device in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Kind of header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderReading>,
    /// The header's multi-function bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multifunction: Option<bool>,
    /// Buses below a bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buses: Option<Buses>,
    /// Open memory windows of a bridge.
    #[serde(default, with = "json::ranges", skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<AddrRange>,
    /// How much of the list of conventional capabilities was read.
    #[serde(default)]
    pub capabilities: ListState,
    /// How much of the list of extended capabilities was read.
    #[serde(default)]
    pub extended: ListState,
    /// The PCI Express capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub express: Option<ExpressReading>,
    /// The ACS capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acs: Option<AcsReading>,
    /// The ATS capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ats: Option<AtsReading>,
    /// The page request capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pri: Option<PriReading>,
    /// The PASID capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pasid: Option<PasidReading>,
    /// The SR-IOV capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<SriovReading>,
    /// The physical function of a virtual one.
    #[serde(default, with = "json::optional_text", skip_serializing_if = "Option::is_none")]
    pub physical_function: Option<Bdf>,
    /// Memory BARs.
    #[serde(default, deserialize_with = "bars", skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<BarReading>,
    /// The kernel driver that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The IOMMU group that the kernel put it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_group: Option<u32>,
}

/// How much of a list of capabilities was read, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListState {
    /// The text has none at its verbosity.
    #[default]
    NotPrinted,
    /// The reader was not allowed to see it, or the function did not answer.
    Hidden,
    /// The text ends, or is damaged, inside it.
    Truncated,
    /// All of it: what is not in it is not there.
    Complete,
}

/// Kinds of configuration space headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderReading {
    /// Type 0.
    Endpoint,
    /// Type 1.
    Bridge,
    /// Type 2.
    CardBus,
}

/// Bus numbers of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buses {
    /// The bus below it.
    pub secondary: u8,
    /// The last bus below it, inclusive.
    pub subordinate: u8,
}

/// What was read of a PCI Express capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpressReading {
    /// The four bits of Device/Port Type.
    pub kind: u8,
    /// Device Capabilities 2, bit 21; a capability of version 1 has none and reads false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_to_end_prefix: Option<bool>,
}

/// What was read of an ACS capability; all empty where only its name was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcsReading {
    /// The capability register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub implemented: Option<Hex<u16>>,
    /// The control register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<Hex<u16>>,
    /// The dwords at 4 and 8 bytes into the capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dwords: Option<[Hex<u32>; 2]>,
}

/// What was read of an ATS capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtsReading {
    /// Whether it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// What was read of a page request capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriReading {
    /// Whether it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Outstanding page requests that the function can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

/// What was read of a PASID capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasidReading {
    /// Whether it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The five bits of Max PASID Width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u8>,
    /// Whether execute permission can be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute: Option<bool>,
    /// Whether privileged mode can be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
}

/// What was read of an SR-IOV capability (PCIe 6.0, section 9.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SriovReading {
    /// Whether virtual functions are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub functions: Option<u16>,
    /// Requester IDs from the physical function to the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u16>,
    /// Requester IDs from one to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<u16>,
}

/// One memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BarReading {
    /// Which one, 0..=5; text without numbers is counted through.
    pub index: u8,
    /// Where it is programmed.
    pub address: Hex<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Hex<u64>>,
}

/// What was read of kernel and IOMMUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostReading {
    /// The kernel's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The machine's architecture as the kernel names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Options of the kernel's command line that concern IOMMU and PCI.
    #[serde(default, deserialize_with = "options", skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
    /// Whether the kernel said that it uses an IOMMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommu_in_use: Option<bool>,
    /// Whether firmware describes an IOMMU to the kernel, in ACPI's tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommu_described: Option<bool>,
    /// IOMMUs.
    #[serde(default, deserialize_with = "iommus", skip_serializing_if = "Vec::is_empty")]
    pub iommus: Vec<IommuReading>,
}

/// What was read of one IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IommuReading {
    /// The kernel's name.
    pub name: String,
    /// What it is.
    pub kind: IommuKind,
    /// Its PCI function, where it has one.
    #[serde(default, with = "json::optional_text", skip_serializing_if = "Option::is_none")]
    pub function: Option<Bdf>,
    /// The functions that it translates.
    #[serde(default, with = "json::devices", skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<Bdf>>,
    /// VT-d: the capability register. AMD: the capability header. SMMUv3: IDR0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<Hex<u64>>,
    /// VT-d: the extended capability register. AMD: the extended feature register. SMMUv3: IDR1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended: Option<Hex<u64>>,
}

impl FunctionReading {
    /// A function of which nothing is known but its address.
    pub fn at(bdf: Bdf) -> Self {
        Self {
            bdf,
            ids: None,
            subsystem: None,
            class: None,
            class_name: None,
            name: None,
            header: None,
            multifunction: None,
            buses: None,
            windows: Vec::new(),
            capabilities: ListState::NotPrinted,
            extended: ListState::NotPrinted,
            express: None,
            acs: None,
            ats: None,
            pri: None,
            pasid: None,
            sriov: None,
            physical_function: None,
            bars: Vec::new(),
            driver: None,
            kernel_group: None,
        }
    }

    /// The base class and subclass, where they were read.
    pub(crate) fn class_code(&self) -> Option<u16> {
        self.class.map(Class::code)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn functions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FunctionReading>, D::Error> {
    bounded::<_, _, { limit::FUNCTIONS }>(deserializer)
}

fn bars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BarReading>, D::Error> {
    let bars: Vec<BarReading> = bounded::<_, _, { limit::RANGES }>(deserializer)?;
    if bars.iter().any(|bar| bar.index > 5) {
        return Err(D::Error::custom("BARs are numbered 0 to 5"));
    }
    Ok(bars)
}

fn iommus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IommuReading>, D::Error> {
    bounded::<_, _, { limit::IOMMUS }>(deserializer)
}

fn options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    bounded::<_, _, { limit::OPTIONS }>(deserializer).map(Some)
}
