//! Translation and invalidation messages (PCIe 6.0, sections 10.2 and 10.3).

use std::fmt;

use crate::types::access::{Access, Permissions};
use crate::types::ids::{Pasid, PasidTag};
use crate::types::range::AddrRange;

/// The smallest page that a translation has: 4 KiB (PCIe 6.0, section 10.2.2).
pub const PAGE: u64 = 4096;

/// A place in memory that stays what it is when an address is mapped anew: what a translation leads
/// to, as a host physical address does in hardware.
///
/// A number that its provider gives to no other place as long as a translation to it may be in use.
/// Frames of spaces are numbered apart from bus addresses unless a provider says otherwise: a
/// peer's window that holds the number takes a translated request to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl Frame {
    /// The place `offset` bytes further on; `None` past the last number.
    #[inline]
    pub const fn offset(self, offset: u64) -> Option<Self> {
        match self.0.checked_add(offset) {
            Some(at) => Some(Self(at)),
            None => None,
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.0)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:#x})", self.0)
    }
}

/// A range of whole pages whose size is a power of two and whose start is a multiple of its size:
/// what one translation or one invalidation message can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AlignedRange {
    first: u64,
    bits: u8,
}

impl AlignedRange {
    /// All 2^64 addresses.
    pub const ALL: Self = Self { first: 0, bits: 64 };

    /// `2^bits` bytes from `first`; `None` where `bits` is not 12..=64 or `first` is not a multiple
    /// of the size.
    pub const fn new(first: u64, bits: u8) -> Option<Self> {
        let fits = match bits {
            12..=63 => first & ((1 << bits) - 1) == 0,
            64 => first == 0,
            _ => false,
        };
        if fits { Some(Self { first, bits }) } else { None }
    }

    /// The page of 4 KiB that holds `address`.
    pub const fn page(address: u64) -> Self {
        Self { first: address & !(PAGE - 1), bits: 12 }
    }

    /// The smallest one that holds all of `range`: more than was asked for is invalidated, never
    /// less (rule T4).
    pub const fn covering(range: AddrRange) -> Self {
        let differ = 64 - (range.first() ^ range.last()).leading_zeros() as u8;
        let bits = if differ < 12 { 12 } else { differ };
        let first = if bits == 64 { 0 } else { range.first() >> bits << bits };
        Self { first, bits }
    }

    /// The first address.
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The last address (inclusive).
    pub const fn last(self) -> u64 {
        if self.bits == 64 { u64::MAX } else { self.first + ((1 << self.bits) - 1) }
    }

    /// Its size is 2^this bytes: 12..=64.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The same addresses.
    pub const fn range(self) -> AddrRange {
        match AddrRange::inclusive(self.first, self.last()) {
            Some(range) => range,
            None => unreachable!(),
        }
    }
}

/// What an address means at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The addresses that it holds for, the one asked for among them.
    pub range: AlignedRange,
    /// Where the first of them leads to. `None`: untranslated access only (U), with nothing to
    /// keep.
    pub frame: Option<Frame>,
    /// What is permitted, for the privilege that was asked for.
    pub permissions: Permissions,
    /// It holds for all PASIDs (Global). A device may keep it for all of them; the ones here keep
    /// it for the PASID that they asked with.
    pub global: bool,
}

impl Translation {
    /// No access to the page of `address`.
    pub const fn none(address: u64) -> Self {
        Self {
            range: AlignedRange::page(address),
            frame: None,
            permissions: Permissions::empty(),
            global: false,
        }
    }
}

/// Tells translation requests of one device apart; never used twice, so that a late or doubled
/// completion meets no other request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A device asks what an address means (PCIe 6.0, section 10.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TranslationRequest {
    /// Which request.
    pub id: RequestId,
    /// In which space; without one in the domain of its group.
    pub pasid: Option<Pasid>,
    /// Which address; its page is what counts.
    pub address: u64,
    /// It wants to write (No Write is clear).
    pub write: bool,
    /// It wants to execute (Execute Requested).
    pub execute: bool,
    /// As a privileged access (Privileged Mode Requested).
    pub privileged: bool,
}

impl TranslationRequest {
    /// The access that it is made for.
    pub const fn access(&self) -> Access {
        match (self.write, self.execute) {
            (true, _) => Access::WRITE,
            (false, true) => Access::EXECUTE,
            (false, false) => Access::READ,
        }
    }
}

/// Why a translation request was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TranslationRefusal {
    /// Unsupported Request: ATS is not enabled for the device, or the PASID is not bound to it. The
    /// device is not to ask again.
    Unsupported,
    /// Completer Abort: the machine below failed.
    Aborted,
}

impl fmt::Display for TranslationRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "unsupported request",
            Self::Aborted => "completer abort",
        })
    }
}

/// What the IOMMU answers (PCIe 6.0, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TranslationCompletion {
    /// Which request it answers.
    pub id: RequestId,
    /// The translation.
    pub result: Result<Translation, TranslationRefusal>,
    /// The permissions are those of privileged accesses (Priv). A device refuses a completion that
    /// does not say what its request asked for (PCIe 6.0, section 10.2.3.7).
    pub privileged: bool,
    /// Whose translation it is, inside the system. A device refuses one with another PASID than it
    /// asked with. That it keeps none for a later owner of the PASID (rule U6) follows from
    /// the request ID, which is never used again, and from the invalidation that each unbind
    /// sends.
    pub owner: Option<PasidTag>,
}

/// Which of the invalidations in flight to one device: 0..=31 (PCIe 6.0, section 10.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Itag(u8);

impl Itag {
    /// How many there are.
    pub const COUNT: usize = 32;

    /// Checks the range 0..=31.
    pub const fn new(value: u8) -> Option<Self> {
        if (value as usize) < Self::COUNT { Some(Self(value)) } else { None }
    }

    /// The number on the wire.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// The IOMMU has a device forget translations (PCIe 6.0, section 10.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidationRequest {
    /// Which of those in flight.
    pub tag: Itag,
    /// Counts the uses of a tag inside the system: a completion that was meant for an earlier use
    /// is dropped and counted (rule U6).
    pub serial: u64,
    /// The PASID whose translations go; without one all go.
    pub pasid: Option<Pasid>,
    /// Also those that hold for all PASIDs (Global Invalidate). This IOMMU never asks for that: no
    /// device keeps such a translation.
    pub global: bool,
    /// Whatever overlaps it goes.
    pub range: AlignedRange,
}

/// The device has forgotten, and no request that used what it forgot is under way (PCIe 6.0,
/// section 10.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidationCompletion {
    /// Which of those in flight.
    pub tag: Itag,
    /// As in the request.
    pub serial: u64,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows T4
    #[test]
    fn what_covers_a_range_is_aligned_and_holds_all_of_it() {
        for (first, last, bits) in [
            (0x1000, 0x1fff, 12),
            (0x1234, 0x1235, 12),
            (0x1fff, 0x2000, 14),
            (0, u64::MAX, 64),
            (u64::MAX, u64::MAX, 12),
            (0x7fff_ffff_ffff_ffff, 1 << 63, 64),
        ] {
            let range = AddrRange::inclusive(first, last).expect("in order");
            let covering = AlignedRange::covering(range);
            assert_eq!(covering.bits(), bits, "{range}");
            assert!(covering.first() <= first && covering.last() >= last);
            assert_eq!(AlignedRange::new(covering.first(), bits), Some(covering));
        }
    }

    #[test]
    fn a_range_that_is_not_aligned_or_too_small_cannot_be_made() {
        assert_eq!(
            [
                AlignedRange::new(0x1000, 13),
                AlignedRange::new(0, 11),
                AlignedRange::new(0, 65),
                AlignedRange::new(1, 64)
            ],
            [None; 4]
        );
        assert_eq!((Itag::new(31).map(Itag::get), Itag::new(32)), (Some(31), None));
    }
}
