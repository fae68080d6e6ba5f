use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The status of a descriptor (completion record byte 0): a code in bits 6:0 and, for page faults,
/// in bit 7 whether the fault was on a write.
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
pub struct Status(pub u8);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            fn text(self) -> Option<&'static str> {
                match self.0 & Self::CODE {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// Not completed yet.
    NONE = 0x00, "not completed";
    /// Done.
    SUCCESS = 0x01, "success";
    /// Done, but the result is not the expected one.
    SUCCESS_FALSE_PREDICATE = 0x02, "success, but not the expected result";
    /// Done in part: a page fault, and the descriptor does not block on faults.
    PAGE_FAULT = 0x03, "page fault, without block on fault";
    /// Done in part: a page fault that could not be resolved.
    PAGE_FAULT_UNRESOLVED = 0x04, "page fault that could not be resolved";
    /// A descriptor of the batch did not succeed.
    BATCH_FAIL = 0x05, "a descriptor of the batch did not succeed";
    /// The batch's descriptor list could not be read to its end.
    BATCH_PAGE_FAULT = 0x06, "page fault on the descriptor list";
    /// The offsets of a delta record do not increase.
    DELTA_OFFSET_ORDER = 0x07, "the offsets of the delta record do not increase";
    /// An offset of a delta record lies outside the transfer size.
    DELTA_OFFSET_RANGE = 0x08, "an offset of the delta record lies outside the transfer size";
    /// The opcode is not supported, or not in a batch.
    UNSUPPORTED_OPCODE = 0x10, "unsupported opcode";
    /// A flag is reserved for this opcode; the record says which, in
    /// [`invalid_flags`](crate::CompletionRecord::invalid_flags).
    INVALID_FLAGS = 0x11, "invalid flags";
    /// A reserved field is not zero.
    RESERVED_FIELD = 0x12, "a reserved field is not zero";
    /// The transfer size is 0, too large, or takes a buffer past the last address.
    TRANSFER_SIZE = 0x13, "transfer size out of range";
    /// The batch has less than 2 or too many descriptors.
    DESCRIPTOR_COUNT = 0x14, "descriptor count out of range";
    /// The delta record is too small, too large, or not a multiple of its entries' size.
    DELTA_RECORD_SIZE = 0x15, "delta record size out of range";
    /// Buffers overlap that must not.
    OVERLAP = 0x16, "buffers overlap";
    /// The destinations of a dualcast differ in bits 11:0.
    DUALCAST_ALIGNMENT = 0x17, "the two destinations differ in bits 11:0";
    /// The descriptor list is not 64-byte aligned.
    LIST_ALIGNMENT = 0x18, "the descriptor list is not 64-byte aligned";
    /// There is no such interrupt handle.
    INTERRUPT_HANDLE = 0x19, "no such interrupt handle";
    /// The completion record could not be written.
    COMPLETION_PAGE_FAULT = 0x1a, "page fault on the completion record";
    /// The completion record is not 32-byte aligned.
    COMPLETION_ALIGNMENT = 0x1b, "the completion record is not 32-byte aligned";
    /// An address or size does not have the alignment that the operation needs.
    ALIGNMENT = 0x1c, "an address or size is not aligned";
    /// The descriptor asks for privilege that its submitter does not have.
    PRIVILEGE = 0x1d, "privileged descriptors are not accepted";
    /// A transaction was aborted for a reason that is no page fault.
    HARDWARE = 0x20, "the transaction failed";
    /// The address could not be translated at all: the PASID is not bound, or the bond does not
    /// grant the access.
    TRANSLATION = 0x22, "address translation failed";
}

impl Status {
    const CODE: u8 = 0x7f;
    const WRITE: u8 = 0x80;

    /// The code alone.
    pub const fn code(self) -> Self {
        Self(self.0 & Self::CODE)
    }

    /// The same code, for a fault on a write.
    pub const fn on_write(self) -> Self {
        Self(self.0 | Self::WRITE)
    }

    /// Whether the fault was on a write.
    pub const fn is_on_write(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Whether all was done and the result, where it was to be checked, is the expected one.
    pub fn is_success(self) -> bool {
        self == Self::SUCCESS
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(text)?,
            None => write!(f, "status {:#04x}", self.code().0)?,
        }
        if self.is_on_write() { f.write_str(" (on a write)") } else { Ok(()) }
    }
}
