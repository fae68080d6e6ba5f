//! Options of the kernel's command line.

use super::sanitize::sanitize;
use crate::machine::limit;

/// The options of a kernel command line that concern IOMMU and PCI: no other is kept, for a command
/// line may hold secrets.
pub(super) fn options(line: &str) -> Vec<String> {
    const NAMES: [&str; 13] = [
        "iommu",
        "intel_iommu",
        "amd_iommu",
        "amd_iommu_intr",
        "amd_iommu_dump",
        "arm-smmu",
        "arm-smmu-v3",
        "pci",
        "pcie_acs_override",
        "pcie_ports",
        "vfio",
        "vfio_iommu_type1",
        "vfio-pci",
    ];
    let concerns = |option: &&str| {
        let name = option.split('=').next().unwrap_or_default();
        let module = name.split('.').next().unwrap_or_default();
        NAMES.contains(&module) || name.contains("iommu") || module.starts_with("pcie_")
    };
    line.split_whitespace().filter(concerns).take(limit::OPTIONS).map(sanitize).collect()
}
