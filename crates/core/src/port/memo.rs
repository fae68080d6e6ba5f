//! What a port remembers of translations that it has found, and what an access asks of one.

use bitfield_struct::bitfield;

use crate::ats::Frame;
use crate::fault::AccessMode;
use crate::ids::Pasid;
use crate::iotlb::{Entry, Permits};

/// Translations that a port remembers: as many as the first at the beginning, and up to the second
/// where it has use for them. Powers of two.
const FEWEST: usize = 64;
const MOST: usize = 4096;
/// So often each place is taken anew until there are to be more of them.
const TURNS: usize = 2;

/// What an access needs of a translation.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub(super) permits: Permits,
    pub(super) privileged: bool,
}

impl Need {
    /// To read and to write, in user mode.
    pub(super) const ATOMIC: Self = Self { permits: Permits::READ_WRITE, privileged: false };

    #[inline]
    pub(super) fn of(mode: AccessMode) -> Self {
        Self { permits: Permits::of(mode.access), privileged: mode.privileged }
    }

    pub(super) fn write(self) -> bool {
        self.permits.covers(Permits::WRITE)
    }

    /// With the mode as one thing more to be permitted: what was found for one mode says nothing of
    /// the other.
    #[inline]
    pub(super) fn all(self) -> Permits {
        self.permits.with(if self.privileged { Permits::PRIVILEGED } else { Permits::USER })
    }
}

/// What one word of a memo says.
#[bitfield(u64)]
struct Tag {
    /// Accesses and the mode.
    #[bits(8)]
    permits: u8,
    /// Which state of which bond, counted over all bonds that the port has known.
    #[bits(56)]
    stamp: u64,
}

/// A translation that was found.
#[derive(Clone, Copy)]
pub(super) struct Memo {
    /// The first address, and how many follow it.
    first: u64,
    more: u64,
    /// Added to an address, modulo 2^64, it makes the frame.
    shift: u64,
    tag: Tag,
}

impl Memo {
    /// Nothing: it permits nothing.
    const NONE: Self = Self { first: 0, more: 0, shift: 0, tag: Tag::new() };

    /// `entry` was found for a bond in the state of this stamp.
    #[inline(always)]
    pub(super) fn set(&mut self, entry: Entry, need: Need, stamp: u64) {
        let permits = Need { permits: entry.permits, ..need }.all();
        // Word by word, as it is read.
        self.first = entry.first;
        self.more = entry.more;
        self.shift = entry.frame.wrapping_sub(entry.first);
        self.tag = Tag::new().with_permits(permits.bits()).with_stamp(stamp);
    }

    /// Whether it says where all of an access leads; it has to be of the access's bond.
    #[inline]
    pub(super) fn serves(&self, address: u64, len: usize, need: Need) -> bool {
        // Of an address before the first one this is too large, whatever is added.
        let last = address.wrapping_sub(self.first).saturating_add(len.saturating_sub(1) as u64);
        last <= self.more && Permits::from_bits(self.tag.permits()).covers(need.all())
    }

    /// Which state of which bond it is of.
    #[inline]
    pub(super) fn stamp(&self) -> u64 {
        self.tag.stamp()
    }

    /// Where an address of it leads.
    #[inline]
    pub(super) fn frame(&self, address: u64) -> Frame {
        Frame(address.wrapping_add(self.shift))
    }

    /// How many bytes from an address of it on are of it, up to `len`.
    #[inline]
    pub(super) fn len_from(&self, address: u64, len: usize) -> usize {
        let after = self.more - (address - self.first);
        if after < len as u64 { after as usize + 1 } else { len }
    }
}

/// Each in the place that the address and the PASID say.
pub(super) struct Memos {
    places: Box<[Memo]>,
    /// All addresses that agree but for so many of the lowest bits have one place, so that a large
    /// translation has few: as many as the smallest has addresses, rounded down to a power of two.
    grain: u32,
    /// Places that have been taken anew since there are as many as there are.
    taken: usize,
}

impl Memos {
    pub(super) fn new() -> Self {
        Self::with(FEWEST, u64::BITS - 1)
    }

    fn with(places: usize, grain: u32) -> Self {
        Self { places: vec![Memo::NONE; places].into(), grain, taken: 0 }
    }

    /// What is remembered in the place of an address, whatever that is.
    #[inline]
    pub(super) fn at(&self, pasid: Pasid, address: u64) -> Option<&Memo> {
        self.places.get(place_of(pasid, address >> self.grain) & (self.places.len() - 1))
    }

    /// The place of an address, which is taken anew for a translation of one address and so many
    /// `more`. Where none was as small before, what others had is not found any more.
    #[inline(always)]
    pub(super) fn take(&mut self, pasid: Pasid, address: u64, more: u64) -> Option<&mut Memo> {
        self.taken += 1;
        self.grain = self.grain.min(((more + 1) | 1).ilog2());
        let last = self.places.len() - 1;
        self.places.get_mut(place_of(pasid, address >> self.grain) & last)
    }

    /// Whether it is time to [`grow`](Self::grow).
    #[inline]
    pub(super) fn are_scarce(&self) -> bool {
        self.taken > self.places.len() * TURNS
    }

    /// Doubles the places, which are empty then; where there are as many as there may be it only
    /// begins to count again.
    #[cold]
    pub(super) fn grow(&mut self) {
        if self.places.len() < MOST {
            *self = Self::with(self.places.len() * 2, self.grain);
        }
        self.taken = 0;
    }
}

#[inline]
fn place_of(pasid: Pasid, number: u64) -> usize {
    // Folded once: regions often lie a power of two apart. Processes have the same addresses;
    // neighbouring pages are used together, so numbers are some way apart.
    (number ^ number >> MOST.trailing_zeros()).wrapping_add(u64::from(pasid.get()) * 37) as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;
    const READ: Need = Need { permits: Permits::READ_WRITE, privileged: false };

    fn pasid(number: u32) -> Pasid {
        Pasid::new(number).expect("one of 20 bits")
    }

    fn learn(memos: &mut Memos, of: u32, first: u64, bytes: u64) {
        let entry = Entry {
            first,
            more: bytes - 1,
            frame: u64::from(of) << 40,
            permits: Permits::READ_WRITE,
        };
        memos.take(pasid(of), first, entry.more).expect("there is a place").set(
            entry,
            READ,
            u64::from(of),
        );
    }

    fn remembers(memos: &Memos, of: u32, address: u64) -> bool {
        memos
            .at(pasid(of), address)
            .is_some_and(|memo| memo.stamp() == u64::from(of) && memo.serves(address, 8, READ))
    }

    // regression 29, at what a port remembers
    #[test]
    fn two_processes_that_use_one_address_do_not_take_each_others_place() {
        for of in [1, 2, 63, 64, 4095] {
            let mut memos = Memos::new();
            let pages = (0..16).map(|page| 0x7000_0000_0000 + page * PAGE);
            pages.clone().for_each(|page| {
                [of, of + 1].iter().for_each(|of| learn(&mut memos, *of, page, PAGE))
            });
            assert!(
                pages
                    .clone()
                    .all(|page| remembers(&memos, of, page) && remembers(&memos, of + 1, page)),
                "{of} and the next"
            );
        }
    }

    #[test]
    fn a_large_translation_has_few_places_and_smaller_ones_beside_it_have_theirs() {
        let (mut memos, first, bytes) = (Memos::new(), 0x7000_0000_0000, 2 << 20);
        learn(&mut memos, 1, first, bytes);
        assert!(
            (0..bytes).step_by(PAGE as usize).all(|at| remembers(&memos, 1, first + at)),
            "it has one place"
        );
        let page = |n: u64| first + 2 * bytes + 2 * n * PAGE;
        (0..16).for_each(|n| learn(&mut memos, 1, page(n), PAGE));
        assert!((0..16).all(|n| remembers(&memos, 1, page(n))), "each has its own");
        assert!(!remembers(&memos, 1, page(3) + PAGE), "nothing has been learned of it");
    }
}
