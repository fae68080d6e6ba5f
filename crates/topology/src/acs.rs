//! Access Control Services (PCIe 6.0, sections 6.12 and 7.7.11).

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};
use std::str::FromStr;

/// A set of ACS services, with the bit positions of the ACS capability and control registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AcsBits(u16);

impl AcsBits {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Source Validation: requests from below must carry a requester ID of the bus range below.
    pub const SV: Self = Self(1 << 0);
    /// Translation Blocking: requests marked as already translated are blocked.
    pub const TB: Self = Self(1 << 1);
    /// P2P Request Redirect: requests for a peer go upstream instead.
    pub const RR: Self = Self(1 << 2);
    /// P2P Completion Redirect.
    pub const CR: Self = Self(1 << 3);
    /// Upstream Forwarding: requests from below for the port's own window go upstream.
    pub const UF: Self = Self(1 << 4);
    /// P2P Egress Control. Can be implemented, but not enabled: its egress vector is not modelled.
    pub const EC: Self = Self(1 << 5);
    /// Direct Translated P2P: requests marked as already translated are not redirected from a peer.
    pub const DT: Self = Self(1 << 6);

    /// What isolates the devices below a port from one another.
    pub const ISOLATION: Self = Self(Self::SV.0 | Self::RR.0 | Self::CR.0 | Self::UF.0);
    /// What isolates the functions of one device; SV and UF exist in ports only.
    pub const FUNCTION_ISOLATION: Self = Self(Self::RR.0 | Self::CR.0);

    /// All services with their names, in the order of the register.
    pub const NAMED: [(&'static str, Self); 7] = [
        ("SV", Self::SV),
        ("TB", Self::TB),
        ("RR", Self::RR),
        ("CR", Self::CR),
        ("UF", Self::UF),
        ("EC", Self::EC),
        ("DT", Self::DT),
    ];

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in either set; `|` for constants.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The services in a capability or control register; the bits above are not services and left
    /// out.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7f)
    }

    /// As the bits of a register.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The names of the services in the set, in the order of the register.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.into_iter().filter(move |(_, bit)| self.contains(*bit)).map(|(name, _)| name)
    }
}

impl BitOr for AcsBits {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for AcsBits {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for AcsBits {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & 0x7f)
    }
}

impl fmt::Display for AcsBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (n, name) in self.names().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AcsBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcsBits({self})")
    }
}

/// The text names no ACS service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no ACS service; the services are SV, TB, RR, CR, UF, EC and DT")]
pub struct UnknownAcsBit {
    /// What was given.
    pub text: String,
}

impl FromStr for AcsBits {
    type Err = UnknownAcsBit;

    /// Reads one name, in capitals.
    fn from_str(text: &str) -> Result<Self, UnknownAcsBit> {
        let named = Self::NAMED.into_iter().find(|(name, _)| *name == text);
        named.map(|(_, bit)| bit).ok_or_else(|| UnknownAcsBit { text: text.to_owned() })
    }
}
