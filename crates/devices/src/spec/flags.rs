use bitfield_struct::bitfield;

/// The flags of a descriptor, 24 bits (section 8.1.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Flags {
    /// Begin only after the earlier descriptors of the batch, and only if all of them succeeded.
    /// Reserved outside of a batch.
    pub fence: bool,
    /// Have page faults resolved instead of completing in part.
    pub block_on_fault: bool,
    /// The completion address is valid.
    pub completion_valid: bool,
    /// Write a completion record in any case; without it, only when the descriptor does not
    /// succeed.
    pub request_completion: bool,
    /// Raise the completion interrupt.
    pub request_interrupt: bool,
    /// Steering tag for the completion record. A hint.
    pub completion_steering: bool,
    #[bits(1)]
    reserved: u8,
    /// Complete with a false predicate if the result is not the expected one.
    pub check_result: bool,
    /// Place what is written in the cache. A hint.
    pub cache_control: bool,
    /// Traffic class of the first address.
    pub address_1_class: bool,
    /// Traffic class of the second address.
    pub address_2_class: bool,
    /// Traffic class of the third address.
    pub address_3_class: bool,
    /// Traffic class of the completion record.
    pub completion_class: bool,
    /// Writes become visible in order. Always so here.
    pub strict_ordering: bool,
    /// Read back what was written before completing. Writes here are complete when they return.
    pub destination_readback: bool,
    /// Steering tag for the destination. A hint.
    pub destination_steering: bool,
    /// Flags of the operation: [`crc_flag`], [`dualcast_flag`].
    pub operation: u8,
    #[bits(8)]
    not_flags: u8,
}

impl Flags {
    /// The flags of `self` that are not in `allowed`.
    pub const fn outside(self, allowed: Self) -> Self {
        Self::from_bits(self.into_bits() & !allowed.into_bits())
    }

    /// The flags of both.
    pub const fn and(self, other: Self) -> Self {
        Self::from_bits(self.into_bits() | other.into_bits())
    }
}

/// Operation flags of the two CRC operations (section 8.3.10).
pub mod crc_flag {
    /// Read the seed from the seed address.
    pub const READ_SEED: u8 = 1 << 0;
    /// Neither invert nor reflect the seed and the result.
    pub const BYPASS_INVERSION: u8 = 1 << 1;
    /// Bit 7 of each byte is its most significant bit in the computation.
    pub const BYPASS_DATA_REFLECTION: u8 = 1 << 2;
}

/// Operation flags of the dualcast operation (section 8.3.9).
pub mod dualcast_flag {
    /// Steering tag for the second destination. A hint.
    pub const DESTINATION_2_STEERING: u8 = 1 << 0;
}
