//! ATS messages bit by bit (PCIe 6.0, sections 10.2.3, 10.3.1 and 10.3.2), and the PASID TLP prefix
//! (section 6.20.2), to and from the checked values of [`message`](super::message).
//!
//! A word is a number; its most significant byte goes first over the wire, as the figures of the
//! specification draw it (`to_be_bytes` of its bits). Of a header the words here are bytes 8 to 15;
//! what comes before is the same for all messages and routes them.
//!
//! Foreign bits come in by `from_bits`; `with_*` is for numbers of our own and panics, in debug
//! builds, where one does not fit its field. Decoding never panics: any bits are a value or a
//! [`DecodeError`]. Reserved bits are refused. The specification has receivers ignore them, so that
//! a later revision may give them a meaning; here such a meaning would be lost without a word, and
//! a sender's mistake with it.

use bitfield_struct::bitfield;

use super::message::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, Itag, Translation,
    TranslationCompletion, TranslationRefusal, TranslationRequest,
};
use crate::types::access::Permissions;
use crate::types::ids::PasidTag;

mod prefix;
pub use prefix::{PasidPrefix, PrefixError};

/// Bits that are no ATS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The PASID prefix has no meaning.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Reserved bits of the word are set.
    #[error("reserved bits {bits:#x} are set; clear them")]
    Reserved {
        /// Those that are set, in their places.
        bits: u64,
    },
    /// S and all address bits 63:12 are set, which is undefined (section 10.2.3.2).
    #[error(
        "S and all address bits are set, which names no range; clear bit 63 to name all addresses"
    )]
    NoRange,
    /// No completion status of a translation without data: success, request retry (not allowed
    /// here), or more than three bits.
    #[error("a translation completion without data has no status {status:#05b}; send 001b or 100b")]
    Status {
        /// The status.
        status: u8,
    },
    /// Exe without R (section 10.2.3.6).
    #[error("execution is permitted and reading is not; set R too")]
    ExecuteWithoutRead,
    /// Exe in answer to a request that did not ask for it (section 10.2.3.6).
    #[error("execution is permitted though it was not requested; clear Exe")]
    ExecuteNotRequested,
    /// Permissions for another privilege than was asked for (section 10.2.3.7): they say nothing
    /// about the one in question.
    #[error(
        "asked with privileged mode {requested}, answered with {answered}; the answer is of no use"
    )]
    Privilege {
        /// Privileged Mode Requested.
        requested: bool,
        /// Priv.
        answered: bool,
    },
    /// Priv where there is no PASID.
    #[error("permissions for privileged mode without a PASID; clear Priv")]
    PrivilegedWithoutPasid,
    /// Global, or Global Invalidate, where there is no PASID (sections 10.2.3.8 and 10.3.1).
    #[error("global without a PASID; clear the bit or give a PASID")]
    GlobalWithoutPasid,
    /// An ITag of more than five bits.
    #[error("tag {itag} is out of range; tags are 0 to 31")]
    Itag {
        /// The tag.
        itag: u8,
    },
    /// An invalidate completion that completes nothing.
    #[error("the ITag vector is empty; set the bit of the request's tag")]
    NoItag,
}

/// A value that no ATS message can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The low address bits are taken for the size (section 10.2.3.2).
    #[error("{frame} is not a multiple of its 2^{bits} bytes; answer with a smaller range")]
    Misaligned {
        /// Where the range leads to.
        frame: Frame,
        /// Its size is 2^this bytes.
        bits: u8,
    },
    /// A completion does not say which addresses it is for: they are those around the one that was
    /// asked for.
    #[error("the translation does not hold for {address:#x}, which was asked for")]
    OtherAddress {
        /// The address of the request.
        address: u64,
    },
    /// Privileged Mode Requested is a bit of the PASID prefix.
    #[error("a request without PASID has no privileged mode; ask without it")]
    PrivilegedWithoutPasid,
    /// Global Invalidate is reserved where there is no PASID (section 10.3.1).
    #[error("a global invalidation carries a PASID, any one; give one")]
    GlobalWithoutPasid,
}

/// A range in S and address bits 63:12 (section 10.2.3.2): from bit 12 upward a 1 doubles the size,
/// and the first 0 ends the count. Rule T4: nothing is rounded.
const fn from_range(range: AlignedRange) -> (bool, u64) {
    let page = range.first() >> 12;
    match range.bits() {
        12 => (false, page),
        bits => (true, page | ((1 << (bits - 13)) - 1)),
    }
}

/// The range, where there is one; see [`from_range`].
const fn to_range(s: bool, page: u64) -> Option<AlignedRange> {
    let bits = if s { 13 + page.trailing_ones() as u8 } else { 12 };
    around(page << 12, bits)
}

/// The range of `2^bits` bytes that holds `address`; `None` where `bits` is not 12..=64.
const fn around(address: u64, bits: u8) -> Option<AlignedRange> {
    match bits {
        12..=63 => AlignedRange::new(address >> bits << bits, bits),
        bits => AlignedRange::new(0, bits),
    }
}

/// One translation completion data entry (section 10.2.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct CompletionEntry {
    /// Bit 0: R, reading is permitted.
    pub read: bool,
    /// Bit 1: W, writing is permitted.
    pub write: bool,
    /// Bit 2: U, untranslated access only.
    pub untranslated_only: bool,
    /// Bit 3: Exe, execution is permitted.
    pub execute: bool,
    /// Bit 4: Priv, the permissions are those of privileged mode.
    pub privileged: bool,
    /// Bit 5: the translation holds for all PASIDs.
    pub global: bool,
    /// Bits 8:6: ATS Memory Attributes, and bit 9: CXL.io. Both reserved for functions without
    /// these capabilities, as all are here.
    #[bits(4)]
    reserved: u8,
    /// Bit 10: N, accesses are to be snooped. All are.
    pub non_snooped: bool,
    /// Bit 11: S, the range is larger than 4 KiB.
    pub size: bool,
    /// Bits 63:12: the translated address, its low bits taken for the size where S is set.
    #[bits(52)]
    pub page: u64,
}

/// A translation completion: the status of its header, and the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompletionTlp {
    /// Success (CplD), with one entry. The specification allows more; a request here asks for one.
    Data(CompletionEntry),
    /// Not success (Cpl): the completion status, three bits.
    NoData(u8),
}

impl CompletionTlp {
    const UNSUPPORTED_REQUEST: u8 = 0b001;
    const COMPLETER_ABORT: u8 = 0b100;

    /// The bits of `completion`, which answers `request`.
    ///
    /// What the specification has cleared in the answer to such a request is cleared: Exe where it
    /// was not requested or R is clear, Global where there is no PASID; all but the range where
    /// neither R nor W is set.
    ///
    /// # Errors
    /// A request or an answer that has no bits.
    pub fn encode(
        completion: &TranslationCompletion,
        request: &TranslationRequest,
    ) -> Result<Self, EncodeError> {
        match completion.result {
            Ok(translation) => Ok(Self::Data(CompletionEntry::encode(&translation, request)?)),
            Err(TranslationRefusal::Unsupported) => Ok(Self::NoData(Self::UNSUPPORTED_REQUEST)),
            Err(TranslationRefusal::Aborted) => Ok(Self::NoData(Self::COMPLETER_ABORT)),
        }
    }

    /// The answer to `request`; `owner` is known inside the system only. A reserved status counts
    /// as Unsupported Request (table 10-2).
    ///
    /// # Errors
    /// Bits that are no answer to this request.
    pub fn decode(
        self,
        request: &TranslationRequest,
        owner: Option<PasidTag>,
    ) -> Result<TranslationCompletion, DecodeError> {
        let result = match self {
            Self::Data(entry) => Ok(entry.decode(request)?),
            Self::NoData(Self::COMPLETER_ABORT) => Err(TranslationRefusal::Aborted),
            Self::NoData(Self::UNSUPPORTED_REQUEST | 0b011 | 0b101..=0b111) => {
                Err(TranslationRefusal::Unsupported)
            }
            Self::NoData(status) => return Err(DecodeError::Status { status }),
        };
        Ok(TranslationCompletion { id: request.id, result, privileged: request.privileged, owner })
    }
}

impl CompletionEntry {
    const RESERVED: u64 = Self::new().with_reserved(0b1111).into_bits();

    fn encode(
        translation: &Translation,
        request: &TranslationRequest,
    ) -> Result<Self, EncodeError> {
        let Translation { range, frame, permissions, global } = *translation;
        if !range.range().contains(request.address) {
            return Err(EncodeError::OtherAddress { address: request.address });
        }
        if request.privileged && request.pasid.is_none() {
            return Err(EncodeError::PrivilegedWithoutPasid);
        }
        let permitted = permissions.intersects(Permissions::READ_WRITE);
        let frame = frame.filter(|_| permitted);
        let to = frame.unwrap_or(Frame(0));
        let place = AlignedRange::new(to.0, range.bits())
            .ok_or(EncodeError::Misaligned { frame: to, bits: range.bits() })?;
        let (size, page) = from_range(place);
        let entry = Self::new().with_size(size).with_page(page);
        if !permitted {
            return Ok(entry);
        }
        Ok(entry
            .with_read(permissions.contains(Permissions::READ))
            .with_write(permissions.contains(Permissions::WRITE))
            .with_execute(
                permissions.contains(Permissions::READ | Permissions::EXECUTE) && request.execute,
            )
            .with_privileged(request.privileged)
            .with_global(global && request.pasid.is_some())
            .with_untranslated_only(frame.is_none()))
    }

    /// With neither R nor W, all but the range means nothing (section 10.2.3.5). N asks for no more
    /// than what all accesses here are.
    fn decode(self, request: &TranslationRequest) -> Result<Translation, DecodeError> {
        let reserved = self.into_bits() & Self::RESERVED;
        if reserved != 0 {
            return Err(DecodeError::Reserved { bits: reserved });
        }
        let place = to_range(self.size(), self.page()).ok_or(DecodeError::NoRange)?;
        let range = around(request.address, place.bits()).ok_or(DecodeError::NoRange)?;
        if !self.read() && !self.write() {
            return Ok(Translation {
                range,
                frame: None,
                permissions: Permissions::empty(),
                global: false,
            });
        }
        self.fits(request)?;
        let frame = (!self.untranslated_only()).then_some(Frame(place.first()));
        let mut permissions = Permissions::empty();
        permissions.set(Permissions::READ, self.read());
        permissions.set(Permissions::WRITE, self.write());
        permissions.set(Permissions::EXECUTE, self.execute());
        Ok(Translation { range, frame, permissions, global: self.global() })
    }

    /// The checks that the specification leaves to the function (section 10.2.3.7). All are made
    /// here.
    fn fits(self, request: &TranslationRequest) -> Result<(), DecodeError> {
        if self.privileged() && request.pasid.is_none() {
            return Err(DecodeError::PrivilegedWithoutPasid);
        }
        if self.privileged() != request.privileged {
            return Err(DecodeError::Privilege {
                requested: request.privileged,
                answered: self.privileged(),
            });
        }
        if self.execute() && !self.read() {
            return Err(DecodeError::ExecuteWithoutRead);
        }
        if self.execute() && !request.execute {
            return Err(DecodeError::ExecuteNotRequested);
        }
        if self.global() && request.pasid.is_none() {
            return Err(DecodeError::GlobalWithoutPasid);
        }
        Ok(())
    }
}

/// The body of an invalidate request (section 10.3.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvalidateBody {
    /// Bit 0: Global Invalidate, for all PASIDs.
    pub global: bool,
    #[bits(10)]
    reserved: u16,
    /// Bit 11: S, the range is larger than 4 KiB.
    pub size: bool,
    /// Bits 63:12: the untranslated address, its low bits taken for the size where S is set.
    #[bits(52)]
    pub page: u64,
}

/// An invalidate request: prefix, the ITag of the header (five bits), body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidateTlp {
    /// The PASID prefix, whose flags are reserved.
    pub prefix: Option<PasidPrefix>,
    /// Which of those in flight.
    pub itag: u8,
    /// What is to be forgotten.
    pub body: InvalidateBody,
}

impl InvalidateTlp {
    const RESERVED: u64 = InvalidateBody::new().with_reserved(0x3ff).into_bits();

    /// The bits of `request`; its serial number stays inside the system.
    ///
    /// # Errors
    /// It is global and has no PASID.
    pub fn encode(request: &InvalidationRequest) -> Result<Self, EncodeError> {
        if request.global && request.pasid.is_none() {
            return Err(EncodeError::GlobalWithoutPasid);
        }
        let (size, page) = from_range(request.range);
        let body =
            InvalidateBody::new().with_global(request.global).with_size(size).with_page(page);
        Ok(Self { prefix: request.pasid.map(PasidPrefix::of), itag: request.tag.get(), body })
    }

    /// The request; `serial` is known inside the system only.
    ///
    /// # Errors
    /// Bits that are no invalidate request.
    pub fn decode(self, serial: u64) -> Result<InvalidationRequest, DecodeError> {
        let pasid = self.prefix.map(PasidPrefix::checked_without_flags).transpose()?;
        let tag = Itag::new(self.itag).ok_or(DecodeError::Itag { itag: self.itag })?;
        let reserved = self.body.into_bits() & Self::RESERVED;
        if reserved != 0 {
            return Err(DecodeError::Reserved { bits: reserved });
        }
        if self.body.global() && pasid.is_none() {
            return Err(DecodeError::GlobalWithoutPasid);
        }
        let range = to_range(self.body.size(), self.body.page()).ok_or(DecodeError::NoRange)?;
        Ok(InvalidationRequest { tag, serial, pasid, global: self.body.global(), range })
    }
}

/// Bytes 8 to 15 of the header of an invalidate completion (section 10.3.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvalidateDone {
    /// Bits 31:0: one for each ITag that is completed.
    pub itag_vector: u32,
    /// Bits 34:32: Completion Count, how many such messages there are for each of them; 0 says
    /// eight.
    #[bits(3)]
    pub count: u8,
    #[bits(13)]
    reserved: u16,
    /// Bits 63:48: the requester ID of the IOMMU, which routes the message and says nothing about
    /// the invalidation.
    pub destination: u16,
}

/// What an invalidate completion says: the same count of messages is sent for each of some tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompletedTags {
    itag_vector: u32,
    copies: u8,
}

impl CompletedTags {
    /// Of `tags`, sent `copies` times, once on each traffic class in use; `None` where there is no
    /// tag or `copies` is not 1..=8.
    pub fn new(tags: impl IntoIterator<Item = Itag>, copies: u8) -> Option<Self> {
        let itag_vector = tags.into_iter().fold(0, |vector, tag| vector | 1 << tag.get());
        (itag_vector != 0 && (1..=8).contains(&copies)).then_some(Self { itag_vector, copies })
    }

    /// How many of these messages complete an invalidation: 1..=8.
    pub const fn copies(self) -> u8 {
        self.copies
    }

    /// The completions in it, in the order of their tags; `serial` is known inside the system only.
    pub fn completions(
        self,
        serial: impl Fn(Itag) -> u64,
    ) -> impl Iterator<Item = InvalidationCompletion> {
        let tags =
            (0..32).filter(move |tag| self.itag_vector >> tag & 1 != 0).filter_map(Itag::new);
        tags.map(move |tag| InvalidationCompletion { tag, serial: serial(tag) })
    }
}

impl InvalidateDone {
    const RESERVED: u64 = Self::new().with_reserved(0x1fff).into_bits();

    /// The bits, to destination 0: whoever routes the message sets that.
    pub const fn encode(completed: CompletedTags) -> Self {
        Self::new().with_itag_vector(completed.itag_vector).with_count(completed.copies % 8)
    }

    /// What it says. The destination is not looked at.
    ///
    /// # Errors
    /// Reserved bits are set, or no tag is named.
    pub const fn decode(self) -> Result<CompletedTags, DecodeError> {
        let bits = self.into_bits() & Self::RESERVED;
        let copies = if self.count() == 0 { 8 } else { self.count() };
        match self.itag_vector() {
            _ if bits != 0 => Err(DecodeError::Reserved { bits }),
            0 => Err(DecodeError::NoItag),
            itag_vector => Ok(CompletedTags { itag_vector, copies }),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
