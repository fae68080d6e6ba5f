//! ATS messages bit by bit (PCIe 6.0, sections 10.2.3, 10.3.1 and 10.3.2), and the PASID TLP prefix
//! (section 6.20.2), encoded from and decoded to the checked values of [`ats`](crate::ats).
//!
//! A word is an integer. Its most significant byte is the first on the wire, as in the figures of
//! the specification (`to_be_bytes` of its bits). The words of a header are bytes 8 to 15; the
//! bytes before them route the message and are the same for all messages.
//!
//! Foreign bits are converted by `from_bits`. `with_*` is for trusted values, and panics in debug
//! builds if a value does not fit its field. Decoding does not panic: any bits are a value or a
//! [`DecodeError`]. Reserved bits are refused. The specification has receivers ignore them, so that
//! a later revision can define them; here that meaning would be lost silently, and a mistake of the
//! sender would go unnoticed.

use bitfield_struct::bitfield;

use super::message::{
    AlignedRange, Frame, InvalidationCompletion, InvalidationRequest, Itag, Translation,
    TranslationCompletion, TranslationRefusal, TranslationRequest,
};
use crate::types::access::Permissions;
use crate::types::ids::PasidTag;

mod error;
mod prefix;

pub use error::{DecodeError, EncodeError};
pub use prefix::{PasidPrefix, PrefixError};

/// Encodes a range as S and address bits 63:12 (section 10.2.3.2): with S set, each 1 from bit 12
/// upward doubles the size, and the first 0 ends the size. The range is encoded exactly.
const fn encode_range(range: AlignedRange) -> (bool, u64) {
    let page = range.first() >> 12;
    match range.bits() {
        12 => (false, page),
        bits => (true, page | ((1 << (bits - 13)) - 1)),
    }
}

/// Decodes what [`encode_range`] encodes; `None` if S and all address bits are set.
const fn decode_range(s: bool, page: u64) -> Option<AlignedRange> {
    let bits = if s { 13 + page.trailing_ones() as u8 } else { 12 };
    range_around(page << 12, bits)
}

/// The aligned range of `2^bits` bytes that contains `address`; `None` if `bits` is not in 12..=64.
const fn range_around(address: u64, bits: u8) -> Option<AlignedRange> {
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
    /// Bit 5: Global, the translation applies to all PASIDs.
    pub global: bool,
    /// Bits 8:6: ATS Memory Attributes, and bit 9: CXL.io. Both are reserved for functions without
    /// these capabilities, which no device of this crate has.
    #[bits(4)]
    reserved: u8,
    /// Bit 10: N, non-snooped accesses. It is ignored: all accesses are snooped.
    pub non_snooped: bool,
    /// Bit 11: S, the range is larger than 4 KiB.
    pub size: bool,
    /// Bits 63:12: the translated address. If S is set, its low bits encode the size.
    #[bits(52)]
    pub page: u64,
}

/// A translation completion: the completion status of the header, and the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompletionTlp {
    /// A completion with data (CplD), of status success. It has one entry: the specification allows
    /// more, but a request of this crate is for one.
    Data(CompletionEntry),
    /// A completion without data (Cpl), with its completion status (three bits).
    NoData(u8),
}

impl CompletionTlp {
    const UNSUPPORTED_REQUEST: u8 = 0b001;
    const COMPLETER_ABORT: u8 = 0b100;

    /// Encodes `completion`, which answers `request`.
    ///
    /// Bits that the specification requires to be clear for such a request are cleared: Exe if it
    /// was not requested or R is clear, Global if there is no PASID, and all bits but the range if
    /// neither R nor W is set.
    ///
    /// # Errors
    /// The request or the completion cannot be encoded.
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

    /// Decodes the completion of `request`; `owner` is not part of the bits. A reserved status
    /// counts as Unsupported Request (table 10-2).
    ///
    /// # Errors
    /// The bits are not a valid completion of this request.
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
        let is_permitted = permissions.intersects(Permissions::READ_WRITE);
        let frame = frame.filter(|_| is_permitted);
        let first = frame.unwrap_or(Frame(0));
        let frames = AlignedRange::new(first.0, range.bits())
            .ok_or(EncodeError::Misaligned { frame: first, bits: range.bits() })?;
        let (size, page) = encode_range(frames);
        let entry = Self::new().with_size(size).with_page(page);
        if !is_permitted {
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

    /// Decodes an entry. If neither R nor W is set, all bits but the range are ignored (section
    /// 10.2.3.5).
    fn decode(self, request: &TranslationRequest) -> Result<Translation, DecodeError> {
        let reserved = self.into_bits() & Self::RESERVED;
        if reserved != 0 {
            return Err(DecodeError::Reserved { bits: reserved });
        }
        let frames = decode_range(self.size(), self.page()).ok_or(DecodeError::NoRange)?;
        let range = range_around(request.address, frames.bits()).ok_or(DecodeError::NoRange)?;
        if !self.read() && !self.write() {
            return Ok(Translation {
                range,
                frame: None,
                permissions: Permissions::empty(),
                global: false,
            });
        }
        self.check(request)?;
        let frame = (!self.untranslated_only()).then_some(Frame(frames.first()));
        let mut permissions = Permissions::empty();
        permissions.set(Permissions::READ, self.read());
        permissions.set(Permissions::WRITE, self.write());
        permissions.set(Permissions::EXECUTE, self.execute());
        Ok(Translation { range, frame, permissions, global: self.global() })
    }

    /// Makes the checks that the specification leaves to the function (section 10.2.3.7).
    fn check(self, request: &TranslationRequest) -> Result<(), DecodeError> {
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
    /// Bit 0: Global Invalidate, the request is for all PASIDs.
    pub global: bool,
    #[bits(10)]
    reserved: u16,
    /// Bit 11: S, the range is larger than 4 KiB.
    pub size: bool,
    /// Bits 63:12: the untranslated address. If S is set, its low bits encode the size.
    #[bits(52)]
    pub page: u64,
}

/// An invalidate request: the prefix, the ITag of the header and the body (section 10.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidateTlp {
    /// The PASID prefix, in which the flags are reserved.
    pub prefix: Option<PasidPrefix>,
    /// The ITag: five bits.
    pub itag: u8,
    /// The range to invalidate.
    pub body: InvalidateBody,
}

impl InvalidateTlp {
    const RESERVED: u64 = InvalidateBody::new().with_reserved(0x3ff).into_bits();

    /// Encodes `request`, without its serial number.
    ///
    /// # Errors
    /// The request is global and has no PASID.
    pub fn encode(request: &InvalidationRequest) -> Result<Self, EncodeError> {
        if request.global && request.pasid.is_none() {
            return Err(EncodeError::GlobalWithoutPasid);
        }
        let (size, page) = encode_range(request.range);
        let body =
            InvalidateBody::new().with_global(request.global).with_size(size).with_page(page);
        Ok(Self { prefix: request.pasid.map(PasidPrefix::of), itag: request.tag.get(), body })
    }

    /// Decodes the request; `serial` is not part of the bits.
    ///
    /// # Errors
    /// The bits are not a valid invalidate request.
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
        let range = decode_range(self.body.size(), self.body.page()).ok_or(DecodeError::NoRange)?;
        Ok(InvalidationRequest { tag, serial, pasid, global: self.body.global(), range })
    }
}

/// Bytes 8 to 15 of the header of an invalidate completion (section 10.3.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvalidateDone {
    /// Bits 31:0: the ITag Vector, one bit for each ITag that is completed.
    pub itag_vector: u32,
    /// Bits 34:32: Completion Count, the number of such messages that complete one request; 0
    /// stands for eight.
    #[bits(3)]
    pub count: u8,
    #[bits(13)]
    reserved: u16,
    /// Bits 63:48: the requester ID of the IOMMU, by which the message is routed.
    pub destination: u16,
}

/// The content of an invalidate completion: the completed tags, and the number of messages for each
/// of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompletedTags {
    itag_vector: u32,
    copies: u8,
}

impl CompletedTags {
    /// The completion of `tags`, sent `copies` times: once on each traffic class in use. `None` if
    /// there is no tag or `copies` is not in 1..=8.
    pub fn new(tags: impl IntoIterator<Item = Itag>, copies: u8) -> Option<Self> {
        let itag_vector = tags.into_iter().fold(0, |vector, tag| vector | 1 << tag.get());
        (itag_vector != 0 && (1..=8).contains(&copies)).then_some(Self { itag_vector, copies })
    }

    /// The number of these messages that complete a request: 1..=8.
    pub const fn copies(self) -> u8 {
        self.copies
    }

    /// The completions, in the order of their tags. `serial` returns the serial number of the
    /// request with a tag, which is not part of the bits.
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

    /// Encodes the completion, with destination 0. The code that routes the message sets that.
    pub const fn encode(completed: CompletedTags) -> Self {
        Self::new().with_itag_vector(completed.itag_vector).with_count(completed.copies % 8)
    }

    /// Decodes the completion. The destination is ignored.
    ///
    /// # Errors
    /// Reserved bits are set, or the ITag Vector is empty.
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
