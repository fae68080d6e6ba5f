//! What a transaction can come to: a fault (data, for the device and the event log) or a host
//! failure (an error of the machine below).

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
    /// The device is gone.
    DeviceRemoved,
    /// The device is being reset, or was cut off because it did not answer; a reset lets it in
    /// again.
    DeviceBlocked,
    /// A request with a translated address from a device whose address translation services are
    /// off.
    TranslatedRefused,
    /// This port on the way stops requests with translated addresses (ACS Translation Blocking).
    TranslationBlocked(Bdf),
    /// The translated address is no place in the memory of the space: the translation is not, or no
    /// longer, the space's.
    NoSuchFrame,
    /// The IOMMU did not look at the device's translation request.
    Untranslatable(TranslationRefusal),
    /// The page was asked for and the answer was not success.
    PageRefused(ResponseCode),
    /// There is no translation for this access, and the device cannot ask for the page.
    NoTranslation,
    /// A translation or a page was asked for, and no answer came in time.
    TimedOut,
    /// The memory, or some of it, cannot be accessed in place.
    NotInPlace,
    /// The memory cannot be accessed in place, so that an operation on it would not be atomic
    /// against its owner's.
    NoAtomics,
    /// An atomic operation at an address that is not a multiple of its size.
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
            Self::DeviceBlocked => f.write_str("the device is being reset or was cut off"),
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

/// An aborted transaction, as the device and the event log see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The device that issued it.
    pub device: Bdf,
    /// The PASID that it carried.
    pub pasid: Option<Pasid>,
    /// The first address that was not accessed.
    pub address: u64,
    /// What it wanted: the kind of the access, without [`PRIVILEGED`](Access::PRIVILEGED) and
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

/// A call to the machine below failed for a reason that says nothing about the address.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}")]
pub struct HostFailure {
    /// The call, such as `process_vm_readv`.
    pub call: &'static str,
    /// What it answered.
    pub source: io::Error,
}

/// Why a transfer ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaCause {
    /// The transaction was aborted; also in the event log.
    #[error("{0}")]
    Fault(Fault),
    /// The machine below failed.
    #[error(transparent)]
    Host(HostFailure),
    /// The device model passed a buffer whose length is not the sum of the pieces.
    #[error("the pieces are {pieces} bytes and the buffer is {buffer}")]
    Length {
        /// The sum of the pieces; saturating.
        pieces: u64,
        /// The buffer's length.
        buffer: u64,
    },
}

/// A transfer that ended early: what was done, and why no more.
#[derive(Debug, thiserror::Error)]
#[error("after {done} bytes: {cause}")]
pub struct DmaError {
    /// Bytes transferred before the end, exactly; in a gather or scatter counted over all pieces in
    /// order.
    pub done: u64,
    /// Why it ended.
    #[source]
    pub cause: DmaCause,
}

impl DmaError {
    /// The fault, where it was one.
    pub fn fault(&self) -> Option<Fault> {
        match self.cause {
            DmaCause::Fault(fault) => Some(fault),
            DmaCause::Host(_) | DmaCause::Length { .. } => None,
        }
    }
}
