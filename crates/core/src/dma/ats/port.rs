//! A port of a device that translates for itself.
//!
//! The steps are there one by one for schedulers and event-driven models; [whole
//! transfers](super::transfer) do all of them and wait in between.

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
    /// All translation requests that the device may have outstanding are.
    #[error(
        "{device} has {outstanding} of {allowed} translation requests outstanding; collect an \
         answer or abandon a request"
    )]
    TooMany {
        /// The device.
        device: Bdf,
        /// Requests whose answer was neither collected nor given up.
        outstanding: usize,
        /// Requests that may be:
        /// [`translation_requests_each`](crate::IommuConfig::translation_requests_each).
        allowed: usize,
    },
}

/// Issues transactions as a device that caches translations and requests pages. Cheap to clone; for
/// any number of threads.
#[derive(Clone)]
pub struct AtsPort {
    pub(in crate::dma) master: BusMaster,
}

impl Device {
    /// A port that caches translations, where ATS is enabled, and requests pages, where page
    /// requests are.
    pub fn ats_port(&self) -> AtsPort {
        AtsPort { master: BusMaster::new(self) }
    }
}

impl AtsPort {
    /// The device that it issues as.
    pub fn device(&self) -> Bdf {
        self.master.bdf()
    }

    /// The owner that its transactions reach, where they are to reach no other; see
    /// [`for_owner`](Self::for_owner).
    pub fn owner(&self) -> Option<PasidTag> {
        self.master.owner
    }

    /// The owner that a PASID has at this device now.
    pub fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        self.master.owner_of(pasid)
    }

    /// A port whose transactions and requests with `tag`'s PASID reach that owner and no later one:
    /// they are aborted and counted once the owner is gone.
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

    /// Whether the PASID is the one of an owner that is gone; counts that.
    pub(super) fn is_stale(&self, pasid: Option<Pasid>) -> bool {
        let Some(tag) = self.master.owner.filter(|owner| Some(owner.pasid) == pasid) else {
            return false;
        };
        let is_stale = self.master.owner_of(tag.pasid) != Some(tag);
        if is_stale {
            self.master.iommu.count_stale(&self.master.device, tag);
        }
        is_stale
    }

    /// Takes something from the device's side, and wakes those that wait for the room that this
    /// makes.
    fn collect<R>(&self, take: impl FnOnce(&mut Endpoint) -> R) -> R {
        let mut endpoint = self.endpoint();
        let was_full = endpoint.is_full();
        let taken = take(&mut endpoint);
        self.unlock_endpoint(endpoint, was_full);
        taken
    }

    /// Unlocks the device's side; where it was full and is not any more, wakes those that wait for
    /// room.
    fn unlock_endpoint(&self, endpoint: MutexGuard<'_, Endpoint>, was_full: bool) {
        let has_room = !endpoint.is_full();
        drop(endpoint);
        if was_full && has_room {
            self.services().endpoint_changed.notify_all();
        }
    }

    /// Waits until `look` finds something in the device's side, and takes it as
    /// [`collect`](Self::collect) does.
    pub(super) fn wait_until<R>(&self, look: impl Fn(&mut Endpoint) -> Option<R>) -> R {
        let mut endpoint = self.endpoint();
        loop {
            let was_full = endpoint.is_full();
            if let Some(found) = look(&mut endpoint) {
                self.unlock_endpoint(endpoint, was_full);
                return found;
            }
            endpoint = self.wait(endpoint);
        }
    }

    /// Sends a translation request. The answer comes by [`translation`](Self::translation), and is
    /// to be collected or [abandoned](Self::abandon_translation): a device may have
    /// [so many](crate::IommuConfig::translation_requests_each) outstanding.
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

    /// As [`request_translation`](Self::request_translation); with `patient` it waits while too
    /// many are outstanding, up to the limit of a response.
    pub(super) fn send_translation_request(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        patient: bool,
    ) -> Result<RequestId, TranslationRequestError> {
        let (device, begun) = (self.device(), self.now());
        if let (true, Some(tag)) = (self.is_stale(pasid), self.owner()) {
            return Err(TranslationRequestError::NotOwner { device, tag });
        }
        let request = loop {
            if !self.is_ats_enabled() {
                return Err(TranslationRequestError::Off { device });
            }
            // Under one lock from the look to the wait: no release of room is missed in between.
            let mut endpoint = self.endpoint();
            if endpoint.is_in_reset {
                return Err(TranslationRequestError::Halted { device });
            }
            match endpoint.atc.request(pasid, address, access) {
                Ok(request) => break request,
                Err(_) if patient && !self.is_overdue(begun) => drop(self.wait(endpoint)),
                Err(outstanding) => {
                    let allowed = self.master.iommu.config().translation_requests_each.max(1);
                    return Err(TranslationRequestError::TooMany { device, outstanding, allowed });
                }
            }
        };
        self.services().to_iommu(ToIommu::Translate(request));
        Ok(request.id)
    }

    /// What came of a translation request, once; `None` while it is awaited. A request that a reset
    /// made the device forget was [`TranslationAnswer::Outdated`].
    pub fn translation(&self, request: RequestId) -> Option<TranslationAnswer> {
        self.collect(|endpoint| endpoint.atc.answer(request))
            .unwrap_or(Some(TranslationAnswer::Outdated))
    }

    /// Abandons a translation request: its answer is not awaited any more.
    pub fn abandon_translation(&self, request: RequestId) {
        self.collect(|endpoint| endpoint.atc.abandon(request));
    }

    /// Opens a page request group.
    ///
    /// # Errors
    /// See [`PageRequestError`].
    pub fn open_group(&self, pasid: Option<Pasid>) -> Result<PrgIndex, PageRequestError> {
        if self.is_stale(pasid) {
            return Err(PageRequestError::NotOwner);
        }
        self.endpoint().interface.open(pasid)
    }

    /// Requests a page in an open group; with `last` the group is complete and will be answered.
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
            if self.is_stale(pasid) {
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
        self.services().to_iommu(ToIommu::Page(request));
        Ok(())
    }

    /// What came of a group, once; `None` while it is awaited.
    pub fn outcome(&self, group: PrgIndex) -> Option<GroupOutcome> {
        self.collect(|endpoint| endpoint.interface.outcome(group))
    }

    /// Sends a stop marker: all page requests of the PASID have been sent before it. A model does
    /// this when it is told to [stop](crate::DeviceOps::stop_pasid). It discards the open groups of
    /// the PASID, so nothing is sent where the PASID has a later owner than the port's.
    pub fn send_stop_marker(&self, pasid: Pasid) {
        let marker = {
            let mut endpoint = self.endpoint();
            // Under the lock: a later owner opens its groups under it, after it was bound.
            if let Some(owner) = self.master.replaced_owner(pasid) {
                drop(endpoint);
                return self.master.iommu.count_stale(&self.master.device, owner);
            }
            endpoint.interface.stop(pasid).filter(|_| !endpoint.is_in_reset)
        };
        if let Some(marker) = marker {
            self.services().to_iommu(ToIommu::Stop(marker));
        }
    }

    pub(super) fn is_ats_enabled(&self) -> bool {
        self.services().invalidations.lock().is_enabled()
    }

    pub(super) fn is_overdue(&self, since: Option<Duration>) -> bool {
        let (Some(since), Some(now)) = (since, self.now()) else { return false };
        now.saturating_sub(since) >= self.master.iommu.config().response_limit
    }

    /// Waits for a change of the device's side; where there is a clock, looks for what is overdue
    /// from time to time.
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

    /// Why an access of the device is aborted that its IOMMU does not serve.
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
