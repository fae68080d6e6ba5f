//! Page requests of all devices: the queue under its lock, and what it asks of the records.

use std::sync::Arc;

use super::device::DeviceRecord;
use super::domain::DomainAttachment;
use super::entry::PasidEntry;
use super::guard::OnDrain;
use super::iommu::Iommu;
use crate::api::event::Event;
use crate::api::fault::{Fault, FaultReason};
use crate::api::link::ToDevice;
use crate::api::pri::{FaultTimes, PageRequest, ResponseCode};
use crate::protocol::pri::group::{
    self as protocol, Actions, DeviceKey, DrainScope, PageRequester, ReadyGroup, ResolveKey,
};
use crate::protocol::pri::queue::PageRequestQueue;
use crate::types::ids::{Bdf, Pasid};

/// What the pages of a group belong to.
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
    /// Enters its gate; false where that is shut. Each `true` is followed by one
    /// [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        match self {
            Self::Entry(entry) => entry.gate.enter(),
            Self::Domain(attachment) => attachment.gate.enter(),
        }
    }

    pub(crate) fn leave(&self, iommu: &Iommu) {
        match self {
            Self::Entry(entry) if entry.gate.leave() => OnDrain::StepEntry(entry).run(iommu),
            Self::Domain(attachment) if attachment.gate.leave() => OnDrain::Wake.run(iommu),
            _ => {}
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

impl Iommu {
    /// Changes the page requests under their lock; sends, and wakes workers, without it.
    pub(crate) fn with_pages<R>(
        &self,
        change: impl FnOnce(&mut PageQueue, &mut PageActions) -> R,
    ) -> R {
        let mut actions = PageActions::default();
        let result = change(&mut self.0.pages.lock(), &mut actions);
        for outgoing in std::mem::take(&mut actions.responses) {
            let response = outgoing.response;
            tracing::trace!(
                device = %outgoing.device.bdf(), pasid = outgoing.pasid.map(Pasid::get),
                group = %response.index, code = %response.code, "page response"
            );
            outgoing.device.services.to_device(ToDevice::Response(response));
        }
        for (device, request) in std::mem::take(&mut actions.refused) {
            let reason = FaultReason::PageRefused(ResponseCode::InvalidRequest);
            self.log_refused(&device, &request, reason);
        }
        #[cfg(not(loom))]
        if actions.has_work {
            self.0.workers.wake();
        }
        result
    }

    /// Logs that a page cannot be had, and why.
    pub(crate) fn log_refused(
        &self,
        device: &DeviceRecord,
        request: &PageRequest,
        reason: FaultReason,
    ) {
        let (pasid, address) = (request.pasid, request.address);
        let fault = Fault { device: device.bdf(), pasid, address, access: request.kind(), reason };
        tracing::debug!(
            device = %fault.device, pasid = pasid.map(Pasid::get), address, %reason,
            "page request refused"
        );
        self.log(Event::Fault(fault));
    }

    /// Takes page requests of a device from now on.
    pub(crate) fn admit_pages(&self, device: &Arc<DeviceRecord>, allocation: u32) {
        self.0.pages.lock().admit(device, allocation);
    }

    /// Takes no page requests of a device any more.
    pub(crate) fn stop_page_reception(&self, device: &DeviceRecord) {
        self.0.pages.lock().stop_reception(device.services.key);
    }

    /// Drains what a device has pending for `scope`, and sends the responses. Answers how many
    /// groups were answered.
    pub(crate) fn drain_pages(&self, device: &Arc<DeviceRecord>, scope: PageDrain<'_>) -> usize {
        let now = self.now();
        self.with_pages(|pages, actions| pages.drain(device.services.key, scope, now, actions))
    }

    /// An attachment of a domain has ended: what the devices have pending for it is answered as
    /// invalid.
    pub(crate) fn drain_domain(
        &self,
        members: &[Arc<DeviceRecord>],
        ended: &Arc<DomainAttachment>,
    ) {
        let target = FaultTarget::Domain(Arc::clone(ended));
        for device in members.iter().filter(|device| device.spec.capabilities.pri.is_some()) {
            self.drain_pages(device, PageDrain::Target(&target));
        }
    }

    /// Records times of a fault of a device, where it has a bond of that PASID.
    pub(crate) fn record_times(
        &self,
        device: &DeviceRecord,
        pasid: Option<Pasid>,
        record: impl FnOnce(&mut FaultTimes),
    ) {
        if let Some(entry) = pasid.and_then(|pasid| device.requester.entry(pasid)) {
            record(entry.times.lock().get_or_insert_default());
        }
    }
}
