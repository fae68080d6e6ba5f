//! Address ranges, which cannot wrap, and segments of scatter-gather lists, which can.

use std::fmt;

/// A non-empty range of addresses that ends at or below the last 64-bit address.
///
/// It is stored as first and last address (inclusive), so that a range can end at the last address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrRange {
    first: u64,
    last: u64,
}

impl AddrRange {
    /// All 2^64 addresses.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// The range of `len` bytes from `first`; `None` if `len` is 0 or the end wraps.
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

    /// The range from `first` to `last`, both inclusive; `None` if `last` is below `first`.
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

    /// The length in bytes; `u64::MAX` for [`AddrRange::ALL`], whose length is 2^64.
    pub const fn len(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Always false: a range has at least one byte.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// Whether `address` is in the range.
    #[inline]
    pub const fn contains(self, address: u64) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of `other` is in the range.
    #[inline]
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The addresses that both ranges contain; `None` if there are none.
    #[inline]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::inclusive(self.first.max(other.first), self.last.min(other.last))
    }

    /// The range without its first `len` bytes; `None` if nothing is left.
    #[inline]
    pub fn after(self, len: u64) -> Option<Self> {
        let first = self.first.checked_add(len)?;
        Self::inclusive(first, self.last)
    }

    /// The range from the address after `last` to its own last address; `None` if that is empty.
    ///
    /// `last` must not be below the address before the range.
    #[inline]
    pub fn after_last(self, last: u64) -> Option<Self> {
        Self::inclusive(last.checked_add(1)?, self.last)
    }

    /// Whether the two ranges have an address in common.
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

/// One segment of a scatter-gather list: `len` bytes from `address`; `len` may be 0.
///
/// Unlike [`AddrRange`] it is foreign input: its end may wrap, which the code that uses it checks.
/// Its layout is that of the system's `iovec`, so that a provider can pass a list of segments on
/// without a copy.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The first address.
    pub address: u64,
    /// The length in bytes.
    pub len: u64,
}

impl Segment {
    /// The segment as a range; `None` if it is empty or wraps.
    pub const fn range(self) -> Option<AddrRange> {
        AddrRange::new(self.address, self.len)
    }

    /// Whether the segment ends beyond the last 64-bit address.
    pub const fn wraps(self) -> bool {
        self.len > 0 && self.range().is_none()
    }
}
