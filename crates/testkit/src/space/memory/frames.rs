//! The frames of a space: places that keep their number and their contents wherever an address
//! leads.
//!
//! A *frame* is what a translation names. What is in it belongs to a *store*, which has the number
//! of the first frame that led there. Two frames lead to one store while pages are being moved to
//! new frames: what a device writes through the old number before the change is over is not lost,
//! as it is not in a kernel that copies only when nobody can write any more. A store goes with the
//! last frame that leads to it.

use std::collections::BTreeMap;

use rangemap::RangeInclusiveMap;
use sva_core::AddrRange;

use crate::pages::PAGE;
use crate::ranges::{parts, shifted, span};

type Page = [u8; PAGE as usize];

/// The first frame number: above every address that a bus has.
const FIRST: u64 = 1 << 60;

/// The first of the numbers for the frames of `range`, used for nothing before or after. It is
/// congruent to the address modulo 2^`bits`: what is aligned in one is in the other.
///
/// Different extents have a page between them that is nobody's. Otherwise, whether two of them make
/// one large translation would depend on what other threads map.
///
/// # Panics
/// The numbers are used up: about 2^64 bytes have been mapped.
#[expect(clippy::disallowed_types, reason = "a counter that orders nothing")]
pub(super) fn fresh(range: AddrRange, bits: u8) -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    // Not from the shim: frames synchronise nothing, and a model must not branch on them.
    static NEXT: AtomicU64 = AtomicU64::new(FIRST);
    let place = |next: u64| next.checked_add(range.first().wrapping_sub(next) & ((1 << bits) - 1));
    let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
        place(next)?.checked_add(range.len())?.checked_add(PAGE)
    });
    taken
        .ok()
        .and_then(place)
        .expect("map less than 2^63 bytes at once: the numbers of frames are used up")
}

#[derive(Default)]
pub(super) struct Frames {
    /// The live frames; what to add to their numbers to get their stores'.
    live: RangeInclusiveMap<u64, u64>,
    /// How many live frames lead to a store.
    users: RangeInclusiveMap<u64, u32>,
    /// Store / [`PAGE`] -> contents. One without an entry reads as zeros.
    pages: BTreeMap<u64, Box<Page>>,
}

impl Frames {
    /// New frames, full of zeros.
    pub(super) fn create(&mut self, frames: AddrRange) {
        self.live.insert(span(frames), 0);
        self.users.insert(span(frames), 1);
    }

    /// New frames from `first` on that lead to where the live `frames` lead.
    pub(super) fn alias(&mut self, frames: AddrRange, first: u64) {
        let by = first.wrapping_sub(frames.first());
        for (part, store) in parts(&self.live, frames) {
            self.live.insert(span(shifted(part, by)), store.wrapping_sub(by));
            for (stores, users) in parts(&self.users, shifted(part, store)) {
                self.users.insert(span(stores), users + 1);
            }
        }
    }

    /// Frees live frames; their contents go with the last of those that lead there.
    pub(super) fn release(&mut self, frames: AddrRange) {
        for (part, store) in parts(&self.live, frames) {
            self.live.remove(span(part));
            for (stores, users) in parts(&self.users, shifted(part, store)) {
                if users > 1 {
                    self.users.insert(span(stores), users - 1);
                } else {
                    self.users.remove(span(stores));
                    self.clear(stores);
                }
            }
        }
    }

    /// Whether all of them are live.
    pub(super) fn are_live(&self, frames: AddrRange) -> bool {
        self.live.gaps(&span(frames)).next().is_none()
    }

    /// How many pages of them are live.
    pub(super) fn count(&self) -> u64 {
        self.live.iter().map(|(frames, _)| (frames.end() - frames.start()) / PAGE + 1).sum()
    }

    /// How many stores have contents of their own.
    #[cfg(all(test, not(loom)))]
    pub(super) fn stored(&self) -> usize {
        self.pages.len()
    }

    /// Reads from live frames.
    pub(super) fn read(&self, frame: u64, buf: &mut [u8]) {
        let mut at = 0;
        for (store, len) in self.steps(frame, buf.len()) {
            let (offset, part) = ((store % PAGE) as usize, &mut buf[at..at + len]);
            match self.pages.get(&(store / PAGE)) {
                Some(page) => part.copy_from_slice(&page[offset..offset + len]),
                None => part.fill(0),
            }
            at += len;
        }
    }

    /// Writes to live frames.
    pub(super) fn write(&mut self, frame: u64, data: &[u8]) {
        let mut rest = data;
        for (store, len) in self.steps(frame, data.len()) {
            let (part, after) = rest.split_at(len);
            let page =
                self.pages.entry(store / PAGE).or_insert_with(|| Box::new([0; PAGE as usize]));
            let offset = (store % PAGE) as usize;
            page[offset..offset + len].copy_from_slice(part);
            rest = after;
        }
    }

    /// The stores behind `len` bytes from `frame` on, in steps that cross no page.
    fn steps(&self, frame: u64, len: usize) -> Vec<(u64, usize)> {
        let mut steps = Vec::with_capacity(len / PAGE as usize + 2);
        let mut at = 0;
        while at < len {
            let here = frame + at as u64;
            let store = self.live.get(&here).expect("the caller has seen that the frames are live");
            let step = ((PAGE - here % PAGE) as usize).min(len - at);
            steps.push((here.wrapping_add(*store), step));
            at += step;
        }
        steps
    }

    fn clear(&mut self, stores: AddrRange) {
        while let Some((&page, _)) =
            self.pages.range(stores.first() / PAGE..=stores.last() / PAGE).next()
        {
            self.pages.remove(&page);
        }
    }
}
