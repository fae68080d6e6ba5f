//! A domain: the IOVA mappings for transactions that carry no PASID.
//!
//! Mappings never overlap and are never split. Each has a [`Gate`]: an access goes through it, an
//! unmap closes it and waits for those inside, so that no access through a mapping is under way
//! when its unmap has returned (rule T2). Changes are made under the control lock, which decides
//! what is removed before anything is waited for: a mapping made meanwhile is not touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fault::Access;
use crate::gate::Gate;
use crate::pri::owner::PageRequestHandler;
use crate::range::AddrRange;
use crate::space::AddressSpace;
use crate::sync::RwLock;

/// What a mapping permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection {
    /// Devices may read.
    pub read: bool,
    /// Devices may write.
    pub write: bool,
}

impl Protection {
    /// Reading and writing.
    pub const READ_WRITE: Self = Self { read: true, write: true };
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false };

    pub(crate) const fn permits(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            // Execute requests carry a PASID by definition.
            Access::Execute => false,
        }
    }
}

/// What a MAP asks for.
#[derive(Clone)]
pub struct MapRequest {
    /// First I/O virtual address; a multiple of the page size.
    pub iova: u64,
    /// Bytes; a multiple of the page size.
    pub len: u64,
    /// The space whose memory is mapped. The mapping does not keep it alive.
    pub space: Arc<dyn AddressSpace>,
    /// First address in that space; a multiple of the page size.
    pub address: u64,
    /// What devices may do.
    pub protection: Protection,
}

/// One mapping.
pub(crate) struct Mapping {
    pub(crate) range: AddrRange,
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) address: u64,
    pub(crate) protection: Protection,
    pub(crate) gate: Gate,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Domain {
    by_first: RwLock<BTreeMap<u64, Arc<Mapping>>>,
    /// Who gets page requests without a PASID, instead of the providers of the mapped memory.
    handler: RwLock<Option<Arc<dyn PageRequestHandler>>>,
}

impl Domain {
    /// The mapping that holds `iova`.
    pub(crate) fn find(&self, iova: u64) -> Option<Arc<Mapping>> {
        let maps = self.by_first.read();
        let (_, mapping) = maps.range(..=iova).next_back()?;
        mapping.range.contains(iova).then(|| Arc::clone(mapping))
    }

    /// The first mapping that meets `range`.
    pub(crate) fn meets(&self, range: AddrRange) -> Option<AddrRange> {
        let maps = self.by_first.read();
        let before = maps
            .range(..range.first())
            .next_back()
            .filter(|(_, mapping)| mapping.range.overlaps(range));
        let (_, mapping) = before.or_else(|| maps.range(range.first()..=range.last()).next())?;
        Some(mapping.range)
    }

    /// Adds a mapping that meets no other.
    pub(crate) fn insert(&self, mapping: Mapping) {
        self.by_first.write().insert(mapping.range.first(), Arc::new(mapping));
    }

    /// Removes all mappings inside `range` and answers them, or the first that it would split and
    /// removes nothing.
    pub(crate) fn remove(&self, range: AddrRange) -> Result<Vec<Arc<Mapping>>, AddrRange> {
        let mut maps = self.by_first.write();
        let mut inside = Vec::new();
        let first = maps.range(..range.first()).next_back().map_or(range.first(), |(&key, _)| key);
        for mapping in maps.range(first..=range.last()).map(|(_, mapping)| mapping) {
            if range.covers(mapping.range) {
                inside.push(Arc::clone(mapping));
            } else if range.overlaps(mapping.range) {
                return Err(mapping.range);
            }
        }
        for mapping in &inside {
            maps.remove(&mapping.range.first());
        }
        Ok(inside)
    }

    /// Removes everything.
    pub(crate) fn clear(&self) -> Vec<Arc<Mapping>> {
        std::mem::take(&mut *self.by_first.write()).into_values().collect()
    }

    /// Who gets its page requests, where somebody wants them.
    pub(crate) fn handler(&self) -> Option<Arc<dyn PageRequestHandler>> {
        self.handler.read().clone()
    }

    /// Gives its page requests to `handler`; false where somebody has them.
    pub(crate) fn set_handler(&self, handler: Arc<dyn PageRequestHandler>) -> bool {
        let mut held = self.handler.write();
        let free = held.is_none();
        if free {
            *held = Some(handler);
        }
        free
    }

    /// Takes its page requests from whoever has them, and answers who that was: its drop is foreign
    /// code.
    pub(crate) fn take_handler(&self) -> Option<Arc<dyn PageRequestHandler>> {
        self.handler.write().take()
    }

    /// How many mappings there are.
    pub(crate) fn len(&self) -> usize {
        self.by_first.read().len()
    }

    /// All mapped ranges, ascending.
    pub(crate) fn ranges(&self) -> Vec<AddrRange> {
        self.by_first.read().values().map(|mapping| mapping.range).collect()
    }
}

/// A domain in use by one group: switching the group to another domain closes this use and waits
/// for it, without touching the other groups of the domain.
pub(crate) struct DomainUse {
    pub(crate) domain: Arc<Domain>,
    pub(crate) gate: Gate,
}

impl DomainUse {
    pub(crate) fn new(domain: Arc<Domain>) -> Arc<Self> {
        Arc::new(Self { domain, gate: Gate::new() })
    }
}

/// Which domain a group's devices use now. There is always one: an empty domain blocks everything.
pub(crate) struct Translation(RwLock<Arc<DomainUse>>);

impl Translation {
    pub(crate) fn blocking() -> Self {
        Self(RwLock::new(DomainUse::new(Arc::default())))
    }

    /// The domain in use.
    pub(crate) fn current(&self) -> Arc<DomainUse> {
        Arc::clone(&self.0.read())
    }

    /// Puts another domain into use and answers the use that ended; its gate is for the caller to
    /// close.
    pub(crate) fn switch(&self, to: Arc<Domain>) -> Arc<DomainUse> {
        std::mem::replace(&mut *self.0.write(), DomainUse::new(to))
    }
}
