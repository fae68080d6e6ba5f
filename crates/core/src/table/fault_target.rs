//! The targets of page requests, and the types of the page request queue over the records.

use std::sync::Arc;

use super::domain::DomainAttachment;
use super::records::{DeviceRecord, PasidEntry};
use crate::protocol::pri::group::{
    self as protocol, Actions, DeviceKey, DrainScope, PageRequester, ReadyGroup, ResolveKey,
};
use crate::protocol::pri::queue::PageRequestQueue;
use crate::types::ids::{Bdf, Pasid};

/// What the pages of a group belong to: a PASID entry or a domain attachment.
#[derive(Clone)]
pub(crate) enum FaultTarget {
    Entry(Arc<PasidEntry>),
    Domain(Arc<DomainAttachment>),
}

pub(super) type PageQueue = PageRequestQueue<Arc<DeviceRecord>>;
pub(crate) type PageActions = Actions<Arc<DeviceRecord>>;
pub(crate) type PageDrain<'a> = DrainScope<'a, FaultTarget>;
pub(crate) type ReadyPages = ReadyGroup<Arc<DeviceRecord>>;

impl FaultTarget {
    /// Enters the gate of the target; returns false if it is shut. Each `true` must be followed by
    /// one [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        match self {
            Self::Entry(entry) => entry.gate.enter(),
            Self::Domain(attachment) => attachment.gate.enter(),
        }
    }
}

impl protocol::FaultTarget for FaultTarget {
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
        match self {
            Self::Entry(entry) => entry.gate.is_closed(),
            Self::Domain(attachment) => attachment.gate.is_closed(),
        }
    }

    fn accepts_faults(&self) -> bool {
        match self {
            Self::Entry(entry) => {
                !entry.gate.is_closed() && entry.refusal().is_none() && entry.features.page_faults
            }
            Self::Domain(attachment) => !attachment.gate.is_closed(),
        }
    }
}

impl PageRequester for Arc<DeviceRecord> {
    type Target = FaultTarget;

    fn key(&self) -> DeviceKey {
        self.services.key
    }

    fn bdf(&self) -> Bdf {
        self.spec.bdf
    }

    fn entry(&self, pasid: Pasid) -> Option<FaultTarget> {
        self.requester.entry(pasid).map(FaultTarget::Entry)
    }

    fn domain(&self) -> FaultTarget {
        FaultTarget::Domain(self.group.domain.current())
    }

    fn is_gone(&self) -> bool {
        self.gate.is_closed()
    }

    fn names_pasid(&self) -> bool {
        self.spec.capabilities.response_pasid
    }
}
