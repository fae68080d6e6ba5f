//! Guards of translations in use: accesses through the ATC of a device.

use std::fmt;

use super::port::AtsPort;
use crate::api::ats::Frame;
use crate::api::fault::DmaError;
use crate::api::link::ToIommu;
use crate::dma::buffer::Buffer;
use crate::protocol::ats::atc::TranslatedAccess;
use crate::types::access::Access;
use crate::types::ids::Pasid;

/// A translation of the device's ATC that an access uses. An invalidation of it is not completed
/// before the guard is dropped. A reset of the device makes it unusable, and so does disabling ATS.
///
/// If the system has a clock, a device that keeps a guard longer than
/// [`invalidation_limit`](crate::IommuConfig::invalidation_limit), in each of the tries, is cut
/// off.
#[must_use = "use it; an invalidation waits until it is dropped"]
pub struct TranslationGuard {
    port: AtsPort,
    pasid: Option<Pasid>,
    access: Access,
    /// The access, as the ATC records it.
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

    /// The frame address of the first byte of the access.
    pub fn frame(&self) -> Frame {
        self.used.frame
    }

    /// The number of bytes from there that the translation covers; at least 1.
    pub fn len(&self) -> u64 {
        self.used.len
    }

    /// Always false: the translation covers at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads the bytes that the translation covers, at most `buf.len()`, and returns their number.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::read_translated`](crate::DmaPort::read_translated).
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, DmaError> {
        let len = (buf.len() as u64).min(self.used.len) as usize;
        self.transfer(Buffer::Into(&mut buf[..len]), self.access)?;
        Ok(len)
    }

    /// Writes to the bytes that the translation covers, at most `data.len()`, and returns their
    /// number.
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
        // Called inside the gates that a reset shuts before it makes the access void.
        let is_valid = || self.port.endpoint().atc.is_valid(self.used.id);
        self.port.master.access_translated(pasid, frame, buffer, access, is_valid)
    }
}

impl Drop for TranslationGuard {
    fn drop(&mut self) {
        let completions = self.port.endpoint().atc.end_access(self.used.id);
        for completion in completions {
            self.port.services().send_to_iommu(ToIommu::Invalidated(completion));
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

impl AtsPort {
    /// Reads the bytes that one cached translation covers, at most `buf.len()`, and returns their
    /// number. `None` if the ATC has no translation for this access.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::read_translated`](crate::DmaPort::read_translated).
    pub fn try_read(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buf: &mut [u8],
        access: Access,
    ) -> Result<Option<usize>, DmaError> {
        self.try_transfer(pasid, address, Buffer::Into(buf), access)
    }

    /// Writes through one cached translation, as [`try_read`](Self::try_read) reads.
    ///
    /// # Errors
    /// The request was aborted; see
    /// [`DmaPort::write_translated`](crate::DmaPort::write_translated).
    pub fn try_write(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        data: &[u8],
        access: Access,
    ) -> Result<Option<usize>, DmaError> {
        self.try_transfer(pasid, address, Buffer::From(data), access)
    }

    /// Finds the cached translation for this access, which is in use until the guard is dropped.
    /// `None` if there is none, or if the PASID has another owner than the one that the port is
    /// for: the ATC has translations of that owner then.
    pub fn use_translation(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Option<TranslationGuard> {
        if self.count_if_stale(pasid) {
            return None;
        }
        self.begin_access(pasid, address, access)
    }

    /// Finds a translation as [`use_translation`](Self::use_translation) does, without a check of
    /// the owner: the transfer checks it inside the gate of the PASID entry.
    fn begin_access(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Option<TranslationGuard> {
        let used = self.endpoint().atc.begin_access(pasid, address, access)?;
        Some(TranslationGuard::new(self.clone(), pasid, access, used))
    }

    pub(super) fn try_transfer(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buffer: Buffer<'_>,
        access: Access,
    ) -> Result<Option<usize>, DmaError> {
        let Some(translation) = self.begin_access(pasid, address, access) else {
            return Ok(None);
        };
        match buffer {
            Buffer::Into(buf) => translation.read(buf),
            Buffer::From(data) => translation.write(data),
        }
        .map(Some)
    }
}
