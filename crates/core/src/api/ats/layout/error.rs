//! Why ATS messages cannot be decoded or encoded.

use super::prefix::PrefixError;
use crate::api::ats::message::Frame;

/// Why bits are not a valid ATS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The PASID prefix is invalid.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Reserved bits of the word are set.
    #[error("reserved bits {bits:#x} are set; clear them")]
    Reserved {
        /// The reserved bits that are set, at their positions in the word.
        bits: u64,
    },
    /// S and all address bits 63:12 are set, which the specification does not define (section
    /// 10.2.3.2).
    #[error(
        "S and all address bits are set, which names no range; clear bit 63 to name all addresses"
    )]
    NoRange,
    /// The status cannot be that of a completion without data: success, request retry (which is not
    /// allowed here), or a number of more than three bits.
    #[error("a translation completion without data has no status {status:#05b}; send 001b or 100b")]
    Status {
        /// The status.
        status: u8,
    },
    /// Exe is set and R is not (section 10.2.3.6).
    #[error("execution is permitted and reading is not; set R too")]
    ExecuteWithoutRead,
    /// Exe is set in the completion of a request without Execute Requested (section 10.2.3.6).
    #[error("execution is permitted though it was not requested; clear Exe")]
    ExecuteNotRequested,
    /// The permissions are for another privilege than that of the request (section 10.2.3.7).
    #[error(
        "requested with privileged mode {requested}, answered with {answered}; the permissions do \
         not apply to the request"
    )]
    Privilege {
        /// Privileged Mode Requested.
        requested: bool,
        /// Priv.
        answered: bool,
    },
    /// Priv is set in the completion of a request without PASID.
    #[error("permissions for privileged mode without a PASID; clear Priv")]
    PrivilegedWithoutPasid,
    /// Global, or Global Invalidate, is set and there is no PASID (sections 10.2.3.8 and 10.3.1).
    #[error("global without a PASID; clear the bit or give a PASID")]
    GlobalWithoutPasid,
    /// The ITag has more than five bits.
    #[error("tag {itag} is out of range; tags are 0 to 31")]
    Itag {
        /// The tag.
        itag: u8,
    },
    /// The ITag vector of an invalidate completion is empty.
    #[error("the ITag vector is empty; set the bit of the request's tag")]
    NoItag,
}

/// Why a value cannot be encoded as an ATS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame is not aligned to the size of the range, which its low address bits encode
    /// (section 10.2.3.2).
    #[error("{frame} is not a multiple of its 2^{bits} bytes; answer with a smaller range")]
    Misaligned {
        /// The frame of the first address of the range.
        frame: Frame,
        /// The size of the range, as a power of two.
        bits: u8,
    },
    /// The range does not contain the requested address. A completion has a size and no
    /// untranslated address: its range is the one of that size around the requested address.
    #[error("the translation is not for {address:#x}, which was requested")]
    OtherAddress {
        /// The address of the request.
        address: u64,
    },
    /// The request is privileged and has no PASID. Privileged Mode Requested is a bit of the PASID
    /// prefix.
    #[error("a request without PASID has no privileged mode; request without it")]
    PrivilegedWithoutPasid,
    /// Global Invalidate is requested and there is no PASID, where the bit is reserved (section
    /// 10.3.1).
    #[error("a global invalidation carries a PASID, any one; give one")]
    GlobalWithoutPasid,
}
