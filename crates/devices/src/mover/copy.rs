//! Kernels that write: memory move, fill, dualcast; and the loop that most kernels share.

use sva_core::Segment;

use super::{Progress, Scratch};
use crate::access::{Halt, JobPort, PAGE, Part};

/// Reads `len` bytes at `source` in chunks and offers each to `sink`, with its offset. Ends where
/// reading halts, or where the sink takes less than it was offered. Answers how many bytes the sink
/// took in all and what halted it: what halted the sink counts before what halted the read, being
/// earlier in the buffer.
pub(super) fn forward(
    access: &JobPort<'_>,
    buffer: &mut [u8],
    source: u64,
    len: u32,
    mut sink: impl FnMut(u32, &[u8]) -> Part,
) -> (u32, Option<Halt>) {
    let mut done = 0;
    while done < len {
        let chunk = buffer.len().min((len - done) as usize);
        let read = access.read(source + u64::from(done), &mut buffer[..chunk]);
        if read.done == 0 {
            return (done, read.halt);
        }
        let taken = sink(done, &buffer[..read.done]);
        done += taken.done as u32;
        let halt = taken.halt.or(read.halt);
        if halt.is_some() || taken.done < read.done {
            return (done, halt);
        }
    }
    (done, None)
}

pub(super) fn memory_move(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    source: u64,
    destination: u64,
    len: u32,
) -> Progress {
    if source < destination && destination - source < len.into() {
        let (done, halt) = backward(access, &mut scratch.first, source, destination, len);
        return Progress { result: 1, ..Progress::up_to(done, halt) };
    }
    let write = |at, bytes: &[u8]| access.write(destination + u64::from(at), bytes);
    let (done, halt) = forward(access, &mut scratch.first, source, len, write);
    Progress::up_to(done, halt)
}

/// Moves from the end to the front, for a destination that overlaps the source from above.
///
/// When a fault ends it, what is done must be the end of the buffers, or the rest of the source
/// would be lost. So each chunk is taken apart into pieces that cross no page, and the pieces are
/// read and written from the last to the first; still one call each for all of them.
fn backward(
    access: &JobPort<'_>,
    buffer: &mut [u8],
    source: u64,
    destination: u64,
    len: u32,
) -> (u32, Option<Halt>) {
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
            return (len - left as u32, read.halt);
        }
        let written = access.scatter(&to[..count], &buffer[..whole]);
        left -= whole_pieces(&to, written.done).1 as u64;
        let halt = written.halt.or(read.halt);
        if halt.is_some() {
            return (len - left as u32, halt);
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
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    source: u64,
    destinations: [u64; 2],
    len: u32,
) -> Progress {
    let (done, halt) = forward(access, &mut scratch.first, source, len, |at, bytes| {
        let first = access.write(destinations[0] + u64::from(at), bytes);
        if first.done == 0 {
            return first;
        }
        let second = access.write(destinations[1] + u64::from(at), &bytes[..first.done]);
        Part { done: second.done, halt: second.halt.or(first.halt) }
    });
    Progress::up_to(done, halt)
}

pub(super) fn fill(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    pattern: [u8; 8],
    destination: u64,
    len: u32,
) -> Progress {
    let buffer = repeat(&mut scratch.first, pattern, len);
    let mut done = 0;
    while done < len {
        let step = buffer.len().min((len - done) as usize);
        let written = access.write(destination + u64::from(done), &buffer[..step]);
        done += written.done as u32;
        if written.halt.is_some() {
            return Progress::up_to(done, written.halt);
        }
    }
    Progress::success(done)
}

/// Fills what `len` bytes need of a chunk with the pattern. A chunk is whole pages, so that each
/// begins with the pattern's first byte.
pub(super) fn repeat(chunk: &mut [u8], pattern: [u8; 8], len: u32) -> &mut [u8] {
    let needed = chunk.len().min((len as usize).next_multiple_of(pattern.len()));
    let filled = &mut chunk[..needed];
    for unit in filled.chunks_exact_mut(pattern.len()) {
        unit.copy_from_slice(&pattern);
    }
    filled
}
