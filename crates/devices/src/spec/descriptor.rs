use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Flags, Opcode, crc_flag};

/// A descriptor, 64 bytes (section 8.1, `struct dsa_hw_desc`). A list of them in memory is 64-byte
/// aligned.
///
/// The fields are named for a copy; the constructors say what they mean for each operation. Any 64
/// bytes are a descriptor: its fields are checked when it is executed.
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
pub struct Descriptor {
    /// PASID in bits 19:0, privilege in bit 31. The PASID is ignored: the submission's is used, as
    /// in a dedicated work queue.
    pub owner: U32,
    flags: [u8; 3],
    /// The operation.
    pub opcode: Opcode,
    /// Address of the completion record.
    pub completion: U64,
    /// First source, pattern of a fill, delta record to apply, or descriptor list.
    pub source: U64,
    /// Destination, second source, or pattern to compare with.
    pub destination: U64,
    /// Transfer size in bytes, or descriptors in a batch.
    pub size: U32,
    /// Handle of the completion interrupt.
    pub interrupt: U16,
    pub(crate) reserved: U16,
    /// Other operands of the operation (bytes 40..64).
    pub operands: [u8; 24],
}

const _: () = assert!(size_of::<Descriptor>() == Descriptor::SIZE);

impl From<[u8; Descriptor::SIZE]> for Descriptor {
    fn from(bytes: [u8; Descriptor::SIZE]) -> Self {
        zerocopy::transmute!(bytes)
    }
}

impl Descriptor {
    /// Size of a descriptor and the alignment of a list, in bytes.
    pub const SIZE: usize = 64;
    /// Bits of [`owner`](Self::owner) that are reserved.
    pub(crate) const OWNER_RESERVED: u32 = 0x7ff0_0000;
    /// The privilege bit of [`owner`](Self::owner).
    pub(crate) const OWNER_PRIVILEGED: u32 = 0x8000_0000;

    fn new(opcode: Opcode, source: u64, destination: u64, size: u32) -> Self {
        let (source, destination, size) = (source.into(), destination.into(), size.into());
        Self { opcode, source, destination, size, ..Self::default() }
    }

    fn operand<const N: usize>(mut self, at: usize, bytes: [u8; N]) -> Self {
        self.operands[at - 40..][..N].copy_from_slice(&bytes);
        self
    }

    /// The operand field at byte `at` (40 or above) of the descriptor.
    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.operands[at - 40..][..4]);
        u32::from_le_bytes(bytes)
    }

    /// The operand field at byte `at` (40 or above) of the descriptor.
    pub(crate) fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.operands[at - 40..][..8]);
        u64::from_le_bytes(bytes)
    }

    /// Does nothing but complete.
    pub fn no_op() -> Self {
        Self::new(Opcode::NOOP, 0, 0, 0)
    }

    /// Executes the `count` descriptors at `list`, which is 64-byte aligned.
    pub fn batch(list: u64, count: u32) -> Self {
        Self::new(Opcode::BATCH, list, 0, count)
    }

    /// Copies `len` bytes; the buffers may overlap.
    pub fn memory_move(source: u64, destination: u64, len: u32) -> Self {
        Self::new(Opcode::MEMORY_MOVE, source, destination, len)
    }

    /// Fills `len` bytes with `pattern`, repeated.
    pub fn fill(pattern: [u8; 8], destination: u64, len: u32) -> Self {
        Self::new(Opcode::FILL, u64::from_le_bytes(pattern), destination, len)
    }

    /// Compares `len` bytes.
    pub fn compare(first: u64, second: u64, len: u32) -> Self {
        Self::new(Opcode::COMPARE, first, second, len)
    }

    /// Compares `len` bytes with `pattern`, repeated.
    pub fn compare_pattern(source: u64, pattern: [u8; 8], len: u32) -> Self {
        Self::new(Opcode::COMPARE_PATTERN, source, u64::from_le_bytes(pattern), len)
    }

    /// Writes a delta record of at most `max` bytes to `record`: the changes that turn the `len`
    /// bytes at `first` into those at `second`.
    pub fn create_delta(first: u64, second: u64, len: u32, record: u64, max: u32) -> Self {
        Self::new(Opcode::CREATE_DELTA, first, second, len)
            .operand(40, record.to_le_bytes())
            .operand(48, max.to_le_bytes())
    }

    /// Applies a delta record to the `len` bytes at `destination`.
    pub fn apply_delta(record: u64, record_len: u32, destination: u64, len: u32) -> Self {
        Self::new(Opcode::APPLY_DELTA, record, destination, len)
            .operand(40, record_len.to_le_bytes())
    }

    /// Copies `len` bytes to two destinations.
    pub fn dualcast(source: u64, destination: u64, second: u64, len: u32) -> Self {
        Self::new(Opcode::DUALCAST, source, destination, len).operand(40, second.to_le_bytes())
    }

    /// Computes the CRC32C of `len` bytes, continuing from `seed`: 0, or the CRC of the bytes
    /// before them.
    pub fn crc(source: u64, len: u32, seed: u32) -> Self {
        Self::new(Opcode::CRC, source, 0, len).operand(40, seed.to_le_bytes())
    }

    /// Copies `len` bytes and computes their CRC32C as [`crc`](Self::crc) does.
    pub fn copy_crc(source: u64, destination: u64, len: u32, seed: u32) -> Self {
        Self::new(Opcode::COPY_CRC, source, destination, len).operand(40, seed.to_le_bytes())
    }

    /// Has a CRC operation read its seed from `address`, which is 4-byte aligned.
    pub fn seed_from(self, address: u64) -> Self {
        let flags = self.flags();
        self.operand(40, [0; 4])
            .operand(48, address.to_le_bytes())
            .with_flags(flags.with_operation(flags.operation() | crc_flag::READ_SEED))
    }

    /// All flags.
    pub fn flags(&self) -> Flags {
        let [a, b, c] = self.flags;
        Flags::from_bits(u32::from_le_bytes([a, b, c, 0]))
    }

    /// Replaces all flags.
    pub fn with_flags(mut self, flags: Flags) -> Self {
        let [a, b, c, _] = flags.into_bits().to_le_bytes();
        self.flags = [a, b, c];
        self
    }

    /// Has the completion record written to `address`, which is 32-byte aligned, in any case.
    pub fn with_completion(mut self, address: u64) -> Self {
        self.completion = address.into();
        let flags = self.flags().with_completion_valid(true).with_request_completion(true);
        self.with_flags(flags)
    }

    /// Has page faults resolved.
    pub fn block_on_fault(self) -> Self {
        let flags = self.flags().with_block_on_fault(true);
        self.with_flags(flags)
    }

    /// In a batch: ends the batch here unless all descriptors before it succeeded.
    pub fn fence(self) -> Self {
        let flags = self.flags().with_fence(true);
        self.with_flags(flags)
    }

    /// Raises the completion interrupt `handle`.
    pub fn with_interrupt(mut self, handle: u16) -> Self {
        self.interrupt = handle.into();
        let flags = self.flags().with_request_interrupt(true);
        self.with_flags(flags)
    }

    /// Completes with a false predicate unless a compare operation has this result (0 equal, 1
    /// different).
    pub fn expect_result(self, result: u8) -> Self {
        let flags = self.flags().with_check_result(true);
        self.operand(40, [result]).with_flags(flags)
    }

    /// Completes with a false predicate unless the bit `1 << result` of the created delta record is
    /// set.
    pub fn expect_delta(self, mask: u8) -> Self {
        let flags = self.flags().with_check_result(true);
        self.operand(56, [mask]).with_flags(flags)
    }
}
