//! Address ranges that cannot wrap.

use std::fmt;

/// A non-empty range of addresses that ends at or below the last 64-bit address.
///
/// SpaceIotlb as first and last (inclusive) address, so that a range may end at the very top.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrRange {
    first: u64,
    last: u64,
}

impl AddrRange {
    /// All 2^64 addresses.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// `len` bytes from `first`; `None` where `len` is 0 or the end wraps.
    #[inline]
    pub const fn new(first: u64, len: u64) -> Option<Self> {
        if len == 0 {
            return None;
        }
        match first.checked_add(len - 1) {
            Some(last) => Some(Self { first, last }),
            None => None,
        }
    }

    /// From `first` to `last`, both inside; `None` where `last` is below `first`.
    #[inline]
    pub const fn inclusive(first: u64, last: u64) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }

    /// The first address.
    #[inline]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The last address (inclusive).
    #[inline]
    pub const fn last(self) -> u64 {
        self.last
    }

    /// Bytes; saturates for the one range that covers all 2^64 addresses.
    pub const fn len(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Always false: a range has at least one byte.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether `address` is inside.
    #[inline]
    pub const fn contains(self, address: u64) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of `other` is inside.
    #[inline]
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// What both have in common.
    #[inline]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::inclusive(self.first.max(other.first), self.last.min(other.last))
    }

    /// What is left after its first `len` bytes; `None` where nothing is.
    #[inline]
    pub fn after(self, len: u64) -> Option<Self> {
        let first = self.first.checked_add(len)?;
        Self::inclusive(first, self.last)
    }

    /// What of it comes after `last`; `None` where nothing does.
    #[inline]
    pub fn after_last(self, last: u64) -> Option<Self> {
        Self::inclusive(last.checked_add(1)?, self.last)
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x}]", self.first, self.last)
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One piece of a gather or scatter: `len` bytes from `address`; may be empty.
///
/// Unlike [`AddrRange`] it is foreign input: its end may wrap, and whoever uses it checks. Laid out
/// as the system's `iovec`, so that a provider can hand a list of them on as it is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

impl Segment {
    /// The range, where there is one: `None` where the piece is empty or wraps.
    pub const fn range(self) -> Option<AddrRange> {
        AddrRange::new(self.address, self.len)
    }

    /// Whether the end passes the top of the address space.
    pub const fn wraps(self) -> bool {
        self.len > 0 && self.range().is_none()
    }
}
