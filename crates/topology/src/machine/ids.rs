//! Vendor, device and class numbers, and their text: `8086:a294`, `060400`.

use std::fmt::{self, Display};
use std::str::FromStr;

/// A pair of numbers from configuration space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ids {
    /// Vendor.
    pub vendor: u16,
    /// Device; [`Ids::UNKNOWN`] where only the vendor is known.
    pub device: u16,
}

impl Ids {
    /// Stands for a device number that is not known; no function has it.
    pub const UNKNOWN: u16 = 0xffff;
}

/// Class (bits 23..16), subclass (15..8) and programming interface (7..0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Class(pub u32);

impl Class {
    /// Base class and subclass, such as 0x0604 for a PCI bridge.
    pub const fn code(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// The base class, such as 0x06 for bridges.
    pub const fn base(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// An IOMMU (0x0806).
    pub const IOMMU: u16 = 0x0806;
    /// A host bridge (0x0600).
    pub const HOST_BRIDGE: u16 = 0x0600;
    /// A PCI-to-PCI bridge (0x0604).
    pub const PCI_BRIDGE: u16 = 0x0604;
}

impl Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

/// The text is no pair of vendor and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write vendor and device as four hexadecimal digits each with a colon between, such as \
     8086:a294"
)]
pub struct BadIds;

impl FromStr for Ids {
    type Err = BadIds;
    fn from_str(text: &str) -> Result<Self, BadIds> {
        let (vendor, device) = text.split_once(':').ok_or(BadIds)?;
        let word = |digits| hex_word(digits).ok_or(BadIds);
        Ok(Self { vendor: word(vendor)?, device: word(device)? })
    }
}

/// Exactly four hexadecimal digits.
pub(crate) fn hex_word(digits: &str) -> Option<u16> {
    let plain = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

impl Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// The text is no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a class as six hexadecimal digits, such as 060400")]
pub struct BadClass;

impl FromStr for Class {
    type Err = BadClass;
    fn from_str(text: &str) -> Result<Self, BadClass> {
        let plain = text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(BadClass)
    }
}
