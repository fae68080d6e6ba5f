//! Kernels that compare: buffer with buffer, buffer with pattern.

use super::copy::{forward, repeat};
use super::{End, Progress, Scratch};
use crate::access::{Halt, JobPort, Part};

pub(super) fn buffers(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    buffers: [u64; 2],
    len: u32,
    expected: Option<u8>,
) -> Progress {
    let Scratch { first, second } = scratch;
    let mut differs = false;
    let (done, halt) = forward(access, first, buffers[0], len, |at, bytes| {
        let other = &mut second[..bytes.len()];
        let read = access.read(buffers[1] + u64::from(at), other);
        match first_difference(&bytes[..read.done], &other[..read.done]) {
            Some(equal) => {
                differs = true;
                Part { done: equal, halt: None }
            }
            None => read,
        }
    });
    judged(done, differs, halt, expected)
}

pub(super) fn pattern(
    access: &JobPort<'_>,
    scratch: &mut Scratch,
    source: u64,
    pattern: [u8; 8],
    len: u32,
    expected: Option<u8>,
) -> Progress {
    let Scratch { first, second } = scratch;
    let wanted = repeat(second, pattern, len);
    let mut differs = false;
    let (done, halt) = forward(access, first, source, len, |_, bytes| {
        let difference = first_difference(bytes, &wanted[..bytes.len()]);
        differs = difference.is_some();
        Part { done: difference.unwrap_or(bytes.len()), halt: None }
    });
    judged(done, differs, halt, expected)
}

/// A difference that was found stands, also where a fault lies behind it.
fn judged(done: u32, differs: bool, halt: Option<Halt>, expected: Option<u8>) -> Progress {
    let result = u8::from(differs);
    if !differs && halt.is_some() {
        return Progress::up_to(done, halt);
    }
    let end = if expected.is_none_or(|expected| expected == result) {
        End::Success
    } else {
        End::FalsePredicate
    };
    Progress { done, result, value: 0, end }
}

/// Where two buffers of one length differ first.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    const BLOCK: usize = 4096;
    // Whole blocks first: comparing slices for equality is several times faster than looking for
    // the place.
    let block = a.chunks(BLOCK).zip(b.chunks(BLOCK)).position(|(a, b)| a != b)? * BLOCK;
    a[block..].iter().zip(&b[block..]).position(|(a, b)| a != b).map(|at| block + at)
}
