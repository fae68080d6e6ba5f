//! A domain: the IOVA mappings for transactions without PASID.
//!
//! Mappings never overlap and are never split. Each has a [`Gate`]. An access enters it; an unmap
//! closes it and waits for the accesses inside, so that no access through the mapping is in flight
//! when the unmap returns. Mappings are inserted and removed under the control lock. An unmap
//! removes its mappings before it waits, so it does not affect a mapping that is made meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_sync::RwLock;

use crate::api::pri::PageRequestHandler;
use crate::api::space::AddressSpace;
use crate::quiesce::Gate;
use crate::types::access::{Access, Permissions};
use crate::types::range::AddrRange;

/// A mapping of IOVA to addresses of a space.
pub(crate) struct Mapping {
    pub(crate) range: AddrRange,
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) address: u64,
    pub(crate) permissions: Permissions,
    pub(crate) gate: Gate,
}

impl Mapping {
    /// Whether the mapping permits an access. Execute requests are refused: they carry a PASID by
    /// definition.
    pub(crate) fn permits(&self, access: Access) -> bool {
        self.permissions.permit(access) && !access.is_execute()
    }
}

/// A set of IOVA mappings.
#[derive(Default)]
pub(crate) struct Domain {
    by_first: RwLock<BTreeMap<u64, Arc<Mapping>>>,
    /// The handler of page requests without PASID; if `None`, the providers of the mapped memory
    /// resolve them.
    handler: RwLock<Option<Arc<dyn PageRequestHandler>>>,
}

impl Domain {
    /// The mapping that contains `iova`.
    pub(crate) fn find(&self, iova: u64) -> Option<Arc<Mapping>> {
        let maps = self.by_first.read();
        let (_, mapping) = maps.range(..=iova).next_back()?;
        mapping.range.contains(iova).then(|| Arc::clone(mapping))
    }

    /// The range of the first mapping that overlaps `range`.
    pub(crate) fn first_overlap(&self, range: AddrRange) -> Option<AddrRange> {
        let maps = self.by_first.read();
        let before = maps
            .range(..range.first())
            .next_back()
            .filter(|(_, mapping)| mapping.range.overlaps(range));
        let (_, mapping) = before.or_else(|| maps.range(range.first()..=range.last()).next())?;
        Some(mapping.range)
    }

    /// Inserts a mapping, which overlaps no other.
    pub(crate) fn insert(&self, mapping: Mapping) {
        self.by_first.write().insert(mapping.range.first(), Arc::new(mapping));
    }

    /// Removes all mappings inside `range` and returns them. Removes none if one would be split,
    /// and returns the range of the first such mapping.
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

    /// Removes all mappings and returns them.
    pub(crate) fn clear(&self) -> Vec<Arc<Mapping>> {
        std::mem::take(&mut *self.by_first.write()).into_values().collect()
    }

    /// The handler of the domain's page requests, if there is one.
    pub(crate) fn handler(&self) -> Option<Arc<dyn PageRequestHandler>> {
        self.handler.read().clone()
    }

    /// Sets the handler of the domain's page requests. Returns false, and changes nothing, if there
    /// is one.
    pub(crate) fn set_handler(&self, handler: Arc<dyn PageRequestHandler>) -> bool {
        let mut held = self.handler.write();
        let free = held.is_none();
        if free {
            *held = Some(handler);
        }
        free
    }

    /// Removes the handler of the domain's page requests and returns it. The caller drops it with
    /// no lock held, since its drop is foreign code.
    pub(crate) fn take_handler(&self) -> Option<Arc<dyn PageRequestHandler>> {
        self.handler.write().take()
    }

    /// The number of mappings.
    pub(crate) fn len(&self) -> usize {
        self.by_first.read().len()
    }

    /// The mapped ranges, ascending.
    pub(crate) fn ranges(&self) -> Vec<AddrRange> {
        self.by_first.read().values().map(|mapping| mapping.range).collect()
    }
}

/// A domain as it is attached to one group. When another domain is attached to the group, the gate
/// is closed and waited for, without affecting the other groups of the domain.
pub(crate) struct DomainAttachment {
    pub(crate) domain: Arc<Domain>,
    pub(crate) gate: Gate,
}

impl DomainAttachment {
    pub(crate) fn new(domain: Arc<Domain>) -> Arc<Self> {
        Arc::new(Self { domain, gate: Gate::new() })
    }
}

/// The domain that is attached to a group. There is always one; an empty domain blocks all
/// accesses.
pub(crate) struct DomainSlot(RwLock<Arc<DomainAttachment>>);

impl DomainSlot {
    pub(crate) fn blocking() -> Self {
        Self(RwLock::new(DomainAttachment::new(Arc::default())))
    }

    /// The current attachment.
    pub(crate) fn current(&self) -> Arc<DomainAttachment> {
        Arc::clone(&self.0.read())
    }

    /// Attaches another domain and returns the previous attachment, whose gate the caller closes.
    pub(crate) fn attach(&self, to: Arc<Domain>) -> Arc<DomainAttachment> {
        std::mem::replace(&mut *self.0.write(), DomainAttachment::new(to))
    }
}
