//! One PCI function of a machine, as far as decisions rest on it.

use sva_core::{AddrRange, Bdf};

use super::fact::Fact;
use super::ids::{Class, Ids};
use crate::acs::AcsBits;

/// One PCI function: what it is, what it can do, and how each of it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciFunction {
    /// Where it sits.
    pub bdf: Bdf,
    /// Vendor and device; `None` where neither numbers nor a known name were given.
    pub ids: Option<Fact<Ids>>,
    /// Subsystem vendor and device.
    pub subsystem: Option<Fact<Ids>>,
    /// Class, subclass and programming interface.
    pub class: Option<Fact<Class>>,
    /// What a person calls it.
    pub name: Option<String>,
    /// What its header says it is.
    pub header: Fact<Header>,
    /// Whether its device has several functions, as the kernel takes it: the header's bit in
    /// function 0, true in all others.
    pub multifunction: Fact<bool>,
    /// The PCI Express capability; none in conventional PCI.
    pub express: Fact<Option<Express>>,
    /// The ACS capability.
    pub acs: Fact<Option<AcsCapability>>,
    /// The ATS capability.
    pub ats: Fact<Option<Ats>>,
    /// The page request capability.
    pub pri: Fact<Option<Pri>>,
    /// The PASID capability.
    pub pasid: Fact<Option<Pasid>>,
    /// The physical function, where this is a virtual one (SR-IOV).
    pub physical_function: Option<Fact<Bdf>>,
    /// Its memory BARs, as programmed.
    pub bars: Vec<Bar>,
    /// The kernel driver that holds it.
    pub driver: Option<String>,
    /// The group that the kernel put it in; `Some(None)` where the source lists groups and this
    /// function has none.
    pub kernel_group: Option<Option<u32>>,
}

impl PciFunction {
    /// A conventional function without numbers, class, capabilities and BARs, all of it as if it
    /// had been read: where a machine is described by hand.
    pub fn new(bdf: Bdf) -> Self {
        Self {
            bdf,
            ids: None,
            subsystem: None,
            class: None,
            name: None,
            header: Fact::read(Header::Endpoint),
            multifunction: Fact::read(bdf.function() > 0),
            express: Fact::read(None),
            acs: Fact::read(None),
            ats: Fact::read(None),
            pri: Fact::read(None),
            pasid: Fact::read(None),
            physical_function: None,
            bars: Vec::new(),
            driver: None,
            kernel_group: None,
        }
    }

    /// Its bus numbers, if it is a bridge.
    pub fn bridge(&self) -> Option<&Bridge> {
        match &self.header.value {
            Header::Bridge(bridge) | Header::CardBus(bridge) => Some(bridge),
            Header::Endpoint => None,
        }
    }
}

/// What the header says a function is (PCI Local Bus 3.0, section 6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// Type 0.
    Endpoint,
    /// Type 1: a PCI-to-PCI bridge of any kind.
    Bridge(Bridge),
    /// Type 2: a CardBus bridge; Linux gives it bus numbers too.
    CardBus(Bridge),
}

/// Bus numbers and windows of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The bus below it.
    pub secondary: u8,
    /// The last bus below it, inclusive.
    pub subordinate: u8,
    /// Memory windows that are open, prefetchable or not.
    pub windows: Vec<AddrRange>,
}

/// The PCI Express capability (PCIe 6.0, section 7.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Express {
    /// Device or port type.
    pub kind: ExpressKind,
    /// Whether end-to-end TLP prefixes are supported (Device Capabilities 2, bit 21).
    pub end_to_end_prefix: Fact<bool>,
}

/// Device/Port Type of the PCI Express capabilities register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpressKind {
    /// 0: a PCI Express endpoint.
    Endpoint,
    /// 1: a legacy endpoint.
    LegacyEndpoint,
    /// 4: a root port.
    RootPort,
    /// 5: the upstream port of a switch.
    Upstream,
    /// 6: a downstream port of a switch.
    Downstream,
    /// 7: a PCIe-to-PCI/PCI-X bridge.
    PcieToPci,
    /// 8: a PCI/PCI-X-to-PCIe bridge.
    PciToPcie,
    /// 9: a root complex integrated endpoint.
    IntegratedEndpoint,
    /// 10: a root complex event collector.
    EventCollector,
    /// A value that has no meaning yet.
    Other(u8),
}

impl ExpressKind {
    /// From the four bits of the register.
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::Upstream,
            6 => Self::Downstream,
            7 => Self::PcieToPci,
            8 => Self::PciToPcie,
            9 => Self::IntegratedEndpoint,
            10 => Self::EventCollector,
            other => Self::Other(other),
        }
    }

    /// As the four bits of the register.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Endpoint => 0,
            Self::LegacyEndpoint => 1,
            Self::RootPort => 4,
            Self::Upstream => 5,
            Self::Downstream => 6,
            Self::PcieToPci => 7,
            Self::PciToPcie => 8,
            Self::IntegratedEndpoint => 9,
            Self::EventCollector => 10,
            Self::Other(other) => other,
        }
    }

    /// The usual name, such as `root port`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::LegacyEndpoint => "legacy endpoint",
            Self::RootPort => "root port",
            Self::Upstream => "upstream port",
            Self::Downstream => "downstream port",
            Self::PcieToPci => "PCIe-to-PCI bridge",
            Self::PciToPcie => "PCI-to-PCIe bridge",
            Self::IntegratedEndpoint => "integrated endpoint",
            Self::EventCollector => "event collector",
            Self::Other(_) => "device of unknown type",
        }
    }
}

/// The ACS capability (PCIe 6.0, section 7.7.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcsCapability {
    /// The capability register.
    pub implemented: Fact<AcsBits>,
    /// The control register.
    pub enabled: Fact<AcsBits>,
    /// Both registers as two dwords, 4 and 8 bytes into the capability, where that was read: some
    /// Intel PCHs have them there.
    pub dwords: Option<[u32; 2]>,
}

/// The ATS capability (PCIe 6.0, section 10.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ats {
    /// Whether it is enabled.
    pub enabled: Fact<bool>,
}

/// The page request capability (PCIe 6.0, section 10.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pri {
    /// Whether it is enabled.
    pub enabled: Fact<bool>,
    /// Outstanding page requests that the function can have.
    pub capacity: Option<u32>,
}

/// The PASID capability (PCIe 6.0, section 7.8.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pasid {
    /// Whether it is enabled.
    pub enabled: Fact<bool>,
    /// Bits of a PASID, 0..=20; 0 means that the capability says none.
    pub width: Fact<u8>,
    /// Whether execute permission can be asked for.
    pub execute: bool,
    /// Whether privileged mode can be asked for.
    pub privileged: bool,
}

/// One memory BAR as programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bar {
    /// Which one, 0..=5.
    pub index: u8,
    /// Where it is programmed.
    pub address: u64,
    /// Bytes; `None` where it was not said.
    pub size: Option<u64>,
}
