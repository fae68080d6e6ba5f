//! The table of entries: readers only read, writers hold the lock of a stripe.
//!
//! A line of 64 bytes, one of the processor's, is two entries and a header: a sequence number, odd
//! while the line is written, and a mark of the second entry. Two lines are a bucket. A (key,
//! block) has two buckets, both in one stripe.
//! Invariants:
//!
//! 1. Words of a line are written with the lock of its stripe, between two steps of its sequence
//!    number. A reader that sees the same header, of an even number, before and after has read
//!    words that belong together.
//! 2. A place holds one entry of one key. Overwriting never takes more than one entry out, and only
//!    where both buckets are full.

use bitfield_struct::bitfield;

use super::entry::{Block, Entry, Key, Packed, Permits};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

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
/// Buckets that one lock covers, a power of two: among them are both of a (key, block).
#[cfg(not(loom))]
const STRIPE: usize = 32;
#[cfg(loom)]
const STRIPE: usize = 2;
/// Places are numbered with 32 bits.
const MOST_BYTES: usize = 1 << 36;
/// For how often a reader tries again where a line changes under it; then it goes the long way,
/// which is always right.
const TRIES: u32 = 4;

/// A place in the table.
pub(super) type Place = u32;

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
    mark: u8,
}

impl Line {
    /// What one way holds, where it is of this key. Sound only between two equal even sequence
    /// numbers.
    #[inline(always)]
    fn look(&self, way: usize, key: Key) -> Option<Entry> {
        let words = &self.ways[way];
        (words[0].load(Ordering::Relaxed) == key.word()).then(|| {
            Entry::unpack(Packed::new(
                words[1].load(Ordering::Relaxed),
                words[2].load(Ordering::Relaxed),
            ))
        })
    }

    /// What is in any of the ways, where it is of this key and fits.
    fn look_around(&self, key: Key, fits: impl Fn(&Entry) -> bool) -> Packed {
        let mut ways = (0..WAYS).filter_map(|way| self.look(way, key));
        ways.find(|entry| fits(entry)).map_or(Packed::NONE, |entry| entry.pack())
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
    fn way_of(&self, key: Key, fits: impl Fn(&Entry) -> bool) -> Option<usize> {
        (0..WAYS).find(|way| self.look(*way, key).is_some_and(|entry| fits(&entry)))
    }

    fn free_way(&self) -> Option<usize> {
        (0..WAYS).find(|way| self.ways[*way][0].load(Ordering::Relaxed) == 0)
    }

    /// With the lock of the stripe.
    fn write(&self, way: usize, words: [u64; 3], mark: u8) {
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
        let mark = if way == 1 { mark } else { before.mark() };
        self.header.store(step(step(before)).with_mark(mark).into_bits(), Ordering::Release);
    }

    /// What a way holds, of this owner. With the lock of the stripe.
    fn of_owner(&self, way: usize, owner: [Key; 2]) -> Option<Entry> {
        let words = self.ways[way].each_ref().map(|word| word.load(Ordering::Relaxed));
        owner
            .iter()
            .any(|key| key.word() == words[0])
            .then(|| Entry::unpack(Packed::new(words[1], words[2])))
    }
}

/// Where a (key, block) may be: the line that is looked at first, and one of the other bucket.
struct Home {
    line: usize,
    other: usize,
    mark: u8,
}

impl Home {
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
    pub places: usize,
    /// Memory that the table takes, in bytes. Each space has 4 to 8 bytes more for each of its
    /// translations.
    pub bytes: usize,
}

/// See the module.
pub(crate) struct Table {
    lines: Box<[Line]>,
    /// Each with a counter that chooses what is overwritten.
    stripes: Box<[Mutex<usize>]>,
    /// The bits of a hash that do not choose the first bucket.
    shift: u32,
}

impl Table {
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

    /// An entry of `key` that permits what is needed at `address`, where it is in the place that is
    /// the likeliest one for those that are found by this block of it.
    #[inline(always)]
    pub(super) fn glance(
        &self,
        key: Key,
        address: u64,
        need: Permits,
        block: Block,
    ) -> Option<Entry> {
        // In one straight line: a scan of random length costs more in wrong guesses of the
        // processor than in comparisons.
        let home = self.home(key, block);
        let line = &self.lines[home.line];
        let before = line.begin();
        let entry = line.look(usize::from(before.mark() == home.mark) & (WAYS - 1), key)?;
        (entry.holds(address) && entry.permits.covers(need) && line.is_unchanged(before))
            .then_some(entry)
    }

    /// The same in any of the places.
    pub(super) fn find(&self, key: Key, address: u64, need: Permits, block: Block) -> Packed {
        for at in self.home(key, block).lines() {
            let line = &self.lines[at];
            for _ in 0..TRIES {
                let before = line.begin();
                let found = line
                    .look_around(key, |entry| entry.holds(address) && entry.permits.covers(need));
                match (line.is_unchanged(before), found.is_some()) {
                    (true, true) => return found,
                    (true, false) => break,
                    (false, _) => {}
                }
            }
        }
        Packed::NONE
    }

    /// Enters what holds `address`, and answers where. What was entered for the address before is
    /// overwritten.
    pub(super) fn insert(&self, key: Key, address: u64, entry: &Entry, block: Block) -> Place {
        let home = self.home(key, block);
        let mut turn = self.stripe(home.line).lock();
        let known = home.lines().into_iter().find_map(|at| {
            self.lines[at].way_of(key, |held| held.holds(address)).map(|way| (at, way))
        });
        let free = || {
            home.lines().into_iter().find_map(|at| self.lines[at].free_way().map(|way| (at, way)))
        };
        let (at, way) = known.or_else(free).unwrap_or_else(|| {
            *turn = turn.wrapping_add(1);
            (home.lines()[*turn % (2 * LINES)], *turn / (2 * LINES) % WAYS)
        });
        let [whence, whither] = entry.pack().words();
        self.lines[at].write(way, [key.word(), whence, whither], home.mark);
        (at * WAYS + way) as Place
    }

    /// Takes out what is entered under a block, where `goes` says so.
    pub(super) fn remove(&self, key: Key, block: Block, goes: impl Fn(&Entry) -> bool) {
        let home = self.home(key, block);
        let _turn = self.stripe(home.line).lock();
        for at in home.lines() {
            (0..WAYS).for_each(|way| self.remove_way(at, way, [key, key], &goes));
        }
    }

    /// Takes out what is in one of `places`, where it is the owner's and `goes` says so; keeps the
    /// places that are still the owner's.
    pub(super) fn remove_at(
        &self,
        owner: [Key; 2],
        places: &mut Vec<Place>,
        goes: impl Fn(&Entry) -> bool,
    ) {
        places.retain(|place| {
            let (at, way) = (*place as usize / WAYS, *place as usize % WAYS);
            let _turn = self.stripe(at).lock();
            self.remove_way(at, way, owner, &goes);
            self.lines[at].of_owner(way, owner).is_some()
        });
    }

    /// With the lock of the stripe.
    fn remove_way(&self, at: usize, way: usize, owner: [Key; 2], goes: &impl Fn(&Entry) -> bool) {
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
            places: self.lines.len() * WAYS,
            bytes,
        }
    }

    fn stripe(&self, line: usize) -> &Mutex<usize> {
        &self.stripes[line / (STRIPE * LINES)]
    }

    #[inline(always)]
    fn home(&self, key: Key, block: Block) -> Home {
        let hash = mix(key.word(), block.code());
        let bucket = (hash >> self.shift) as usize;
        let other = bucket ^ (hash as usize & (STRIPE - 1) | 1);
        let line = hash as usize >> 8 & (LINES - 1);
        Home {
            line: (bucket * LINES) | line,
            other: (other * LINES) | line,
            mark: (hash >> 16) as u8 | 1,
        }
    }
}

/// Spreads two words over the high bits of one, and some of the low ones.
#[inline]
fn mix(one: u64, other: u64) -> u64 {
    let product = (one.rotate_left(32) ^ other).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}
