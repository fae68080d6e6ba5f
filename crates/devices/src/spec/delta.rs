use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest transfer size of the delta operations: 2^16 units of 8 bytes (section 8.3.7).
pub const DELTA_MAX_TRANSFER: u32 = 0x8_0000;

/// The smallest maximum delta record size: 8 entries, in bytes (section 8.3.7).
pub const DELTA_MIN_RECORD: u32 = 80;

/// One entry of a delta record: 8 bytes that differ, and their offset.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DeltaEntry {
    /// Offset from the start of the buffer, in units of 8 bytes.
    pub unit: U16,
    /// The bytes of the second source.
    pub data: [u8; 8],
}

const _: () = assert!(size_of::<DeltaEntry>() == DeltaEntry::SIZE as usize);

impl DeltaEntry {
    /// Size of an entry in bytes.
    pub const SIZE: u32 = 10;
    /// Size of what an entry describes in bytes.
    pub const UNIT: u32 = 8;
}
