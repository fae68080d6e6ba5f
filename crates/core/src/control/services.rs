//! ATS and PRI of a device: enabling, disabling, and the end of both with a removal.
//!
//! A device is *halted* while it is in reset, cut off or removed: none of its requests passes. It
//! is *blocked* while it is halted and while its ATS is off: none of its translated requests
//! passes, and its ATC is cleared before it is unblocked. So blocking a device completes all its
//! invalidations, also one that the device never answers.
//!
//! The lock of the device's [`InvalidationQueue`](crate::protocol::ats::invalidation) covers both
//! the blocked state and the gate of the translated requests. An invalidation therefore never finds
//! a blocked device whose translated requests still pass.

use std::sync::Arc;

use crate::api::ats::AlignedRange;
use crate::api::error::{Service, ServiceError};
use crate::protocol::ats::InvalidationCounts;
use crate::protocol::ats::atc::AtcCounts;
use crate::protocol::ats::invalidation::PendingInvalidation;
use crate::protocol::pri::interface::InterfaceCounts;
use crate::quiesce::{InvalidationWait, callback};
use crate::table::{Device, DeviceRecord, Iommu, PageDrain};

impl Iommu {
    /// Ends ATS and PRI of a removed device: no message is sent to it, and all its invalidations
    /// complete. With `orderly` its pending page requests are answered. Returns how many page
    /// request groups were answered.
    pub(super) fn end_services(&self, device: &Arc<DeviceRecord>, orderly: bool) -> usize {
        let mut answered = 0;
        self.stop_page_reception(device);
        if orderly {
            answered = self.drain_pages(device, PageDrain::All);
        }
        self.with_invalidations(device, |queue, _, actions| {
            let is_drained =
                device.services.translated_gate.close().is_none_or(|inside| inside == 0);
            queue.remove(is_drained, actions);
            self.complete_translated_drain(device, queue, actions);
            let mut endpoint = device.services.endpoint.lock();
            endpoint.is_in_reset = true;
            endpoint.reset();
        });
        device.services.endpoint_changed.notify_all();
        answered
    }

    /// Forgets the page requests of a removed device that have not been answered.
    pub(super) fn forget_pages(&self, device: &Arc<DeviceRecord>) {
        self.with_pages(|pages, actions| pages.forget(device.services.key, true, actions));
    }
}

impl Device {
    /// Enables address translation services: translation requests are answered, and translated
    /// requests pass.
    ///
    /// # Errors
    /// See [`ServiceError`]. A call that fails changes nothing.
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

    /// Disables address translation services: refuses translated requests, clears the ATC, and
    /// completes all invalidations of the device. Blocks until the translated requests in flight
    /// are over, unless called from inside a callback.
    ///
    /// # Errors
    /// Page requests, which need ATS, are enabled; or ATS was off.
    pub fn disable_ats(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        let bdf = device.bdf();
        let wait = InvalidationWait::new(iommu.wait_queue());
        iommu.with_invalidations(device, |queue, _, actions| {
            if !queue.is_enabled() {
                return Err(ServiceError::NotOn { device: bdf, service: Service::Ats });
            }
            if device.services.endpoint.lock().interface.is_enabled() {
                return Err(ServiceError::PriOn { device: bdf });
            }
            let is_drained = device.services.translated_gate.pause() == 0;
            queue.disable(is_drained, actions);
            // This also forgets the outstanding translation requests: a completion that arrives
            // later is not cached.
            device.services.endpoint.lock().atc.reset();
            let all = PendingInvalidation::new(None, AlignedRange::ALL, wait.waiter());
            queue.start(all, is_drained, None, actions);
            Ok(())
        })?;
        wait.seal();
        device.services.endpoint_changed.notify_all();
        if !callback::inside() {
            iommu.wait_until(|_| wait.is_over());
        }
        Ok(())
    }

    /// Enables page requests. Neither this nor [`disable_pri`](Self::disable_pri) ends a response
    /// failure; only a [reset](Self::reset) of the device does. In PCIe, too, Enable leaves the
    /// status Response Failure as it is (PCIe 6.0, section 10.5.2.3).
    ///
    /// # Errors
    /// See [`ServiceError`]. A call that fails changes nothing.
    pub fn enable_pri(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        let bdf = device.bdf();
        let Some(capacity) = device.spec.capabilities.pri else {
            return Err(ServiceError::NoPri { device: bdf });
        };
        let allocation = capacity.min(iommu.config().page_requests_each);
        // Held until both sides are enabled, as `disable_ats` holds it for its check and its
        // change: ATS cannot be disabled between this check and the end of this function.
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

    /// Disables page requests: none is accepted any more, and the pending groups are answered as
    /// invalid, except for those that are being resolved.
    ///
    /// # Errors
    /// Page requests were disabled.
    pub fn disable_pri(&self) -> Result<(), ServiceError> {
        let (iommu, device) = (self.iommu(), self.record());
        {
            // The lock of `enable_pri`: of concurrent calls one succeeds, and the two sides agree.
            let _invalidations = device.services.invalidations.lock();
            let mut endpoint = device.services.endpoint.lock();
            if !endpoint.interface.is_enabled() {
                return Err(ServiceError::NotOn { device: device.bdf(), service: Service::Pri });
            }
            iommu.stop_page_reception(device);
            endpoint.interface.set_enabled(false);
        }
        iommu.drain_pages(device, PageDrain::AllButResolving);
        device.services.endpoint_changed.notify_all();
        Ok(())
    }

    /// Returns counts of the lookups and changes of the device's ATC.
    pub fn atc_counts(&self) -> AtcCounts {
        self.record().services.endpoint.lock().atc.counts
    }

    /// Returns how many translations the ATC holds.
    pub fn atc_len(&self) -> usize {
        self.record().services.endpoint.lock().atc.len()
    }

    /// Returns how many accesses use a translation of the ATC now.
    pub fn atc_in_use(&self) -> usize {
        self.record().services.endpoint.lock().atc.in_use()
    }

    /// Returns how many page request groups were sent completely and have no response yet.
    pub fn groups_waiting(&self) -> usize {
        self.record().services.endpoint.lock().interface.unanswered()
    }

    /// Returns how many invalidations the device has not completed.
    pub fn outstanding_invalidations(&self) -> usize {
        self.record().services.invalidations.lock().outstanding()
    }

    /// Returns counts of the invalidations that were sent to the device, by their outcome.
    pub fn invalidation_counts(&self) -> InvalidationCounts {
        self.record().services.invalidations.lock().counts
    }

    /// Returns counts of the page requests of the device, as the device sees their outcome.
    pub fn page_request_counts(&self) -> InterfaceCounts {
        self.record().services.endpoint.lock().interface.counts
    }
}
