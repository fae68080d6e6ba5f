//! The hash table of entries. Readers take no lock; writers hold the lock of a stripe.
//!
//! A line fills a cache line of 64 bytes. It has two slots of three words, and a header: a sequence
//! number, as in a seqlock, and a fingerprint of the entry in the second slot. Two lines are a
//! bucket. A (tag, block) hashes to two buckets of the same stripe, as in a cuckoo hash table; no
//! entry is relocated. Invariants:
//!
//! 1. The words of a line are written with the lock of its stripe, between two increments of its
//!    sequence number, which is odd meanwhile. A reader that loads the same header before and after
//!    the words, with an even sequence number, has read words that belong to the same entry.
//! 2. A slot has one entry of one tag. An insertion overwrites at most one entry, and an entry of
//!    another address only if both buckets are full.

use bitfield_struct::bitfield;
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU64, Ordering, fence};

use super::entry::{Block, IotlbEntry, IotlbTag, PackedEntry};
use crate::types::access::Permissions;

/// Under loom there is one, so that a model reaches the eviction of an entry.
const SLOTS_PER_LINE: usize = if cfg!(loom) { 1 } else { 2 };
const LINES_PER_BUCKET: usize = if cfg!(loom) { 1 } else { 2 };
/// One lock covers a stripe. A power of two. Both buckets of a (tag, block) are in the same stripe.
const BUCKETS_PER_STRIPE: usize = if cfg!(loom) { 2 } else { 32 };
/// The largest size of the table: the index of a slot has 32 bits. Settings are far below.
const MAX_BYTES: usize = 1 << 36;
/// How often a reader tries to read a line that is being written. After that it reports a miss,
/// which is always correct.
const TRIES: u32 = 4;

/// The index of a slot in the table.
pub(super) type EntryIndex = u32;

#[derive(Default)]
#[repr(align(64))]
struct Line {
    header: AtomicU64,
    slots: [[AtomicU64; 3]; SLOTS_PER_LINE],
}

/// The header of a line.
#[bitfield(u64)]
struct Header {
    #[bits(56)]
    sequence: u64,
    /// Some bits of the hash of the entry in the second slot; 0 if that slot is empty. They select
    /// the slot to read without a branch on its tag, whose misprediction would cost more than the
    /// rest of the look-up.
    #[bits(8)]
    fingerprint: u8,
}

impl Line {
    /// The entry of a slot, if it has this tag. Without the lock of the stripe the result is only
    /// valid if [`is_valid`](Self::is_valid) confirms it.
    #[inline(always)]
    fn load(&self, slot: usize, tag: IotlbTag) -> Option<IotlbEntry> {
        let words = &self.slots[slot];
        (words[0].load(Ordering::Relaxed) == tag.word()).then(|| {
            IotlbEntry::unpack(PackedEntry::new(
                words[1].load(Ordering::Relaxed),
                words[2].load(Ordering::Relaxed),
            ))
        })
    }

    /// Finds an entry with this tag that `matches`, in any slot. Its validity is that of
    /// [`load`](Self::load).
    fn find(&self, tag: IotlbTag, matches: impl Fn(&IotlbEntry) -> bool) -> PackedEntry {
        let mut entries = (0..SLOTS_PER_LINE).filter_map(|slot| self.load(slot, tag));
        entries.find(|entry| matches(entry)).map_or(PackedEntry::NONE, |entry| entry.pack())
    }

    /// Begins a read of the line, as `read_seqbegin` of a seqlock: loads the header.
    #[inline(always)]
    fn read_begin(&self) -> Header {
        Header::from_bits(self.header.load(Ordering::Acquire))
    }

    /// Whether the words that were loaded since [`read_begin`](Self::read_begin) returned `header`
    /// belong to the same entry: no writer was active then or has been since.
    #[inline(always)]
    fn is_valid(&self, header: Header) -> bool {
        // Acquire: the words are loaded before the header is loaded again.
        fence(Ordering::Acquire);
        header.into_bits() & 1 == 0 && self.header.load(Ordering::Relaxed) == header.into_bits()
    }

    /// The slot of an entry with this tag that `matches`. To be called with the lock of the stripe.
    fn slot_of(&self, tag: IotlbTag, matches: impl Fn(&IotlbEntry) -> bool) -> Option<usize> {
        (0..SLOTS_PER_LINE).find(|slot| self.load(*slot, tag).is_some_and(|entry| matches(&entry)))
    }

    /// An empty slot. To be called with the lock of the stripe.
    fn free_slot(&self) -> Option<usize> {
        (0..SLOTS_PER_LINE).find(|slot| self.slots[*slot][0].load(Ordering::Relaxed) == 0)
    }

    /// Writes a slot. To be called with the lock of the stripe.
    fn write(&self, slot: usize, words: [u64; 3], fingerprint: u8) {
        let header = Header::from_bits(self.header.load(Ordering::Relaxed));
        let advance = |header: Header| {
            header.with_sequence(header.sequence().wrapping_add(1) & (u64::MAX >> 8))
        };
        self.header.store(advance(header).into_bits(), Ordering::Relaxed);
        // Release: a reader that sees one of the words below also sees the odd sequence number.
        fence(Ordering::Release);
        for (stored, word) in self.slots[slot].iter().zip(words) {
            stored.store(word, Ordering::Relaxed);
        }
        let fingerprint = if slot == 1 { fingerprint } else { header.fingerprint() };
        let header = advance(advance(header)).with_fingerprint(fingerprint);
        self.header.store(header.into_bits(), Ordering::Release);
    }

    /// The entry of a slot, if it has one of the tags of an owner. To be called with the lock of
    /// the stripe.
    fn load_owned(&self, slot: usize, tags: [IotlbTag; 2]) -> Option<IotlbEntry> {
        let words = self.slots[slot].each_ref().map(|word| word.load(Ordering::Relaxed));
        tags.iter()
            .any(|tag| tag.word() == words[0])
            .then(|| IotlbEntry::unpack(PackedEntry::new(words[1], words[2])))
    }
}

/// The two buckets of a (tag, block), each by the index of the line that is probed first.
struct Buckets {
    first: usize,
    alternate: usize,
    fingerprint: u8,
}

impl Buckets {
    /// The lines of both buckets, in the order in which they are filled.
    #[inline]
    fn lines(&self) -> [usize; 2 * LINES_PER_BUCKET] {
        std::array::from_fn(|n| {
            if n < LINES_PER_BUCKET {
                self.first ^ n
            } else {
                self.alternate ^ (n - LINES_PER_BUCKET)
            }
        })
    }
}

/// How much of the translation cache is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IotlbUsage {
    /// Translations in the cache.
    pub entries: usize,
    /// The number of slots for translations. Entries are evicted before all slots are in use: about
    /// a quarter of them usually stays empty.
    pub capacity: usize,
    /// Memory of the table, in bytes. Each space has 4 to 8 bytes in addition for each of its
    /// translations.
    pub bytes: usize,
}

/// The entries of all spaces.
pub(crate) struct IotlbTable {
    lines: Box<[Line]>,
    /// The locks of the stripes. Each protects a counter that selects the next victim.
    stripes: Box<[Mutex<usize>]>,
    /// The number of low bits of a hash that do not select the first bucket.
    shift: u32,
}

impl IotlbTable {
    /// Makes a table of at most `bytes` bytes, rounded down to a power of two of buckets; it has at
    /// least one stripe.
    pub(crate) fn new(bytes: usize) -> Self {
        let bucket = LINES_PER_BUCKET * size_of::<Line>();
        let buckets = bytes.clamp(BUCKETS_PER_STRIPE * bucket, MAX_BYTES) / bucket;
        let bits = buckets.ilog2();
        Self {
            lines: (0..LINES_PER_BUCKET << bits).map(|_| Line::default()).collect(),
            stripes: (0..(1usize << bits) / BUCKETS_PER_STRIPE).map(|_| Mutex::default()).collect(),
            shift: u64::BITS - bits,
        }
    }

    /// Finds an entry with `tag` that translates `address` with the permissions in `needs`, in the
    /// one slot that is the most likely for an entry hashed by `block`.
    #[inline(always)]
    pub(super) fn probe_first(
        &self,
        tag: IotlbTag,
        address: u64,
        needs: Permissions,
        block: Block,
    ) -> Option<IotlbEntry> {
        // Straight-line code: a scan of unpredictable length costs more in mispredicted branches
        // than in comparisons.
        let buckets = self.buckets(tag, block);
        let line = &self.lines[buckets.first];
        let header = line.read_begin();
        let entry = line.load(
            usize::from(header.fingerprint() == buckets.fingerprint) & (SLOTS_PER_LINE - 1),
            tag,
        )?;
        (entry.contains(address) && entry.permissions.contains(needs) && line.is_valid(header))
            .then_some(entry)
    }

    /// Finds an entry as [`probe_first`](Self::probe_first) does, in all slots of both buckets.
    pub(super) fn probe_all(
        &self,
        tag: IotlbTag,
        address: u64,
        needs: Permissions,
        block: Block,
    ) -> PackedEntry {
        for index in self.buckets(tag, block).lines() {
            let line = &self.lines[index];
            for _ in 0..TRIES {
                let header = line.read_begin();
                let found = line.find(tag, |entry| {
                    entry.contains(address) && entry.permissions.contains(needs)
                });
                match (line.is_valid(header), found.is_some()) {
                    (true, true) => return found,
                    (true, false) => break,
                    (false, _) => {}
                }
            }
        }
        PackedEntry::NONE
    }

    /// Inserts `entry`, which translates `address`, and returns its index. It overwrites an entry
    /// with the same tag that translates `address`; otherwise it takes a free slot, or evicts one
    /// entry.
    pub(super) fn insert(
        &self,
        tag: IotlbTag,
        address: u64,
        entry: &IotlbEntry,
        block: Block,
    ) -> EntryIndex {
        let buckets = self.buckets(tag, block);
        let mut victim = self.stripe(buckets.first).lock();
        let existing = buckets.lines().into_iter().find_map(|line| {
            let slot = self.lines[line].slot_of(tag, |entry| entry.contains(address));
            slot.map(|slot| (line, slot))
        });
        let free = || {
            buckets
                .lines()
                .into_iter()
                .find_map(|line| self.lines[line].free_slot().map(|slot| (line, slot)))
        };
        let (line, slot) = existing.or_else(free).unwrap_or_else(|| {
            *victim = victim.wrapping_add(1);
            (
                buckets.lines()[*victim % (2 * LINES_PER_BUCKET)],
                *victim / (2 * LINES_PER_BUCKET) % SLOTS_PER_LINE,
            )
        });
        let [page, frame] = entry.pack().words();
        self.lines[line].write(slot, [tag.word(), page, frame], buckets.fingerprint);
        (line * SLOTS_PER_LINE + slot) as EntryIndex
    }

    /// Removes the entries with `tag` in the buckets of `block` that `selects` selects.
    pub(super) fn remove(
        &self,
        tag: IotlbTag,
        block: Block,
        selects: impl Fn(&IotlbEntry) -> bool,
    ) {
        let buckets = self.buckets(tag, block);
        let _guard = self.stripe(buckets.first).lock();
        for line in buckets.lines() {
            (0..SLOTS_PER_LINE).for_each(|slot| self.clear_slot(line, slot, [tag, tag], &selects));
        }
    }

    /// Removes the entries at `indices` that have one of `tags` and that `selects` selects. Removes
    /// from `indices` those that have no entry with one of `tags` any more.
    pub(super) fn remove_at(
        &self,
        tags: [IotlbTag; 2],
        indices: &mut Vec<EntryIndex>,
        selects: impl Fn(&IotlbEntry) -> bool,
    ) {
        indices.retain(|index| {
            let (line, slot) = (*index as usize / SLOTS_PER_LINE, *index as usize % SLOTS_PER_LINE);
            let _guard = self.stripe(line).lock();
            self.clear_slot(line, slot, tags, &selects);
            self.lines[line].load_owned(slot, tags).is_some()
        });
    }

    /// Removes from `indices` those that have no entry with one of `tags` any more.
    pub(super) fn retain_live(&self, tags: [IotlbTag; 2], indices: &mut Vec<EntryIndex>) {
        self.remove_at(tags, indices, |_| false);
    }

    /// Clears a slot whose entry has one of `tags` and is selected. To be called with the lock of
    /// the stripe.
    fn clear_slot(
        &self,
        line: usize,
        slot: usize,
        tags: [IotlbTag; 2],
        selects: &impl Fn(&IotlbEntry) -> bool,
    ) {
        let line = &self.lines[line];
        if line.load_owned(slot, tags).is_some_and(|entry| selects(&entry)) {
            line.write(slot, [0; 3], 0);
        }
    }

    /// Counts the entries. It reads the whole table, without a lock.
    pub(crate) fn usage(&self) -> IotlbUsage {
        let used = |line: &Line| {
            line.slots.iter().filter(|words| words[0].load(Ordering::Relaxed) != 0).count()
        };
        let bytes = size_of_val(&*self.lines) + size_of_val(&*self.stripes);
        IotlbUsage {
            entries: self.lines.iter().map(used).sum(),
            capacity: self.lines.len() * SLOTS_PER_LINE,
            bytes,
        }
    }

    /// The lock of the stripe that a line is in.
    fn stripe(&self, line: usize) -> &Mutex<usize> {
        &self.stripes[line / (BUCKETS_PER_STRIPE * LINES_PER_BUCKET)]
    }

    /// The buckets of a (tag, block). They differ in the bits of an index within a stripe alone.
    #[inline(always)]
    fn buckets(&self, tag: IotlbTag, block: Block) -> Buckets {
        let hash = mix(tag.word(), block.key());
        let bucket = (hash >> self.shift) as usize;
        let alternate = bucket ^ (hash as usize & (BUCKETS_PER_STRIPE - 1) | 1);
        let line = hash as usize >> 8 & (LINES_PER_BUCKET - 1);
        Buckets {
            first: (bucket * LINES_PER_BUCKET) | line,
            alternate: (alternate * LINES_PER_BUCKET) | line,
            fingerprint: (hash >> 16) as u8 | 1,
        }
    }
}

/// Hashes two words to one. The high bits of the result are well mixed, and so are the low ones
/// that are used.
#[inline]
fn mix(one: u64, other: u64) -> u64 {
    let product = (one.rotate_left(32) ^ other).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}
