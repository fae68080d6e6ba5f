//! Whole transfers of a port with ATS: each requests translations and pages as it needs them, and
//! waits for the answers.

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

/// How often an access tries the same address before it fails. Without a limit a page that is
/// reclaimed as fast as it is made present would block the access forever.
const MAX_TRIES: u32 = 1000;

impl AtsPort {
    /// Reads `buf.len()` bytes at `address` by translations, and requests pages if page requests
    /// are enabled. If ATS is off or `buf` is empty, reads as a [`DmaPort`](crate::DmaPort) does.
    /// Blocks until the answers come; if there is a clock, for at most
    /// [`response_limit`](crate::IommuConfig::response_limit) each.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes read before the error are in `buf`.
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        let piece = [Segment { address, len: buf.len() as u64 }];
        self.transfer_pieces(pasid, &piece, Buffer::Into(buf), Access::READ)
    }

    /// Writes `data` at `address`, as [`read`](Self::read) reads.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes written before the error stay written.
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let piece = [Segment { address, len: data.len() as u64 }];
        self.transfer_pieces(pasid, &piece, Buffer::From(data), Access::WRITE)
    }

    /// Reads the pieces one after the other into `buf`, as [`read`](Self::read) reads; its length
    /// must be the sum of theirs. An `access` that writes is treated as one that reads.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes read before the error are in `buf`.
    pub fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError> {
        self.transfer_pieces(pasid, pieces, Buffer::Into(buf), access.reading())
    }

    /// Writes `data` to the pieces one after the other, as [`read`](Self::read) reads; its length
    /// must be the sum of theirs. An `access` that reads or executes is treated as one that writes.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes written before the error stay written.
    pub fn scatter(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        data: &[u8],
        access: Access,
    ) -> Result<(), DmaError> {
        self.transfer_pieces(pasid, pieces, Buffer::From(data), access.writing())
    }

    fn transfer_pieces(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        // No bytes, no translation: only the IOMMU can tell whether the PASID is bound.
        if buffer.check_length(pieces)? == 0 || !self.is_ats_enabled() {
            return self.transfer_untranslated(pasid, pieces, buffer, access);
        }
        let mut done = 0;
        for piece in pieces {
            let len = piece.len as usize;
            let after = |error: DmaError| DmaError { done: done as u64 + error.done, ..error };
            self.transfer_piece(pasid, *piece, buffer.part(done..done + len), access)
                .map_err(after)?;
            done += len;
        }
        Ok(())
    }

    fn transfer_piece(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        mut buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        if piece.wraps() {
            return self.transfer_untranslated(pasid, &[piece], buffer, access);
        }
        let (address, len) = (piece.address, buffer.len());
        let (mut done, mut tries, mut page_answered_at) = (0, 0, None);
        while done < len {
            let at = address + done as u64;
            let before = done as u64;
            let after = |error: DmaError| DmaError { done: before + error.done, ..error };
            let rest = buffer.part(done..len);
            let moved = match self.try_transfer(pasid, at, rest, access).map_err(after)? {
                Some(moved) => Some(moved),
                None => {
                    let rest = buffer.part(done..len);
                    self.on_miss(pasid, at, rest, access, &mut page_answered_at).map_err(after)?
                }
            };
            match moved {
                Some(moved) => {
                    (done, tries) = (done + moved, 0);
                    self.record_retry(pasid, page_answered_at.take());
                }
                None => tries += 1,
            }
            if tries > MAX_TRIES {
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

    /// Records how long a retried access took from the answer to its page request.
    fn record_retry(&self, pasid: Option<Pasid>, page_answered_at: Option<Duration>) {
        if let (Some(answered), Some(now)) = (page_answered_at, self.now()) {
            self.master.iommu.record_times(&self.master.device, pasid, |times| {
                times.retry.record(now.saturating_sub(answered))
            });
        }
    }

    /// Handles an access whose translation is not in the ATC: requests it, or the page. Returns
    /// `None` if the access is to be tried again, or the number of bytes that were transferred
    /// untranslated.
    fn on_miss(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buffer: Buffer<'_>,
        access: Access,
        page_answered_at: &mut Option<Duration>,
    ) -> Result<Option<usize>, DmaError> {
        let fault = |reason| self.abort(pasid, address, access, reason);
        let answer = match self.obtain_translation(pasid, address, access).map_err(fault)? {
            Some(answer) => answer,
            None => {
                return self.transfer_page_untranslated(pasid, address, buffer, access).map(Some);
            }
        };
        match answer {
            TranslationAnswer::Cached | TranslationAnswer::Outdated => return Ok(None),
            TranslationAnswer::Refused(refusal) => {
                return Err(fault(FaultReason::Untranslatable(refusal)));
            }
            TranslationAnswer::Untranslated(permissions) if permissions.permit(access) => {
                let access = access.present_only();
                match self.transfer_page_untranslated(pasid, address, buffer, access) {
                    // The page is not present any more, and no byte has been transferred.
                    Err(error) if error.done == 0 && is_not_present(&error) => {}
                    moved => return moved.map(Some),
                }
            }
            TranslationAnswer::Untranslated(_) | TranslationAnswer::NoAccess => {}
        }
        self.fault_in(pasid, address, access, page_answered_at).map_err(fault)?;
        Ok(None)
    }

    /// Requests a translation and waits for the answer; `None` if ATS has been disabled meanwhile.
    fn obtain_translation(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<Option<TranslationAnswer>, FaultReason> {
        match self.send_translation_request(pasid, address, access, true) {
            Ok(request) => self.await_translation(request).map(Some),
            Err(TranslationRequestError::Off { .. }) => Ok(None),
            Err(TranslationRequestError::Halted { .. }) => Err(self.shut_reason()),
            Err(TranslationRequestError::TooMany { .. }) => Err(FaultReason::TimedOut),
            Err(TranslationRequestError::NotOwner { .. }) => Err(FaultReason::NotBound),
        }
    }

    /// Transfers the bytes from `address` to the end of its page, or of the buffer, untranslated.
    /// Returns their number.
    fn transfer_page_untranslated(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut buffer: Buffer<'_>,
        access: Access,
    ) -> Result<usize, DmaError> {
        let len = len_in_page(address, buffer.len());
        let piece = [Segment { address, len: len as u64 }];
        self.transfer_untranslated(pasid, &piece, buffer.part(0..len), access).map(|()| len)
    }

    /// Requests the page of `address` and waits for the response. Sets `page_answered_at` to the
    /// time of a response of Success.
    fn fault_in(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        page_answered_at: &mut Option<Duration>,
    ) -> Result<(), FaultReason> {
        let index = self.request_one_page(pasid, address, access)?;
        match self.wait_until(|endpoint| endpoint.interface.outcome(index)) {
            GroupOutcome::Response(ResponseCode::Success) => {
                *page_answered_at = self.now();
                Ok(())
            }
            GroupOutcome::Response(code) => Err(FaultReason::PageRefused(code)),
            GroupOutcome::TimedOut => Err(FaultReason::TimedOut),
            GroupOutcome::Forgotten => Err(self.shut_reason()),
        }
    }

    /// Requests a page in a group of its own. Waits while the device has no credit or no free
    /// index.
    fn request_one_page(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Result<PrgIndex, FaultReason> {
        if self.count_if_stale(pasid) {
            return Err(FaultReason::NotBound);
        }
        let begun = self.now();
        let mut endpoint = self.endpoint();
        let request = loop {
            if endpoint.is_in_reset {
                return Err(self.shut_reason());
            }
            let now = self.now();
            // The lock is held from the check to the wait, so that no other thread takes the credit
            // and no response that gives credit back is missed.
            let request = endpoint
                .interface
                .open(pasid)
                .and_then(|index| endpoint.interface.add(index, address, access, true, now));
            match request {
                Ok(request) => break request,
                // Only a reset gives back the credit of responses that were lost.
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
        self.services().send_to_iommu(ToIommu::Page(request));
        Ok(request.index)
    }

    /// Transfers the pieces by a walk, without a translation of the ATC.
    fn transfer_untranslated(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        self.master.walk(pasid, pieces, buffer, access, &mut |_, _| {})
    }

    /// Waits for the answer to a translation request, at most for the
    /// [`response_limit`](crate::IommuConfig::response_limit).
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

/// The number of bytes from `address` to the end of its page, at most `len`.
fn len_in_page(address: u64, len: usize) -> usize {
    ((PAGE - address % PAGE) as usize).min(len)
}

fn is_not_present(error: &DmaError) -> bool {
    matches!(&error.cause, DmaCause::Fault(fault) if fault.reason == FaultReason::NotPresent)
}
