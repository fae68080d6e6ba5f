//! The two delta kernels. A delta record consists of 10-byte entries, each the offset and the new
//! contents of 8 bytes.

use sva_core::Segment;
use zerocopy::{FromBytes, IntoBytes};

use super::copy::read_chunks;
use super::outcome::{End, Progress};
use super::scratch::Scratch;
use crate::job::{JobAccess, Transferred};
use crate::spec::{DeltaEntry, Status};

const UNIT: usize = DeltaEntry::UNIT as usize;
const ENTRY: usize = DeltaEntry::SIZE as usize;

/// The memory of a delta record.
#[derive(Clone, Copy)]
pub(super) struct RecordBuffer {
    pub(super) address: u64,
    /// In bytes, a multiple of an entry's size.
    pub(super) len: u32,
}

pub(super) fn create(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    sources: [u64; 2],
    len: u32,
    record: RecordBuffer,
    expected: Option<u8>,
) -> Progress {
    let Scratch { first, second } = scratch;
    let mut written = 0;
    let mut full = false;
    let (done, cause) = read_chunks(access, first, sources[0], len, |at, bytes| {
        let other = &mut second[..bytes.len()];
        let read = access.read(sources[1] + u64::from(at), other);
        let entries = differences(at, &bytes[..read.done], &other[..read.done]);
        let fit = ((record.len - written) as usize / ENTRY).min(entries.len());
        let write = write_entries(access, record.address + u64::from(written), &entries[..fit]);
        let recorded = write.done / ENTRY;
        written += (recorded * ENTRY) as u32;
        full = recorded == fit && fit < entries.len();
        // Everything before the first difference that is not in the record.
        let done = entries
            .get(recorded)
            .map_or(read.done / UNIT * UNIT, |entry| usize::from(entry.unit) * UNIT - at as usize);
        Transferred { done, cause: if full { None } else { write.cause.or(read.cause) } }
    });
    let result = if full { 2 } else { u8::from(written > 0) };
    let end = match cause {
        Some(cause) if !full => End::Incomplete(cause),
        _ if expected.is_none_or(|mask| mask >> result & 1 == 1) => End::Success,
        _ => End::FalsePredicate,
    };
    Progress { done, result, value: written, end }
}

/// The entries for two buffers, whose first byte is at offset `at` of the transfer.
fn differences(at: u32, from: &[u8], to: &[u8]) -> Vec<DeltaEntry> {
    let units = from.chunks_exact(UNIT).zip(to.chunks_exact(UNIT)).zip(at / DeltaEntry::UNIT..);
    let changed = units.filter(|((from, to), _)| from != to);
    changed
        .map(|((_, to), unit)| {
            let mut data = [0; UNIT];
            data.copy_from_slice(to);
            // A delta transfer has at most 2^16 units.
            DeltaEntry { unit: (unit as u16).into(), data }
        })
        .collect()
}

fn write_entries(access: &JobAccess<'_>, address: u64, entries: &[DeltaEntry]) -> Transferred {
    if entries.is_empty() { Transferred::all(0) } else { access.write(address, entries.as_bytes()) }
}

pub(super) fn apply(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    record: RecordBuffer,
    destination: u64,
    len: u32,
) -> Progress {
    let Scratch { first, second } = scratch;
    let whole = first.len() / ENTRY * ENTRY;
    let mut last_unit = None;
    let mut invalid = None;
    let (done, cause) =
        read_chunks(access, &mut first[..whole], record.address, record.len, |_, bytes| {
            let changes = Changes::parse(bytes, second, destination, len, &mut last_unit);
            let applied = if changes.data == 0 {
                Transferred::all(0)
            } else {
                access.scatter(&changes.pieces, &second[..changes.data])
            };
            // A fault on an entry counts before an invalid entry behind it.
            invalid = changes.invalid.filter(|_| applied.cause.is_none());
            Transferred { done: applied.done / UNIT * ENTRY, cause: applied.cause }
        });
    match invalid {
        Some(status) => Progress::failed(done, status),
        None => Progress::up_to(done, cause),
    }
}

/// The changes that some entries of a record ask for.
#[derive(Default)]
struct Changes {
    pieces: Vec<Segment>,
    /// Bytes in the pieces.
    data: usize,
    /// Why the rest of the record is not applied.
    invalid: Option<Status>,
}

impl Changes {
    /// Parses the entries up to the first invalid one, and puts their bytes into `data`.
    fn parse(
        entries: &[u8],
        data: &mut [u8],
        destination: u64,
        len: u32,
        last_unit: &mut Option<u16>,
    ) -> Self {
        let mut changes = Self::default();
        for entry in entries.chunks_exact(ENTRY) {
            let Ok(entry) = DeltaEntry::read_from_bytes(entry) else { break };
            let unit = entry.unit.get();
            let offset = u32::from(unit) * DeltaEntry::UNIT;
            if last_unit.is_some_and(|last| unit <= last) {
                changes.invalid = Some(Status::DELTA_OFFSET_ORDER);
                break;
            }
            if offset >= len {
                changes.invalid = Some(Status::DELTA_OFFSET_RANGE);
                break;
            }
            *last_unit = Some(unit);
            data[changes.data..][..UNIT].copy_from_slice(&entry.data);
            changes.data += UNIT;
            changes.push(destination + u64::from(offset));
        }
        changes
    }

    /// Adds the unit at `address`, to the last piece where it is adjacent.
    fn push(&mut self, address: u64) {
        match self.pieces.last_mut() {
            Some(piece) if piece.address + piece.len == address => piece.len += UNIT as u64,
            _ => self.pieces.push(Segment { address, len: UNIT as u64 }),
        }
    }
}
