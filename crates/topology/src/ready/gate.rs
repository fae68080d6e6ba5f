//! The gates.

use std::fmt;

/// What has to hold, in the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Gate {
    /// There is an IOMMU that Linux has shared virtual addressing for.
    Iommu,
    /// The kernel uses it.
    InUse,
    /// It translates this device.
    Translated,
    /// It takes PASIDs, as far as the device can send them.
    IommuPasid,
    /// It walks a process's page tables.
    FirstStage,
    /// The device has the PASID capability, with a width.
    Pasid,
    /// Device and ports forward the TLP prefix that carries the PASID.
    Prefix,
    /// ACS redirects requests at each hop to the root: RR and UF.
    Redirect,
    /// The device can ask for translations, where the IOMMU's driver wants that.
    Ats,
    /// Faults can be resolved: the device has page requests, and the IOMMU takes them.
    PageRequests,
    /// Who else gets the access.
    Group,
    /// The running kernel has shared virtual addressing for this IOMMU.
    Kernel,
    /// PASIDs are switched on in the device.
    Enabled,
}

impl Gate {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Iommu,
        Self::InUse,
        Self::Translated,
        Self::IommuPasid,
        Self::FirstStage,
        Self::Pasid,
        Self::Prefix,
        Self::Redirect,
        Self::Ats,
        Self::PageRequests,
        Self::Group,
        Self::Kernel,
        Self::Enabled,
    ];

    /// A stable word for programs, such as `iommu-pasid`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Iommu => "iommu",
            Self::InUse => "in-use",
            Self::Translated => "translated",
            Self::IommuPasid => "iommu-pasid",
            Self::FirstStage => "first-stage",
            Self::Pasid => "pasid",
            Self::Prefix => "tlp-prefix",
            Self::Redirect => "redirect",
            Self::Ats => "ats",
            Self::PageRequests => "page-requests",
            Self::Group => "group",
            Self::Kernel => "kernel",
            Self::Enabled => "enabled",
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iommu => "IOMMU",
            Self::InUse => "IOMMU in use",
            Self::Translated => "translated",
            Self::IommuPasid => "IOMMU takes PASIDs",
            Self::FirstStage => "IOMMU walks process page tables",
            Self::Pasid => "PASID capability",
            Self::Prefix => "TLP prefix on the path",
            Self::Redirect => "ACS RR and UF on the path",
            Self::Ats => "ATS",
            Self::PageRequests => "page requests",
            Self::Group => "group",
            Self::Kernel => "kernel",
            Self::Enabled => "PASID enabled",
        })
    }
}
