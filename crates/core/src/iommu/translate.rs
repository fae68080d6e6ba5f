//! Messages of devices, and translation requests.

use std::sync::Arc;

use super::Iommu;
use super::inside::{Inside, Last};
use super::parts::DeviceInner;
use crate::ats::message::{
    AlignedRange, Permissions, Translation, TranslationCompletion, TranslationRefusal,
    TranslationRequest,
};
use crate::callback::InCallback;
use crate::event::Event;
use crate::ids::{Pasid, PasidTag};
use crate::link::{ToDevice, ToIommu};
use crate::pri::interface::Fitting;
use crate::pri::queue::{Outbox, PageRequests};
use crate::space::StopCause;
use crate::sync::atomic::Ordering;

impl Iommu {
    /// A message of a device has come.
    pub(crate) fn take_upstream(&self, device: &Arc<DeviceInner>, message: ToIommu) {
        match message {
            ToIommu::Translate(request) => {
                tracing::trace!(device = %device.bdf(), pasid = request.pasid.map(Pasid::get), address = request.address, access = %request.access(), "translation request");
                let (result, owner) = self.translate(device, &request);
                let completion = TranslationCompletion {
                    id: request.id,
                    result,
                    privileged: request.privileged,
                    owner,
                };
                device.services.to_device(ToDevice::Translated(completion));
            }
            ToIommu::Invalidated(completion) => self.invalidation_completed(device, completion),
            ToIommu::Page(request) => {
                let now = self.now();
                self.with_pages(|pages, out| {
                    pages.receive(device, device.services.key, request, now, out)
                });
            }
            ToIommu::Stop(marker) => {
                self.with_pages(|pages, out| pages.receive_stop(device.services.key, marker, out))
            }
        }
    }

    /// A message for a device has come to it.
    pub(crate) fn take_downstream(&self, device: &Arc<DeviceInner>, message: ToDevice) {
        let services = &device.services;
        let mut side = services.side.lock();
        if side.resetting {
            return;
        }
        match message {
            ToDevice::Translated(completion) => side.atc.complete(completion),
            ToDevice::Invalidate(request) => {
                let completion = side.atc.invalidate(request);
                drop(side);
                if let Some(completion) = completion {
                    services.to_iommu(ToIommu::Invalidated(completion));
                }
                return;
            }
            ToDevice::Response(response) => {
                let fitting = side.interface.respond(response);
                drop(side);
                if let (Some(Fitting { pasid, sent: Some(sent) }), Some(now)) =
                    (fitting, self.now())
                {
                    self.with_times(device, pasid, |times| {
                        times.response.record(now.saturating_sub(sent))
                    });
                }
            }
        }
        services.news.notify_all();
    }

    /// Asks what an address means on behalf of a device (PCIe 6.0, section 10.2).
    fn translate(
        &self,
        device: &Arc<DeviceInner>,
        request: &TranslationRequest,
    ) -> (Result<Translation, TranslationRefusal>, Option<PasidTag>) {
        let unsupported = (Err(TranslationRefusal::Unsupported), None);
        // What the last one out drops is foreign code.
        let _callback = InCallback::enter();
        let Some(_inside) = Inside::enter(&device.gate, self, Last::Wake) else {
            return unsupported;
        };
        let isolation = device.isolation(self.topology());
        if let Some(window) =
            isolation.windows().iter().find(|window| window.range.contains(request.address))
        {
            // It is routed like any other request: the peer gets it, and has no translations to
            // give (rule B7).
            let (pasid, range) = (request.pasid, AlignedRange::page(request.address).range());
            self.log(Event::Misrouted {
                device: device.bdf(),
                pasid,
                range,
                decoder: window.decoder,
                claimed: window.claimed,
            });
            return unsupported;
        }
        if isolation.translation_blocked.is_some()
            || device.services.invalidator.lock().is_blocked()
        {
            return unsupported;
        }
        match request.pasid {
            Some(pasid) => self.translate_in_space(device, pasid, request),
            // What a domain maps can be unmapped under the mapped space's feet and the other way
            // round: nothing of it is kept.
            None => (Ok(self.translate_in_domain(device, request)), None),
        }
    }

    fn translate_in_space(
        &self,
        device: &Arc<DeviceInner>,
        pasid: Pasid,
        request: &TranslationRequest,
    ) -> (Result<Translation, TranslationRefusal>, Option<PasidTag>) {
        let none = Translation::none(request.address);
        let entry = device.requester.table.read().get(&pasid).cloned();
        let Some(entry) = entry.filter(|_| device.can_issue(pasid)) else {
            return (Err(TranslationRefusal::Unsupported), None);
        };
        let Some(_inside) = Inside::enter(&entry.gate, self, Last::Attachment(&entry)) else {
            return (Err(TranslationRefusal::Unsupported), None);
        };
        let tag = Some(entry.record.tag);
        if !entry.published.load(Ordering::Acquire) {
            return (Err(TranslationRefusal::Unsupported), None);
        }
        if entry.record.ended() || request.privileged && !entry.features.privileged {
            return (Ok(none), tag);
        }
        match entry.record.space.translate(request.address, request.privileged) {
            Ok(found) => {
                // Execute permission is given where it was asked for, and as a kind of reading
                // (Exe: PCIe 6.0, section 10.2.3).
                let execute = entry.features.execute && request.execute && found.permits.read;
                let granted = Permissions { read: true, write: true, execute };
                (Ok(Translation { permits: found.permits.and(granted), ..found }), tag)
            }
            Err(StopCause::Host(failure)) => {
                let errno = failure.source.raw_os_error();
                self.log(Event::HostFailure { device: device.bdf(), call: failure.call, errno });
                (Err(TranslationRefusal::Aborted), tag)
            }
            Err(_) => (Ok(none), tag),
        }
    }

    fn translate_in_domain(
        &self,
        device: &Arc<DeviceInner>,
        request: &TranslationRequest,
    ) -> Translation {
        let none = Translation::none(request.address);
        let domain = device.face.translation.current();
        let Some(mapping) = domain.domain.find(request.address) else { return none };
        let permits = Permissions {
            read: mapping.protection.read,
            write: mapping.protection.write,
            execute: false,
        };
        Translation { permits, ..none }
    }
}

impl Iommu {
    /// Changes the page requests under their lock, and sends and wakes without it.
    pub(crate) fn with_pages<R>(
        &self,
        change: impl FnOnce(&mut PageRequests, &mut Outbox) -> R,
    ) -> R {
        let mut out = Outbox::default();
        let result = change(&mut self.0.pages.lock(), &mut out);
        self.send_answers(out);
        result
    }
}
