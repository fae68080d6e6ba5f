//! The ATS and PRI state of each device: the device's side, the IOMMU's side, and the link between
//! them.
//!
//! The lock order is in [`iommu`](super::iommu). No lock is held while a message is sent.

use std::sync::Arc;

use sva_sync::{Condvar, Mutex};

use crate::api::config::IommuConfig;
use crate::api::device::DeviceSpec;
use crate::api::link::{Link, LinkEnds, ToDevice, ToIommu};
use crate::protocol::ats::atc::Atc;
use crate::protocol::ats::invalidation::InvalidationQueue;
use crate::protocol::pri::interface::PageRequestInterface;
use crate::quiesce::Gate;
use crate::types::ids::DeviceKey;

/// The state of the device's side.
pub(crate) struct Endpoint {
    pub(crate) atc: Atc,
    pub(crate) interface: PageRequestInterface,
    /// Whether the device is being reset: it sends no message and ignores those that arrive.
    pub(crate) is_in_reset: bool,
}

impl Endpoint {
    /// Whether a further request must wait until the result of another one has been collected: for
    /// a translation request, or for the index of a page request group.
    pub(crate) fn is_full(&self) -> bool {
        self.atc.is_full() || self.interface.is_full()
    }

    /// Clears all state, as a function-level reset does.
    pub(crate) fn reset(&mut self) {
        self.atc.reset();
        self.interface.reset();
    }
}

/// The ATS and PRI state of one device, of both sides.
pub(crate) struct Services {
    pub(crate) key: DeviceKey,
    ends: LinkEnds,
    link: Arc<dyn Link>,
    pub(crate) endpoint: Mutex<Endpoint>,
    /// Used with `endpoint`. Signalled when a completion or a response has arrived, or the device
    /// was reset.
    pub(crate) endpoint_changed: Condvar,
    pub(crate) invalidations: Mutex<InvalidationQueue>,
    /// Translated requests enter it. Paused while ATS is off or the device is halted; paused and
    /// resumed under the lock of `invalidations`.
    pub(crate) translated_gate: Gate,
}

impl Services {
    pub(crate) fn new(
        key: DeviceKey,
        ends: LinkEnds,
        link: Arc<dyn Link>,
        config: &IommuConfig,
        spec: &DeviceSpec,
    ) -> Self {
        let capabilities = spec.capabilities;
        let allocation = capabilities.pri.unwrap_or_default().min(config.page_requests_each);
        Self {
            key,
            ends,
            link,
            endpoint: Mutex::new(Endpoint {
                atc: Atc::new(config.atc_entries, config.translation_requests_each),
                interface: PageRequestInterface::new(allocation, capabilities.response_pasid),
                is_in_reset: false,
            }),
            endpoint_changed: Condvar::new(),
            invalidations: Mutex::new(InvalidationQueue::new(
                config.invalidation_limit,
                config.invalidation_tries,
            )),
            translated_gate: Gate::paused(),
        }
    }

    /// The number of invalidations in progress, and of requests that the device has outstanding.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let invalidations = self.invalidations.lock().outstanding();
        let endpoint = self.endpoint.lock();
        (invalidations, endpoint.atc.outstanding() + endpoint.interface.outstanding_groups())
    }

    /// Sends a message to the device. The caller holds no lock.
    pub(crate) fn send_to_device(&self, message: ToDevice) {
        self.link.downstream(&self.ends, message);
    }

    /// Sends a message to the IOMMU. The caller holds no lock.
    pub(crate) fn send_to_iommu(&self, message: ToIommu) {
        self.link.upstream(&self.ends, message);
    }
}
