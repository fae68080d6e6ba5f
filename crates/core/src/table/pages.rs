//! The page requests of all devices: changes of the queue under its lock, and the resulting actions
//! without it.

use std::sync::Arc;

use super::domain::DomainAttachment;
use super::iommu::Iommu;
use super::page_target::{PageActions, PageDrain, PageQueue, PageTarget};
use super::records::DeviceRecord;
use crate::api::event::Event;
use crate::api::fault::{Fault, FaultReason};
use crate::api::link::ToDevice;
use crate::api::pri::{FaultTimes, PageRequest, ResponseCode};
use crate::types::ids::Pasid;

impl Iommu {
    /// Changes the page request queue under its lock, then sends responses and wakes workers
    /// without it.
    pub(crate) fn with_pages<R>(
        &self,
        change: impl FnOnce(&mut PageQueue, &mut PageActions) -> R,
    ) -> R {
        let mut actions = PageActions::default();
        let result = change(&mut self.0.pages.lock(), &mut actions);
        for outgoing in &actions.responses {
            let response = outgoing.response;
            tracing::trace!(
                device = %outgoing.device.bdf(), pasid = outgoing.pasid.map(Pasid::get),
                group = %response.index, code = %response.code, "page response"
            );
            outgoing.device.services.send_to_device(ToDevice::Response(response));
        }
        for (device, request) in &actions.refused {
            let reason = FaultReason::PageRefused(ResponseCode::InvalidRequest);
            self.log_refused(device, request, reason);
        }
        #[cfg(not(loom))]
        if actions.has_work {
            self.0.workers.wake();
        }
        result
    }

    /// Logs that a page request was refused, and why.
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

    /// Accepts page requests of a device from now on, at most `allocation` outstanding.
    pub(crate) fn admit_pages(&self, device: &Arc<DeviceRecord>, allocation: u32) {
        self.0.pages.lock().admit(device, allocation);
    }

    /// Accepts no page requests of a device from now on.
    pub(crate) fn stop_page_reception(&self, device: &DeviceRecord) {
        self.0.pages.lock().stop_reception(device.services.key);
    }

    /// Drains the page requests of a device in `scope` and sends the responses. Returns the number
    /// of groups that were answered.
    pub(crate) fn drain_pages(&self, device: &Arc<DeviceRecord>, scope: PageDrain<'_>) -> usize {
        let now = self.now();
        self.with_pages(|pages, actions| pages.drain(device.services.key, scope, now, actions))
    }

    /// Answers the page requests of `members` for a domain attachment that has ended as invalid.
    pub(crate) fn drain_domain(
        &self,
        members: &[Arc<DeviceRecord>],
        ended: &Arc<DomainAttachment>,
    ) {
        let target = PageTarget::Domain(Arc::clone(ended));
        for device in members.iter().filter(|device| device.spec.capabilities.pri.is_some()) {
            self.drain_pages(device, PageDrain::Target(&target));
        }
    }

    /// Records times of a fault of a device, if its PASID is bound.
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
