//! The first-level TLB of a port, and the mask by which an access is compared with a translation.
//!
//! An invalidation does not touch this TLB. It increments the port's count of revocations, so the
//! next hit fails in `PortReader::enter`. The check that follows gives the PASID entry a new epoch
//! before it accepts that count. So an invalidation of any range discards all first-level
//! translations of the space.

use bitfield_struct::bitfield;

use crate::api::ats::Frame;
use crate::iotlb::IotlbEntry;
use crate::types::access::{Access, Permissions};
use crate::types::ids::Pasid;

/// The number of entries at first, and at most. Powers of two.
const MIN_ENTRIES: usize = 64;
const MAX_ENTRIES: usize = 4096;
/// The TLB grows once each of its entries has been replaced this many times on average.
const REPLACEMENTS_BEFORE_GROWTH: usize = 2;

/// Permissions and mode in one mask, so that one comparison tells whether a translation serves an
/// access. Each mode has a bit of its own, since a translation found for user mode says nothing
/// about privileged mode, nor the other way round.
#[derive(Clone, Copy)]
pub(super) struct AccessMask(u8);

/// The bits of the modes. That of user mode has the value of [`Access::PRIVILEGED`], so that it
/// becomes that of privileged mode if it is added to the bits of a privileged access.
const USER: u8 = 1 << 3;
const PRIVILEGED: u8 = 1 << 4;
const _: () = assert!(USER == Access::PRIVILEGED.bits() && PRIVILEGED == 2 * USER);

impl AccessMask {
    /// The bits that an access requires.
    #[inline(always)]
    pub(super) const fn required(access: Access) -> Self {
        // A sum in place of a choice between the bits: a look-up in the IOTLB has no spare
        // register.
        Self((access.bits() & (Permissions::all().bits() | Access::PRIVILEGED.bits())) + USER)
    }

    /// The bits of a translation with these permissions in this mode.
    #[inline(always)]
    const fn permitted(permissions: Permissions, privileged: bool) -> Self {
        Self(permissions.bits() | if privileged { PRIVILEGED } else { USER })
    }

    /// The bits of a bond with these permissions: user mode, and privileged mode if the bond grants
    /// it.
    pub(super) const fn granted(permissions: Permissions, privileged: bool) -> Self {
        let user = Self::permitted(permissions, false);
        if privileged { Self(user.0 | Self::permitted(permissions, true).0) } else { user }
    }

    /// Whether this has all bits of `required`.
    #[inline(always)]
    pub(super) const fn covers(self, required: Self) -> bool {
        self.0 & required.0 == required.0
    }
}

/// The last word of an entry.
#[bitfield(u64)]
struct Tag {
    /// The [`AccessMask`] of the translation.
    #[bits(8)]
    permitted: u8,
    /// The epoch of the PASID entry in which the translation was found. It also stands for the
    /// PASID: no two PASID entries of a port have the same epoch.
    #[bits(56)]
    epoch: u64,
}

/// A cached translation.
#[derive(Clone, Copy)]
pub(super) struct TlbEntry {
    first: u64,
    /// The last address, minus the first.
    last_offset: u64,
    /// The frame minus the address, modulo 2^64.
    offset: u64,
    tag: Tag,
}

impl TlbEntry {
    /// No translation: it permits nothing.
    const NONE: Self = Self { first: 0, last_offset: 0, offset: 0, tag: Tag::new() };

    /// Replaces the entry by a translation that was found for `access` in `epoch`.
    #[inline(always)]
    pub(super) fn set(&mut self, entry: IotlbEntry, access: Access, epoch: u64) {
        let permitted = AccessMask::permitted(entry.permissions, access.is_privileged());
        // Word by word, as it is read, so that a load is forwarded from its store.
        self.first = entry.first;
        self.last_offset = entry.last_offset;
        self.offset = entry.frame.wrapping_sub(entry.first);
        self.tag = Tag::new().with_permitted(permitted.0).with_epoch(epoch);
    }

    /// Whether the entry translates all `len` bytes and permits the access. The caller compares the
    /// epochs.
    #[inline]
    pub(super) fn serves(&self, address: u64, len: usize, access: Access) -> bool {
        // For an address before the first one the difference wraps to more than any
        // `last_offset`, and the saturating sum does not wrap back.
        let last = address.wrapping_sub(self.first).saturating_add(len.saturating_sub(1) as u64);
        last <= self.last_offset
            && AccessMask(self.tag.permitted()).covers(AccessMask::required(access))
    }

    /// The epoch in which the translation was found.
    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.tag.epoch()
    }

    /// The frame of `address`, which the entry must contain.
    #[inline]
    pub(super) fn frame(&self, address: u64) -> Frame {
        Frame(address.wrapping_add(self.offset))
    }

    /// The number of bytes from `address` to the end of the entry, at most `len`. The entry must
    /// contain the address.
    #[inline]
    pub(super) fn len_from(&self, address: u64, len: usize) -> usize {
        let after = self.last_offset - (address - self.first);
        if after < len as u64 { after as usize + 1 } else { len }
    }
}

/// Direct-mapped by PASID and address.
pub(super) struct Tlb {
    entries: Box<[TlbEntry]>,
    /// The granule, as a number of address bits: the addresses of one aligned granule map to one
    /// entry, so that a large translation fills few entries. It is the size of the smallest
    /// translation so far, rounded down to a power of two.
    granule_bits: u32,
    /// The number of replacements since the TLB has had this size.
    replaced: usize,
}

impl Tlb {
    pub(super) fn new() -> Self {
        Self::with(MIN_ENTRIES, u64::BITS - 1)
    }

    fn with(entries: usize, granule_bits: u32) -> Self {
        Self { entries: vec![TlbEntry::NONE; entries].into(), granule_bits, replaced: 0 }
    }

    /// The entry that an address maps to. The caller checks whether it serves the access.
    #[inline]
    pub(super) fn at(&self, pasid: Pasid, address: u64) -> Option<&TlbEntry> {
        self.entries.get(index_of(pasid, address >> self.granule_bits) & (self.entries.len() - 1))
    }

    /// The entry that an address maps to, to be replaced by a translation of
    /// `last_offset` + 1 bytes. A smaller granule re-indexes the TLB and orphans older entries.
    #[inline(always)]
    pub(super) fn replace(
        &mut self,
        pasid: Pasid,
        address: u64,
        last_offset: u64,
    ) -> Option<&mut TlbEntry> {
        self.replaced += 1;
        self.granule_bits = self.granule_bits.min(((last_offset + 1) | 1).ilog2());
        let last = self.entries.len() - 1;
        self.entries.get_mut(index_of(pasid, address >> self.granule_bits) & last)
    }

    /// Whether the TLB should [`grow`](Self::grow).
    #[inline]
    pub(super) fn should_grow(&self) -> bool {
        self.replaced > self.entries.len() * REPLACEMENTS_BEFORE_GROWTH
    }

    /// Doubles the number of entries, all of which are empty then. At the largest size only the
    /// count of replacements starts again.
    #[cold]
    pub(super) fn grow(&mut self) {
        if self.entries.len() < MAX_ENTRIES {
            *self = Self::with(self.entries.len() * 2, self.granule_bits);
        }
        self.replaced = 0;
    }
}

#[inline]
fn index_of(pasid: Pasid, granule: u64) -> usize {
    // The address is folded once, since regions often lie a power of two apart. Processes use the
    // same addresses, and use neighbouring pages together, so the factor puts consecutive PASIDs
    // some entries apart.
    let folded = granule ^ granule >> MAX_ENTRIES.trailing_zeros();
    folded.wrapping_add(u64::from(pasid.get()) * 37) as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn pasid(number: u32) -> Pasid {
        Pasid::new(number).expect("one of 20 bits")
    }

    fn fill(tlb: &mut Tlb, of: u32, first: u64, bytes: u64) {
        let entry = IotlbEntry {
            first,
            last_offset: bytes - 1,
            frame: u64::from(of) << 40,
            permissions: Permissions::READ_WRITE,
        };
        tlb.replace(pasid(of), first, entry.last_offset).expect("there is an entry").set(
            entry,
            Access::READ,
            u64::from(of),
        );
    }

    fn translates(tlb: &Tlb, of: u32, address: u64) -> bool {
        tlb.at(pasid(of), address).is_some_and(|entry| {
            entry.epoch() == u64::from(of) && entry.serves(address, 8, Access::READ)
        })
    }

    // shows T1
    #[test]
    fn a_mask_covers_an_access_that_its_permissions_permit_in_its_mode_and_no_other() {
        for access in (0..=Access::all().bits()).map(Access::from_bits_truncate) {
            for permissions in (0..=Permissions::all().bits()).map(Permissions::from_bits_truncate)
            {
                let covers = |privileged| {
                    AccessMask::permitted(permissions, privileged)
                        .covers(AccessMask::required(access))
                };
                let permits = permissions.permit(access);
                assert_eq!(covers(false), permits && !access.is_privileged(), "{access:?}");
                assert_eq!(covers(true), permits && access.is_privileged(), "{access:?}");
            }
        }
    }

    // regression 29, at the first-level TLB
    #[test]
    fn two_processes_that_use_one_address_do_not_evict_each_other() {
        for of in [1, 2, 63, 64, 4095] {
            let mut tlb = Tlb::new();
            let pages = (0..16).map(|page| 0x7000_0000_0000 + page * PAGE);
            pages.clone().for_each(|page| {
                [of, of + 1].iter().for_each(|of| fill(&mut tlb, *of, page, PAGE))
            });
            assert!(
                pages
                    .clone()
                    .all(|page| translates(&tlb, of, page) && translates(&tlb, of + 1, page)),
                "{of} and the next"
            );
        }
    }

    #[test]
    fn a_large_translation_has_few_entries_and_smaller_ones_beside_it_have_theirs() {
        let (mut tlb, first, bytes) = (Tlb::new(), 0x7000_0000_0000, 2 << 20);
        fill(&mut tlb, 1, first, bytes);
        assert!(
            (0..bytes).step_by(PAGE as usize).all(|at| translates(&tlb, 1, first + at)),
            "it has one entry"
        );
        let page = |n: u64| first + 2 * bytes + 2 * n * PAGE;
        (0..16).for_each(|n| fill(&mut tlb, 1, page(n), PAGE));
        assert!((0..16).all(|n| translates(&tlb, 1, page(n))), "each has its own");
        assert!(!translates(&tlb, 1, page(3) + PAGE), "nothing has been found for it");
    }
}
