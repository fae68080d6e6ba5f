//! Translations in use, and what a device tells about what it keeps.

use std::fmt;

use super::cache::Use;
use super::message::Frame;
use super::port::AtsPort;
use crate::fault::{Access, AccessMode, DmaError};
use crate::ids::Pasid;
use crate::link::ToIommu;
use crate::port::{Buffer, Device};
use crate::pri::interface::InterfaceCounts;

/// A kept translation that an access uses: an invalidation of it is not complete before this is
/// gone. A reset of the device voids it, and so does switching ATS off.
///
/// Where the system has a clock, a device that holds one past
/// [`invalidation_limit`](crate::IommuConfig::invalidation_limit), for all its tries, is cut off.
#[must_use = "use it; an invalidation waits until it is gone"]
pub struct Held {
    port: AtsPort,
    pasid: Option<Pasid>,
    mode: AccessMode,
    used: Use,
}

impl Held {
    pub(super) fn new(port: AtsPort, pasid: Option<Pasid>, mode: AccessMode, used: Use) -> Self {
        Self { port, pasid, mode, used }
    }

    /// Where the first byte of the access is.
    pub fn frame(&self) -> Frame {
        self.used.frame
    }

    /// For how many bytes from there the translation is good; at least one.
    pub fn len(&self) -> u64 {
        self.used.len
    }

    /// Never: it is good for a byte at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads as many bytes as it is good for, which are answered.
    ///
    /// # Errors
    /// The request was aborted; see [`DmaPort::read_translated`](crate::DmaPort::read_translated).
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, DmaError> {
        let len = (buf.len() as u64).min(self.used.len) as usize;
        let port = &self.port.port;
        port.translated_while(
            self.pasid,
            self.used.frame,
            Buffer::Into(&mut buf[..len]),
            self.mode.access,
            || self.is_valid(),
        )?;
        Ok(len)
    }

    /// Writes as many bytes as it is good for, which are answered.
    ///
    /// # Errors
    /// The request was aborted; see
    /// [`DmaPort::write_translated`](crate::DmaPort::write_translated).
    pub fn write(&self, data: &[u8]) -> Result<usize, DmaError> {
        let len = (data.len() as u64).min(self.used.len) as usize;
        let port = &self.port.port;
        port.translated_while(
            self.pasid,
            self.used.frame,
            Buffer::From(&data[..len]),
            Access::Write,
            || self.is_valid(),
        )?;
        Ok(len)
    }

    /// Whether no reset has voided it. Asked from inside the gates that a reset shuts before it
    /// does so.
    fn is_valid(&self) -> bool {
        self.port.side().atc.is_valid(self.used.id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let complete = self.port.side().atc.give_back(self.used.id);
        for completion in complete {
            self.port.device.services.to_iommu(ToIommu::Invalidated(completion));
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("frame", &self.frame())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Device {
    /// What happened to its cache of translations.
    pub fn atc_counts(&self) -> super::AtcCounts {
        self.inner().services.side.lock().atc.counts
    }

    /// How many translations it keeps now.
    pub fn atc_len(&self) -> usize {
        self.inner().services.side.lock().atc.len()
    }

    /// Accesses that use a kept translation now.
    pub fn atc_in_use(&self) -> usize {
        self.inner().services.side.lock().atc.in_use()
    }

    /// Groups of page requests that were sent as a whole and that no answer has come to.
    pub fn groups_waiting(&self) -> usize {
        self.inner().services.side.lock().interface.unanswered()
    }

    /// Invalidations that it has not completed.
    pub fn invalidations_under_way(&self) -> usize {
        self.inner().services.invalidator.lock().under_way()
    }

    /// What happened to invalidations that were sent to it.
    pub fn invalidation_counts(&self) -> super::InvalidationCounts {
        self.inner().services.invalidator.lock().counts
    }

    /// What happened to its page requests, as it sees them.
    pub fn page_request_counts(&self) -> InterfaceCounts {
        self.inner().services.side.lock().interface.counts
    }
}
