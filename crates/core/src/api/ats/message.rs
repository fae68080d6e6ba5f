//! Translation and invalidation messages (PCIe 6.0, sections 10.2 and 10.3).

use std::fmt;

use crate::types::access::{Access, Permissions};
use crate::types::ids::{Pasid, PasidTag};
use crate::types::range::AddrRange;

/// The smallest page of a translation: 4 KiB (PCIe 6.0, section 10.2.2).
pub const PAGE: u64 = 4096;

/// A translated address: it names a location in memory, as a host physical address does in
/// hardware.
///
/// It names the same location when the untranslated address is mapped to another one. A provider
/// gives the number to no other location while a translation to it may be in use. Frames are not
/// bus addresses, unless a provider says so: a translated request to a frame within the window of a
/// peer goes to that peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame address `offset` bytes further on; `None` if that overflows.
    #[inline]
    pub const fn offset(self, offset: u64) -> Option<Self> {
        match self.0.checked_add(offset) {
            Some(frame) => Some(Self(frame)),
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

/// A range of whole pages whose size is a power of two and whose first address is a multiple of its
/// size: the ranges that a translation or an invalidation can name (PCIe 6.0, section 10.2.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AlignedRange {
    first: u64,
    bits: u8,
}

impl AlignedRange {
    /// All 2^64 addresses.
    pub const ALL: Self = Self { first: 0, bits: 64 };

    /// The range of `2^bits` bytes from `first`; `None` if `bits` is not in 12..=64 or `first` is
    /// not a multiple of the size.
    pub const fn new(first: u64, bits: u8) -> Option<Self> {
        let is_aligned = match bits {
            12..=63 => first & ((1 << bits) - 1) == 0,
            64 => first == 0,
            _ => false,
        };
        if is_aligned { Some(Self { first, bits }) } else { None }
    }

    /// The page of 4 KiB that contains `address`.
    pub const fn page(address: u64) -> Self {
        Self { first: address & !(PAGE - 1), bits: 12 }
    }

    /// The smallest aligned range that covers all of `range`. An invalidation may cover more than
    /// was requested, but not less.
    pub const fn covering(range: AddrRange) -> Self {
        let differing_bits = 64 - (range.first() ^ range.last()).leading_zeros() as u8;
        let bits = if differing_bits < 12 { 12 } else { differing_bits };
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

    /// The size as a power of two: `2^bits` bytes, 12..=64.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The same range as an [`AddrRange`].
    pub const fn range(self) -> AddrRange {
        match AddrRange::inclusive(self.first, self.last()) {
            Some(range) => range,
            None => unreachable!(),
        }
    }
}

/// A translation of a range of addresses (PCIe 6.0, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The addresses that it translates, the requested one among them.
    pub range: AlignedRange,
    /// The frame of the first address. `None` for untranslated access only (U), which is not
    /// cached.
    pub frame: Option<Frame>,
    /// The permissions, for the privilege that was requested.
    pub permissions: Permissions,
    /// Whether it applies to all PASIDs (Global). A device may cache it for all of them; the ATC of
    /// this crate caches it for the PASID of the request.
    pub global: bool,
}

impl Translation {
    /// A translation that permits no access to the page of `address`.
    pub const fn none(address: u64) -> Self {
        Self {
            range: AlignedRange::page(address),
            frame: None,
            permissions: Permissions::empty(),
            global: false,
        }
    }
}

/// Identifies a translation request of one device. It is not reused, so that a late or duplicated
/// completion matches no other request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A translation request (PCIe 6.0, section 10.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TranslationRequest {
    /// The identity of the request.
    pub id: RequestId,
    /// The PASID; `None` for the domain of the device's group.
    pub pasid: Option<Pasid>,
    /// The address, of which the page is translated.
    pub address: u64,
    /// Whether permission to write is requested (No Write is clear).
    pub write: bool,
    /// Whether permission to execute is requested (Execute Requested).
    pub execute: bool,
    /// Whether the access is privileged (Privileged Mode Requested).
    pub privileged: bool,
}

impl TranslationRequest {
    /// The access that the translation is requested for.
    pub const fn access(&self) -> Access {
        match (self.write, self.execute) {
            (true, _) => Access::WRITE,
            (false, true) => Access::EXECUTE,
            (false, false) => Access::READ,
        }
    }
}

/// Why the IOMMU refused a translation request (PCIe 6.0, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TranslationRefusal {
    /// Unsupported Request: ATS is not enabled for the device, or the PASID is not bound to it. The
    /// device must not repeat the request.
    Unsupported,
    /// Completer Abort: the host failed to translate the address.
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

/// A translation completion, by which the IOMMU answers a request (PCIe 6.0, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TranslationCompletion {
    /// The request that it answers.
    pub id: RequestId,
    /// The translation, or why the request was refused.
    pub result: Result<Translation, TranslationRefusal>,
    /// Whether the permissions are those of privileged accesses (Priv). A device refuses a
    /// completion whose privilege differs from that of the request (PCIe 6.0, section 10.2.3.7).
    pub privileged: bool,
    /// The owner of the PASID. It is not part of the message on the wire. A device refuses a
    /// completion with another PASID than that of the request. It caches no translation for a later
    /// owner of the PASID, since request IDs are not reused and each unbind sends an invalidation.
    pub owner: Option<PasidTag>,
}

/// The tag of an invalidation in flight to one device: 0..=31 (PCIe 6.0, section 10.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Itag(u8);

impl Itag {
    /// The number of tags.
    pub const COUNT: usize = 32;

    /// Makes a tag; `None` if `value` is not in 0..=31.
    pub const fn new(value: u8) -> Option<Self> {
        if (value as usize) < Self::COUNT { Some(Self(value)) } else { None }
    }

    /// The number on the wire.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// An invalidate request, by which the IOMMU has a device invalidate translations in its ATC (PCIe
/// 6.0, section 10.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidationRequest {
    /// The tag, by which the device completes the request.
    pub tag: Itag,
    /// A serial number, which no other use of the tag has: a completion for an earlier use is
    /// dropped and counted. It is not part of the message on the wire.
    pub serial: u64,
    /// The PASID whose translations are invalidated; `None` for all translations.
    pub pasid: Option<Pasid>,
    /// Whether translations that apply to all PASIDs are invalidated too (Global Invalidate). This
    /// IOMMU does not request that, since no device caches such a translation for all PASIDs.
    pub global: bool,
    /// The range: every translation that overlaps it is invalidated.
    pub range: AlignedRange,
}

/// An invalidate completion: the device has invalidated the range, and none of its requests in
/// flight uses a translation of it (PCIe 6.0, section 10.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidationCompletion {
    /// The tag of the request.
    pub tag: Itag,
    /// The serial number of the request.
    pub serial: u64,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows T4
    #[test]
    fn the_covering_range_is_aligned_and_covers_all_of_a_range() {
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
