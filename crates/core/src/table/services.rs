//! What each device has for ATS and PRI: the device's own side, the IOMMU's side, and the link in
//! between.
//!
//! Locks: `invalidations`, then `endpoint`; both are leaves otherwise, and neither is held while a
//! message is sent.

use std::sync::Arc;

use sva_sync::{Condvar, Mutex};

use crate::api::config::IommuConfig;
use crate::api::device::DeviceSpec;
use crate::api::link::{Link, LinkEnds, ToDevice, ToIommu};
use crate::protocol::ats::atc::Atc;
use crate::protocol::ats::invalidation::InvalidationQueue;
use crate::protocol::pri::group::DeviceKey;
use crate::protocol::pri::interface::Interface;
use crate::quiesce::Gate;

/// The device's own side.
pub(crate) struct Endpoint {
    pub(crate) atc: Atc,
    pub(crate) interface: Interface,
    /// It is being reset: it sends nothing and takes nothing.
    pub(crate) is_in_reset: bool,
}

impl Endpoint {
    /// Whether something cannot be requested before something else has been collected: a
    /// translation request, a group index.
    pub(crate) fn is_full(&self) -> bool {
        self.atc.is_full() || self.interface.is_full()
    }

    /// Forgets everything, as a function reset does.
    pub(crate) fn reset(&mut self) {
        self.atc.reset();
        self.interface.reset();
    }
}

/// Both sides of the services of one device.
pub(crate) struct Services {
    pub(crate) key: DeviceKey,
    ends: LinkEnds,
    link: Arc<dyn Link>,
    pub(crate) endpoint: Mutex<Endpoint>,
    /// Signalled, with `endpoint`, when a completion or a response has come or the device was
    /// reset.
    pub(crate) endpoint_changed: Condvar,
    pub(crate) invalidations: Mutex<InvalidationQueue>,
    /// Translated requests go through it. Paused while ATS is off or the device is halted, under
    /// the lock of `invalidations`.
    pub(crate) translated: Gate,
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
                interface: Interface::new(allocation, capabilities.response_pasid),
                is_in_reset: false,
            }),
            endpoint_changed: Condvar::new(),
            invalidations: Mutex::new(InvalidationQueue::new(
                config.invalidation_limit,
                config.invalidation_tries,
            )),
            translated: Gate::paused(),
        }
    }

    /// How many invalidations are not over, and what the device has outstanding itself.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let invalidations = self.invalidations.lock().outstanding();
        let endpoint = self.endpoint.lock();
        (invalidations, endpoint.atc.outstanding() + endpoint.interface.outstanding_groups())
    }

    /// Sends a message to the device. With no lock held.
    pub(crate) fn to_device(&self, message: ToDevice) {
        self.link.downstream(&self.ends, message);
    }

    /// Sends a message to the IOMMU. With no lock held.
    pub(crate) fn to_iommu(&self, message: ToIommu) {
        self.link.upstream(&self.ends, message);
    }
}
