//! The table of entries: readers only read, writers hold the lock of a stripe.
//!
//! A line of 64 bytes, one of the processor's, is two entries and a header: a sequence number, odd
//! while the line is written, and a fingerprint of the second entry. Two lines are a bucket. A (tag,
//! block) has two buckets, both in one stripe.
//! Invariants:
//!
//! 1. Words of a line are written with the lock of its stripe, between two steps of its sequence
//!    number. A reader that sees the same header, of an even number, before and after has read
//!    words that belong together.
//! 2. An index holds one entry of one tag. Overwriting never takes more than one entry out, and only
//!    where both buckets are full.

use bitfield_struct::bitfield;
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU64, Ordering, fence};

use super::entry::{Block, IotlbEntry, PackedEntry, TlbTag};
use crate::types::access::Permissions;

/// Entries of a line, lines of a bucket.
#[cfg(not(loom))]
const WAYS: usize = 2;
#[cfg(not(loom))]
const LINES: usize = 2;
/// Few, so that a model comes to evict.
#[cfg(loom)]
const WAYS: usize = 1;
#[cfg(loom)]
const LINES: usize = 1;
/// Buckets that one lock covers, a power of two: among them are both of a (tag, block).
#[cfg(not(loom))]
const STRIPE: usize = 32;
#[cfg(loom)]
const STRIPE: usize = 2;
/// Entries are numbered with 32 bits.
const MOST_BYTES: usize = 1 << 36;
/// How often a reader tries again where a line changes under it. Then it counts as a miss, which is
/// always right.
const TRIES: u32 = 4;

/// The index of an entry in the table: the way of a line.
pub(super) type EntryIndex = u32;

#[derive(Default)]
#[repr(align(64))]
struct Line {
    header: AtomicU64,
    ways: [[AtomicU64; 3]; WAYS],
}

/// What the header of a line says.
#[bitfield(u64)]
struct Header {
    #[bits(56)]
    sequence: u64,
    /// Some bits of the hash by which the second entry was entered, so that it shows which of the
    /// two is looked for: a comparison that the processor has to guess right costs more than
    /// all else. 0: there is no such entry.
    #[bits(8)]
    fingerprint: u8,
}

impl Line {
    /// What one way holds, where it is of this tag. Sound only between two equal even sequence
    /// numbers.
    #[inline(always)]
    fn look(&self, way: usize, tag: TlbTag) -> Option<IotlbEntry> {
        let words = &self.ways[way];
        (words[0].load(Ordering::Relaxed) == tag.word()).then(|| {
            IotlbEntry::unpack(PackedEntry::new(
                words[1].load(Ordering::Relaxed),
                words[2].load(Ordering::Relaxed),
            ))
        })
    }

    /// What is in any of the ways, where it is of this tag and fits.
    fn look_around(&self, tag: TlbTag, fits: impl Fn(&IotlbEntry) -> bool) -> PackedEntry {
        let mut ways = (0..WAYS).filter_map(|way| self.look(way, tag));
        ways.find(|entry| fits(entry)).map_or(PackedEntry::NONE, |entry| entry.pack())
    }

    /// To be compared after the look.
    #[inline(always)]
    fn begin(&self) -> Header {
        Header::from_bits(self.header.load(Ordering::Acquire))
    }

    /// Whether the line was not written since [`begin`](Self::begin).
    #[inline(always)]
    fn is_unchanged(&self, before: Header) -> bool {
        // The words are read before the header is, once more.
        fence(Ordering::Acquire);
        before.into_bits() & 1 == 0 && self.header.load(Ordering::Relaxed) == before.into_bits()
    }

    /// The way that holds what fits. With the lock of the stripe.
    fn way_of(&self, tag: TlbTag, fits: impl Fn(&IotlbEntry) -> bool) -> Option<usize> {
        (0..WAYS).find(|way| self.look(*way, tag).is_some_and(|entry| fits(&entry)))
    }

    fn free_way(&self) -> Option<usize> {
        (0..WAYS).find(|way| self.ways[*way][0].load(Ordering::Relaxed) == 0)
    }

    /// With the lock of the stripe.
    fn write(&self, way: usize, words: [u64; 3], fingerprint: u8) {
        let before = Header::from_bits(self.header.load(Ordering::Relaxed));
        let step = |header: Header| {
            header.with_sequence(header.sequence().wrapping_add(1) & (u64::MAX >> 8))
        };
        self.header.store(step(before).into_bits(), Ordering::Relaxed);
        // A reader that sees a word of this also sees the odd number.
        fence(Ordering::Release);
        for (held, word) in self.ways[way].iter().zip(words) {
            held.store(word, Ordering::Relaxed);
        }
        let fingerprint = if way == 1 { fingerprint } else { before.fingerprint() };
        self.header
            .store(step(step(before)).with_fingerprint(fingerprint).into_bits(), Ordering::Release);
    }

    /// What a way holds, of this owner. With the lock of the stripe.
    fn of_owner(&self, way: usize, owner: [TlbTag; 2]) -> Option<IotlbEntry> {
        let words = self.ways[way].each_ref().map(|word| word.load(Ordering::Relaxed));
        owner
            .iter()
            .any(|tag| tag.word() == words[0])
            .then(|| IotlbEntry::unpack(PackedEntry::new(words[1], words[2])))
    }
}

/// Where a (tag, block) may be: the line that is looked at first, and one of the other bucket.
struct Buckets {
    line: usize,
    other: usize,
    fingerprint: u8,
}

impl Buckets {
    /// The lines of both buckets, in the order in which they are filled.
    #[inline]
    fn lines(&self) -> [usize; 2 * LINES] {
        std::array::from_fn(|n| if n < LINES { self.line ^ n } else { self.other ^ (n - LINES) })
    }
}

/// How much of the translation cache is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IotlbUsage {
    /// Translations that are held.
    pub entries: usize,
    /// How many there is room for; the last quarter is filled only by chance.
    pub capacity: usize,
    /// Memory that the table takes, in bytes. Each space has 4 to 8 bytes more for each of its
    /// translations.
    pub bytes: usize,
}

/// The entries of all spaces.
pub(crate) struct IotlbTable {
    lines: Box<[Line]>,
    /// Each with a counter that chooses what is overwritten.
    stripes: Box<[Mutex<usize>]>,
    /// The bits of a hash that do not choose the first bucket.
    shift: u32,
}

impl IotlbTable {
    /// As much as `bytes` hold, rounded down to a power of two; at least one stripe.
    pub(crate) fn new(bytes: usize) -> Self {
        let bucket = LINES * size_of::<Line>();
        let most = bytes.clamp(STRIPE * bucket, MOST_BYTES) / bucket;
        let bits = most.ilog2();
        Self {
            lines: (0..LINES << bits).map(|_| Line::default()).collect(),
            stripes: (0..(1usize << bits) / STRIPE).map(|_| Mutex::default()).collect(),
            shift: u64::BITS - bits,
        }
    }

    /// An entry of `tag` that permits what is needed at `address`, where it is in the index that is
    /// the likeliest one for those that are found by this block of it.
    #[inline(always)]
    pub(super) fn probe_first(
        &self,
        tag: TlbTag,
        address: u64,
        needs: Permissions,
        block: Block,
    ) -> Option<IotlbEntry> {
        // In one straight line: a scan of random length costs more in wrong guesses of the
        // processor than in comparisons.
        let buckets = self.buckets(tag, block);
        let line = &self.lines[buckets.line];
        let before = line.begin();
        let entry =
            line.look(usize::from(before.fingerprint() == buckets.fingerprint) & (WAYS - 1), tag)?;
        (entry.holds(address) && entry.permissions.contains(needs) && line.is_unchanged(before))
            .then_some(entry)
    }

    /// The same in any of the indices.
    pub(super) fn probe_all(
        &self,
        tag: TlbTag,
        address: u64,
        needs: Permissions,
        block: Block,
    ) -> PackedEntry {
        for at in self.buckets(tag, block).lines() {
            let line = &self.lines[at];
            for _ in 0..TRIES {
                let before = line.begin();
                let found = line.look_around(tag, |entry| {
                    entry.holds(address) && entry.permissions.contains(needs)
                });
                match (line.is_unchanged(before), found.is_some()) {
                    (true, true) => return found,
                    (true, false) => break,
                    (false, _) => {}
                }
            }
        }
        PackedEntry::NONE
    }

    /// Enters what holds `address`, and answers where. What was entered for the address before is
    /// overwritten.
    pub(super) fn insert(
        &self,
        tag: TlbTag,
        address: u64,
        entry: &IotlbEntry,
        block: Block,
    ) -> EntryIndex {
        let buckets = self.buckets(tag, block);
        let mut turn = self.stripe(buckets.line).lock();
        let known = buckets.lines().into_iter().find_map(|at| {
            self.lines[at].way_of(tag, |held| held.holds(address)).map(|way| (at, way))
        });
        let free = || {
            buckets
                .lines()
                .into_iter()
                .find_map(|at| self.lines[at].free_way().map(|way| (at, way)))
        };
        let (at, way) = known.or_else(free).unwrap_or_else(|| {
            *turn = turn.wrapping_add(1);
            (buckets.lines()[*turn % (2 * LINES)], *turn / (2 * LINES) % WAYS)
        });
        let [page, frame] = entry.pack().words();
        self.lines[at].write(way, [tag.word(), page, frame], buckets.fingerprint);
        (at * WAYS + way) as EntryIndex
    }

    /// Takes out what is entered under a block, where `goes` says so.
    pub(super) fn remove(&self, tag: TlbTag, block: Block, goes: impl Fn(&IotlbEntry) -> bool) {
        let buckets = self.buckets(tag, block);
        let _turn = self.stripe(buckets.line).lock();
        for at in buckets.lines() {
            (0..WAYS).for_each(|way| self.remove_way(at, way, [tag, tag], &goes));
        }
    }

    /// Takes out what is in one of `indices`, where it is the owner's and `goes` says so; keeps the
    /// indices that are still the owner's.
    pub(super) fn remove_at(
        &self,
        owner: [TlbTag; 2],
        indices: &mut Vec<EntryIndex>,
        goes: impl Fn(&IotlbEntry) -> bool,
    ) {
        indices.retain(|index| {
            let (at, way) = (*index as usize / WAYS, *index as usize % WAYS);
            let _turn = self.stripe(at).lock();
            self.remove_way(at, way, owner, &goes);
            self.lines[at].of_owner(way, owner).is_some()
        });
    }

    /// With the lock of the stripe.
    fn remove_way(
        &self,
        at: usize,
        way: usize,
        owner: [TlbTag; 2],
        goes: &impl Fn(&IotlbEntry) -> bool,
    ) {
        let line = &self.lines[at];
        if line.of_owner(way, owner).is_some_and(|entry| goes(&entry)) {
            line.write(way, [0; 3], 0);
        }
    }

    pub(crate) fn usage(&self) -> IotlbUsage {
        let used = |line: &Line| {
            line.ways.iter().filter(|words| words[0].load(Ordering::Relaxed) != 0).count()
        };
        let bytes = size_of_val(&*self.lines) + size_of_val(&*self.stripes);
        IotlbUsage {
            entries: self.lines.iter().map(used).sum(),
            capacity: self.lines.len() * WAYS,
            bytes,
        }
    }

    fn stripe(&self, line: usize) -> &Mutex<usize> {
        &self.stripes[line / (STRIPE * LINES)]
    }

    #[inline(always)]
    fn buckets(&self, tag: TlbTag, block: Block) -> Buckets {
        let hash = mix(tag.word(), block.code());
        let bucket = (hash >> self.shift) as usize;
        let other = bucket ^ (hash as usize & (STRIPE - 1) | 1);
        let line = hash as usize >> 8 & (LINES - 1);
        Buckets {
            line: (bucket * LINES) | line,
            other: (other * LINES) | line,
            fingerprint: (hash >> 16) as u8 | 1,
        }
    }
}

/// Spreads two words over the high bits of one, and some of the low ones.
#[inline]
fn mix(one: u64, other: u64) -> u64 {
    let product = (one.rotate_left(32) ^ other).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}
