//! The blocked state, which ends all invalidations of a device: ATS off, reset, cut off, removed.
//!
//! A blocked device gets no translated request through and forgets its translations before it is
//! let in again, so nothing has to be awaited from it; that is where an invalidation goes that is
//! never answered. Being blocked is decided under the lock of the device's
//! [`InvalidationQueue`](crate::protocol::ats::invalidation), with its gates: there is no moment at which an
//! invalidation finds it unblocked and its translated requests go on.

use std::sync::Arc;

use crate::api::ats::AlignedRange;
use crate::api::error::{Service, ServiceError};
use crate::protocol::ats::InvalidationCounts;
use crate::protocol::ats::atc::AtcCounts;
use crate::protocol::ats::invalidation::PendingInvalidation;
use crate::protocol::pri::interface::InterfaceCounts;
use crate::quiesce::{Change, callback};
use crate::table::{Device, DeviceRecord, Iommu, PageDrain};

impl Iommu {
    /// A device has been taken out: nothing is sent to it any more, and nothing awaited from it.
    /// Answers how many groups of page requests were answered.
    pub(super) fn end_services(&self, device: &Arc<DeviceRecord>, orderly: bool) -> usize {
        let mut answered = 0;
        self.stop_page_reception(device);
        if orderly {
            answered = self.drain_pages(device, PageDrain::Device);
        }
        self.with_invalidations(device, |queue, _, actions| {
            let is_drained = device.services.translated.close().is_none_or(|inside| inside == 0);
            queue.remove(is_drained, actions);
            self.complete_translated_drain(device, queue, actions);
            let mut endpoint = device.services.endpoint.lock();
            endpoint.is_in_reset = true;
            endpoint.reset();
        });
        device.services.endpoint_changed.notify_all();
        answered
    }

    /// Lets go of the last of a removed device's page requests.
    pub(super) fn forget_pages(&self, device: &Arc<DeviceRecord>) {
        self.with_pages(|pages, actions| pages.forget(device.services.key, true, actions));
    }
}

impl Device {
    /// Enables address translation services: translation requests are answered, and translated
    /// requests pass.
    ///
    /// # Errors
    /// See [`ServiceError`]; nothing has changed then.
    pub fn enable_ats(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        let bdf = device.bdf();
        if !device.spec.capabilities.ats {
            return Err(ServiceError::NoAts { device: bdf });
        }
        if device.requester.id.0 != bdf {
            return Err(ServiceError::SharedRequesterId {
                device: bdf,
                requester: device.requester.id,
            });
        }
        iommu.with_invalidations(device, |queue, _, actions| {
            if queue.is_halted() {
                return Err(ServiceError::Halted { device: bdf });
            }
            if queue.is_enabled() {
                return Err(ServiceError::AlreadyOn { device: bdf, service: Service::Ats });
            }
            iommu.add_ats_device(device);
            queue.enable();
            iommu.complete_translated_drain(device, queue, actions);
            Ok(())
        })
    }

    /// Disables address translation services: stops translated requests, waits for those under
    /// way (unless called from inside a callback), and forgets all translations. Invalidations
    /// that are under way are over with that.
    ///
    /// # Errors
    /// The device uses page requests, which rest on it; or it was off.
    pub fn disable_ats(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        let bdf = device.bdf();
        let change = Change::new(iommu.host());
        iommu.with_invalidations(device, |queue, _, actions| {
            if !queue.is_enabled() {
                return Err(ServiceError::NotOn { device: bdf, service: Service::Ats });
            }
            if device.services.endpoint.lock().interface.is_enabled() {
                return Err(ServiceError::PriOn { device: bdf });
            }
            let is_drained = device.services.translated.pause() == 0;
            queue.disable(is_drained, actions);
            // What is on its way is not kept: its request is forgotten.
            device.services.endpoint.lock().atc.reset();
            let all = PendingInvalidation::new(None, AlignedRange::ALL, change.waiter());
            queue.start(all, is_drained, None, actions);
            Ok(())
        })?;
        change.seal();
        device.services.endpoint_changed.notify_all();
        if !callback::inside() {
            iommu.wait_until(|_| change.is_over());
        }
        Ok(())
    }

    /// Enables page requests. That does not end a response failure, nor does switching them off
    /// before: only a [reset](Self::reset) of the device does (rule F2). In PCIe, too, Response
    /// Failure is a status that Enable leaves as it is (PCIe 6.0, section 10.5.2.3).
    ///
    /// # Errors
    /// See [`ServiceError`]; nothing has changed then.
    pub fn enable_pri(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        let bdf = device.bdf();
        let Some(capacity) = device.spec.capabilities.pri else {
            return Err(ServiceError::NoPri { device: bdf });
        };
        let allocation = capacity.min(iommu.config().page_requests_each);
        // Both sides under the first lock: one that switches ATS off meanwhile comes before or
        // drops.
        let invalidations = device.services.invalidations.lock();
        if !invalidations.is_enabled() {
            return Err(ServiceError::AtsOff { device: bdf });
        }
        if invalidations.is_halted() {
            return Err(ServiceError::Halted { device: bdf });
        }
        let mut endpoint = device.services.endpoint.lock();
        if endpoint.interface.is_enabled() {
            return Err(ServiceError::AlreadyOn { device: bdf, service: Service::Pri });
        }
        iommu.admit_pages(device, allocation);
        endpoint.interface.set_enabled(true);
        Ok(())
    }

    /// Disables page requests: none is taken any more, and what is pending is answered as
    /// invalid, but for what is being resolved right now.
    ///
    /// # Errors
    /// It was off.
    pub fn disable_pri(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        {
            // As it is switched on: of several at once one succeeds, and both sides agree.
            let _invalidations = device.services.invalidations.lock();
            let mut endpoint = device.services.endpoint.lock();
            if !endpoint.interface.is_enabled() {
                return Err(ServiceError::NotOn { device: device.bdf(), service: Service::Pri });
            }
            iommu.stop_page_reception(device);
            endpoint.interface.set_enabled(false);
        }
        iommu.drain_pages(device, PageDrain::Everything);
        device.services.endpoint_changed.notify_all();
        Ok(())
    }

    /// What happened to its translation cache.
    pub fn atc_counts(&self) -> AtcCounts {
        self.record().services.endpoint.lock().atc.counts
    }

    /// How many translations it caches now.
    pub fn atc_len(&self) -> usize {
        self.record().services.endpoint.lock().atc.len()
    }

    /// Accesses that use a cached translation now.
    pub fn atc_in_use(&self) -> usize {
        self.record().services.endpoint.lock().atc.in_use()
    }

    /// Groups of page requests that were sent as a whole and that have no response yet.
    pub fn groups_waiting(&self) -> usize {
        self.record().services.endpoint.lock().interface.unanswered()
    }

    /// Invalidations that it has not completed.
    pub fn outstanding_invalidations(&self) -> usize {
        self.record().services.invalidations.lock().outstanding()
    }

    /// What happened to invalidations that were sent to it.
    pub fn invalidation_counts(&self) -> InvalidationCounts {
        self.record().services.invalidations.lock().counts
    }

    /// What happened to its page requests, as it sees them.
    pub fn page_request_counts(&self) -> InterfaceCounts {
        self.record().services.endpoint.lock().interface.counts
    }
}
