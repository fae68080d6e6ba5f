//! The kernels that copy and fill: memory move, fill, dualcast; and the loop that most kernels
//! share.

use sva_core::Segment;

use super::outcome::Progress;
use super::scratch::Scratch;
use crate::job::{JobAccess, PAGE, TransferCause, Transferred};

/// Reads `len` bytes at `source` in chunks, first to last, and passes each chunk to `sink` with its
/// offset. Ends early where a read fails, or where the sink takes less than it was passed. Returns
/// how many bytes the sink took in all, and why no more. Where both the read and the sink failed,
/// the sink's cause counts: it is the earlier one in the buffer.
pub(super) fn read_chunks(
    access: &JobAccess<'_>,
    buffer: &mut [u8],
    source: u64,
    len: u32,
    mut sink: impl FnMut(u32, &[u8]) -> Transferred,
) -> (u32, Option<TransferCause>) {
    let mut done = 0;
    while done < len {
        let chunk = buffer.len().min((len - done) as usize);
        let read = access.read(source + u64::from(done), &mut buffer[..chunk]);
        if read.done == 0 {
            return (done, read.cause);
        }
        let taken = sink(done, &buffer[..read.done]);
        done += taken.done as u32;
        let cause = taken.cause.or(read.cause);
        if cause.is_some() || taken.done < read.done {
            return (done, cause);
        }
    }
    (done, None)
}

pub(super) fn memory_move(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    source: u64,
    destination: u64,
    len: u32,
) -> Progress {
    if source < destination && destination - source < len.into() {
        let (done, cause) = move_backward(access, &mut scratch.first, source, destination, len);
        return Progress { result: 1, ..Progress::up_to(done, cause) };
    }
    let write = |at, bytes: &[u8]| access.write(destination + u64::from(at), bytes);
    let (done, cause) = read_chunks(access, &mut scratch.first, source, len, write);
    Progress::up_to(done, cause)
}

/// Moves from the end to the front, for a destination that begins inside the source.
///
/// If a fault ends the move, what is done must be the end of the buffers: otherwise the rest of the
/// source is overwritten. So each chunk is divided into pieces that cross no page, which are read
/// and written from the last to the first, with one gather and one scatter for each chunk.
fn move_backward(
    access: &JobAccess<'_>,
    buffer: &mut [u8],
    source: u64,
    destination: u64,
    len: u32,
) -> (u32, Option<TransferCause>) {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let mut left = u64::from(len);
    while left > 0 {
        from.clear();
        to.clear();
        let mut taken = 0;
        while taken < left && taken < buffer.len() as u64 {
            let last = left - taken - 1;
            let in_page = |first: u64| (first + last) % PAGE + 1;
            let len = in_page(source)
                .min(in_page(destination))
                .min(last + 1)
                .min(buffer.len() as u64 - taken);
            from.push(Segment { address: source + (last + 1 - len), len });
            to.push(Segment { address: destination + (last + 1 - len), len });
            taken += len;
        }
        let read = access.gather(&from, &mut buffer[..taken as usize]);
        let (count, whole) = whole_pieces(&to, read.done);
        if whole == 0 {
            return (len - left as u32, read.cause);
        }
        let written = access.scatter(&to[..count], &buffer[..whole]);
        left -= whole_pieces(&to, written.done).1 as u64;
        let cause = written.cause.or(read.cause);
        if cause.is_some() {
            return (len - left as u32, cause);
        }
    }
    (len, None)
}

/// How many of the pieces are inside the first `done` bytes, and their bytes.
fn whole_pieces(pieces: &[Segment], done: usize) -> (usize, usize) {
    let mut bytes = 0;
    let mut count = 0;
    for piece in pieces {
        if bytes + piece.len as usize > done {
            break;
        }
        bytes += piece.len as usize;
        count += 1;
    }
    (count, bytes)
}

pub(super) fn dualcast(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    source: u64,
    destinations: [u64; 2],
    len: u32,
) -> Progress {
    let (done, cause) = read_chunks(access, &mut scratch.first, source, len, |at, bytes| {
        let first = access.write(destinations[0] + u64::from(at), bytes);
        if first.done == 0 {
            return first;
        }
        let second = access.write(destinations[1] + u64::from(at), &bytes[..first.done]);
        Transferred { done: second.done, cause: second.cause.or(first.cause) }
    });
    Progress::up_to(done, cause)
}

pub(super) fn fill(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    pattern: [u8; 8],
    destination: u64,
    len: u32,
) -> Progress {
    let buffer = fill_with_pattern(&mut scratch.first, pattern, len);
    let mut done = 0;
    while done < len {
        let step = buffer.len().min((len - done) as usize);
        let written = access.write(destination + u64::from(done), &buffer[..step]);
        done += written.done as u32;
        if written.cause.is_some() {
            return Progress::up_to(done, written.cause);
        }
    }
    Progress::success(done)
}

/// Fills as much of a chunk as `len` bytes need with the pattern. A chunk is whole pages, so every
/// chunk begins with the pattern's first byte.
pub(super) fn fill_with_pattern(chunk: &mut [u8], pattern: [u8; 8], len: u32) -> &mut [u8] {
    let needed = chunk.len().min((len as usize).next_multiple_of(pattern.len()));
    let filled = &mut chunk[..needed];
    for unit in filled.chunks_exact_mut(pattern.len()) {
        unit.copy_from_slice(&pattern);
    }
    filled
}
