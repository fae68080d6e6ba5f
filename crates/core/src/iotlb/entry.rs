//! One entry: a run, or the part of one that lies in one block, in three words.

use bitfield_struct::bitfield;

use crate::ats::{Frame, Permissions};
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
    pub(crate) fn new(owner: Generation, privileged: bool) -> Self {
        // Generations count up from 1: the top bit is not reached.
        Self(owner.0 << 1 | u64::from(privileged))
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }
}

/// The sizes of blocks that entries are found by, as powers of two: 4 KiB, 64 KiB, 2 MiB, 1 GiB. A run of 16 KiB is found by its 64 KiB.
const SIZES: [u32; 4] = [12, 16, 21, 30];

/// Which of the [`SIZES`] something is about, the smallest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u8);

impl Size {
    pub(super) const COUNT: usize = SIZES.len();

    pub(super) fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    fn bits(self) -> u32 {
        SIZES[usize::from(self.0)]
    }

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
    pub(super) fn of(address: u64, size: Size) -> Self {
        Self { number: address >> size.bits(), size }
    }

    /// One number for size and place.
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

/// Contiguous pages that lead to contiguous frames with one permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The number of the first page.
    first: u64,
    /// 1..=2^18: 1 GiB at the most.
    pages: u64,
    /// The number of the first frame, in pages.
    frame: u64,
    permits: Permissions,
}

#[bitfield(u64)]
struct Whence {
    #[bits(12)]
    more_pages_low: u64,
    #[bits(52)]
    first: u64,
}

#[bitfield(u64)]
struct Whither {
    read: bool,
    write: bool,
    execute: bool,
    #[bits(6)]
    more_pages_high: u64,
    #[bits(3)]
    unused: u8,
    #[bits(52)]
    frame: u64,
}

impl Entry {
    /// The part of a run around `address` that is entered, and the block that it is found by: the largest block of which the run covers a quarter at least, so that no more than four
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
        let frame = run.frame.offset(part.first() - run.range.first())?;
        let whole = part.first().is_multiple_of(PAGE) && part.len().is_multiple_of(PAGE) && frame.0.is_multiple_of(PAGE);
        let (first, pages) = (part.first() >> PAGE_BITS, part.len() >> PAGE_BITS);
        whole.then_some(Self { first, pages, frame: frame.0 >> PAGE_BITS, permits: run.permits })
    }

    /// Whether `address` is one of its addresses.
    pub(super) fn holds(&self, address: u64) -> bool {
        (address >> PAGE_BITS).wrapping_sub(self.first) < self.pages
    }

    /// Its addresses.
    pub(crate) fn range(&self) -> Option<AddrRange> {
        AddrRange::new(self.first << PAGE_BITS, self.pages << PAGE_BITS)
    }

    /// Where its first address leads.
    pub(crate) fn frame(&self) -> Frame {
        Frame(self.frame << PAGE_BITS)
    }

    /// What is permitted there.
    pub(crate) fn permits(&self) -> Permissions {
        self.permits
    }

    pub(super) fn pack(&self) -> [u64; 2] {
        let more = self.pages - 1;
        let whence = Whence::new().with_first(self.first).with_more_pages_low(more & 0xfff);
        let Permissions { read, write, execute } = self.permits;
        let whither = Whither::new().with_frame(self.frame).with_more_pages_high(more >> 12);
        [whence.into_bits(), whither.with_read(read).with_write(write).with_execute(execute).into_bits()]
    }

    /// The contrary of [`pack`](Self::pack); for any words, since a reader unpacks before it knows that they belong together.
    pub(super) fn unpack(words: [u64; 2]) -> Self {
        let (whence, whither) = (Whence::from_bits(words[0]), Whither::from_bits(words[1]));
        Self {
            first: whence.first(),
            pages: (whither.more_pages_high() << 12 | whence.more_pages_low()) + 1,
            frame: whither.frame(),
            permits: Permissions { read: whither.read(), write: whither.write(), execute: whither.execute() },
        }
    }
}
