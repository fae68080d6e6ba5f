//! A domain: the IOVA mappings for transactions that carry no PASID.
//!
//! Mappings never overlap and are never split. Each has a [`Gate`]: an access goes through it, an
//! unmap closes it and waits for those inside, so that no access through a mapping is in flight
//! when its unmap has returned. Changes are made under the control lock, which decides
//! what is removed before anything is waited for: a mapping made meanwhile is not touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_sync::RwLock;

use crate::api::pri::PageRequestHandler;
use crate::api::space::AddressSpace;
use crate::quiesce::Gate;
use crate::types::access::{Access, Permissions};
use crate::types::range::AddrRange;

/// One mapping.
pub(crate) struct Mapping {
    pub(crate) range: AddrRange,
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) address: u64,
    pub(crate) permissions: Permissions,
    pub(crate) gate: Gate,
}

impl Mapping {
    /// Whether it permits an access. Execute requests carry a PASID by definition.
    pub(crate) fn permits(&self, access: Access) -> bool {
        self.permissions.permit(access) && !access.is_execute()
    }
}

/// IOVA mappings, which never overlap and are never split.
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
    pub(crate) fn first_overlap(&self, range: AddrRange) -> Option<AddrRange> {
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

/// A domain as it is attached to one group. Attaching another domain to the group closes this gate
/// and waits for it, without touching the other groups of the domain.
pub(crate) struct DomainAttachment {
    pub(crate) domain: Arc<Domain>,
    pub(crate) gate: Gate,
}

impl DomainAttachment {
    pub(crate) fn new(domain: Arc<Domain>) -> Arc<Self> {
        Arc::new(Self { domain, gate: Gate::new() })
    }
}

/// The domain that is attached to a group. There is always one: an empty domain blocks everything.
pub(crate) struct DomainSlot(RwLock<Arc<DomainAttachment>>);

impl DomainSlot {
    pub(crate) fn blocking() -> Self {
        Self(RwLock::new(DomainAttachment::new(Arc::default())))
    }

    /// What is attached now.
    pub(crate) fn current(&self) -> Arc<DomainAttachment> {
        Arc::clone(&self.0.read())
    }

    /// Attaches another domain and answers the attachment that ended; its gate is for the caller to
    /// close.
    pub(crate) fn attach(&self, to: Arc<Domain>) -> Arc<DomainAttachment> {
        std::mem::replace(&mut *self.0.write(), DomainAttachment::new(to))
    }
}
