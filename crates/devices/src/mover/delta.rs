//! The two delta kernels: a record of 10-byte entries, each the place and the new contents of 8
//! bytes.

use sva_core::Segment;
use zerocopy::{FromBytes, IntoBytes};

use super::copy::forward;
use super::{End, Progress, Scratch};
use crate::access::{JobPort, Part};
use crate::spec::{DeltaEntry, Status};

const UNIT: usize = DeltaEntry::UNIT as usize;
const ENTRY: usize = DeltaEntry::SIZE as usize;

/// Where a created record goes.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) record: u64,
    /// Bytes, a multiple of an entry's.
    pub(super) max: u32,
}

pub(super) fn create(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    sources: [u64; 2],
    len: u32,
    room: Room,
    expected: Option<u8>,
) -> Progress {
    let Scratch { first, second } = scratch;
    let mut written = 0;
    let mut full = false;
    let (done, halt) = forward(access, first, sources[0], len, |at, bytes| {
        let other = &mut second[..bytes.len()];
        let read = access.read(sources[1] + u64::from(at), other);
        let entries = differences(at, &bytes[..read.done], &other[..read.done]);
        let fit = ((room.max - written) as usize / ENTRY).min(entries.len());
        let write = access.write_entries(room.record + u64::from(written), &entries[..fit]);
        let recorded = write.done / ENTRY;
        written += (recorded * ENTRY) as u32;
        full = recorded == fit && fit < entries.len();
        // Up to the first difference that is not in the record.
        let done = entries
            .get(recorded)
            .map_or(read.done / UNIT * UNIT, |entry| usize::from(entry.unit) * UNIT - at as usize);
        Part { done, halt: if full { None } else { write.halt.or(read.halt) } }
    });
    let result = if full { 2 } else { u8::from(written > 0) };
    let end = match halt {
        Some(halt) if !full => End::Halted(halt),
        _ if expected.is_none_or(|mask| mask >> result & 1 == 1) => End::Success,
        _ => End::FalsePredicate,
    };
    Progress { done, result, value: written, end }
}

/// The entries for two buffers that stand at offset `at`.
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

impl JobPort<'_> {
    fn write_entries(&self, address: u64, entries: &[DeltaEntry]) -> Part {
        if entries.is_empty() {
            Part { done: 0, halt: None }
        } else {
            self.write(address, entries.as_bytes())
        }
    }
}

pub(super) fn apply(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    record: u64,
    record_len: u32,
    destination: u64,
    len: u32,
) -> Progress {
    let Scratch { first, second } = scratch;
    let whole = first.len() / ENTRY * ENTRY;
    let mut last_unit = None;
    let mut broken = None;
    let (done, halt) = forward(access, &mut first[..whole], record, record_len, |_, bytes| {
        let changes = Changes::parse(bytes, second, destination, len, &mut last_unit);
        let applied = if changes.data == 0 {
            Part { done: 0, halt: None }
        } else {
            access.scatter(&changes.pieces, &second[..changes.data])
        };
        // A fault on an entry comes before the broken rule of a later one.
        broken = changes.broken.filter(|_| applied.halt.is_none());
        Part { done: applied.done / UNIT * ENTRY, halt: applied.halt }
    });
    match broken {
        Some(status) => Progress::failed(done, status),
        None => Progress::up_to(done, halt),
    }
}

/// What a part of a record changes.
#[derive(Default)]
struct Changes {
    pieces: Vec<Segment>,
    /// Bytes for them.
    data: usize,
    /// Why the rest of the record does not count.
    broken: Option<Status>,
}

impl Changes {
    /// Takes the entries apart, their bytes into `data`, up to the first that breaks a rule.
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
                changes.broken = Some(Status::DELTA_OFFSET_ORDER);
                break;
            }
            if offset >= len {
                changes.broken = Some(Status::DELTA_OFFSET_RANGE);
                break;
            }
            *last_unit = Some(unit);
            data[changes.data..][..UNIT].copy_from_slice(&entry.data);
            changes.data += UNIT;
            changes.change(destination + u64::from(offset));
        }
        changes
    }

    fn change(&mut self, address: u64) {
        match self.pieces.last_mut() {
            Some(piece) if piece.address + piece.len == address => piece.len += UNIT as u64,
            _ => self.pieces.push(Segment { address, len: UNIT as u64 }),
        }
    }
}
