//! Whole transfers: translations are got, pages asked for and answers awaited as it goes.

use std::time::Duration;

use super::port::{AtsPort, TranslationRequestError};
use crate::api::ats::{PAGE, RequestId};
use crate::api::fault::{DmaCause, DmaError, FaultReason};
use crate::api::link::ToIommu;
use crate::api::pri::{PrgIndex, ResponseCode};
use crate::dma::buffer::Buffer;
use crate::protocol::ats::atc::{TranslationAnswer, UnknownRequest};
use crate::protocol::pri::interface::{GroupOutcome, PageRequestError};
use crate::types::access::Access;
use crate::types::ids::Pasid;
use crate::types::range::Segment;

/// Times that one page is requested before an access gives up: pages that are taken away as fast as
/// they come would hold it for ever.
const ROUNDS: u32 = 1000;

impl AtsPort {
    /// Reads `buf.len()` bytes at `address`: by translations where ATS is enabled, requesting
    /// pages where page requests are enabled, and as a [`DmaPort`](crate::DmaPort) does where ATS
    /// is off or there is no byte to read. Waits for answers; with a clock for at most
    /// [`response_limit`](crate::IommuConfig::response_limit) each.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        let piece = [Segment { address, len: buf.len() as u64 }];
        self.pieces(pasid, &piece, Buffer::Into(buf), Access::READ)
    }

    /// Writes `data` at `address`, as [`read`](Self::read) reads.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let piece = [Segment { address, len: data.len() as u64 }];
        self.pieces(pasid, &piece, Buffer::From(data), Access::WRITE)
    }

    /// Reads the pieces one after the other into `buf`, as [`read`](Self::read) reads; its length
    /// is the sum of theirs. An `access` that writes is taken for one that
    /// reads.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError> {
        self.pieces(pasid, pieces, Buffer::Into(buf), access.reading())
    }

    /// Writes `data` to the pieces one after the other, as [`read`](Self::read) reads; its length
    /// is the sum of theirs. An `access` that reads or executes is taken for one that writes.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn scatter(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        data: &[u8],
        access: Access,
    ) -> Result<(), DmaError> {
        self.pieces(pasid, pieces, Buffer::From(data), access.writing())
    }

    fn pieces(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        // Of no bytes there is nothing to translate: the IOMMU alone judges the PASID.
        if buffer.check_length(pieces)? == 0 || !self.is_ats_enabled() {
            return self.untranslated(pasid, pieces, buffer, access);
        }
        let mut done = 0;
        for piece in pieces {
            let len = piece.len as usize;
            let after = |error: DmaError| DmaError { done: done as u64 + error.done, ..error };
            self.piece(pasid, *piece, buffer.part(done..done + len), access).map_err(after)?;
            done += len;
        }
        Ok(())
    }

    fn piece(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        mut buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        if piece.wraps() {
            return self.untranslated(pasid, &[piece], buffer, access);
        }
        let (address, len) = (piece.address, buffer.len());
        let (mut done, mut rounds, mut answered) = (0, 0, None);
        while done < len {
            let at = address + done as u64;
            let before = done as u64;
            let after = |error: DmaError| DmaError { done: before + error.done, ..error };
            let moved = match self
                .try_transfer(pasid, at, buffer.part(done..len), access)
                .map_err(after)?
            {
                Some(moved) => Some(moved),
                None => self
                    .miss(pasid, at, buffer.part(done..len), access, &mut answered)
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
                return Err(after(self.abort(pasid, at, access, FaultReason::TimedOut)));
            }
        }
        Ok(())
    }

    /// Aborts an access before its first byte. A refused page request has been logged by the IOMMU.
    fn abort(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        reason: FaultReason,
    ) -> DmaError {
        match reason {
            FaultReason::PageRefused(ResponseCode::InvalidRequest) => {
                self.master.unlogged_fault(0, pasid, address, access, reason)
            }
            _ => self.master.fault(0, pasid, address, access, reason),
        }
    }

    fn record_retry(&self, pasid: Option<Pasid>, answered: Option<Duration>) {
        if let (Some(answered), Some(now)) = (answered, self.now()) {
            self.master.iommu.record_times(&self.master.device, pasid, |times| {
                times.retry.record(now.saturating_sub(answered))
            });
        }
    }

    /// No translation is cached for `address`: gets one, or moves a page's worth of bytes without,
    /// which are answered. `None`: look again.
    fn miss(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut buffer: Buffer<'_>,
        access: Access,
        answered: &mut Option<Duration>,
    ) -> Result<Option<usize>, DmaError> {
        let fault = |reason| self.abort(pasid, address, access, reason);
        let answer = match self.send_translation_request(pasid, address, access, true) {
            Ok(request) => self.await_translation(request).map_err(fault)?,
            Err(TranslationRequestError::Off { .. }) => {
                let len = in_page(address, buffer.len());
                return self
                    .untranslated(pasid, &in_one(address, len), buffer.part(0..len), access)
                    .map(|()| Some(len));
            }
            Err(TranslationRequestError::Halted { .. }) => {
                return Err(fault(self.shut_reason()));
            }
            Err(TranslationRequestError::TooMany { .. }) => {
                return Err(fault(FaultReason::TimedOut));
            }
            Err(TranslationRequestError::NotOwner { .. }) => {
                return Err(fault(FaultReason::NotBound));
            }
        };
        match answer {
            TranslationAnswer::Cached | TranslationAnswer::Outdated => Ok(None),
            TranslationAnswer::Refused(refusal) => Err(fault(FaultReason::Untranslatable(refusal))),
            TranslationAnswer::Untranslated(permissions) if permissions.permit(access) => {
                let len = in_page(address, buffer.len());
                match self.untranslated(
                    pasid,
                    &in_one(address, len),
                    buffer.part(0..len),
                    access.present_only(),
                ) {
                    Ok(()) => Ok(Some(len)),
                    // Gone again since; the bytes before it are not counted, so they are moved once
                    // more.
                    Err(error) if error.done == 0 && is_absent(&error) => {
                        self.fault_in(pasid, address, access, answered).map_err(fault)
                    }
                    Err(error) => Err(error),
                }
            }
            TranslationAnswer::Untranslated(_) | TranslationAnswer::NoAccess => {
                self.fault_in(pasid, address, access, answered).map_err(fault)
            }
        }
    }

    /// Requests the page of `address` and waits for the response.
    fn fault_in(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        answered: &mut Option<Duration>,
    ) -> Result<Option<usize>, FaultReason> {
        let index = self.request_one_page(pasid, address, access)?;
        match self.wait_until(|endpoint| endpoint.interface.outcome(index)) {
            GroupOutcome::Response(ResponseCode::Success) => {
                *answered = self.now();
                Ok(None)
            }
            GroupOutcome::Response(code) => Err(FaultReason::PageRefused(code)),
            GroupOutcome::TimedOut => Err(FaultReason::TimedOut),
            GroupOutcome::Forgotten => Err(self.shut_reason()),
        }
    }

    /// Requests a page in a group of its own, once the device may.
    fn request_one_page(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<PrgIndex, FaultReason> {
        if self.is_stale(pasid) {
            return Err(FaultReason::NotBound);
        }
        let begun = self.now();
        let mut endpoint = self.endpoint();
        let request = loop {
            if endpoint.is_in_reset {
                return Err(self.shut_reason());
            }
            let now = self.now();
            // Under one lock from the look to the wait: nobody takes the credit in between, and no
            // response that gives some back is missed.
            let asked = endpoint
                .interface
                .open(pasid)
                .and_then(|index| endpoint.interface.add(index, address, access, true, now));
            match asked {
                Ok(request) => break request,
                // Where responses were lost, their credit comes back with a reset only.
                Err(PageRequestError::NoCredit { .. } | PageRequestError::NoIndex)
                    if self.is_overdue(begun) =>
                {
                    return Err(FaultReason::TimedOut);
                }
                Err(PageRequestError::NoCredit { .. } | PageRequestError::NoIndex) => {
                    endpoint = self.wait(endpoint)
                }
                Err(PageRequestError::Failed) => {
                    return Err(FaultReason::PageRefused(ResponseCode::ResponseFailure));
                }
                Err(PageRequestError::NotOwner) => return Err(FaultReason::NotBound),
                Err(PageRequestError::Disabled | PageRequestError::NotOpen(_)) => {
                    return Err(FaultReason::NoTranslation);
                }
            }
        };
        drop(endpoint);
        self.services().to_iommu(ToIommu::Page(request));
        Ok(request.index)
    }

    fn untranslated(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        self.master.walk(pasid, pieces, buffer, access, &mut |_, _| {})
    }

    fn await_translation(&self, request: RequestId) -> Result<TranslationAnswer, FaultReason> {
        let begun = self.now();
        self.wait_until(|endpoint| match endpoint.atc.answer(request) {
            Ok(Some(answer)) => Some(Ok(answer)),
            Ok(None) if self.is_overdue(begun) => {
                endpoint.atc.abandon(request);
                Some(Err(FaultReason::TimedOut))
            }
            Ok(None) => None,
            Err(UnknownRequest) => Some(Err(self.shut_reason())),
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
