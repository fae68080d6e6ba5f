//! One entry: a run, or the part of one that lies in one block, in three words.

use bitfield_struct::bitfield;

use crate::ats::Permissions;
use crate::fault::Access;
use crate::ids::Generation;
use crate::range::AddrRange;
use crate::space::Run;

/// Address bits within a page.
const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;

/// Whose translation it is: a life of a PASID, and the privilege that was asked with. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    #[inline]
    pub(crate) fn new(owner: Generation, privileged: bool) -> Self {
        // Generations count up from 1: the top bit is not reached.
        Self(owner.0 << 1 | u64::from(privileged))
    }

    #[inline]
    pub(super) fn word(self) -> u64 {
        self.0
    }
}

/// The sizes of blocks that entries are found by, as powers of two: 4 KiB, 64 KiB, 2 MiB, 1 GiB. A
/// run of 16 KiB is found by its 64 KiB.
const SIZES: [u32; 4] = [12, 16, 21, 30];

/// Which of the [`SIZES`] something is about, the smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u8);

impl Size {
    pub(super) const COUNT: usize = SIZES.len();

    pub(super) fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// The smallest one of a set, each of which is its [`bit`](Self::bit).
    #[inline(always)]
    pub(super) fn smallest_of(set: u8) -> Option<Self> {
        (set != 0).then(|| Self(set.trailing_zeros() as u8))
    }

    #[inline]
    fn bits(self) -> u32 {
        SIZES[usize::from(self.0) % Self::COUNT]
    }

    #[inline]
    pub(super) fn bit(self) -> u8 {
        1 << self.0
    }
}

/// An aligned block of one of the sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(super) number: u64,
    pub(super) size: Size,
}

impl Block {
    #[inline]
    pub(super) fn of(address: u64, size: Size) -> Self {
        Self { number: address >> size.bits(), size }
    }

    /// One number for size and place.
    #[inline]
    pub(super) fn code(self) -> u64 {
        self.number << 2 | u64::from(self.size.0)
    }

    pub(super) fn range(self) -> Option<AddrRange> {
        AddrRange::new(self.number << self.size.bits(), 1 << self.size.bits())
    }

    /// All blocks of a size that meet `range`, and how many there are.
    pub(super) fn meeting(range: AddrRange, size: Size) -> (impl Iterator<Item = Self>, u64) {
        let (first, last) = (range.first() >> size.bits(), range.last() >> size.bits());
        ((first..=last).map(move |number| Self { number, size }), last - first + 1)
    }
}

/// [`Permissions`] as bits, to be compared at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permits(u8);

impl Permits {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const WRITE: Self = Self(2);
    pub(crate) const EXECUTE: Self = Self(4);
    pub(crate) const READ_WRITE: Self = Self(3);
    /// Requests of this mode, for a port; no entry has it.
    pub(crate) const PRIVILEGED: Self = Self(8);
    pub(crate) const USER: Self = Self(16);

    #[inline]
    pub(crate) fn of(access: Access) -> Self {
        match access {
            Access::Read => Self(1),
            Access::Write => Self::WRITE,
            Access::Execute => Self::EXECUTE,
        }
    }

    #[inline]
    pub(crate) fn covers(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    #[inline]
    pub(crate) fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    #[inline]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[inline]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    #[inline]
    pub(crate) fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl From<Permissions> for Permits {
    fn from(from: Permissions) -> Self {
        Self(u8::from(from.read) | u8::from(from.write) << 1 | u8::from(from.execute) << 2)
    }
}

impl From<Permits> for Permissions {
    fn from(from: Permits) -> Self {
        let has = |bit| from.0 & bit != 0;
        Self { read: has(1), write: has(2), execute: has(4) }
    }
}

/// Contiguous pages that lead to contiguous frames with one permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first address, of a page.
    pub(crate) first: u64,
    /// How many addresses follow it: less than 1 GiB, and the last is the last of a page.
    pub(crate) more: u64,
    /// Where the first leads.
    pub(crate) frame: u64,
    pub(crate) permits: Permits,
}

#[bitfield(u64)]
struct Whence {
    #[bits(3)]
    permits: u8,
    #[bits(9)]
    more_pages_high: u64,
    #[bits(52)]
    first_page: u64,
}

#[bitfield(u64)]
struct Whither {
    #[bits(9)]
    more_pages_low: u64,
    #[bits(3)]
    unused: u8,
    #[bits(52)]
    frame_page: u64,
}

/// The words of an entry, of which 0 is none: as one value it is passed in registers, also where
/// there may be none. Through memory, where it is written in two pieces and read in
/// one, each look-up would wait for its own writes.
#[derive(Clone, Copy)]
pub(super) struct Packed(u128);

impl Packed {
    pub(super) const NONE: Self = Self(0);

    #[inline(always)]
    pub(super) fn new(whence: u64, whither: u64) -> Self {
        Self(u128::from(whence) << 64 | u128::from(whither))
    }

    #[inline(always)]
    pub(super) fn words(self) -> [u64; 2] {
        [(self.0 >> 64) as u64, self.0 as u64]
    }

    /// Whether it permits anything: an entry does.
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    pub(super) fn entry(self) -> Option<Entry> {
        self.is_some().then(|| Entry::unpack(self))
    }
}

/// Bits of a number of pages that are in the second word.
const LOW_BITS: u32 = 9;

impl Entry {
    /// The part of a run around `address` that is entered, and the block that it is found by: the
    /// largest block of which the run covers a quarter at least, so that no more than four
    /// entries have one block. `None` where the run is not made of whole pages.
    pub(super) fn of(run: &Run, address: u64) -> Option<(Self, Block)> {
        Size::all().rev().find_map(|size| {
            let block = Block::of(address, size);
            let part = run.range.intersection(block.range()?)?;
            (part.len() >= 1 << (size.bits() - 2)).then_some(())?;
            Some((Self::of_part(run, part)?, block))
        })
    }

    fn of_part(run: &Run, part: AddrRange) -> Option<Self> {
        let frame = run.frame.offset(part.first() - run.range.first())?.0;
        let whole = part.first().is_multiple_of(PAGE)
            && part.len().is_multiple_of(PAGE)
            && frame.is_multiple_of(PAGE);
        whole.then(|| Self {
            first: part.first(),
            more: part.len() - 1,
            frame,
            permits: run.permits.into(),
        })
    }

    /// Whether `address` is one of its addresses.
    #[inline]
    pub(super) fn holds(&self, address: u64) -> bool {
        address.wrapping_sub(self.first) <= self.more
    }

    /// Its addresses.
    pub(crate) fn range(&self) -> AddrRange {
        AddrRange::inclusive(self.first, self.first.saturating_add(self.more))
            .unwrap_or(AddrRange::ALL)
    }

    pub(super) fn pack(&self) -> Packed {
        let more = self.more >> PAGE_BITS;
        let whence = Whence::new()
            .with_first_page(self.first >> PAGE_BITS)
            .with_more_pages_high(more >> LOW_BITS);
        let whither = Whither::new()
            .with_frame_page(self.frame >> PAGE_BITS)
            .with_more_pages_low(more & ((1 << LOW_BITS) - 1));
        Packed::new(whence.with_permits(self.permits.0).into_bits(), whither.into_bits())
    }

    /// The contrary of [`pack`](Self::pack); for any words, since a reader unpacks before it knows
    /// that they belong together.
    #[inline(always)]
    pub(super) fn unpack(packed: Packed) -> Self {
        let [whence, whither] = packed.words();
        let (whence, whither) = (Whence::from_bits(whence), Whither::from_bits(whither));
        let more = whence.more_pages_high() << LOW_BITS | whither.more_pages_low();
        Self {
            first: whence.first_page() << PAGE_BITS,
            more: more << PAGE_BITS | (PAGE - 1),
            frame: whither.frame_page() << PAGE_BITS,
            permits: Permits(whence.permits()),
        }
    }
}
