//! Findings in words.

use std::fmt;

use super::finding::Finding;
use crate::machine::IommuKind;

fn kind_name(kind: Option<IommuKind>) -> &'static str {
    match kind {
        Some(IommuKind::VtD) => "Intel VT-d",
        Some(IommuKind::AmdVi) => "AMD-Vi",
        Some(IommuKind::Smmu) => "Arm SMMU before version 3",
        Some(IommuKind::SmmuV3) => "Arm SMMUv3",
        Some(IommuKind::RiscV) => "RISC-V IOMMU",
        Some(IommuKind::Virtio) => "virtio-iommu",
        Some(IommuKind::Other) | None => "IOMMU",
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iommu(kind) => f.write_str(kind_name(*kind)),
            Self::NoIommu => f.write_str(
                "the kernel has found none; look whether firmware has VT-d, AMD-Vi or SMMU \
                 switched off",
            ),
            Self::NoIommuDescribed => f.write_str(
                "the machine has none: firmware, or a hypervisor, describes none; VT-d or AMD-Vi \
                 may be switched off there",
            ),
            Self::IommuWithoutSva(kind) => {
                write!(
                    f,
                    "Linux has no shared virtual addressing for this kind ({})",
                    kind_name(Some(*kind))
                )
            }
            Self::IommuNotSeen => f.write_str("what was read says nothing of one"),
            Self::InUse => f.write_str("the kernel uses it"),
            Self::NotInUse { blocker: Some(blocker), .. } => {
                write!(f, "the kernel was told not to use it: boot without {blocker}")
            }
            Self::NotInUse { kind: Some(IommuKind::VtD), .. } => f.write_str(
                "the kernel does not use it: boot with intel_iommu=on, and have VT-d switched on \
                 in the firmware's setup",
            ),
            Self::NotInUse { .. } => f.write_str(
                "the kernel does not use it: look for the reason in its log (IOMMU, DMAR, AMD-Vi)",
            ),
            Self::UseNotSeen => f.write_str(
                "what was read does not say whether the kernel uses it; a kernel log says so \
                 (--dmesg)",
            ),
            Self::Translated(group) => write!(f, "in group {group}"),
            Self::NotTranslated => f.write_str("no IOMMU translates it: it is in no group"),
            Self::IommuPasidWidth(bits) => write!(f, "{bits} bits"),
            Self::IommuNoPasid => f.write_str("it takes none"),
            Self::ScalableModeOff(blocker) => {
                write!(
                    f,
                    "scalable mode is switched off: boot without {blocker}, or with \
                     intel_iommu=on,sm_on"
                )
            }
            Self::IommuPasidNotSeen => f.write_str("what was read does not say"),
            Self::FirstStage => f.write_str("it does"),
            Self::NoFirstStage => f.write_str("it does not"),
            Self::FirstStageNotSeen => f.write_str("what was read does not say"),
            Self::Pasid { width, shared } => {
                match width {
                    Some(bits) => write!(f, "{bits} bits")?,
                    None => f.write_str("there, its width was not printed")?,
                }
                shared.map_or(Ok(()), |of| write!(f, ", shared with its physical function {of}"))
            }
            Self::NoPasid => f.write_str("the device has none"),
            Self::PasidOfNoBits => f.write_str("the device says that its PASIDs have 0 bits"),
            Self::PasidNotSeen => f.write_str("not known whether the device has it"),
            Self::Prefix { ports: 0 } => {
                f.write_str("the device supports it, and no port is on its way")
            }
            Self::Prefix { ports: 1 } => f.write_str("the device and the port above it support it"),
            Self::Prefix { ports } => {
                write!(f, "the device and the {ports} ports above it support it")
            }
            Self::PrefixNotNeeded => {
                f.write_str("the device sends PASIDs without one, by Linux' quirk for HiSilicon")
            }
            Self::NoPrefix { at } => write!(f, "{at} does not support end-to-end TLP prefixes"),
            Self::NotExpress { at } => {
                write!(f, "{at} is conventional PCI, which has no TLP prefixes")
            }
            Self::NoRootPort => f.write_str(
                "the device sits on a root bus without a root port and does not say that it is \
                 integrated",
            ),
            Self::PrefixNotSeen { at } => write!(f, "not known whether {at} supports it"),
            Self::Redirect { hops: 1 } => {
                f.write_str("redirected at the device itself, and no port is on its way")
            }
            Self::Redirect { hops } => write!(f, "redirected at each of {hops} hops"),
            Self::RedirectNotWanted { release: (major, minor) } => {
                write!(
                    f,
                    "kernel {major}.{minor} does not ask for it, later ones do: peers may catch \
                     what is meant for the process"
                )
            }
            Self::NoRedirect { at } => {
                write!(f, "{at} does not redirect requests to peers, and has no ACS that could")
            }
            Self::RedirectOff { at, off } => {
                write!(
                    f,
                    "{at} has {off} switched off; Linux switches them on where it uses an IOMMU, \
                     unless pci=disable_acs_redir or pci=config_acs says otherwise"
                )
            }
            Self::RedirectNotSeen { at } => write!(f, "not known whether {at} redirects"),
            Self::Ats => f.write_str("the device has it"),
            Self::AtsNotWanted => {
                f.write_str("the device has none, and this IOMMU's driver does not ask for it")
            }
            Self::NoAts => f.write_str("the device has none, and VT-d's driver asks for it"),
            Self::IommuNoAts => f.write_str(
                "the IOMMU does not answer translation requests, and VT-d's driver asks for it",
            ),
            Self::AtsOff(blocker) => {
                write!(f, "switched off for all devices: boot without {blocker}")
            }
            Self::AtsNotSeen => f.write_str(
                "not known whether the device has it, or whether the IOMMU's driver asks for it",
            ),
            Self::PageRequests { capacity: Some(capacity) } => {
                write!(f, "the device has up to {capacity} outstanding, and the IOMMU takes them")
            }
            Self::PageRequests { capacity: None } => {
                f.write_str("the device makes them, and the IOMMU takes them")
            }
            Self::NoPageRequests => f.write_str(
                "the device makes none: its driver has to handle faults itself, or keep the memory \
                 resident",
            ),
            Self::PageRequestsNotTaken => f.write_str(
                "the device makes them, but they are not taken: memory has to be kept resident",
            ),
            Self::IommuNoPageRequests => {
                f.write_str("the IOMMU takes none, and AMD's driver gives no PASIDs without")
            }
            Self::PageRequestsNotSeen => {
                f.write_str("not known whether device and IOMMU have them")
            }
            Self::Alone { others: 0 } => f.write_str("the device is alone in it"),
            Self::Alone { others: 1 } => f.write_str("the other member cannot send a PASID"),
            Self::Alone { others } => {
                write!(f, "none of the {others} other members can send a PASID")
            }
            Self::Shared { others, some } => {
                f.write_str("whoever binds the device gives the access to other members too: ")?;
                for (n, device) in some.iter().enumerate() {
                    write!(f, "{}{device}", if n > 0 { ", " } else { "" })?;
                }
                if *others > some.len() {
                    write!(f, " and {} more", others - some.len())
                } else {
                    Ok(())
                }
            }
            Self::SharedWithIncapable { others } => {
                write!(
                    f,
                    "{others} other members cannot send PASIDs; kernels before 6.16 refuse that, \
                     unless a distributor has changed it"
                )
            }
            Self::Kernel { release: (major, minor) } => {
                write!(f, "{major}.{minor} has it for this IOMMU")
            }
            Self::KernelTooOld { release, needs } => {
                write!(
                    f,
                    "{}.{} has none for this IOMMU; take {}.{} or later",
                    release.0, release.1, needs.0, needs.1
                )
            }
            Self::KernelPerhapsOff { release: (major, minor) } => {
                write!(
                    f,
                    "{major}.{minor} can have it switched off on x86 by a stable update of 2026; \
                     6.19 and later have it on"
                )
            }
            Self::Enabled => f.write_str("PASIDs are switched on in the device"),
            Self::NotEnabled { kind: Some(IommuKind::VtD) } => f.write_str(
                "PASIDs are not switched on in the device: boot with intel_iommu=on,sm_on and load \
                 a driver that uses them",
            ),
            Self::NotEnabled { .. } => f.write_str(
                "PASIDs are not switched on in the device: load a driver that uses them",
            ),
            Self::GivenAway { driver } => write!(
                f,
                "{driver} holds the device for user space or a virtual machine: bind its own \
                 driver"
            ),
            Self::EnabledNotSeen => {
                f.write_str("not known whether PASIDs are switched on in the device")
            }
        }
    }
}
