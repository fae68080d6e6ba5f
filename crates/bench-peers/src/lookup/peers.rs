//! The tables of other crates. All but the first and the last find whole pages only, and know no
//! ranges.

use std::collections::BTreeMap;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use scc::HashIndex;
use sva_sync::RwLock;
use vm_memory::iommu::{Error, Iotlb};
use vm_memory::{GuestAddress, Permissions};

use super::cache::{Lookup, Mapping, OWNER, PAGE};

/// rust-vmm's cache, as its documentation has it: in a readers-writer lock, one for each address
/// space, so that there is no owner to find.
pub(crate) struct LockedIotlb(RwLock<Iotlb>);

impl LockedIotlb {
    pub(crate) fn new(mappings: &[Mapping]) -> Result<Self, Error> {
        let mut iotlb = Iotlb::new();
        for Mapping { page, frame } in mappings {
            iotlb.set_mapping(
                GuestAddress(*page),
                GuestAddress(*frame),
                PAGE as usize,
                Permissions::ReadWrite,
            )?;
        }
        Ok(Self(RwLock::new(iotlb)))
    }
}

impl Lookup for LockedIotlb {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        let found = Iotlb::lookup(self.0.read(), GuestAddress(address), 8, Permissions::Read);
        found.ok()?.next().map(|range| range.base.0)
    }
}

/// A page of an owner.
type Key = (u64, u64);

fn key(address: u64) -> Key {
    (OWNER, address / PAGE)
}

fn entries(mappings: &[Mapping]) -> impl Iterator<Item = (Key, u64)> {
    mappings.iter().map(|mapping| (key(mapping.page), mapping.frame))
}

pub(super) struct LockedMap(RwLock<FxHashMap<Key, u64>>);

impl LockedMap {
    pub(super) fn new(mappings: &[Mapping]) -> Self {
        Self(RwLock::new(entries(mappings).collect()))
    }
}

impl Lookup for LockedMap {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        self.0.read().get(&key(address)).map(|frame| frame + address % PAGE)
    }
}

pub(super) struct Sharded(DashMap<Key, u64, FxBuildHasher>);

impl Sharded {
    pub(super) fn new(mappings: &[Mapping]) -> Self {
        Self(entries(mappings).collect())
    }
}

impl Lookup for Sharded {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        self.0.get(&key(address)).map(|frame| *frame + address % PAGE)
    }
}

pub(super) struct Guarded(papaya::HashMap<Key, u64, FxBuildHasher>);

impl Guarded {
    pub(super) fn new(mappings: &[Mapping]) -> Self {
        Self(entries(mappings).collect())
    }
}

impl Lookup for Guarded {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        self.0.pin().get(&key(address)).map(|frame| frame + address % PAGE)
    }
}

pub(super) struct Indexed(HashIndex<Key, u64, FxBuildHasher>);

impl Indexed {
    pub(super) fn new(mappings: &[Mapping]) -> Self {
        let index = HashIndex::default();
        for (key, frame) in entries(mappings) {
            // No key comes twice.
            let _new = index.insert_sync(key, frame).is_ok();
        }
        Self(index)
    }
}

impl Lookup for Indexed {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        self.0.peek_with(&key(address), |_, frame| frame + address % PAGE)
    }
}

/// A sorted map that is replaced as a whole.
pub(super) struct SwappedTree(ArcSwap<BTreeMap<Key, u64>>);

impl SwappedTree {
    pub(super) fn new(mappings: &[Mapping]) -> Self {
        Self(ArcSwap::from_pointee(entries(mappings).collect()))
    }
}

impl Lookup for SwappedTree {
    #[inline(always)]
    fn find(&self, address: u64) -> Option<u64> {
        let tree = self.0.load();
        let ((owner, page), frame) = tree.range(..=key(address)).next_back()?;
        let within = address - page * PAGE;
        (*owner == OWNER && within < PAGE).then(|| frame + within)
    }
}
