//! Pages: their size, and ranges that are made of whole ones.

use sva_core::AddrRange;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// The range of `len` bytes at `address`.
///
/// # Panics
/// It is empty, wraps, or is not made of whole pages.
pub(crate) fn whole_pages(address: u64, len: u64) -> AddrRange {
    let range = AddrRange::new(address, len)
        .filter(|_| address.is_multiple_of(PAGE) && len.is_multiple_of(PAGE));
    range.unwrap_or_else(|| {
        panic!("{len:#x} bytes at {address:#x} are not whole pages of {PAGE} bytes")
    })
}
