//! What the IOMMU does with the messages of devices, and devices with those of the IOMMU.

use std::sync::{Arc, Weak};

use sva_sync::atomic::Ordering;

use crate::api::ats::{
    AlignedRange, Translation, TranslationCompletion, TranslationRefusal, TranslationRequest,
};
use crate::api::event::Event;
use crate::api::link::{MessageEndpoint, ToDevice, ToIommu};
use crate::api::space::StopCause;
use crate::protocol::pri::interface::AnsweredGroup;
use crate::quiesce::callback::InCallback;
use crate::table::{DeviceRecord, GateGuard, Inner, Iommu, OnDrain};
use crate::types::access::Permissions;
use crate::types::ids::{Pasid, PasidTag};

/// Both ends of the link of one device. It keeps neither the system nor the device alive.
pub(super) struct Endpoints {
    iommu: Weak<Inner>,
    device: Weak<DeviceRecord>,
}

impl Endpoints {
    pub(super) fn of(iommu: Weak<Inner>, device: Weak<DeviceRecord>) -> Arc<dyn MessageEndpoint> {
        Arc::new(Self { iommu, device })
    }

    fn both(&self) -> Option<(Iommu, Arc<DeviceRecord>)> {
        Some((Iommu::upgrade(&self.iommu)?, self.device.upgrade()?))
    }
}

impl MessageEndpoint for Endpoints {
    fn upstream(&self, message: ToIommu) {
        if let Some((iommu, device)) = self.both() {
            iommu.receive(&device, message);
        }
    }

    fn downstream(&self, message: ToDevice) {
        if let Some((iommu, device)) = self.both() {
            iommu.deliver(&device, message);
        }
    }
}

impl Iommu {
    /// A message of a device has come.
    fn receive(&self, device: &Arc<DeviceRecord>, message: ToIommu) {
        match message {
            ToIommu::Translate(request) => {
                tracing::trace!(
                    device = %device.bdf(), pasid = request.pasid.map(Pasid::get),
                    address = request.address, access = %request.access(), "translation request"
                );
                let (result, owner) = self.translate(device, &request);
                let (id, privileged) = (request.id, request.privileged);
                let completion = TranslationCompletion { id, result, privileged, owner };
                device.services.to_device(ToDevice::Translated(completion));
            }
            ToIommu::Invalidated(completion) => self.invalidation_completed(device, completion),
            ToIommu::Page(request) => {
                let now = self.now();
                self.with_pages(|pages, actions| pages.receive(device, request, now, actions));
            }
            ToIommu::Stop(marker) => {
                let key = device.services.key;
                self.with_pages(|pages, actions| pages.receive_stop(key, marker, actions))
            }
        }
    }

    /// A message for a device has come to it.
    fn deliver(&self, device: &Arc<DeviceRecord>, message: ToDevice) {
        let services = &device.services;
        let mut endpoint = services.endpoint.lock();
        if endpoint.is_in_reset {
            return;
        }
        match message {
            ToDevice::Translated(completion) => endpoint.atc.complete(completion),
            ToDevice::Invalidate(request) => {
                let completion = endpoint.atc.invalidate(request);
                drop(endpoint);
                if let Some(completion) = completion {
                    services.to_iommu(ToIommu::Invalidated(completion));
                }
                return;
            }
            ToDevice::Response(response) => {
                let answered = endpoint.interface.respond(response);
                drop(endpoint);
                if let (Some(AnsweredGroup { pasid, sent: Some(sent) }), Some(now)) =
                    (answered, self.now())
                {
                    self.record_times(device, pasid, |times| {
                        times.response.record(now.saturating_sub(sent))
                    });
                }
            }
        }
        services.endpoint_changed.notify_all();
    }

    /// Asks what an address means on behalf of a device (PCIe 6.0, section 10.2).
    fn translate(
        &self,
        device: &Arc<DeviceRecord>,
        request: &TranslationRequest,
    ) -> (Result<Translation, TranslationRefusal>, Option<PasidTag>) {
        let unsupported = (Err(TranslationRefusal::Unsupported), None);
        // What the last one out drops is foreign code.
        let _callback = InCallback::enter();
        let Some(_inside) = GateGuard::enter(&device.gate, self, OnDrain::WakeWaiters) else {
            return unsupported;
        };
        let routing = device.current_routing(self.topology());
        if let Some(window) =
            routing.windows().iter().find(|window| window.range.contains(request.address))
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
        if routing.translation_blocked.is_some()
            || device.services.invalidations.lock().is_blocked()
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
        device: &Arc<DeviceRecord>,
        pasid: Pasid,
        request: &TranslationRequest,
    ) -> (Result<Translation, TranslationRefusal>, Option<PasidTag>) {
        let none = Translation::none(request.address);
        let entry = device.requester.entry(pasid);
        let Some(entry) = entry.filter(|_| device.can_issue(pasid)) else {
            return (Err(TranslationRefusal::Unsupported), None);
        };
        let Some(_inside) = GateGuard::enter(&entry.gate, self, OnDrain::StepEntry(&entry)) else {
            return (Err(TranslationRefusal::Unsupported), None);
        };
        let tag = Some(entry.record.tag);
        if !entry.is_published.load(Ordering::Acquire) {
            return (Err(TranslationRefusal::Unsupported), None);
        }
        if entry.record.has_ended() || request.privileged && !entry.features.privileged {
            return (Ok(none), tag);
        }
        match entry.record.space.translate(request.address, request.privileged) {
            Ok(found) => {
                // Execute permission is given where it was asked for, and as a kind of reading
                // (Exe: PCIe 6.0, section 10.2.3).
                let mut granted = entry.granted();
                if !request.execute || !found.permissions.contains(Permissions::READ) {
                    granted.remove(Permissions::EXECUTE);
                }
                let permissions = found.permissions & granted;
                (Ok(Translation { permissions, ..found }), tag)
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
        device: &Arc<DeviceRecord>,
        request: &TranslationRequest,
    ) -> Translation {
        let none = Translation::none(request.address);
        let attachment = device.group.domain.current();
        let Some(mapping) = attachment.domain.find(request.address) else { return none };
        Translation { permissions: mapping.permissions & Permissions::READ_WRITE, ..none }
    }
}
