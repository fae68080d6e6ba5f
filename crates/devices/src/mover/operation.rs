//! Operations: descriptors whose fields have been checked.

/// What a valid descriptor asks for. The ranges do not wrap, and the sizes are within the limits of
/// the mover.
#[derive(Debug)]
pub(super) enum Operation {
    NoOp,
    Batch { list: u64, count: u32 },
    Move { source: u64, destination: u64, len: u32 },
    Fill { pattern: [u8; 8], destination: u64, len: u32 },
    Compare { first: u64, second: u64, len: u32, expected: Option<u8> },
    ComparePattern { source: u64, pattern: [u8; 8], len: u32, expected: Option<u8> },
    CreateDelta { sources: [u64; 2], len: u32, record: u64, max: u32, expected: Option<u8> },
    ApplyDelta { record: u64, record_len: u32, destination: u64, len: u32 },
    Dualcast { source: u64, destinations: [u64; 2], len: u32 },
    Crc { source: u64, len: u32, parameters: CrcParameters },
    CopyCrc { source: u64, destination: u64, len: u32, parameters: CrcParameters },
}

/// How a CRC is computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrcParameters {
    pub(super) seed: u32,
    /// The seed is read from this address instead.
    pub(super) seed_address: Option<u64>,
    /// Bits of [`crc_flag`](crate::spec::crc_flag).
    pub(super) flags: u8,
}
