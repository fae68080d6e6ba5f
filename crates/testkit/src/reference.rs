//! Simple, slow reference models, for property tests to compare with.

use std::collections::{BTreeMap, BTreeSet};

use sva_core::{AddrRange, PasidWidth};

/// PASID allocation: the first free number from a cursor on, cyclically, within the width asked
/// for. Each width has a cursor; the taken numbers are common to all.
#[derive(Debug, Clone, Default)]
pub struct Pasids {
    used: BTreeSet<u32>,
    cursors: BTreeMap<PasidWidth, u32>,
}

impl Pasids {
    /// Takes the first free number at or after the width's cursor, else the first free one from 1
    /// on; the cursor then stands after it. `None` where all of 1..=`width.last()` are taken.
    pub fn allocate(&mut self, width: PasidWidth) -> Option<u32> {
        let (first, last) = (self.cursors.get(&width).copied().unwrap_or(1), width.last());
        let found = (first..=last).chain(1..=last).find(|n| !self.used.contains(n))?;
        self.used.insert(found);
        self.cursors.insert(width, found + 1);
        Some(found)
    }

    /// Gives a number back; `false` where it was not taken.
    pub fn release(&mut self, pasid: u32) -> bool {
        self.used.remove(&pasid)
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.used.len()
    }
}

/// One mapping of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The IOVAs.
    pub iova: AddrRange,
    /// The target of the first of them.
    pub target: u64,
    /// Whether writes are permitted.
    pub write: bool,
}

/// Why a domain refuses a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The range is empty or wraps.
    #[error("the range is empty or wraps")]
    BadRange,
    /// The end of the target wraps.
    #[error("the end of the target wraps")]
    TargetWraps,
    /// The end passes the address width.
    #[error("the range passes the address width")]
    PastWidth,
    /// It overlaps this reserved range.
    #[error("it touches the reserved range {0}")]
    Reserved(AddrRange),
    /// It overlaps this mapping; for an unmap: it covers only a part of it.
    #[error("it touches the mapping {0}")]
    Touches(AddrRange),
}

/// The IOVA mappings of a domain: a list, searched from the front.
#[derive(Debug, Clone)]
pub struct Domain {
    width: u8,
    reserved: Vec<AddrRange>,
    mappings: Vec<Mapping>,
}

impl Domain {
    /// IOVAs of `width` bits (1..=64) without the reserved ranges.
    pub fn new(width: u8, reserved: &[AddrRange]) -> Self {
        Self { width, reserved: reserved.to_vec(), mappings: Vec::new() }
    }

    /// Adds a mapping of `len` bytes.
    ///
    /// # Errors
    /// The first refusal in the order of [`Refusal`]'s variants, with the lowest range that stands
    /// in the way.
    pub fn map(&mut self, iova: u64, len: u64, target: u64, write: bool) -> Result<(), Refusal> {
        let iova = AddrRange::new(iova, len).ok_or(Refusal::BadRange)?;
        AddrRange::new(target, len).ok_or(Refusal::TargetWraps)?;
        if self.width < 64 && iova.last() >> self.width != 0 {
            return Err(Refusal::PastWidth);
        }
        if let Some(reserved) =
            self.reserved.iter().filter(|reserved| reserved.overlaps(iova)).min()
        {
            return Err(Refusal::Reserved(*reserved));
        }
        if let Some(other) = self.touching(iova).min() {
            return Err(Refusal::Touches(other));
        }
        self.mappings.push(Mapping { iova, target, write });
        Ok(())
    }

    /// Removes the mappings inside the range and returns how many bytes they had.
    ///
    /// # Errors
    /// The range is empty or wraps, or covers a mapping only in part: then nothing is removed.
    pub fn unmap(&mut self, iova: u64, len: u64) -> Result<u64, Refusal> {
        let range = AddrRange::new(iova, len).ok_or(Refusal::BadRange)?;
        if let Some(split) = self.touching(range).filter(|mapping| !range.covers(*mapping)).min() {
            return Err(Refusal::Touches(split));
        }
        let bytes = self.touching(range).map(AddrRange::len).sum();
        self.mappings.retain(|mapping| !mapping.iova.overlaps(range));
        Ok(bytes)
    }

    /// The target of an address, and whether it may be written.
    pub fn translate(&self, iova: u64) -> Option<(u64, bool)> {
        let mapping = self.mappings.iter().find(|mapping| mapping.iova.contains(iova))?;
        Some((mapping.target + (iova - mapping.iova.first()), mapping.write))
    }

    /// All mappings by address.
    pub fn mappings(&self) -> Vec<Mapping> {
        let mut sorted = self.mappings.clone();
        sorted.sort_by_key(|mapping| mapping.iova);
        sorted
    }

    fn touching(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        self.mappings.iter().map(|mapping| mapping.iova).filter(move |iova| iova.overlaps(range))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows U5
    #[test]
    fn a_released_pasid_comes_again_only_after_the_others() {
        let width = PasidWidth::new(2).expect("1..=20");
        let mut pasids = Pasids::default();
        assert_eq!([(); 3].map(|()| pasids.allocate(width)), [Some(1), Some(2), Some(3)]);
        assert_eq!(pasids.allocate(width), None);
        assert!(pasids.release(3) && pasids.release(1) && !pasids.release(1));
        assert_eq!([(); 2].map(|()| pasids.allocate(width)), [Some(1), Some(3)]);
    }

    // shows T8
    #[test]
    fn a_domain_refuses_overlaps_and_splits() {
        let reserved = AddrRange::new(0xfee0_0000, 0x10_0000).expect("a range");
        let mut domain = Domain::new(32, &[reserved]);
        domain.map(0x1000, 0x2000, 0x9000, true).expect("free");
        domain.map(0x3000, 0x1000, 0, false).expect("beside it");
        assert_eq!(
            domain.map(0x2fff, 1, 0, true),
            Err(Refusal::Touches(AddrRange::new(0x1000, 0x2000).expect("a range")))
        );
        assert_eq!(domain.map(0xffff_f000, 0x1001, 0, true), Err(Refusal::PastWidth));
        assert_eq!(domain.map(u64::MAX, 2, 0, true), Err(Refusal::BadRange));
        assert_eq!(domain.map(0xfedf_ffff, 2, 0, true), Err(Refusal::Reserved(reserved)));
        assert_eq!(
            (domain.translate(0x2fff), domain.translate(0x4000)),
            (Some((0xafff, true)), None)
        );
        assert!(matches!(domain.unmap(0x1000, 0x1000), Err(Refusal::Touches(_))));
        assert_eq!((domain.unmap(0, 0x10_0000), domain.unmap(0, 0x10_0000)), (Ok(0x3000), Ok(0)));
    }
}
