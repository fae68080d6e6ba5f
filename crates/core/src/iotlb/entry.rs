//! The format of an entry: a tag, and an extent or the part of an extent that lies in one block, in
//! three words.

use bitfield_struct::bitfield;

use crate::api::space::Extent;
use crate::types::access::Permissions;
use crate::types::ids::Generation;
use crate::types::range::AddrRange;

/// The number of address bits within a page.
const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;

/// The tag of an entry: the generation of the PASID, and whether the translation is for privileged
/// accesses. Never 0, which marks an empty slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IotlbTag(u64);

impl IotlbTag {
    #[inline]
    pub(crate) fn new(owner: Generation, privileged: bool) -> Self {
        // Generations count from 1, so a tag is never 0; there are fewer than 2^48 of them, so the
        // shift loses no bit.
        Self(owner.0 << 1 | u64::from(privileged))
    }

    #[inline]
    pub(super) fn word(self) -> u64 {
        self.0
    }
}

/// A size of the blocks by which entries are hashed, as its number of address bits. An extent of
/// 16 KiB, for example, is hashed by its block of 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockSize(u8);

impl BlockSize {
    /// All sizes, the smallest first: 4 KiB, 64 KiB, 2 MiB, 1 GiB.
    pub(super) const ALL: [Self; 4] = [Self(12), Self(16), Self(21), Self(30)];

    #[inline]
    fn bits(self) -> u32 {
        u32::from(self.0)
    }
}

/// A set of block sizes: bit `n` stands for the size of `n` address bits, so that a look-up needs
/// no table to get from a member of the set to a shift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockSizes(pub(super) u32);

impl BlockSizes {
    /// The set of this one size.
    #[inline]
    pub(super) fn of(size: BlockSize) -> Self {
        Self(1 << size.0)
    }

    #[inline]
    pub(super) fn contains(self, size: BlockSize) -> bool {
        self.0 & Self::of(size).0 != 0
    }

    /// Removes the smallest size from the set.
    #[inline(always)]
    pub(super) fn take_smallest(&mut self) -> Option<BlockSize> {
        let smallest = (self.0 != 0).then(|| BlockSize(self.0.trailing_zeros() as u8));
        self.0 &= self.0.wrapping_sub(1);
        smallest
    }
}

/// An aligned block of addresses of one of the sizes.
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

    /// The number and the size in one word, to be hashed.
    #[inline]
    pub(super) fn key(self) -> u64 {
        self.number << 5 | u64::from(self.size.0)
    }

    pub(super) fn range(self) -> Option<AddrRange> {
        AddrRange::new(self.number << self.size.bits(), 1 << self.size.bits())
    }

    /// All blocks of a size that overlap `range`, and the number of them.
    pub(super) fn overlapping(
        range: AddrRange,
        size: BlockSize,
    ) -> (impl Iterator<Item = Self>, u64) {
        let (first, last) = (range.first() >> size.bits(), range.last() >> size.bits());
        ((first..=last).map(move |number| Self { number, size }), last - first + 1)
    }
}

/// A translation of contiguous pages to contiguous frames with the same permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IotlbEntry {
    /// The first address, a multiple of the page size.
    pub(crate) first: u64,
    /// The last address, which is the last of a page, minus the first. Less than 1 GiB.
    pub(crate) last_offset: u64,
    /// The frame of the first address.
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

/// The two words of an entry after its tag, or 0 for no entry.
///
/// As one integer it is returned in registers, whether or not there is an entry. Rejected: an
/// `Option` of a struct. It is returned through memory, where it is written in two parts and read
/// as one, so that each look-up waits for its own stores.
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

    /// Whether there is an entry. An entry always grants a permission, so it is never 0.
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    pub(super) fn entry(self) -> Option<IotlbEntry> {
        self.is_some().then(|| IotlbEntry::unpack(self))
    }
}

/// The number of low bits of a page count that are in the second word.
const LOW_BITS: u32 = 9;

impl IotlbEntry {
    /// The part of an extent around `address` that is cached, and the block that it is hashed by:
    /// the largest block of which the extent covers at least a quarter, so that at most four
    /// entries are hashed by the same block. `None` if the extent does not consist of whole pages.
    pub(super) fn of(extent: &Extent, address: u64) -> Option<(Self, Block)> {
        BlockSize::ALL.into_iter().rev().find_map(|size| {
            let block = Block::of(address, size);
            let part = extent.range.intersection(block.range()?)?;
            (part.len() >= 1 << (size.bits() - 2)).then_some(())?;
            Some((Self::of_part(extent, part)?, block))
        })
    }

    fn of_part(extent: &Extent, part: AddrRange) -> Option<Self> {
        let frame = extent.frame.offset(part.first() - extent.range.first())?.0;
        let is_whole_pages = part.first().is_multiple_of(PAGE)
            && part.len().is_multiple_of(PAGE)
            && frame.is_multiple_of(PAGE);
        is_whole_pages.then(|| Self {
            first: part.first(),
            last_offset: part.len() - 1,
            frame,
            permissions: extent.permissions,
        })
    }

    /// Whether the entry translates `address`.
    #[inline]
    pub(super) fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.first) <= self.last_offset
    }

    /// Whether the entry translates an address of `range`.
    #[inline]
    pub(super) fn overlaps(&self, range: AddrRange) -> bool {
        self.first <= range.last() && range.first() <= self.first.saturating_add(self.last_offset)
    }

    /// The addresses that the entry translates.
    pub(crate) fn range(&self) -> AddrRange {
        AddrRange::inclusive(self.first, self.first.saturating_add(self.last_offset))
            .unwrap_or(AddrRange::ALL)
    }

    pub(super) fn pack(&self) -> PackedEntry {
        let more_pages = self.last_offset >> PAGE_BITS;
        let page = PageWord::new()
            .with_first_page(self.first >> PAGE_BITS)
            .with_more_pages_high(more_pages >> LOW_BITS);
        let frame = FrameWord::new()
            .with_frame_page(self.frame >> PAGE_BITS)
            .with_more_pages_low(more_pages & ((1 << LOW_BITS) - 1));
        PackedEntry::new(
            page.with_permissions(self.permissions.bits()).into_bits(),
            frame.into_bits(),
        )
    }

    /// The inverse of [`pack`](Self::pack). Accepts any words, since a reader unpacks them before
    /// it has validated that they belong to the same entry.
    #[inline(always)]
    pub(super) fn unpack(packed: PackedEntry) -> Self {
        let [page, frame] = packed.words();
        let (page, frame) = (PageWord::from_bits(page), FrameWord::from_bits(frame));
        let more_pages = page.more_pages_high() << LOW_BITS | frame.more_pages_low();
        Self {
            first: page.first_page() << PAGE_BITS,
            last_offset: more_pages << PAGE_BITS | (PAGE - 1),
            frame: frame.frame_page() << PAGE_BITS,
            permissions: Permissions::from_bits_retain(page.permissions()),
        }
    }
}
