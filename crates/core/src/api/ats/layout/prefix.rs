//! The PASID TLP prefix (PCIe 6.0, section 6.20.2.1) of ATS and page request messages.

use bitfield_struct::bitfield;

use crate::types::ids::Pasid;

/// A PASID TLP prefix (section 6.20.2.1). On a link in flit mode the same fields are in another
/// position (OHC-A).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct PasidPrefix {
    /// Bits 19:0: the PASID.
    #[bits(20)]
    pub pasid: u32,
    #[bits(2)]
    reserved: u8,
    /// Bit 22: Execute Requested.
    pub execute: bool,
    /// Bit 23: Privileged Mode Requested.
    pub privileged: bool,
    /// Bits 31:24: [`PasidPrefix::KIND`].
    #[bits(8, default = PasidPrefix::KIND)]
    pub kind: u8,
}

/// Why a PASID TLP prefix is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// It is not a PASID prefix.
    #[error("{kind:#04x} is not the type of a PASID prefix; it is {:#04x}", PasidPrefix::KIND)]
    Kind {
        /// Bits 31:24.
        kind: u8,
    },
    /// Bits are set that are reserved in the prefix of this message.
    #[error("reserved bits {bits:#x} are set in the PASID prefix; clear them")]
    Reserved {
        /// The reserved bits that are set, at their positions in the prefix.
        bits: u32,
    },
    /// PASID 0, which the specification allows and this crate does not use.
    #[error("PASID 0 is reserved; leave the prefix out for a transaction without PASID")]
    Zero,
}

impl PasidPrefix {
    /// The first byte: an end-to-end prefix (100b, 1b) of the type PASID (0001b).
    pub const KIND: u8 = 0b1001_0001;
    const FLAGS: Self = Self::from_bits(0).with_execute(true).with_privileged(true);
    const RESERVED: Self = Self::from_bits(0).with_reserved(0b11);

    /// Makes the prefix of `pasid`, with no flag set.
    pub const fn of(pasid: Pasid) -> Self {
        Self::new().with_pasid(pasid.get())
    }

    /// The PASID, in a message where `execute` and `privileged` have a meaning.
    ///
    /// # Errors
    /// It is not a PASID prefix, reserved bits are set, or the PASID is 0. Whether the device may
    /// use the PASID is not checked.
    pub const fn checked(self) -> Result<Pasid, PrefixError> {
        self.without(Self::RESERVED.into_bits())
    }

    /// The PASID, in a message where `execute` and `privileged` are reserved.
    ///
    /// # Errors
    /// Those of [`checked`](Self::checked), and that either flag is set.
    pub const fn checked_without_flags(self) -> Result<Pasid, PrefixError> {
        self.without(Self::RESERVED.into_bits() | Self::FLAGS.into_bits())
    }

    /// The PASID, if none of the `reserved` bits is set.
    const fn without(self, reserved: u32) -> Result<Pasid, PrefixError> {
        let bits = self.into_bits() & reserved;
        match Pasid::new(self.pasid()) {
            _ if self.kind() != Self::KIND => Err(PrefixError::Kind { kind: self.kind() }),
            _ if bits != 0 => Err(PrefixError::Reserved { bits }),
            Some(pasid) => Ok(pasid),
            None => Err(PrefixError::Zero),
        }
    }
}
