//! Faults, which are data for the device and the event log, and failures of the host below.

use std::fmt;
use std::io;

use crate::api::ats::TranslationRefusal;
use crate::api::pri::ResponseCode;
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid};

/// Why a transaction was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultReason {
    /// The device has no PASID capability, or the PASID is wider than it can issue.
    CannotIssuePasid,
    /// The device's PASID table has no entry for this PASID.
    NotBound,
    /// The address space has ended.
    SpaceEnded,
    /// The bond does not grant this kind of access (execute, privileged).
    NotGranted,
    /// Nothing is mapped at the address.
    NotMapped,
    /// The page is mapped but not present, and the transaction does not wait for it.
    NotPresent,
    /// The mapping does not permit the access.
    Denied,
    /// A transaction without PASID met no mapping in the group's domain.
    NoDomainMapping,
    /// The range wraps past the top of the address space.
    Wraps,
    /// The device has been removed.
    DeviceRemoved,
    /// The device is being reset, or was cut off because it did not complete invalidations. After a
    /// reset its transactions are accepted again.
    DeviceHalted,
    /// The request has a translated address, and the address translation services of the device are
    /// off.
    TranslatedRefused,
    /// This port on the path blocks requests with translated addresses (ACS Translation Blocking).
    TranslationBlocked(Bdf),
    /// The translated address is not in the memory of the space: the translation is not valid, or
    /// no longer.
    NoSuchFrame,
    /// The IOMMU refused the translation request of the device without a look-up.
    Untranslatable(TranslationRefusal),
    /// The response to the page request was not Success.
    PageRefused(ResponseCode),
    /// There is no translation for this access, and the device cannot request the page.
    NoTranslation,
    /// A translation or a page was requested, and no answer arrived in time.
    TimedOut,
    /// The memory, or a part of it, cannot be accessed in place.
    NotInPlace,
    /// The memory cannot be accessed in place, so an operation on it would not be atomic with
    /// respect to accesses by the owner of the memory.
    NoAtomics,
    /// The address of an atomic operation is not a multiple of its size.
    Misaligned,
    /// A peer's window decoded the address and the peer aborted the request.
    PeerAbort(Bdf),
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotIssuePasid => f.write_str("the device cannot issue this PASID"),
            Self::NotBound => f.write_str("the PASID is not bound to this device"),
            Self::SpaceEnded => f.write_str("the address space has ended"),
            Self::NotGranted => f.write_str("the bond does not grant this access"),
            Self::NotMapped => f.write_str("nothing is mapped there"),
            Self::NotPresent => f.write_str("the page is not present"),
            Self::Denied => f.write_str("the mapping does not permit it"),
            Self::NoDomainMapping => f.write_str("the domain has no mapping there"),
            Self::Wraps => f.write_str("the range wraps past the last address"),
            Self::DeviceRemoved => f.write_str("the device has been removed"),
            Self::DeviceHalted => f.write_str("the device is being reset or was cut off"),
            Self::TranslatedRefused => {
                f.write_str("the device's address translation services are off")
            }
            Self::TranslationBlocked(port) => {
                write!(f, "{port} blocks translated requests (ACS TB)")
            }
            Self::NoSuchFrame => {
                f.write_str("the translated address is no place in the space's memory")
            }
            Self::Untranslatable(refusal) => {
                write!(f, "the translation request was refused ({refusal})")
            }
            Self::PageRefused(code) => write!(f, "the page request was answered: {code}"),
            Self::NoTranslation => f.write_str("there is no translation for it"),
            Self::TimedOut => f.write_str("the IOMMU did not answer in time"),
            Self::NotInPlace => {
                f.write_str("the memory cannot be accessed in place; read it or write it")
            }
            Self::NoAtomics => f.write_str(
                "there can be no atomic operation on this memory, which is not accessed in place",
            ),
            Self::Misaligned => {
                f.write_str("an atomic operation has to be at a multiple of its size")
            }
            Self::PeerAbort(peer) => {
                write!(f, "{peer} decoded the address and aborted the request")
            }
        }
    }
}

/// An aborted transaction, as the device and the event log get it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The device that issued it.
    pub device: Bdf,
    /// The PASID that it carried.
    pub pasid: Option<Pasid>,
    /// The first address that was not accessed.
    pub address: u64,
    /// The kind of the access, without [`PRIVILEGED`](Access::PRIVILEGED) and
    /// [`PRESENT_ONLY`](Access::PRESENT_ONLY).
    pub access: Access,
    /// Why it was aborted.
    pub reason: FaultReason,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("device", &self.device)
            .field("pasid", &self.pasid)
            .field("address", &format_args!("{:#x}", self.address))
            .field("access", &self.access)
            .field("reason", &self.reason)
            .finish()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at {:#x}", self.device, self.access, self.address)?;
        if let Some(pasid) = self.pasid {
            write!(f, " with PASID {pasid}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A call to the host failed for a reason that does not depend on the address.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}")]
pub struct HostFailure {
    /// The call, such as `process_vm_readv`.
    pub call: &'static str,
    /// Its error.
    pub source: io::Error,
}

/// Why a transfer ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaCause {
    /// The transaction was aborted. The fault is also in the event log.
    #[error("{0}")]
    Fault(Fault),
    /// A call to the host failed.
    #[error(transparent)]
    Host(HostFailure),
    /// The length of the buffer is not the sum of the lengths of the segments.
    #[error("the pieces are {pieces} bytes and the buffer is {buffer}")]
    Length {
        /// The sum of the lengths of the segments, saturating.
        pieces: u64,
        /// The length of the buffer.
        buffer: u64,
    },
}

/// A transfer that ended early, with the bytes that were transferred and the cause.
#[derive(Debug, thiserror::Error)]
#[error("after {done} bytes: {cause}")]
pub struct DmaError {
    /// The exact number of bytes that were transferred. In a gather or scatter it is counted over
    /// all segments in order.
    pub done: u64,
    /// Why the transfer ended.
    #[source]
    pub cause: DmaCause,
}

impl DmaError {
    /// The fault, if the cause is one.
    pub fn fault(&self) -> Option<Fault> {
        match self.cause {
            DmaCause::Fault(fault) => Some(fault),
            DmaCause::Host(_) | DmaCause::Length { .. } => None,
        }
    }
}
