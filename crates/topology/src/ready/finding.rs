//! What was found at a gate, with the values, and what it means.

use std::fmt;

use sva_core::Bdf;

use crate::acs::AcsBits;
use crate::machine::IommuKind;

/// What a finding means for shared virtual addressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The gate is passed.
    Pass,
    /// It is passed, but something is to be known.
    Limited,
    /// It is shut by a setting: kernel option, driver, firmware.
    Off,
    /// It cannot be passed.
    Fail,
    /// What would be needed was not read.
    Unknown,
}

impl Outcome {
    /// A stable word for programs: `pass`, `limited`, `off`, `fail` or `unknown`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Limited => "limited",
            Self::Off => "off",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

/// A kernel option that shuts a gate, as it is written on the kernel's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DisablingOption {
    /// The option's name, such as `intel_iommu`.
    pub option: &'static str,
    /// The word in its comma-separated value, such as `off`.
    pub word: &'static str,
}

impl fmt::Display for DisablingOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.option, self.word)
    }
}

/// What was found at a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// [`Gate::Iommu`](super::Gate::Iommu): there is one.
    Iommu(Option<IommuKind>),
    /// There is none, or firmware hides it.
    NoIommu,
    /// There is none that firmware describes to the kernel.
    NoIommuDescribed,
    /// Linux has no shared virtual addressing for this kind.
    IommuWithoutSva(IommuKind),
    /// Nothing was read about IOMMUs.
    IommuNotSeen,

    /// [`Gate::InUse`](super::Gate::InUse): the kernel uses it.
    InUse,
    /// The kernel does not.
    NotInUse {
        /// What it may be.
        kind: Option<IommuKind>,
        /// The option that says so.
        blocker: Option<DisablingOption>,
    },
    /// Whether it does was not read.
    UseNotSeen,

    /// [`Gate::Translated`](super::Gate::Translated): in this group.
    Translated(u32),
    /// The device is in no group.
    NotTranslated,

    /// [`Gate::IommuPasid`](super::Gate::IommuPasid): bits of a PASID that it takes, 1..=20.
    IommuPasidWidth(u8),
    /// It takes none.
    IommuNoPasid,
    /// Scalable mode, which PASIDs need, is switched off.
    ScalableModeOff(DisablingOption),
    /// Whether it does was not read, or its IOMMUs differ and which one translates the device was
    /// not read.
    IommuPasidNotSeen,

    /// [`Gate::FirstStage`](super::Gate::FirstStage): it does.
    FirstStage,
    /// It does not.
    NoFirstStage,
    /// Whether it does was not read.
    FirstStageNotSeen,

    /// [`Gate::Pasid`](super::Gate::Pasid): the capability is there.
    Pasid {
        /// Bits, 1..=20; `None` where that was not printed.
        width: Option<u8>,
        /// The physical function whose capability it is, for a virtual one.
        shared: Option<Bdf>,
    },
    /// There is no such capability.
    NoPasid,
    /// It says that it has no bits.
    PasidOfNoBits,
    /// Whether it is there was not read.
    PasidNotSeen,

    /// [`Gate::Prefix`](super::Gate::Prefix): the device and this many ports above it forward the
    /// prefix.
    Prefix {
        /// Ports on the way to the root.
        ports: usize,
    },
    /// The device sends PASIDs without one (Linux' quirk for HiSilicon's integrated devices).
    PrefixNotNeeded,
    /// A device or port on the path does not support end-to-end TLP prefixes.
    NoPrefix {
        /// The nearest such one.
        at: Bdf,
    },
    /// Something on the path is conventional PCI, which has no prefixes.
    NotExpress {
        /// The nearest such one.
        at: Bdf,
    },
    /// A device on a root bus that does not say that it is integrated: no port vouches for the
    /// prefix.
    NoRootPort,
    /// Whether a device or port on the path does was not read.
    PrefixNotSeen {
        /// The nearest such one.
        at: Bdf,
    },

    /// [`Gate::Redirect`](super::Gate::Redirect): every hop redirects.
    Redirect {
        /// Functions looked at, the device itself included.
        hops: usize,
    },
    /// The running kernel does not ask for it: none before 6.2 does.
    RedirectNotWanted {
        /// Major and minor number.
        release: (u32, u32),
    },
    /// A hop does not, and cannot.
    NoRedirect {
        /// The nearest such one.
        at: Bdf,
    },
    /// A hop could redirect, but these services are switched off there.
    RedirectOff {
        /// The nearest such one.
        at: Bdf,
        /// What is implemented and not enabled.
        off: AcsBits,
    },
    /// Whether a hop redirects was not read.
    RedirectNotSeen {
        /// The nearest such one.
        at: Bdf,
    },

    /// [`Gate::Ats`](super::Gate::Ats): the device has it.
    Ats,
    /// It has none, and this IOMMU's driver does not want it.
    AtsNotWanted,
    /// It has none; VT-d's driver wants it.
    NoAts,
    /// The IOMMU does not answer translation requests; VT-d's driver wants it to.
    IommuNoAts,
    /// ATS is switched off for all devices.
    AtsOff(DisablingOption),
    /// Whether the device has it, or whether the IOMMU's driver wants it, was not read.
    AtsNotSeen,

    /// [`Gate::PageRequests`](super::Gate::PageRequests): the device makes them and the IOMMU takes
    /// them.
    PageRequests {
        /// Requests that the device can have outstanding, where that was read.
        capacity: Option<u32>,
    },
    /// The device makes none.
    NoPageRequests,
    /// The device makes them, but they are not taken: its faults abort.
    PageRequestsNotTaken,
    /// The IOMMU takes none, and AMD's driver gives no PASIDs without.
    IommuNoPageRequests,
    /// Whether device or IOMMU have them was not read.
    PageRequestsNotSeen,

    /// [`Gate::Group`](super::Gate::Group): no other member can send a PASID.
    Alone {
        /// Other members of the group.
        others: usize,
    },
    /// Other members get the access too.
    Shared {
        /// How many of them have the PASID capability.
        others: usize,
        /// The first of them, at most four.
        some: Vec<Bdf>,
    },
    /// The group has members without the PASID capability, which kernels before 6.16 refuse.
    SharedWithIncapable {
        /// How many.
        others: usize,
    },

    /// [`Gate::Kernel`](super::Gate::Kernel): new enough.
    Kernel {
        /// Major and minor number.
        release: (u32, u32),
    },
    /// Too old for this IOMMU.
    KernelTooOld {
        /// Major and minor number.
        release: (u32, u32),
        /// The first that has it.
        needs: (u32, u32),
    },
    /// On x86, stable updates of kernels before 6.19 can have it switched off.
    KernelPerhapsOff {
        /// Major and minor number.
        release: (u32, u32),
    },

    /// [`Gate::Enabled`](super::Gate::Enabled): PASIDs are.
    Enabled,
    /// PASIDs are not switched on in the device.
    NotEnabled {
        /// What may switch them on.
        kind: Option<IommuKind>,
    },
    /// Its driver gives it to user space or a virtual machine.
    GivenAway {
        /// The driver.
        driver: &'static str,
    },
    /// Whether they are was not read.
    EnabledNotSeen,
}

impl Finding {
    /// What the finding means.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Iommu(_)
            | Self::InUse
            | Self::Translated(_)
            | Self::IommuPasidWidth(_)
            | Self::FirstStage
            | Self::Pasid { .. }
            | Self::Prefix { .. }
            | Self::PrefixNotNeeded
            | Self::Redirect { .. }
            | Self::Ats
            | Self::AtsNotWanted
            | Self::PageRequests { .. }
            | Self::Alone { .. }
            | Self::Kernel { .. }
            | Self::Enabled => Outcome::Pass,
            Self::NoPageRequests
            | Self::PageRequestsNotTaken
            | Self::Shared { .. }
            | Self::RedirectNotWanted { .. } => Outcome::Limited,
            Self::NotInUse { .. }
            | Self::ScalableModeOff(_)
            | Self::RedirectOff { .. }
            | Self::AtsOff(_)
            | Self::NotEnabled { .. }
            | Self::GivenAway { .. } => Outcome::Off,
            Self::NoIommu
            | Self::NoIommuDescribed
            | Self::IommuWithoutSva(_)
            | Self::NotTranslated
            | Self::IommuNoPasid
            | Self::NoFirstStage
            | Self::NoPasid
            | Self::PasidOfNoBits
            | Self::NoPrefix { .. }
            | Self::NotExpress { .. }
            | Self::NoRootPort
            | Self::NoRedirect { .. }
            | Self::NoAts
            | Self::IommuNoAts
            | Self::IommuNoPageRequests
            | Self::KernelTooOld { .. } => Outcome::Fail,
            Self::IommuNotSeen
            | Self::UseNotSeen
            | Self::IommuPasidNotSeen
            | Self::FirstStageNotSeen
            | Self::PasidNotSeen
            | Self::PrefixNotSeen { .. }
            | Self::RedirectNotSeen { .. }
            | Self::AtsNotSeen
            | Self::PageRequestsNotSeen
            | Self::SharedWithIncapable { .. }
            | Self::KernelPerhapsOff { .. }
            | Self::EnabledNotSeen => Outcome::Unknown,
        }
    }
}
