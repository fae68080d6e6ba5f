use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a descriptor asks for (descriptor byte 7). Open: any byte can stand there.
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
    /// Nothing but a completion.
    NOOP = 0x00, "no-op";
    /// A list of descriptors.
    BATCH = 0x01, "batch";
    /// Wait for earlier descriptors. Not implemented: descriptors are executed before their submission returns.
    DRAIN = 0x02, "drain";
    /// Copy; the buffers may overlap.
    MEMORY_MOVE = 0x03, "memory move";
    /// Fill with an 8-byte pattern.
    FILL = 0x04, "fill";
    /// Compare two buffers.
    COMPARE = 0x05, "compare";
    /// Compare a buffer with an 8-byte pattern.
    COMPARE_PATTERN = 0x06, "compare pattern";
    /// Write down where two buffers differ.
    CREATE_DELTA = 0x07, "create delta record";
    /// Change a buffer as a delta record says.
    APPLY_DELTA = 0x08, "apply delta record";
    /// Copy to two places.
    DUALCAST = 0x09, "dualcast";
    /// CRC32C of a buffer.
    CRC = 0x10, "CRC generation";
    /// Copy, with the CRC32C of what was copied.
    COPY_CRC = 0x11, "copy with CRC generation";
}
