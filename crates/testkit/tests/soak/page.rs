//! What stands in the pages: words that say whose they are.
//!
//! The first half of a page is the owner's: stamps. In the second half each thread that accesses
//! has a line that it writes to and a word for its atomic operations; nobody else writes there, but
//! for the owner who stamps the page as a whole before it is published.

use sva_testkit::PAGE;

use crate::life::Span;

/// Bytes of a page that only its owner writes.
pub(crate) const OWNED: usize = PAGE as usize / 2;
/// Bytes that a thread writes at once.
pub(crate) const LINE: usize = 64;
/// Threads that have room in a page.
pub(crate) const THREADS: usize = (PAGE as usize - OWNED) / (2 * LINE);

/// A page, by the number of its site and its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) site: usize,
    pub(crate) page: usize,
}

impl Name {
    /// Every word of the page when it is new.
    pub(crate) fn stamp(self, content: u32) -> u64 {
        1 << 63
            | (self.site as u64) << 56
            | (self.page as u64) << 48
            | u64::from(content) << 8
            | 0x5a
    }

    /// What a thread writes there; `number` counts its writes, from 1, and is below 2^40.
    pub(crate) fn mark(self, thread: usize, number: u64) -> u64 {
        1 << 62
            | (thread as u64) << 56
            | (self.page as u64) << 48
            | (self.site as u64) << 40
            | number
    }

    /// Whether the word may stand in the page, where no thread has written.
    fn is_stamp(self, word: u64, span: Span) -> bool {
        match span.settled() {
            Some(state) => word == if state.blank { 0 } else { self.stamp(state.content) },
            None => {
                let content = (word >> 8) as u32 & 0xff_ffff;
                word == 0 && span.may(|state| state.blank)
                    || span.contents().contains(&content) && word == self.stamp(content)
            }
        }
    }

    /// The first word that cannot stand in the page at its place, and that place. `at` is the place
    /// of the first of the bytes.
    pub(crate) fn foreign(self, span: Span, at: usize, bytes: &[u8]) -> Option<(usize, u64)> {
        let words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
        let allowed = |at: usize, word: u64| {
            let written =
                || at >= OWNED && word >> 40 == self.mark((at - OWNED) / (2 * LINE), 0) >> 40;
            self.is_stamp(word, span) || written()
        };
        words
            .enumerate()
            .map(|(n, word)| (at + 8 * n, word))
            .find(|(at, word)| !allowed(*at, *word))
    }
}

/// Where a thread writes.
pub(crate) fn line_of(thread: usize) -> usize {
    OWNED + 2 * LINE * thread
}

/// Where a thread has its word for atomic operations.
pub(crate) fn word_of(thread: usize) -> usize {
    line_of(thread) + LINE
}
