//! A port of a device that translates for itself: keeps translations, uses them, asks for pages.
//!
//! The steps are there one by one for schedulers and event-driven models; [`AtsPort::read`] and [`AtsPort::write`] do all of them and wait in between.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cache::{Answer, Forgotten};
use super::held::Held;
use super::message::{PAGE, RequestId};
use crate::fault::{AccessMode, DmaCause, DmaError, FaultReason};
use crate::ids::{Bdf, Pasid};
use crate::iommu::Iommu;
use crate::iommu::parts::DeviceInner;
use crate::iommu::services::DeviceSide;
use crate::link::ToIommu;
use crate::port::{Buffer, Device, Learner, Path};
use crate::pri::interface::{AskError, GroupOutcome};
use crate::pri::message::{PrgIndex, ResponseCode};
use crate::range::Segment;
use crate::sync::MutexGuard;

/// Times that one page is asked for before an access gives up: pages that are taken away as fast as they come would hold it for ever.
const ROUNDS: u32 = 1000;

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
}

/// See the module. Cheap to clone; for any number of threads.
#[derive(Clone)]
pub struct AtsPort {
    iommu: Iommu,
    pub(super) device: Arc<DeviceInner>,
    pub(super) port: Path,
}

impl Device {
    /// A port that keeps translations, where ATS is on, and asks for pages, where page requests are on.
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

    /// Sends a translation request. The answer comes by [`translation`](Self::translation).
    ///
    /// # Errors
    /// See [`AskTranslationError`]; nothing was sent.
    pub fn ask_translation(&self, pasid: Option<Pasid>, address: u64, mode: AccessMode) -> Result<RequestId, AskTranslationError> {
        if !self.is_on() {
            return Err(AskTranslationError::Off { device: self.device() });
        }
        let request = {
            let mut side = self.side();
            if side.resetting {
                return Err(AskTranslationError::StandsStill { device: self.device() });
            }
            side.atc.ask(pasid, address, mode)
        };
        self.device.services.to_iommu(ToIommu::Translate(request));
        Ok(request.id)
    }

    /// What came of a translation request, once; `None` while it is awaited. A request that a reset made the device forget was [`Answer::Outdated`].
    pub fn translation(&self, request: RequestId) -> Option<Answer> {
        self.side().atc.answer(request).unwrap_or(Some(Answer::Outdated))
    }

    /// Gives a translation request up: its answer is not awaited any more.
    pub fn abandon_translation(&self, request: RequestId) {
        self.side().atc.abandon(request);
    }

    /// Reads by a translation that the device keeps: as many bytes as it is good for, which are answered. `None` where there is none for this access.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::read_translated`].
    pub fn try_read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8], mode: AccessMode) -> Result<Option<usize>, DmaError> {
        self.try_transfer(pasid, address, Buffer::Into(buf), mode)
    }

    /// Writes by a translation that the device keeps, as [`try_read`](Self::try_read) reads.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::write_translated`].
    pub fn try_write(&self, pasid: Option<Pasid>, address: u64, data: &[u8], mode: AccessMode) -> Result<Option<usize>, DmaError> {
        self.try_transfer(pasid, address, Buffer::From(data), mode)
    }

    /// Finds the translation that the device keeps for this access, and holds it. `None` where there is none.
    pub fn hold(&self, pasid: Option<Pasid>, address: u64, mode: AccessMode) -> Option<Held> {
        let used = self.side().atc.begin_use(pasid, address, mode)?;
        Some(Held::new(self.clone(), pasid, mode, used))
    }

    fn try_transfer(&self, pasid: Option<Pasid>, address: u64, buffer: Buffer<'_>, mode: AccessMode) -> Result<Option<usize>, DmaError> {
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
    pub fn ask_page(&self, group: PrgIndex, address: u64, mode: AccessMode, last: bool) -> Result<(), AskError> {
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
        self.side().interface.outcome(group)
    }

    /// Sends a stop marker: all page requests of the PASID have been sent before it. A model does this when it is told to [stop](crate::DeviceOps::stop_pasid).
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

    /// Reads `buf.len()` bytes at `address`: by translations where ATS is on, asking for pages where page requests are on, and as a [`DmaPort`] does where ATS is off. Waits for
    /// answers; with a clock for at most [`response_limit`](crate::IommuConfig::response_limit) each.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        self.transfer(pasid, address, Buffer::Into(buf), AccessMode::READ)
    }

    /// Writes `data` at `address`, as [`read`](Self::read) reads.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.transfer(pasid, address, Buffer::From(data), AccessMode::WRITE)
    }

    fn transfer(&self, pasid: Option<Pasid>, address: u64, mut buffer: Buffer<'_>, mode: AccessMode) -> Result<(), DmaError> {
        let len = buffer.len();
        if !self.is_on() || (Segment { address, len: len as u64 }).wraps() {
            return self.untranslated(pasid, address, buffer, mode);
        }
        let (mut done, mut rounds, mut answered) = (0, 0, None);
        while done < len {
            let at = address + done as u64;
            let after = |error: DmaError| DmaError { done: done as u64 + error.done, ..error };
            let moved = match self.try_transfer(pasid, at, buffer.part(done..len), mode).map_err(after)? {
                Some(moved) => Some(moved),
                None => self.miss(pasid, at, buffer.part(done..len), mode, &mut answered).map_err(after)?,
            };
            match moved {
                Some(moved) => {
                    (done, rounds) = (done + moved, 0);
                    self.record_retry(pasid, answered.take());
                }
                None => rounds += 1,
            }
            if rounds > ROUNDS {
                return Err(self.port.fault(done as u64, pasid, at, mode.access, FaultReason::Overdue));
            }
        }
        Ok(())
    }

    fn record_retry(&self, pasid: Option<Pasid>, answered: Option<Duration>) {
        if let (Some(answered), Some(now)) = (answered, self.iommu.now()) {
            self.iommu.with_times(&self.device, pasid, |times| times.retry.record(now.saturating_sub(answered)));
        }
    }

    /// No translation is kept for `address`: gets one, or moves a page's worth of bytes without, which are answered. `None`: look again.
    fn miss(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut buffer: Buffer<'_>,
        mode: AccessMode,
        answered: &mut Option<Duration>,
    ) -> Result<Option<usize>, DmaError> {
        let fault = |reason| self.port.fault(0, pasid, address, mode.access, reason);
        let answer = match self.ask_translation(pasid, address, mode) {
            Ok(request) => self.await_translation(request).map_err(fault)?,
            Err(AskTranslationError::Off { .. }) => {
                let len = in_page(address, buffer.len());
                return self.untranslated(pasid, address, buffer.part(0..len), mode).map(|()| Some(len));
            }
            Err(AskTranslationError::StandsStill { .. }) => return Err(fault(self.device.why_shut())),
        };
        match answer {
            Answer::Kept | Answer::Outdated => Ok(None),
            Answer::Refused(refusal) => Err(fault(FaultReason::Untranslatable(refusal))),
            Answer::Untranslated(permits) if permits.permits(mode.access) => {
                let len = in_page(address, buffer.len());
                match self.untranslated(pasid, address, buffer.part(0..len), mode.stop_on_absent()) {
                    Ok(()) => Ok(Some(len)),
                    // Gone again since; the bytes before it are not counted, so they are moved once more.
                    Err(error) if error.done == 0 && is_absent(&error) => self.fault_in(pasid, address, mode, answered).map_err(fault),
                    Err(error) => Err(error),
                }
            }
            Answer::Untranslated(_) | Answer::NoAccess => self.fault_in(pasid, address, mode, answered).map_err(fault),
        }
    }

    /// Asks for the page of `address` and waits for the answer.
    fn fault_in(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
        answered: &mut Option<Duration>,
    ) -> Result<Option<usize>, FaultReason> {
        let index = self.ask_one_page(pasid, address, mode)?;
        match self.await_group(index) {
            GroupOutcome::Response(ResponseCode::Success) => {
                *answered = self.iommu.now();
                Ok(None)
            }
            GroupOutcome::Response(code) => Err(FaultReason::PageRefused(code)),
            GroupOutcome::TimedOut => Err(FaultReason::Overdue),
            GroupOutcome::Forgotten => Err(self.device.why_shut()),
        }
    }

    /// Asks for a page in a group of its own, once the device may.
    fn ask_one_page(&self, pasid: Option<Pasid>, address: u64, mode: AccessMode) -> Result<PrgIndex, FaultReason> {
        let begun = self.iommu.now();
        let mut side = self.side();
        let request = loop {
            if side.resetting {
                return Err(self.device.why_shut());
            }
            let now = self.iommu.now();
            // Under one lock from the look to the wait: nobody takes the credit in between, and no response that gives some back is missed.
            let asked = side.interface.open(pasid).and_then(|index| side.interface.add(index, address, mode, true, now));
            match asked {
                Ok(request) => break request,
                // Where responses were lost, their credit comes back with a reset only.
                Err(AskError::NoCredit { .. } | AskError::NoIndex) if self.is_overdue(begun) => return Err(FaultReason::Overdue),
                Err(AskError::NoCredit { .. } | AskError::NoIndex) => side = self.wait(side),
                Err(AskError::Failed) => return Err(FaultReason::PageRefused(ResponseCode::ResponseFailure)),
                Err(AskError::Disabled | AskError::NotOpen(_)) => return Err(FaultReason::NoTranslation),
            }
        };
        drop(side);
        self.device.services.to_iommu(ToIommu::Page(request));
        Ok(request.index)
    }

    fn untranslated(&self, pasid: Option<Pasid>, address: u64, buffer: Buffer<'_>, mode: AccessMode) -> Result<(), DmaError> {
        let piece = [Segment { address, len: buffer.len() as u64 }];
        self.port.transfer(pasid, &piece, buffer, mode, Learner::NONE)
    }

    fn await_translation(&self, request: RequestId) -> Result<Answer, FaultReason> {
        let begun = self.iommu.now();
        let mut side = self.side();
        loop {
            match side.atc.answer(request) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(Forgotten) => return Err(self.device.why_shut()),
            }
            if self.is_overdue(begun) {
                side.atc.abandon(request);
                return Err(FaultReason::Overdue);
            }
            side = self.wait(side);
        }
    }

    fn await_group(&self, index: PrgIndex) -> GroupOutcome {
        let mut side = self.side();
        loop {
            if let Some(outcome) = side.interface.outcome(index) {
                return outcome;
            }
            side = self.wait(side);
        }
    }

    fn is_overdue(&self, since: Option<Duration>) -> bool {
        let (Some(since), Some(now)) = (since, self.iommu.now()) else { return false };
        now.saturating_sub(since) >= self.iommu.config().response_limit
    }

    /// Waits for news of the device; where there is a clock, looks for what is overdue from time to time.
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

/// How many of `len` bytes at `address` are in its page.
fn in_page(address: u64, len: usize) -> usize {
    ((PAGE - address % PAGE) as usize).min(len)
}

fn is_absent(error: &DmaError) -> bool {
    matches!(&error.cause, DmaCause::Fault(fault) if fault.reason == FaultReason::NotPresent)
}

impl fmt::Debug for AtsPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtsPort").field("device", &self.device()).finish_non_exhaustive()
    }
}
