//! Translations in use.

use std::fmt;

use super::port::AtsPort;
use crate::api::ats::Frame;
use crate::api::fault::DmaError;
use crate::api::link::ToIommu;
use crate::dma::buffer::Buffer;
use crate::protocol::ats::atc::TranslatedAccess;
use crate::types::access::Access;
use crate::types::ids::Pasid;

/// A translation of the device's cache that an access uses: an invalidation of it is not complete
/// before this is dropped. A reset of the device voids it, and so does disabling ATS.
///
/// Where the system has a clock, a device that keeps one past
/// [`invalidation_limit`](crate::IommuConfig::invalidation_limit), for all its tries, is cut off.
#[must_use = "use it; an invalidation waits until it is dropped"]
pub struct TranslationGuard {
    port: AtsPort,
    pasid: Option<Pasid>,
    access: Access,
    used: TranslatedAccess,
}

impl TranslationGuard {
    pub(super) fn new(
        port: AtsPort,
        pasid: Option<Pasid>,
        access: Access,
        used: TranslatedAccess,
    ) -> Self {
        Self { port, pasid, access, used }
    }

    /// Where the first byte of the access is.
    pub fn frame(&self) -> Frame {
        self.used.frame
    }

    /// For how many bytes from there the translation is good; at least one.
    pub fn len(&self) -> u64 {
        self.used.len
    }

    /// Always false: it is good for a byte at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads as many bytes as it is good for, up to the length of `buf`; answers how many.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::read_translated`](crate::DmaPort::read_translated).
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, DmaError> {
        let len = (buf.len() as u64).min(self.used.len) as usize;
        self.transfer(Buffer::Into(&mut buf[..len]), self.access)?;
        Ok(len)
    }

    /// Writes as many bytes as it is good for, up to the length of `data`; answers how many.
    ///
    /// # Errors
    /// The request was aborted; see
    /// [`DmaPort::write_translated`](crate::DmaPort::write_translated).
    pub fn write(&self, data: &[u8]) -> Result<usize, DmaError> {
        let len = (data.len() as u64).min(self.used.len) as usize;
        self.transfer(Buffer::From(&data[..len]), Access::WRITE)?;
        Ok(len)
    }

    fn transfer(&self, buffer: Buffer<'_>, access: Access) -> Result<(), DmaError> {
        let (pasid, frame) = (self.pasid, self.used.frame);
        // Asked from inside the gates that a reset shuts before it voids the use.
        let is_valid = || self.port.endpoint().atc.is_valid(self.used.id);
        self.port.master.translated_while(pasid, frame, buffer, access, is_valid)
    }
}

impl Drop for TranslationGuard {
    fn drop(&mut self) {
        let complete = self.port.endpoint().atc.end_access(self.used.id);
        for completion in complete {
            self.port.services().to_iommu(ToIommu::Invalidated(completion));
        }
    }
}

impl fmt::Debug for TranslationGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TranslationGuard")
            .field("frame", &self.frame())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
