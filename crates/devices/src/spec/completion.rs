use std::fmt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Flags, Status};

/// A completion record, 32 bytes (section 8.2, `struct dsa_completion_record`). Memory that holds
/// one is 32-byte aligned.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct CompletionRecord {
    /// The status; written last.
    pub status: Status,
    /// The operation's result. Memory move: 1 if it went backward, so that what is done is the end
    /// of the buffers. Compare: 1 if they differ. Create delta: 0 equal, 1 different, 2 the
    /// record is too small. Batch: 1 if a descriptor did not succeed.
    pub result: u8,
    pub(crate) reserved: [u8; 2],
    /// Bytes of the transfer that are done, exactly. Compare: offset of the first difference. Apply
    /// delta: bytes of the delta record. Batch: descriptors.
    pub bytes_completed: U32,
    /// The address of the fault, or 0.
    pub fault_address: U64,
    /// Invalid flags: the flags. Create delta: size of the delta record in bytes. CRC: its value.
    pub value: U32,
    pub(crate) unused: [u8; 12],
}

const _: () = assert!(size_of::<CompletionRecord>() == CompletionRecord::SIZE);

impl CompletionRecord {
    /// Size of a record and its alignment, in bytes.
    pub const SIZE: usize = 32;

    /// The size of the delta record that was created, in bytes.
    pub fn delta_record_size(&self) -> u32 {
        self.value.get()
    }

    /// The CRC of the bytes completed.
    pub fn crc(&self) -> u32 {
        self.value.get()
    }

    /// Which flags were reserved, where the status is [`Status::INVALID_FLAGS`].
    pub fn invalid_flags(&self) -> Flags {
        Flags::from_bits(self.value.get() & 0xff_ffff)
    }
}

impl fmt::Display for CompletionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} bytes, result {}", self.status, self.bytes_completed, self.result)?;
        if self.fault_address != 0 {
            write!(f, ", fault at {:#x}", self.fault_address)
        } else {
            Ok(())
        }
    }
}
