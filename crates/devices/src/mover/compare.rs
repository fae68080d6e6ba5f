//! The kernels that compare: buffer with buffer, buffer with pattern.

use super::copy::{fill_with_pattern, read_chunks};
use super::outcome::{End, Progress};
use super::scratch::Scratch;
use crate::job::{JobAccess, TransferCause, Transferred};

pub(super) fn buffers(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    buffers: [u64; 2],
    len: u32,
    expected: Option<u8>,
) -> Progress {
    let Scratch { first, second } = scratch;
    let mut differs = false;
    let (done, cause) = read_chunks(access, first, buffers[0], len, |at, bytes| {
        let other = &mut second[..bytes.len()];
        let read = access.read(buffers[1] + u64::from(at), other);
        match first_difference(&bytes[..read.done], &other[..read.done]) {
            Some(equal) => {
                differs = true;
                Transferred::all(equal)
            }
            None => read,
        }
    });
    conclude(done, differs, cause, expected)
}

pub(super) fn pattern(
    access: &JobAccess<'_>,
    scratch: &mut Scratch,
    source: u64,
    pattern: [u8; 8],
    len: u32,
    expected: Option<u8>,
) -> Progress {
    let Scratch { first, second } = scratch;
    let wanted = fill_with_pattern(second, pattern, len);
    let mut differs = false;
    let (done, cause) = read_chunks(access, first, source, len, |_, bytes| {
        let difference = first_difference(bytes, &wanted[..bytes.len()]);
        differs = difference.is_some();
        Transferred::all(difference.unwrap_or(bytes.len()))
    });
    conclude(done, differs, cause, expected)
}

/// A difference that was found is the result, even if a fault lies behind it.
fn conclude(
    done: u32,
    differs: bool,
    cause: Option<TransferCause>,
    expected: Option<u8>,
) -> Progress {
    let result = u8::from(differs);
    if !differs && cause.is_some() {
        return Progress::up_to(done, cause);
    }
    let end = if expected.is_none_or(|expected| expected == result) {
        End::Success
    } else {
        End::FalsePredicate
    };
    Progress { done, result, value: 0, end }
}

/// The first index at which two buffers of one length differ.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    const BLOCK: usize = 4096;
    // Whole blocks first: to compare slices for equality is several times faster than to search for
    // the first byte that differs.
    let block = a.chunks(BLOCK).zip(b.chunks(BLOCK)).position(|(a, b)| a != b)? * BLOCK;
    a[block..].iter().zip(&b[block..]).position(|(a, b)| a != b).map(|at| block + at)
}
