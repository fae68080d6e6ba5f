//! Decodes descriptors into operations. No other module of the mover reads the fields of the
//! operation, so everything that a process can write there is checked here.
//!
//! The order of the checks is fixed, so that a descriptor with several mistakes has one status:
//! completion alignment, opcode, flags, privilege, reserved fields, interrupt handle, sizes,
//! ranges, alignment, overlap.

use sva_core::AddrRange;

use super::config::DataMoverConfig;
use super::operation::{CrcParameters, Operation};
use crate::spec::{
    CompletionRecord, DELTA_MAX_TRANSFER, DELTA_MIN_RECORD, DeltaEntry, Descriptor, Flags, Opcode,
    Status, crc_flag,
};

/// Where a descriptor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Submitted to the work queue.
    WorkQueue,
    /// In the list of a batch.
    Batch,
}

/// Why a descriptor is not executed.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) status: Status,
    /// The flags that are invalid, for [`Status::INVALID_FLAGS`].
    pub(super) flags: Flags,
}

impl From<Status> for Rejection {
    fn from(status: Status) -> Self {
        Self { status, flags: Flags::new() }
    }
}

fn ensure(valid: bool, otherwise: Status) -> Result<(), Rejection> {
    if valid { Ok(()) } else { Err(otherwise.into()) }
}

/// Flags that every operation accepts.
const COMMON: Flags = Flags::new()
    .with_completion_valid(true)
    .with_request_completion(true)
    .with_request_interrupt(true)
    .with_completion_steering(true)
    .with_completion_class(true);
/// Flags that operations with one, two, three addresses accept.
const ONE: Flags = COMMON.with_block_on_fault(true).with_address_1_class(true);
const TWO: Flags = ONE.with_address_2_class(true);
const THREE: Flags = TWO.with_address_3_class(true);

/// Adds the flags that operations with a destination accept.
const fn writing(flags: Flags) -> Flags {
    flags
        .with_cache_control(true)
        .with_strict_ordering(true)
        .with_destination_readback(true)
        .with_destination_steering(true)
}

/// The flags that the opcode accepts; `None` where the opcode is not supported.
fn allowed(opcode: Opcode, origin: Origin) -> Option<Flags> {
    let crc = crc_flag::READ_SEED | crc_flag::BYPASS_INVERSION | crc_flag::BYPASS_DATA_REFLECTION;
    let flags = match opcode {
        Opcode::NOOP => COMMON,
        Opcode::BATCH if origin == Origin::WorkQueue => COMMON.with_address_1_class(true),
        Opcode::MEMORY_MOVE | Opcode::APPLY_DELTA => writing(TWO),
        Opcode::FILL => writing(TWO.with_address_1_class(false)),
        Opcode::COMPARE => TWO.with_check_result(true),
        Opcode::COMPARE_PATTERN => ONE.with_check_result(true),
        Opcode::CREATE_DELTA => writing(THREE).with_check_result(true),
        Opcode::DUALCAST => {
            writing(THREE).with_operation(crate::spec::dualcast_flag::DESTINATION_2_STEERING)
        }
        Opcode::CRC => ONE.with_address_3_class(true).with_operation(crc),
        Opcode::COPY_CRC => writing(THREE).with_operation(crc),
        _ => return None,
    };
    Some(flags.with_fence(origin == Origin::Batch))
}

/// Checks a descriptor and returns what it asks for.
pub(super) fn decode(
    descriptor: &Descriptor,
    origin: Origin,
    config: &DataMoverConfig,
) -> Result<Operation, Rejection> {
    let flags = descriptor.flags();
    let aligned = descriptor.completion.get().is_multiple_of(CompletionRecord::SIZE as u64);
    ensure(aligned || !flags.completion_valid(), Status::COMPLETION_ALIGNMENT)?;
    let allowed = allowed(descriptor.opcode, origin).ok_or(Status::UNSUPPORTED_OPCODE)?;
    let mut invalid = flags.outside(allowed);
    if flags.request_completion() && !flags.completion_valid() {
        invalid.set_request_completion(true);
    }
    if invalid != Flags::new() {
        return Err(Rejection { status: Status::INVALID_FLAGS, flags: invalid });
    }
    ensure(descriptor.owner.get() & Descriptor::OWNER_PRIVILEGED == 0, Status::PRIVILEGE)?;
    ensure(
        descriptor.owner.get() & Descriptor::OWNER_RESERVED == 0 && descriptor.reserved == 0,
        Status::RESERVED_FIELD,
    )?;
    if flags.request_interrupt() {
        ensure(descriptor.interrupt.get() < config.interrupt_handles, Status::INTERRUPT_HANDLE)?;
    } else {
        ensure(descriptor.interrupt == 0, Status::RESERVED_FIELD)?;
    }
    Fields { descriptor, flags, max_transfer: config.max_transfer, max_batch: config.max_batch }
        .operation()
}

/// A descriptor whose common fields are valid.
struct Fields<'a> {
    descriptor: &'a Descriptor,
    flags: Flags,
    max_transfer: u32,
    max_batch: u32,
}

impl Fields<'_> {
    fn operation(&self) -> Result<Operation, Rejection> {
        let Descriptor { source, destination, .. } = *self.descriptor;
        let (source, destination) = (source.get(), destination.get());
        match self.descriptor.opcode {
            Opcode::NOOP => {
                ensure(
                    source == 0 && destination == 0 && self.descriptor.size == 0,
                    Status::RESERVED_FIELD,
                )?;
                self.check_operands(|_| false)?;
                Ok(Operation::NoOp)
            }
            Opcode::BATCH => self.batch(source, destination),
            Opcode::MEMORY_MOVE => {
                self.check_operands(|_| false)?;
                let len = self.transfer_size([source, destination])?;
                Ok(Operation::Move { source, destination, len })
            }
            Opcode::FILL => {
                self.check_operands(|_| false)?;
                let len = self.transfer_size([destination])?;
                Ok(Operation::Fill { pattern: source.to_le_bytes(), destination, len })
            }
            Opcode::COMPARE => {
                let expected = self.expected_result()?;
                let len = self.transfer_size([source, destination])?;
                Ok(Operation::Compare { first: source, second: destination, len, expected })
            }
            Opcode::COMPARE_PATTERN => {
                let expected = self.expected_result()?;
                let len = self.transfer_size([source])?;
                Ok(Operation::ComparePattern {
                    source,
                    pattern: destination.to_le_bytes(),
                    len,
                    expected,
                })
            }
            Opcode::CREATE_DELTA => self.create_delta([source, destination]),
            Opcode::APPLY_DELTA => self.apply_delta(source, destination),
            Opcode::DUALCAST => self.dualcast(source, [destination, self.descriptor.u64_at(40)]),
            Opcode::CRC => {
                ensure(destination == 0, Status::RESERVED_FIELD)?;
                let parameters = self.crc_parameters()?;
                let len = self.transfer_size([source])?;
                Ok(Operation::Crc { source, len, parameters })
            }
            Opcode::COPY_CRC => {
                let parameters = self.crc_parameters()?;
                let len = self.transfer_size([source, destination])?;
                check_disjoint(&[(source, len), (destination, len)])?;
                Ok(Operation::CopyCrc { source, destination, len, parameters })
            }
            _ => Err(Status::UNSUPPORTED_OPCODE.into()),
        }
    }

    fn batch(&self, list: u64, destination: u64) -> Result<Operation, Rejection> {
        ensure(destination == 0, Status::RESERVED_FIELD)?;
        self.check_operands(|_| false)?;
        let count = self.descriptor.size.get();
        ensure((2..=self.max_batch).contains(&count), Status::DESCRIPTOR_COUNT)?;
        ensure(
            AddrRange::new(list, u64::from(count) * Descriptor::SIZE as u64).is_some(),
            Status::DESCRIPTOR_COUNT,
        )?;
        ensure(list.is_multiple_of(Descriptor::SIZE as u64), Status::LIST_ALIGNMENT)?;
        Ok(Operation::Batch { list, count })
    }

    fn create_delta(&self, sources: [u64; 2]) -> Result<Operation, Rejection> {
        self.check_operands(|at| at < 52 || at == 56)?;
        let (record, max, mask) =
            (self.descriptor.u64_at(40), self.descriptor.u32_at(48), self.descriptor.operands[16]);
        let expected = self.flags.check_result().then_some(mask);
        // The mask is reserved without the flag that has the result checked; its upper bits always.
        ensure(mask & !0b111 == 0 && (expected.is_some() || mask == 0), Status::RESERVED_FIELD)?;
        let len = self.transfer_size(sources)?;
        ensure(len <= DELTA_MAX_TRANSFER, Status::TRANSFER_SIZE)?;
        let fits = max >= DELTA_MIN_RECORD
            && max <= self.max_transfer
            && max.is_multiple_of(DeltaEntry::SIZE);
        ensure(fits && AddrRange::new(record, max.into()).is_some(), Status::DELTA_RECORD_SIZE)?;
        self.check_delta_alignment(len, sources)?;
        check_disjoint(&[(record, max), (sources[0], len)])?;
        check_disjoint(&[(record, max), (sources[1], len)])?;
        Ok(Operation::CreateDelta { sources, len, record, max, expected })
    }

    fn apply_delta(&self, record: u64, destination: u64) -> Result<Operation, Rejection> {
        self.check_operands(|at| at < 44)?;
        let record_len = self.descriptor.u32_at(40);
        let len = self.transfer_size([destination])?;
        ensure(len <= DELTA_MAX_TRANSFER, Status::TRANSFER_SIZE)?;
        let most = DELTA_MAX_TRANSFER / DeltaEntry::UNIT * DeltaEntry::SIZE;
        let fits =
            record_len > 0 && record_len <= most && record_len.is_multiple_of(DeltaEntry::SIZE);
        ensure(
            fits && AddrRange::new(record, record_len.into()).is_some(),
            Status::DELTA_RECORD_SIZE,
        )?;
        self.check_delta_alignment(len, [destination])?;
        check_disjoint(&[(record, record_len), (destination, len)])?;
        Ok(Operation::ApplyDelta { record, record_len, destination, len })
    }

    fn dualcast(&self, source: u64, destinations: [u64; 2]) -> Result<Operation, Rejection> {
        self.check_operands(|at| at < 48)?;
        let [first, second] = destinations;
        let len = self.transfer_size([source, first, second])?;
        ensure((first ^ second) & 0xfff == 0, Status::DUALCAST_ALIGNMENT)?;
        check_disjoint(&[(source, len), (first, len), (second, len)])?;
        Ok(Operation::Dualcast { source, destinations, len })
    }

    /// The transfer size, if no buffer of that size passes the last address.
    fn transfer_size<const N: usize>(&self, addresses: [u64; N]) -> Result<u32, Rejection> {
        let len = self.descriptor.size.get();
        let valid = (1..=self.max_transfer).contains(&len)
            && addresses.iter().all(|first| AddrRange::new(*first, len.into()).is_some());
        ensure(valid, Status::TRANSFER_SIZE)?;
        Ok(len)
    }

    fn check_delta_alignment<const N: usize>(
        &self,
        len: u32,
        addresses: [u64; N],
    ) -> Result<(), Rejection> {
        let unit = u64::from(DeltaEntry::UNIT);
        let valid = len.is_multiple_of(DeltaEntry::UNIT)
            && addresses.iter().all(|address| address.is_multiple_of(unit));
        ensure(valid, Status::ALIGNMENT)
    }

    /// Of the descriptor's bytes 40..64, those that are not `used` must be zero.
    fn check_operands(&self, used: impl Fn(usize) -> bool) -> Result<(), Rejection> {
        let clear = (40..).zip(self.descriptor.operands).all(|(at, byte)| byte == 0 || used(at));
        ensure(clear, Status::RESERVED_FIELD)
    }

    /// The expected result of a compare: one bit, which is reserved without the flag that has it
    /// checked.
    fn expected_result(&self) -> Result<Option<u8>, Rejection> {
        self.check_operands(|at| at == 40)?;
        let expected = self.descriptor.operands[0];
        ensure(expected <= u8::from(self.flags.check_result()), Status::RESERVED_FIELD)?;
        Ok(self.flags.check_result().then_some(expected))
    }

    fn crc_parameters(&self) -> Result<CrcParameters, Rejection> {
        let flags = self.flags.operation();
        let read_seed = flags & crc_flag::READ_SEED != 0;
        self.check_operands(|at| if read_seed { (48..56).contains(&at) } else { at < 44 })?;
        let seed_address = self.descriptor.u64_at(48);
        ensure(seed_address.is_multiple_of(4), Status::ALIGNMENT)?;
        Ok(CrcParameters {
            seed: self.descriptor.u32_at(40),
            seed_address: read_seed.then_some(seed_address),
            flags,
        })
    }
}

/// Checks that no two of the buffers overlap.
fn check_disjoint(buffers: &[(u64, u32)]) -> Result<(), Rejection> {
    let ranges: Vec<_> =
        buffers.iter().filter_map(|(first, len)| AddrRange::new(*first, (*len).into())).collect();
    let disjoint = ranges
        .iter()
        .enumerate()
        .all(|(at, range)| ranges[at + 1..].iter().all(|other| !range.overlaps(*other)));
    ensure(disjoint, Status::OVERLAP)
}
