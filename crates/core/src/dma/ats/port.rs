//! The port of a device with ATS: the steps of a transfer, one method each, for schedulers and
//! event-driven models. [Whole transfers](super::transfer) make all steps and wait between them.

use std::fmt;
use std::time::Duration;

use sva_sync::MutexGuard;

use crate::api::ats::RequestId;
use crate::api::fault::FaultReason;
use crate::api::link::ToIommu;
use crate::api::pri::PrgIndex;
use crate::dma::master::BusMaster;
use crate::protocol::ats::atc::TranslationAnswer;
use crate::protocol::pri::interface::{GroupOutcome, PageRequestError};
use crate::table::{Device, Endpoint, Services};
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid, PasidTag};

/// Why a translation cannot be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TranslationRequestError {
    /// Address translation services are off.
    #[error("the address translation services of {device} are off; enable them first")]
    Off {
        /// The device.
        device: Bdf,
    },
    /// The device is being reset or has been removed.
    #[error("{device} is being reset or has been removed; end the reset first")]
    Halted {
        /// The device.
        device: Bdf,
    },
    /// The PASID has another owner than the one that the port is for, or none.
    #[error("{device} is not bound to {} any more; stop using PASID {}", tag.generation, tag.pasid)]
    NotOwner {
        /// The device.
        device: Bdf,
        /// The owner that the port is for.
        tag: PasidTag,
    },
    /// The device has as many translation requests outstanding as it is allowed.
    #[error(
        "{device} has {outstanding} of {allowed} translation requests outstanding; collect an \
         answer or abandon a request"
    )]
    TooMany {
        /// The device.
        device: Bdf,
        /// The number of requests whose answer was neither collected nor abandoned.
        outstanding: usize,
        /// The number of requests that may be outstanding:
        /// [`translation_requests_each`](crate::IommuConfig::translation_requests_each).
        allowed: usize,
    },
}

/// Issues transactions as a device that caches translations and requests pages. A clone is cheap,
/// and any number of threads can use one port.
#[derive(Clone)]
pub struct AtsPort {
    pub(in crate::dma) master: BusMaster,
}

impl Device {
    /// Makes a port that caches translations if ATS is enabled, and requests pages if page requests
    /// are enabled.
    pub fn ats_port(&self) -> AtsPort {
        AtsPort { master: BusMaster::new(self) }
    }
}

impl AtsPort {
    /// The device that this port issues transactions as.
    pub fn device(&self) -> Bdf {
        self.master.bdf()
    }

    /// The owner that transactions with its PASID must reach; `None` for a port that reaches any
    /// owner. See [`for_owner`](Self::for_owner).
    pub fn owner(&self) -> Option<PasidTag> {
        self.master.owner
    }

    /// The current owner of a PASID at this device; `None` if the PASID is not bound here.
    pub fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        self.master.owner_of(pasid)
    }

    /// Makes a port whose transactions and requests with `tag`'s PASID reach that owner and no
    /// later one. Once the owner is gone, they are aborted, and counted as
    /// [`Iommu::stale_dropped`](crate::Iommu::stale_dropped).
    pub fn for_owner(&self, tag: PasidTag) -> Self {
        Self { master: self.master.for_owner(tag) }
    }

    pub(super) fn services(&self) -> &Services {
        &self.master.device.services
    }

    pub(super) fn endpoint(&self) -> MutexGuard<'_, Endpoint> {
        self.services().endpoint.lock()
    }

    pub(super) fn now(&self) -> Option<Duration> {
        self.master.iommu.now()
    }

    /// Counts the transaction as stale, and returns true, if the port is for an owner of this PASID
    /// that is gone.
    pub(super) fn count_if_stale(&self, pasid: Option<Pasid>) -> bool {
        let Some(tag) = self.master.owner.filter(|owner| Some(owner.pasid) == pasid) else {
            return false;
        };
        let is_stale = self.master.owner_of(tag.pasid) != Some(tag);
        if is_stale {
            self.master.iommu.count_stale(&self.master.device, tag);
        }
        is_stale
    }

    /// Takes something from the device's side. If that makes room for a request, wakes the threads
    /// that wait for room.
    fn collect<R>(&self, take: impl FnOnce(&mut Endpoint) -> R) -> R {
        let mut endpoint = self.endpoint();
        let was_full = endpoint.is_full();
        let taken = take(&mut endpoint);
        self.unlock_endpoint(endpoint, was_full);
        taken
    }

    /// Unlocks the device's side. If it was full and is not any more, wakes the threads that wait
    /// for room.
    fn unlock_endpoint(&self, endpoint: MutexGuard<'_, Endpoint>, was_full: bool) {
        let has_room = !endpoint.is_full();
        drop(endpoint);
        if was_full && has_room {
            self.services().endpoint_changed.notify_all();
        }
    }

    /// Waits until `take` returns something from the device's side, which it takes as
    /// [`collect`](Self::collect) does.
    pub(super) fn wait_until<R>(&self, take: impl Fn(&mut Endpoint) -> Option<R>) -> R {
        let mut endpoint = self.endpoint();
        loop {
            let was_full = endpoint.is_full();
            if let Some(found) = take(&mut endpoint) {
                self.unlock_endpoint(endpoint, was_full);
                return found;
            }
            endpoint = self.wait(endpoint);
        }
    }

    /// Sends a translation request. Its answer must be [collected](Self::translation) or
    /// [abandoned](Self::abandon_translation), since the number of outstanding requests is
    /// [limited](crate::IommuConfig::translation_requests_each).
    ///
    /// # Errors
    /// See [`TranslationRequestError`]; nothing was sent.
    pub fn request_translation(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<RequestId, TranslationRequestError> {
        self.send_translation_request(pasid, address, access, false)
    }

    /// Sends a translation request as [`request_translation`](Self::request_translation) does. With
    /// `wait_for_room` it waits while too many are outstanding, at most for the
    /// [`response_limit`](crate::IommuConfig::response_limit).
    pub(super) fn send_translation_request(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        wait_for_room: bool,
    ) -> Result<RequestId, TranslationRequestError> {
        let (device, begun) = (self.device(), self.now());
        if let (true, Some(tag)) = (self.count_if_stale(pasid), self.owner()) {
            return Err(TranslationRequestError::NotOwner { device, tag });
        }
        let request = loop {
            if !self.is_ats_enabled() {
                return Err(TranslationRequestError::Off { device });
            }
            // The lock is held from the check to the wait, so that no release of room is missed.
            let mut endpoint = self.endpoint();
            if endpoint.is_in_reset {
                return Err(TranslationRequestError::Halted { device });
            }
            match endpoint.atc.request(pasid, address, access) {
                Ok(request) => break request,
                Err(_) if wait_for_room && !self.is_overdue(begun) => drop(self.wait(endpoint)),
                Err(outstanding) => {
                    let allowed = self.master.iommu.config().translation_requests_each.max(1);
                    return Err(TranslationRequestError::TooMany { device, outstanding, allowed });
                }
            }
        };
        self.services().send_to_iommu(ToIommu::Translate(request));
        Ok(request.id)
    }

    /// Collects the answer to a translation request, once; `None` before it has come. It is
    /// [`TranslationAnswer::Outdated`] for a request that a reset of the device removed.
    pub fn translation(&self, request: RequestId) -> Option<TranslationAnswer> {
        self.collect(|endpoint| endpoint.atc.answer(request))
            .unwrap_or(Some(TranslationAnswer::Outdated))
    }

    /// Abandons a translation request: its answer will not be collected.
    pub fn abandon_translation(&self, request: RequestId) {
        self.collect(|endpoint| endpoint.atc.abandon(request));
    }

    /// Opens a page request group.
    ///
    /// # Errors
    /// See [`PageRequestError`].
    pub fn open_group(&self, pasid: Option<Pasid>) -> Result<PrgIndex, PageRequestError> {
        if self.count_if_stale(pasid) {
            return Err(PageRequestError::NotOwner);
        }
        self.endpoint().interface.open(pasid)
    }

    /// Requests a page in an open group. `last` makes the group complete, and it will be answered.
    ///
    /// # Errors
    /// See [`PageRequestError`]; nothing was sent.
    pub fn request_page(
        &self,
        group: PrgIndex,
        address: u64,
        access: Access,
        last: bool,
    ) -> Result<(), PageRequestError> {
        let now = self.now();
        if self.owner().is_some() {
            let pasid = self.endpoint().interface.pasid_of(group);
            if self.count_if_stale(pasid) {
                return Err(PageRequestError::NotOwner);
            }
        }
        let request = {
            let mut endpoint = self.endpoint();
            if endpoint.is_in_reset {
                return Err(PageRequestError::Disabled);
            }
            endpoint.interface.add(group, address, access, last, now)?
        };
        self.services().send_to_iommu(ToIommu::Page(request));
        Ok(())
    }

    /// Collects the outcome of a group, once; `None` before it has come.
    pub fn outcome(&self, group: PrgIndex) -> Option<GroupOutcome> {
        self.collect(|endpoint| endpoint.interface.outcome(group))
    }

    /// Sends a stop marker: all page requests of the PASID have been sent before it. A model does
    /// this when it is told to [stop](crate::DeviceOps::stop_pasid). The open groups of the PASID
    /// are dropped. Nothing is dropped or sent if the PASID has a later owner than the port's.
    pub fn send_stop_marker(&self, pasid: Pasid) {
        let marker = {
            let mut endpoint = self.endpoint();
            // Checked under the lock, under which a later owner, once bound, opens its groups.
            if let Some(owner) = self.master.replaced_owner(pasid) {
                drop(endpoint);
                return self.master.iommu.count_stale(&self.master.device, owner);
            }
            endpoint.interface.stop(pasid).filter(|_| !endpoint.is_in_reset)
        };
        if let Some(marker) = marker {
            self.services().send_to_iommu(ToIommu::Stop(marker));
        }
    }

    pub(super) fn is_ats_enabled(&self) -> bool {
        self.services().invalidations.lock().is_enabled()
    }

    pub(super) fn is_overdue(&self, since: Option<Duration>) -> bool {
        let (Some(since), Some(now)) = (since, self.now()) else { return false };
        now.saturating_sub(since) >= self.master.iommu.config().response_limit
    }

    /// Waits for a change of the device's side. If there is a clock, also
    /// [ticks](crate::Iommu::tick) from time to time.
    pub(super) fn wait<'a>(
        &'a self,
        endpoint: MutexGuard<'a, Endpoint>,
    ) -> MutexGuard<'a, Endpoint> {
        let services = self.services();
        #[cfg(not(loom))]
        if self.now().is_some() {
            let iommu = &self.master.iommu;
            let every = crate::table::TICK_INTERVAL;
            let (endpoint, timed_out) = services.endpoint_changed.wait_timeout(endpoint, every);
            if !timed_out && !iommu.is_tick_due() {
                return endpoint;
            }
            drop(endpoint);
            iommu.tick();
            return self.endpoint();
        }
        services.endpoint_changed.wait(endpoint)
    }

    /// The fault of an access while the gate of the device is shut.
    pub(super) fn shut_reason(&self) -> FaultReason {
        self.master.device.shut_reason()
    }
}

impl fmt::Debug for AtsPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtsPort")
            .field("device", &self.device())
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}
