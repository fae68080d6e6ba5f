use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The operation of a descriptor (byte 7). Any byte is a value: a process can write any.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Opcode(pub u8);

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl Opcode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }

        impl fmt::Display for Opcode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str($text),)*
                    other => write!(f, "opcode {other:#04x}"),
                }
            }
        }
    };
}

opcodes! {
    /// Does nothing but complete.
    NOOP = 0x00, "no-op";
    /// Executes a list of descriptors.
    BATCH = 0x01, "batch";
    /// Waits for earlier descriptors. Not supported: a submission returns when its descriptor is
    /// complete.
    DRAIN = 0x02, "drain";
    /// Copies; the buffers may overlap.
    MEMORY_MOVE = 0x03, "memory move";
    /// Fills a buffer with an 8-byte pattern.
    FILL = 0x04, "fill";
    /// Compares two buffers.
    COMPARE = 0x05, "compare";
    /// Compares a buffer with an 8-byte pattern.
    COMPARE_PATTERN = 0x06, "compare pattern";
    /// Records the differences of two buffers in a delta record.
    CREATE_DELTA = 0x07, "create delta record";
    /// Applies a delta record to a buffer.
    APPLY_DELTA = 0x08, "apply delta record";
    /// Copies to two destinations.
    DUALCAST = 0x09, "dualcast";
    /// Computes the CRC32C of a buffer.
    CRC = 0x10, "CRC generation";
    /// Copies, and computes the CRC32C of what was copied.
    COPY_CRC = 0x11, "copy with CRC generation";
}
