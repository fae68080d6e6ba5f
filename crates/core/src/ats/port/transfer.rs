//! Whole transfers: translations are got, pages asked for and answers awaited as it goes.

use std::time::Duration;

use super::super::cache::{Forgotten, TranslationAnswer};
use super::{AskTranslationError, AtsPort};
use crate::ats::message::{PAGE, RequestId};
use crate::fault::{Access, AccessMode, DmaCause, DmaError, FaultReason};
use crate::ids::Pasid;
use crate::link::ToIommu;
use crate::port::{Buffer, Learner};
use crate::pri::interface::{AskError, GroupOutcome};
use crate::pri::message::{PrgIndex, ResponseCode};
use crate::range::Segment;

/// Times that one page is asked for before an access gives up: pages that are taken away as fast as
/// they come would hold it for ever.
const ROUNDS: u32 = 1000;

impl AtsPort {
    /// Reads `buf.len()` bytes at `address`: by translations where ATS is on, asking for pages
    /// where page requests are on, and as a [`DmaPort`](crate::DmaPort) does where ATS is
    /// off or there is no byte to read. Waits for answers; with a clock for at most
    /// [`response_limit`](crate::IommuConfig::response_limit) each.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        let piece = [Segment { address, len: buf.len() as u64 }];
        self.pieces(pasid, &piece, Buffer::Into(buf), AccessMode::READ)
    }

    /// Writes `data` at `address`, as [`read`](Self::read) reads.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let piece = [Segment { address, len: data.len() as u64 }];
        self.pieces(pasid, &piece, Buffer::From(data), AccessMode::WRITE)
    }

    /// Reads the pieces one after the other into `buf`, as [`read`](Self::read) reads; its length
    /// is the sum of theirs. `mode` says whether it is to execute, and with which privilege; a
    /// write is taken for a read.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        self.pieces(pasid, pieces, Buffer::Into(buf), mode.reading())
    }

    /// Writes `data` to the pieces one after the other, as [`read`](Self::read) reads; its length
    /// is the sum of theirs. `mode` says with which privilege; its access is taken for a write.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn scatter(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        data: &[u8],
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        self.pieces(pasid, pieces, Buffer::From(data), AccessMode { access: Access::Write, ..mode })
    }

    fn pieces(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        // Of no bytes there is nothing to translate: the IOMMU alone judges the PASID.
        if buffer.fits(pieces)? == 0 || !self.is_on() {
            return self.untranslated(pasid, pieces, buffer, mode);
        }
        let mut done = 0;
        for piece in pieces {
            let len = piece.len as usize;
            let after = |error: DmaError| DmaError { done: done as u64 + error.done, ..error };
            self.piece(pasid, *piece, buffer.part(done..done + len), mode).map_err(after)?;
            done += len;
        }
        Ok(())
    }

    fn piece(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        mut buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        if piece.wraps() {
            return self.untranslated(pasid, &[piece], buffer, mode);
        }
        let (address, len) = (piece.address, buffer.len());
        let (mut done, mut rounds, mut answered) = (0, 0, None);
        while done < len {
            let at = address + done as u64;
            let after = |error: DmaError| DmaError { done: done as u64 + error.done, ..error };
            let moved =
                match self.try_transfer(pasid, at, buffer.part(done..len), mode).map_err(after)? {
                    Some(moved) => Some(moved),
                    None => self
                        .miss(pasid, at, buffer.part(done..len), mode, &mut answered)
                        .map_err(after)?,
                };
            match moved {
                Some(moved) => {
                    (done, rounds) = (done + moved, 0);
                    self.record_retry(pasid, answered.take());
                }
                None => rounds += 1,
            }
            if rounds > ROUNDS {
                return Err(self.port.fault(
                    done as u64,
                    pasid,
                    at,
                    mode.access,
                    FaultReason::Overdue,
                ));
            }
        }
        Ok(())
    }

    fn record_retry(&self, pasid: Option<Pasid>, answered: Option<Duration>) {
        if let (Some(answered), Some(now)) = (answered, self.iommu.now()) {
            self.iommu.with_times(&self.device, pasid, |times| {
                times.retry.record(now.saturating_sub(answered))
            });
        }
    }

    /// No translation is kept for `address`: gets one, or moves a page's worth of bytes without,
    /// which are answered. `None`: look again.
    fn miss(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut buffer: Buffer<'_>,
        mode: AccessMode,
        answered: &mut Option<Duration>,
    ) -> Result<Option<usize>, DmaError> {
        let fault = |reason| self.port.fault(0, pasid, address, mode.access, reason);
        let answer = match self.send_translation_request(pasid, address, mode, true) {
            Ok(request) => self.await_translation(request).map_err(fault)?,
            Err(AskTranslationError::Off { .. }) => {
                let len = in_page(address, buffer.len());
                return self
                    .untranslated(pasid, &in_one(address, len), buffer.part(0..len), mode)
                    .map(|()| Some(len));
            }
            Err(AskTranslationError::StandsStill { .. }) => {
                return Err(fault(self.device.why_shut()));
            }
            Err(AskTranslationError::TooMany { .. }) => return Err(fault(FaultReason::Overdue)),
        };
        match answer {
            TranslationAnswer::Kept | TranslationAnswer::Outdated => Ok(None),
            TranslationAnswer::Refused(refusal) => Err(fault(FaultReason::Untranslatable(refusal))),
            TranslationAnswer::Untranslated(permits) if permits.permits(mode.access) => {
                let len = in_page(address, buffer.len());
                match self.untranslated(
                    pasid,
                    &in_one(address, len),
                    buffer.part(0..len),
                    mode.stop_on_absent(),
                ) {
                    Ok(()) => Ok(Some(len)),
                    // Gone again since; the bytes before it are not counted, so they are moved once
                    // more.
                    Err(error) if error.done == 0 && is_absent(&error) => {
                        self.fault_in(pasid, address, mode, answered).map_err(fault)
                    }
                    Err(error) => Err(error),
                }
            }
            TranslationAnswer::Untranslated(_) | TranslationAnswer::NoAccess => {
                self.fault_in(pasid, address, mode, answered).map_err(fault)
            }
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
        match self.await_news(|side| side.interface.outcome(index)) {
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
    fn ask_one_page(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mode: AccessMode,
    ) -> Result<PrgIndex, FaultReason> {
        let begun = self.iommu.now();
        let mut side = self.side();
        let request = loop {
            if side.resetting {
                return Err(self.device.why_shut());
            }
            let now = self.iommu.now();
            // Under one lock from the look to the wait: nobody takes the credit in between, and no
            // response that gives some back is missed.
            let asked = side
                .interface
                .open(pasid)
                .and_then(|index| side.interface.add(index, address, mode, true, now));
            match asked {
                Ok(request) => break request,
                // Where responses were lost, their credit comes back with a reset only.
                Err(AskError::NoCredit { .. } | AskError::NoIndex) if self.is_overdue(begun) => {
                    return Err(FaultReason::Overdue);
                }
                Err(AskError::NoCredit { .. } | AskError::NoIndex) => side = self.wait(side),
                Err(AskError::Failed) => {
                    return Err(FaultReason::PageRefused(ResponseCode::ResponseFailure));
                }
                Err(AskError::Disabled | AskError::NotOpen(_)) => {
                    return Err(FaultReason::NoTranslation);
                }
            }
        };
        drop(side);
        self.device.services.to_iommu(ToIommu::Page(request));
        Ok(request.index)
    }

    fn untranslated(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        self.port.transfer(pasid, pieces, buffer, mode, Learner::NONE)
    }

    fn await_translation(&self, request: RequestId) -> Result<TranslationAnswer, FaultReason> {
        let begun = self.iommu.now();
        self.await_news(|side| match side.atc.answer(request) {
            Ok(Some(answer)) => Some(Ok(answer)),
            Ok(None) if self.is_overdue(begun) => {
                side.atc.abandon(request);
                Some(Err(FaultReason::Overdue))
            }
            Ok(None) => None,
            Err(Forgotten) => Some(Err(self.device.why_shut())),
        })
    }
}

fn in_one(address: u64, len: usize) -> [Segment; 1] {
    [Segment { address, len: len as u64 }]
}

/// How many of `len` bytes at `address` are in its page.
fn in_page(address: u64, len: usize) -> usize {
    ((PAGE - address % PAGE) as usize).min(len)
}

fn is_absent(error: &DmaError) -> bool {
    matches!(&error.cause, DmaCause::Fault(fault) if fault.reason == FaultReason::NotPresent)
}
