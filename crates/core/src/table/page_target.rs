//! The targets of page requests, and the types of the page request queue over the records.

use std::sync::Arc;

use super::domain::DomainAttachment;
use super::records::{DeviceRecord, PasidEntry};
use crate::protocol::pri::queue::PageRequestQueue;
use crate::protocol::pri::records::{
    DrainScope, PageRequestTarget, PageRequester, QueueActions, ReadyGroup, ResolveKey,
};
use crate::quiesce::Gate;
use crate::types::ids::{Bdf, DeviceKey, Pasid};

/// The target of a page request group: a PASID entry or a domain attachment.
#[derive(Clone)]
pub(crate) enum PageTarget {
    Entry(Arc<PasidEntry>),
    Domain(Arc<DomainAttachment>),
}

pub(super) type PageQueue = PageRequestQueue<Arc<DeviceRecord>>;
pub(crate) type PageActions = QueueActions<Arc<DeviceRecord>>;
pub(crate) type PageDrain<'a> = DrainScope<'a, PageTarget>;
pub(crate) type ReadyPageGroup = ReadyGroup<Arc<DeviceRecord>>;

impl PageTarget {
    /// The gate that an access through the target enters.
    pub(crate) fn gate(&self) -> &Gate {
        match self {
            Self::Entry(entry) => &entry.gate,
            Self::Domain(attachment) => &attachment.gate,
        }
    }
}

impl PageRequestTarget for PageTarget {
    fn pasid(&self) -> Option<Pasid> {
        match self {
            Self::Entry(entry) => Some(entry.record.tag.pasid),
            Self::Domain(_) => None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Entry(one), Self::Entry(other)) => Arc::ptr_eq(one, other),
            (Self::Domain(one), Self::Domain(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn resolve_key(&self) -> ResolveKey {
        match self {
            Self::Entry(entry) => ResolveKey::Space(entry.record.tag.generation),
            Self::Domain(attachment) => ResolveKey::Domain(Arc::as_ptr(attachment) as usize),
        }
    }

    fn is_closed(&self) -> bool {
        self.gate().is_closed()
    }

    fn accepts_page_requests(&self) -> bool {
        match self {
            Self::Entry(entry) => {
                !entry.gate.is_closed()
                    && entry.abort_reason().is_none()
                    && entry.features.page_faults
            }
            Self::Domain(attachment) => !attachment.gate.is_closed(),
        }
    }
}

impl PageRequester for Arc<DeviceRecord> {
    type Target = PageTarget;

    fn key(&self) -> DeviceKey {
        self.services.key
    }

    fn bdf(&self) -> Bdf {
        self.spec.bdf
    }

    fn entry(&self, pasid: Pasid) -> Option<PageTarget> {
        self.requester.entry(pasid).map(PageTarget::Entry)
    }

    fn domain(&self) -> PageTarget {
        PageTarget::Domain(self.group.domain.current())
    }

    fn is_gone(&self) -> bool {
        self.gate.is_closed()
    }

    fn response_pasid(&self) -> bool {
        self.spec.capabilities.response_pasid
    }
}
