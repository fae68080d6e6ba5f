//! What each device has for translation services and page requests: its own side of them, the
//! IOMMU's side, and the link in between.
//!
//! Locks: `invalidator`, then `side`; both are leaves otherwise, and neither is held while a
//! message is sent.

use std::sync::Arc;

use crate::ats::cache::Atc;
use crate::ats::invalidate::Invalidator;
use crate::device::DeviceSpec;
use crate::gate::Gate;
use crate::iommu::IommuConfig;
use crate::link::{Link, LinkEnds, ToDevice, ToIommu};
use crate::pri::interface::Interface;
use crate::pri::queue::DeviceKey;
use crate::sync::{Condvar, Mutex};

/// The device's own side.
pub(crate) struct DeviceSide {
    pub(crate) atc: Atc,
    pub(crate) interface: Interface,
    /// It is being reset: it sends nothing and takes nothing.
    pub(crate) resetting: bool,
}

impl DeviceSide {
    /// Whether something cannot be asked before something else has been collected: a translation
    /// request, a group index.
    pub(crate) fn is_full(&self) -> bool {
        self.atc.is_full() || self.interface.is_full()
    }

    /// Forgets everything, as a function reset does.
    pub(crate) fn reset(&mut self) {
        self.atc.reset();
        self.interface.reset();
    }
}

/// See the module.
pub(crate) struct Services {
    pub(crate) key: DeviceKey,
    ends: LinkEnds,
    link: Arc<dyn Link>,
    pub(crate) side: Mutex<DeviceSide>,
    /// Signalled, with `side`, when a completion or a response has come or the device was reset.
    pub(crate) news: Condvar,
    pub(crate) invalidator: Mutex<Invalidator>,
    /// Translated requests go through it. Paused while ATS is off or the device stands still,
    /// under the lock of `invalidator`.
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
            side: Mutex::new(DeviceSide {
                atc: Atc::new(config.atc_entries, config.translation_requests_each),
                interface: Interface::new(allocation, capabilities.response_pasid),
                resetting: false,
            }),
            news: Condvar::new(),
            invalidator: Mutex::new(Invalidator::new(
                config.invalidation_limit,
                config.invalidation_tries,
            )),
            translated: Gate::paused(),
        }
    }

    /// Invalidations that are not over, and what the device has under way itself.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        let invalidations = self.invalidator.lock().under_way();
        let side = self.side.lock();
        (invalidations, side.atc.under_way() + side.interface.under_way())
    }

    /// With no lock held.
    pub(crate) fn to_device(&self, message: ToDevice) {
        self.link.downstream(&self.ends, message);
    }

    /// With no lock held.
    pub(crate) fn to_iommu(&self, message: ToIommu) {
        self.link.upstream(&self.ends, message);
    }
}
