//! Messages of ATS and PRI: what the IOMMU does with those of a device, and the device with those
//! of the IOMMU.
//!
//! A link may call these functions inside the call that sends a message, so no lock is held while
//! a message is sent.

use std::sync::{Arc, Weak};

use crate::api::ats::TranslationCompletion;
use crate::api::link::{MessageReceiver, ToDevice, ToIommu};
use crate::protocol::pri::interface::AnsweredGroup;
use crate::table::{DeviceRecord, Inner, Iommu};
use crate::types::ids::Pasid;

/// Receives the messages of one device at both ends of its link. It holds weak references to the
/// IOMMU and the device, since the device holds it.
pub(super) struct LinkReceiver {
    iommu: Weak<Inner>,
    device: Weak<DeviceRecord>,
}

impl LinkReceiver {
    pub(super) fn of(iommu: Weak<Inner>, device: Weak<DeviceRecord>) -> Arc<dyn MessageReceiver> {
        Arc::new(Self { iommu, device })
    }

    /// Returns the IOMMU and the device, unless one of them has been dropped.
    fn upgrade(&self) -> Option<(Iommu, Arc<DeviceRecord>)> {
        Some((Iommu::upgrade(&self.iommu)?, self.device.upgrade()?))
    }
}

impl MessageReceiver for LinkReceiver {
    fn receive_at_iommu(&self, message: ToIommu) {
        if let Some((iommu, device)) = self.upgrade() {
            iommu.receive_from_device(&device, message);
        }
    }

    fn receive_at_device(&self, message: ToDevice) {
        if let Some((iommu, device)) = self.upgrade() {
            iommu.receive_at_device(&device, message);
        }
    }
}

impl Iommu {
    /// Handles, at the IOMMU, a message that a device has sent.
    fn receive_from_device(&self, device: &Arc<DeviceRecord>, message: ToIommu) {
        match message {
            ToIommu::Translate(request) => {
                tracing::trace!(
                    device = %device.bdf(), pasid = request.pasid.map(Pasid::get),
                    address = request.address, access = %request.access(), "translation request"
                );
                let (result, owner) = self.translate(device, &request);
                let (id, privileged) = (request.id, request.privileged);
                let completion = TranslationCompletion { id, result, privileged, owner };
                device.services.send_to_device(ToDevice::Translated(completion));
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

    /// Handles, at the device, a message that the IOMMU has sent. A device in reset ignores it.
    fn receive_at_device(&self, device: &Arc<DeviceRecord>, message: ToDevice) {
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
                    services.send_to_iommu(ToIommu::Invalidated(completion));
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
}
