//! A port of a device that translates for itself: keeps translations, uses them, asks for pages.
//!
//! The steps are there one by one for schedulers and event-driven models; [whole
//! transfers](transfer) do all of them and wait in between.

mod transfer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cache::TranslationAnswer;
use super::held::Held;
use super::message::RequestId;
use crate::fault::{AccessMode, DmaError};
use crate::ids::{Bdf, Pasid};
use crate::iommu::Iommu;
use crate::iommu::parts::DeviceInner;
use crate::iommu::services::DeviceSide;
use crate::link::ToIommu;
use crate::port::{Buffer, Device, Path};
use crate::pri::interface::{AskError, GroupOutcome};
use crate::pri::message::PrgIndex;
use crate::sync::MutexGuard;

/// A translation cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskTranslationError {
    /// Address translation services are off.
    #[error("the address translation services of {device} are off; enable them first")]
    Off {
        /// The device.
        device: Bdf,
    },
    /// The device is being reset or has been removed.
    #[error("{device} is being reset or has been removed; end the reset first")]
    StandsStill {
        /// The device.
        device: Bdf,
    },
    /// All translation requests that the device may have outstanding are.
    #[error(
        "{device} has {outstanding} of {allowed} translation requests outstanding; collect an answer or give a request up"
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

/// See the module. Cheap to clone; for any number of threads.
#[derive(Clone)]
pub struct AtsPort {
    iommu: Iommu,
    pub(super) device: Arc<DeviceInner>,
    pub(super) port: Path,
}

impl Device {
    /// A port that keeps translations, where ATS is on, and asks for pages, where page requests are
    /// on.
    pub fn ats_port(&self) -> AtsPort {
        AtsPort { iommu: self.iommu().clone(), device: Arc::clone(self.inner()), port: self.path() }
    }
}

impl AtsPort {
    /// The device that it issues as.
    pub fn device(&self) -> Bdf {
        self.device.bdf()
    }

    pub(super) fn side(&self) -> MutexGuard<'_, DeviceSide> {
        self.device.services.side.lock()
    }

    /// Takes something from the device's side, and wakes those that wait for the room that this
    /// makes.
    fn collect<R>(&self, take: impl FnOnce(&mut DeviceSide) -> R) -> R {
        let mut side = self.side();
        let was_full = side.is_full();
        let taken = take(&mut side);
        self.leave(side, was_full);
        taken
    }

    /// Unlocks the device's side; where it was full and is not any more, wakes those that wait for
    /// room.
    fn leave(&self, side: MutexGuard<'_, DeviceSide>, was_full: bool) {
        let has_room = !side.is_full();
        drop(side);
        if was_full && has_room {
            self.device.services.news.notify_all();
        }
    }

    /// Waits until `look` finds something in the device's side, and takes it as
    /// [`collect`](Self::collect) does.
    fn await_news<R>(&self, look: impl Fn(&mut DeviceSide) -> Option<R>) -> R {
        let mut side = self.side();
        loop {
            let was_full = side.is_full();
            if let Some(found) = look(&mut side) {
                self.leave(side, was_full);
                return found;
            }
            side = self.wait(side);
        }
    }

    /// Sends a translation request. The answer comes by [`translation`](Self::translation), and is
    /// to be collected or [given up](Self::abandon_translation): a device may have
    /// [so many](crate::IommuConfig::translation_requests_each) outstanding.
    ///
    /// # Errors
    /// See [`AskTranslationError`]; nothing was sent.
    pub fn ask_translation(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> Result<RequestId, AskTranslationError> {
        self.send_translation_request(pasid, address, mode, false)
    }

    /// As [`ask_translation`](Self::ask_translation); one that is `patient` waits while too many
    /// are outstanding, up to the limit of a response.
    fn send_translation_request(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
        patient: bool,
    ) -> Result<RequestId, AskTranslationError> {
        let (device, begun) = (self.device(), self.iommu.now());
        let request = loop {
            if !self.is_on() {
                return Err(AskTranslationError::Off { device });
            }
            // Under one lock from the look to the wait: no news of room are missed in between.
            let mut side = self.side();
            if side.resetting {
                return Err(AskTranslationError::StandsStill { device });
            }
            match side.atc.ask(pasid, address, mode) {
                Ok(request) => break request,
                Err(_) if patient && !self.is_overdue(begun) => drop(self.wait(side)),
                Err(outstanding) => {
                    let allowed = self.iommu.config().translation_requests_each.max(1);
                    return Err(AskTranslationError::TooMany { device, outstanding, allowed });
                }
            }
        };
        self.device.services.to_iommu(ToIommu::Translate(request));
        Ok(request.id)
    }

    /// What came of a translation request, once; `None` while it is awaited. A request that a reset
    /// made the device forget was [`TranslationAnswer::Outdated`].
    pub fn translation(&self, request: RequestId) -> Option<TranslationAnswer> {
        self.collect(|side| side.atc.answer(request)).unwrap_or(Some(TranslationAnswer::Outdated))
    }

    /// Gives a translation request up: its answer is not awaited any more.
    pub fn abandon_translation(&self, request: RequestId) {
        self.collect(|side| side.atc.abandon(request));
    }

    /// Reads by a translation that the device keeps: as many bytes as it is good for, which are
    /// answered. `None` where there is none for this access.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::read_translated`](crate::DmaPort::read_translated).
    pub fn try_read(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buf: &mut [u8],
        mode: AccessMode,
    ) -> Result<Option<usize>, DmaError> {
        self.try_transfer(pasid, address, Buffer::Into(buf), mode)
    }

    /// Writes by a translation that the device keeps, as [`try_read`](Self::try_read) reads.
    ///
    /// # Errors
    /// The request was aborted; see
    /// [`DmaPort::write_translated`](crate::DmaPort::write_translated).
    pub fn try_write(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        data: &[u8],
        mode: AccessMode,
    ) -> Result<Option<usize>, DmaError> {
        self.try_transfer(pasid, address, Buffer::From(data), mode)
    }

    /// Finds the translation that the device keeps for this access, and holds it. `None` where
    /// there is none.
    pub fn hold(&self, pasid: Option<Pasid>, address: u64, mode: AccessMode) -> Option<Held> {
        let used = self.side().atc.begin_use(pasid, address, mode)?;
        Some(Held::new(self.clone(), pasid, mode, used))
    }

    fn try_transfer(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<Option<usize>, DmaError> {
        let Some(held) = self.hold(pasid, address, mode) else { return Ok(None) };
        match buffer {
            Buffer::Into(buf) => held.read(buf),
            Buffer::From(data) => held.write(data),
        }
        .map(Some)
    }

    /// Opens a page request group.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn open_group(&self, pasid: Option<Pasid>) -> Result<PrgIndex, AskError> {
        self.side().interface.open(pasid)
    }

    /// Asks for a page in an open group; with `last` the group is complete and will be answered.
    ///
    /// # Errors
    /// See [`AskError`]; nothing was sent.
    pub fn ask_page(
        &self,
        group: PrgIndex,
        address: u64,
        mode: AccessMode,
        last: bool,
    ) -> Result<(), AskError> {
        let now = self.iommu.now();
        let request = {
            let mut side = self.side();
            if side.resetting {
                return Err(AskError::Disabled);
            }
            side.interface.add(group, address, mode, last, now)?
        };
        self.device.services.to_iommu(ToIommu::Page(request));
        Ok(())
    }

    /// What came of a group, once; `None` while it is awaited.
    pub fn outcome(&self, group: PrgIndex) -> Option<GroupOutcome> {
        self.collect(|side| side.interface.outcome(group))
    }

    /// Sends a stop marker: all page requests of the PASID have been sent before it. A model does
    /// this when it is told to [stop](crate::DeviceOps::stop_pasid).
    pub fn send_stop_marker(&self, pasid: Pasid) {
        let marker = {
            let mut side = self.side();
            side.interface.stop(pasid).filter(|_| !side.resetting)
        };
        if let Some(marker) = marker {
            self.device.services.to_iommu(ToIommu::Stop(marker));
        }
    }

    fn is_on(&self) -> bool {
        self.device.services.invalidator.lock().is_enabled()
    }

    fn is_overdue(&self, since: Option<Duration>) -> bool {
        let (Some(since), Some(now)) = (since, self.iommu.now()) else { return false };
        now.saturating_sub(since) >= self.iommu.config().response_limit
    }

    /// Waits for news of the device; where there is a clock, looks for what is overdue from time to
    /// time.
    fn wait<'a>(&'a self, side: MutexGuard<'a, DeviceSide>) -> MutexGuard<'a, DeviceSide> {
        let services = &self.device.services;
        #[cfg(not(loom))]
        if self.iommu.now().is_some() {
            let (side, timed_out) = services.news.wait_timeout(side, crate::iommu::OVERDUE_EVERY);
            if !timed_out && !self.iommu.is_tick_due() {
                return side;
            }
            drop(side);
            self.iommu.tick();
            return self.side();
        }
        services.news.wait(side)
    }
}

impl fmt::Debug for AtsPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtsPort").field("device", &self.device()).finish_non_exhaustive()
    }
}
