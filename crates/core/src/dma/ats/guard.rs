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
        self.port.master.access_translated(pasid, frame, buffer, access, is_valid)
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

impl AtsPort {
    /// Reads through a translation that the device caches: as many bytes as it is good for, up to
    /// the length of `buf`, which are answered. `None` where there is none for this access.
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

    /// Writes through a translation that the device caches, as [`try_read`](Self::try_read) reads.
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

    /// Finds the translation that the device caches for this access, and uses it until the answer
    /// is dropped. `None` where there is none, and where the PASID has another owner than the one
    /// that the port is for: what is cached then is the other's.
    pub fn use_translation(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
    ) -> Option<TranslationGuard> {
        if self.is_stale(pasid) {
            return None;
        }
        self.begin_use(pasid, address, access)
    }

    /// As [`use_translation`](Self::use_translation), whoever owns the PASID: the transfer asks
    /// that, inside the gate of the PASID table entry.
    fn begin_use(
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
        let Some(translation) = self.begin_use(pasid, address, access) else {
            return Ok(None);
        };
        match buffer {
            Buffer::Into(buf) => translation.read(buf),
            Buffer::From(data) => translation.write(data),
        }
        .map(Some)
    }
}
