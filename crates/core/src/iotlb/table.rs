//! The table of entries: readers only read, writers hold the lock of a stripe.
//!
//! A bucket is 128 bytes, two lines that are fetched as one: a sequence number, odd while it is written, and five entries. A (key, block) has two buckets, both in one stripe. Invariants:
//!
//! 1. Words of a bucket are written with the lock of its stripe, between two steps of its sequence number. A reader that sees the same even number before and after has read words that
//!    belong together.
//! 2. A place holds one entry of one key. Overwriting never takes more than one entry out, and only where both buckets are full.

use super::entry::{Block, Entry, Key, Packed, Permits};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(not(loom))]
const WAYS: usize = 5;
/// Few, so that a model comes to evict.
#[cfg(loom)]
const WAYS: usize = 1;
/// Buckets that one lock covers, a power of two: among them are both of a (key, block).
#[cfg(not(loom))]
const STRIPE: usize = 32;
#[cfg(loom)]
const STRIPE: usize = 2;
/// Places are numbered with 32 bits.
const MOST_BYTES: usize = 1 << 36;
/// For how often a reader tries again where a bucket changes under it; then it goes the long way, which is always right.
const TRIES: u32 = 4;

/// A place in the table.
pub(super) type Place = u32;

#[repr(align(128))]
struct Bucket {
    sequence: AtomicU64,
    ways: [[AtomicU64; 3]; WAYS],
}

impl Default for Bucket {
    fn default() -> Self {
        Self { sequence: AtomicU64::new(0), ways: Default::default() }
    }
}

impl Bucket {
    /// What one way holds, where it is of this key and fits. Sound only between two equal even sequence numbers.
    #[inline(always)]
    fn look(&self, way: usize, key: Key, fits: impl Fn(&Entry) -> bool) -> Packed {
        let words = &self.ways[way];
        if words[0].load(Ordering::Relaxed) != key.word() {
            return Packed::NONE;
        }
        let packed = Packed::new(words[1].load(Ordering::Relaxed), words[2].load(Ordering::Relaxed));
        if fits(&Entry::unpack(packed)) { packed } else { Packed::NONE }
    }

    /// What is in any of the ways.
    fn look_around(&self, key: Key, fits: impl Fn(&Entry) -> bool) -> Packed {
        let mut ways = (0..WAYS).map(|way| self.look(way, key, &fits));
        ways.find(|found| found.is_some()).unwrap_or(Packed::NONE)
    }

    /// The sequence number, to be compared after the look; odd while the bucket is written.
    #[inline(always)]
    fn begin(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Whether the bucket was not written since [`begin`](Self::begin).
    #[inline(always)]
    fn is_unchanged(&self, before: u64) -> bool {
        // The words are read before the number is, once more.
        fence(Ordering::Acquire);
        before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before
    }

    /// The way that holds what fits. With the lock of the stripe.
    fn way_of(&self, key: Key, fits: impl Fn(&Entry) -> bool) -> Option<usize> {
        (0..WAYS).find(|way| self.look(*way, key, &fits).is_some())
    }

    fn free_way(&self, preferred: usize) -> Option<usize> {
        let is_free = |way: &usize| self.ways[*way][0].load(Ordering::Relaxed) == 0;
        Some(preferred).filter(is_free).or_else(|| (0..WAYS).find(is_free))
    }

    /// With the lock of the stripe.
    fn write(&self, way: usize, words: [u64; 3]) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before + 1, Ordering::Relaxed);
        // A reader that sees a word of this also sees the odd number.
        fence(Ordering::Release);
        for (held, word) in self.ways[way].iter().zip(words) {
            held.store(word, Ordering::Relaxed);
        }
        self.sequence.store(before + 2, Ordering::Release);
    }

    /// What a way holds, of this owner. With the lock of the stripe.
    fn of_owner(&self, way: usize, owner: [Key; 2]) -> Option<Entry> {
        let words = self.ways[way].each_ref().map(|word| word.load(Ordering::Relaxed));
        owner.iter().any(|key| key.word() == words[0]).then(|| Entry::unpack(Packed::new(words[1], words[2])))
    }
}

/// Where a (key, block) may be: its two buckets, and the way that is looked at first.
struct Home {
    one: usize,
    other: usize,
    way: usize,
}

impl Home {
    fn buckets(&self) -> [usize; 2] {
        [self.one, self.other]
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
    /// Memory that the table takes, in bytes. Each space has 4 to 8 bytes more for each of its translations.
    pub bytes: usize,
}

/// See the module.
pub(crate) struct Table {
    buckets: Box<[Bucket]>,
    /// Each with a counter that chooses what is overwritten.
    stripes: Box<[Mutex<usize>]>,
    /// The bits of a hash that do not choose the first bucket.
    shift: u32,
}

impl Table {
    /// As much as `bytes` hold, rounded down to a power of two; at least one stripe.
    pub(crate) fn new(bytes: usize) -> Self {
        let most = bytes.clamp(STRIPE * size_of::<Bucket>(), MOST_BYTES) / size_of::<Bucket>();
        let bits = most.ilog2();
        Self {
            buckets: (0..1usize << bits).map(|_| Bucket::default()).collect(),
            stripes: (0..(1usize << bits) / STRIPE).map(|_| Mutex::default()).collect(),
            shift: u64::BITS - bits,
        }
    }

    /// An entry of `key` that permits what is needed at `address`, among those that are found by this block of it.
    #[inline(always)]
    pub(super) fn find(&self, key: Key, address: u64, need: Permits, block: Block) -> Packed {
        // In one straight line where it mostly is: a scan of random length costs more in wrong guesses of the processor than in comparisons.
        let home = self.home(key, block);
        let bucket = &self.buckets[home.one];
        let before = bucket.begin();
        let found = bucket.look(home.way, key, |entry| entry.holds(address) && entry.permits.covers(need));
        if found.is_some() && bucket.is_unchanged(before) { found } else { self.find_elsewhere(key, address, need, block) }
    }

    #[inline(never)]
    fn find_elsewhere(&self, key: Key, address: u64, need: Permits, block: Block) -> Packed {
        for at in self.home(key, block).buckets() {
            let bucket = &self.buckets[at];
            for _ in 0..TRIES {
                let before = bucket.begin();
                let found = bucket.look_around(key, |entry| entry.holds(address) && entry.permits.covers(need));
                match (bucket.is_unchanged(before), found.is_some()) {
                    (true, true) => return found,
                    (true, false) => break,
                    (false, _) => {}
                }
            }
        }
        Packed::NONE
    }

    /// Enters what holds `address`, and answers where. What was entered for the address before is overwritten.
    pub(super) fn insert(&self, key: Key, address: u64, entry: &Entry, block: Block) -> Place {
        let home = self.home(key, block);
        let (both, way) = (home.buckets(), home.way);
        let mut turn = self.stripe(home.one).lock();
        let known = both.iter().find_map(|&at| self.buckets[at].way_of(key, |held| held.holds(address)).map(|way| (at, way)));
        let free = || both.iter().find_map(|&at| self.buckets[at].free_way(way).map(|way| (at, way)));
        let (at, way) = known.or_else(free).unwrap_or_else(|| {
            *turn = turn.wrapping_add(1);
            (both[*turn % 2], *turn / 2 % WAYS)
        });
        let [whence, whither] = entry.pack().words();
        self.buckets[at].write(way, [key.word(), whence, whither]);
        (at * WAYS + way) as Place
    }

    /// Takes out what is entered under a block, of both privileges, where it meets what `goes` says.
    pub(super) fn remove(&self, owner: [Key; 2], block: Block, goes: impl Fn(&Entry) -> bool) {
        for key in owner {
            let both = self.home(key, block).buckets();
            let _turn = self.stripe(both[0]).lock();
            for at in both {
                (0..WAYS).for_each(|way| self.remove_way(at, way, owner, &goes));
            }
        }
    }

    /// Takes out what is in one of `places`, where it is the owner's and `goes` says so; keeps the places that are still the owner's.
    pub(super) fn remove_at(&self, owner: [Key; 2], places: &mut Vec<Place>, goes: impl Fn(&Entry) -> bool) {
        places.retain(|place| {
            let (at, way) = (*place as usize / WAYS, *place as usize % WAYS);
            let _turn = self.stripe(at).lock();
            self.remove_way(at, way, owner, &goes);
            self.buckets[at].of_owner(way, owner).is_some()
        });
    }

    /// With the lock of the stripe.
    fn remove_way(&self, at: usize, way: usize, owner: [Key; 2], goes: &impl Fn(&Entry) -> bool) {
        let bucket = &self.buckets[at];
        if bucket.of_owner(way, owner).is_some_and(|entry| goes(&entry)) {
            bucket.write(way, [0; 3]);
        }
    }

    pub(crate) fn usage(&self) -> IotlbUsage {
        let used = |bucket: &Bucket| bucket.ways.iter().filter(|words| words[0].load(Ordering::Relaxed) != 0).count();
        let bytes = size_of_val(&*self.buckets) + size_of_val(&*self.stripes);
        IotlbUsage { entries: self.buckets.iter().map(used).sum(), places: self.buckets.len() * WAYS, bytes }
    }

    fn stripe(&self, bucket: usize) -> &Mutex<usize> {
        &self.stripes[bucket / STRIPE]
    }

    #[inline(always)]
    fn home(&self, key: Key, block: Block) -> Home {
        let hash = mix(key.word(), block.code());
        let one = (hash >> self.shift) as usize;
        Home { one, other: one ^ (hash as usize & (STRIPE - 1) | 1), way: (hash as u32 >> 8) as usize % WAYS }
    }
}

/// Spreads two words over the high bits of one, and some of the low ones.
#[inline]
fn mix(one: u64, other: u64) -> u64 {
    let product = (one.rotate_left(32) ^ other).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}
