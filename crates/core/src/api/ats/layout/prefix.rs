//! The PASID TLP prefix (PCIe 6.0, section 6.20.2.1), which ATS and page request messages share.

use bitfield_struct::bitfield;

use crate::types::ids::Pasid;

/// A PASID TLP prefix (section 6.20.2.1). On a link in flit mode the same fields come in another
/// place (OHC-A).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct PasidPrefix {
    /// Bits 19:0.
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

/// A PASID TLP prefix has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Another kind of prefix, or none.
    #[error("{kind:#04x} is not the type of a PASID prefix; it is {:#04x}", PasidPrefix::KIND)]
    Kind {
        /// Bits 31:24.
        kind: u8,
    },
    /// Bits that are reserved in a prefix of this message.
    #[error("reserved bits {bits:#x} are set in the PASID prefix; clear them")]
    Reserved {
        /// Those that are set, in their places.
        bits: u32,
    },
    /// PASID 0, which the specification allows and this system gives to nobody.
    #[error("PASID 0 is reserved; leave the prefix out for a transaction without PASID")]
    Zero,
}

impl PasidPrefix {
    /// The first byte: an end-to-end prefix (100b, 1b) of the type PASID (0001b).
    pub const KIND: u8 = 0b1001_0001;
    const FLAGS: Self = Self::from_bits(0).with_execute(true).with_privileged(true);
    const RESERVED: Self = Self::from_bits(0).with_reserved(0b11);

    /// Of `pasid`, with no flag set.
    pub const fn of(pasid: Pasid) -> Self {
        Self::new().with_pasid(pasid.get())
    }

    /// The PASID; `execute` and `privileged` mean something too.
    ///
    /// # Errors
    /// It is no PASID prefix, its reserved bits are set, or the PASID is 0. Whether the device may
    /// use the PASID is not looked at here.
    pub const fn checked(self) -> Result<Pasid, PrefixError> {
        self.except(Self::RESERVED.into_bits())
    }

    /// The PASID, in a message where `execute` and `privileged` are reserved.
    ///
    /// # Errors
    /// As [`checked`](Self::checked), and either flag is set.
    pub const fn checked_without_flags(self) -> Result<Pasid, PrefixError> {
        self.except(Self::RESERVED.into_bits() | Self::FLAGS.into_bits())
    }

    const fn except(self, reserved: u32) -> Result<Pasid, PrefixError> {
        let bits = self.into_bits() & reserved;
        match Pasid::new(self.pasid()) {
            _ if self.kind() != Self::KIND => Err(PrefixError::Kind { kind: self.kind() }),
            _ if bits != 0 => Err(PrefixError::Reserved { bits }),
            Some(pasid) => Ok(pasid),
            None => Err(PrefixError::Zero),
        }
    }
}
