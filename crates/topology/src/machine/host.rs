//! What is known of a machine beside its PCI functions.

use serde::{Deserialize, Serialize};
use sva_core::Bdf;

use super::fact::Fact;

/// Kernel and IOMMUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The kernel's release, such as `6.18.0`.
    pub kernel: Option<String>,
    /// The machine's architecture as the kernel names it, such as `x86_64`.
    pub architecture: Option<String>,
    /// The options of the kernel's command line that concern IOMMU and PCI; no others are kept.
    pub options: Option<Vec<String>>,
    /// Whether the kernel uses an IOMMU for these devices.
    pub iommu_in_use: Option<Fact<bool>>,
    /// Whether firmware describes an IOMMU to the kernel, in ACPI's tables.
    pub iommu_described: Option<Fact<bool>>,
    /// The IOMMUs that are known.
    pub iommus: Vec<IommuUnit>,
}

/// One IOMMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IommuUnit {
    /// The kernel's name, such as `dmar0`, `ivhd0` or `smmu3.0x...`.
    pub name: String,
    /// Its kind.
    pub kind: IommuKind,
    /// Its PCI function, where it has one (AMD).
    pub function: Option<Bdf>,
    /// The functions that it translates, where that is known.
    pub devices: Option<Vec<Bdf>>,
    /// Bits of a PASID that it takes; 0 for none.
    pub pasid_width: Option<Fact<u8>>,
    /// Whether it takes page requests.
    pub page_requests: Option<Fact<bool>>,
    /// Whether it answers translation requests of devices (ATS).
    pub device_tlb: Option<Fact<bool>>,
    /// Whether it can walk a process's page tables (first stage, v2 or guest translation).
    pub first_stage: Option<Fact<bool>>,
}

/// Kinds of IOMMUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IommuKind {
    /// Intel VT-d.
    VtD,
    /// AMD-Vi.
    AmdVi,
    /// Arm SMMU, version 1 or 2.
    Smmu,
    /// Arm SMMUv3.
    SmmuV3,
    /// RISC-V IOMMU.
    RiscV,
    /// virtio-iommu.
    Virtio,
    /// Another one.
    Other,
}
