//! One entry: an extent, or the part of one that lies in one block, in three words.

use bitfield_struct::bitfield;

use crate::api::space::Extent;
use crate::types::access::Permissions;
use crate::types::ids::Generation;
use crate::types::range::AddrRange;

/// Address bits within a page.
const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;

/// Whose translation an entry is: an owner of a PASID, and the privilege that was asked with. Never
/// 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TlbTag(u64);

impl TlbTag {
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
/// extent of 16 KiB is found by its 64 KiB.
const BLOCK_BITS: [u32; 4] = [12, 16, 21, 30];

/// Which of the [`BLOCK_BITS`] something is about, the smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockSize(u8);

impl BlockSize {
    pub(super) const COUNT: usize = BLOCK_BITS.len();

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
        BLOCK_BITS[usize::from(self.0) % Self::COUNT]
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
    pub(super) size: BlockSize,
}

impl Block {
    #[inline]
    pub(super) fn of(address: u64, size: BlockSize) -> Self {
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
    pub(super) fn meeting(range: AddrRange, size: BlockSize) -> (impl Iterator<Item = Self>, u64) {
        let (first, last) = (range.first() >> size.bits(), range.last() >> size.bits());
        ((first..=last).map(move |number| Self { number, size }), last - first + 1)
    }
}

/// Contiguous pages that lead to contiguous frames with one permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IotlbEntry {
    /// The first address, of a page.
    pub(crate) first: u64,
    /// How many addresses follow it: less than 1 GiB, and the last is the last of a page.
    pub(crate) more: u64,
    /// Where the first leads.
    pub(crate) frame: u64,
    pub(crate) permissions: Permissions,
}

#[bitfield(u64)]
struct PageWord {
    #[bits(3)]
    permissions: u8,
    #[bits(9)]
    more_pages_high: u64,
    #[bits(52)]
    first_page: u64,
}

#[bitfield(u64)]
struct FrameWord {
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
pub(super) struct PackedEntry(u128);

impl PackedEntry {
    pub(super) const NONE: Self = Self(0);

    #[inline(always)]
    pub(super) fn new(page: u64, frame: u64) -> Self {
        Self(u128::from(page) << 64 | u128::from(frame))
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
    pub(super) fn entry(self) -> Option<IotlbEntry> {
        self.is_some().then(|| IotlbEntry::unpack(self))
    }
}

/// Bits of a number of pages that are in the second word.
const LOW_BITS: u32 = 9;

impl IotlbEntry {
    /// The part of an extent around `address` that is entered, and the block that it is found by: the
    /// largest block of which the extent covers a quarter at least, so that no more than four
    /// entries have one block. `None` where the extent is not made of whole pages.
    pub(super) fn of(extent: &Extent, address: u64) -> Option<(Self, Block)> {
        BlockSize::all().rev().find_map(|size| {
            let block = Block::of(address, size);
            let part = extent.range.intersection(block.range()?)?;
            (part.len() >= 1 << (size.bits() - 2)).then_some(())?;
            Some((Self::of_part(extent, part)?, block))
        })
    }

    fn of_part(extent: &Extent, part: AddrRange) -> Option<Self> {
        let frame = extent.frame.offset(part.first() - extent.range.first())?.0;
        let whole = part.first().is_multiple_of(PAGE)
            && part.len().is_multiple_of(PAGE)
            && frame.is_multiple_of(PAGE);
        whole.then(|| Self {
            first: part.first(),
            more: part.len() - 1,
            frame,
            permissions: extent.permissions,
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

    pub(super) fn pack(&self) -> PackedEntry {
        let more = self.more >> PAGE_BITS;
        let page = PageWord::new()
            .with_first_page(self.first >> PAGE_BITS)
            .with_more_pages_high(more >> LOW_BITS);
        let frame = FrameWord::new()
            .with_frame_page(self.frame >> PAGE_BITS)
            .with_more_pages_low(more & ((1 << LOW_BITS) - 1));
        PackedEntry::new(
            page.with_permissions(self.permissions.bits()).into_bits(),
            frame.into_bits(),
        )
    }

    /// The inverse of [`pack`](Self::pack); for any words, since a reader unpacks before it knows
    /// that they belong together.
    #[inline(always)]
    pub(super) fn unpack(packed: PackedEntry) -> Self {
        let [page, frame] = packed.words();
        let (page, frame) = (PageWord::from_bits(page), FrameWord::from_bits(frame));
        let more = page.more_pages_high() << LOW_BITS | frame.more_pages_low();
        Self {
            first: page.first_page() << PAGE_BITS,
            more: more << PAGE_BITS | (PAGE - 1),
            frame: frame.frame_page() << PAGE_BITS,
            permissions: Permissions::from_bits_retain(page.permissions()),
        }
    }
}
