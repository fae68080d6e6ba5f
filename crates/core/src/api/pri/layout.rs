//! Page requests, stop markers and responses bit by bit (PCIe 6.0, section 10.4), encoded from and
//! decoded to the checked values of [`pri`](crate::pri).
//!
//! A word has bytes 8 to 15 of the header of a message, the first byte as the most significant one;
//! the PASID prefix is separate. Decoding does not panic: any bits are a value or a
//! [`DecodeError`]. Reserved bits are refused, for the reason given in
//! [`ats::layout`](crate::api::ats::layout).

use bitfield_struct::bitfield;

use super::message::{PageRequest, PageResponse, PrgIndex, ResponseCode, StopMarker};
use crate::api::ats::layout::{PasidPrefix, PrefixError};

/// Why bits are not a valid message of the page request interface.
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
    /// A page request has neither R nor W set. It is not the last of its group, which would make it
    /// a stop marker.
    #[error("a page of group {index} is requested for no access; set R or W")]
    NoAccess {
        /// The group.
        index: PrgIndex,
    },
    /// Execute Requested is set and R is not (section 10.4.1).
    #[error("a page of group {index} is requested to execute and not to read; set R too")]
    ExecuteWithoutRead {
        /// The group.
        index: PrgIndex,
    },
    /// The Marker Type is not Stop Marker (undefined by section 10.4.1.2.1).
    #[error("{kind:#07b} is no type of marker; a stop marker has 0")]
    Marker {
        /// The Marker Type.
        kind: u8,
    },
    /// A stop marker has no PASID (undefined by section 10.4.1.2.1).
    #[error("a stop marker without PASID; give the PASID that has been stopped")]
    MarkerWithoutPasid,
}

/// Why a value cannot be encoded as a message of the page request interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The address is not that of a page: its bits 11:0 are not encoded.
    #[error("{address:#x} is not the first address of a page; round it down to 4 KiB")]
    Misaligned {
        /// The address.
        address: u64,
    },
    /// Neither read, write nor execute access is requested, as in a stop marker.
    #[error("a page is requested for no access; set read or write")]
    NoAccess,
    /// Execute access is requested without read access (section 10.4.1).
    #[error("a page is requested to execute and not to read; set read too")]
    ExecuteWithoutRead,
    /// Execute or privileged access is requested without PASID. Both flags are bits of the PASID
    /// prefix.
    #[error(
        "a request without PASID can ask neither to execute nor for privileged mode; clear them"
    )]
    FlagsWithoutPasid,
}

const fn index_from_bits(bits: u64) -> PrgIndex {
    match PrgIndex::new(bits as u16 % PrgIndex::COUNT as u16) {
        Some(index) => index,
        None => unreachable!(),
    }
}

const fn index_into_bits(index: PrgIndex) -> u64 {
    index.get() as u64
}

/// Bytes 8 to 15 of the header of a page request (section 10.4.1). With L set and R and W clear
/// they are those of a stop marker: [`StopMarkerWord`].
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageRequestWord {
    /// Bit 0: R, read access is requested.
    pub read: bool,
    /// Bit 1: W, write access is requested.
    pub write: bool,
    /// Bit 2: L, the request is the last of its group.
    pub last: bool,
    /// Bits 11:3: the page request group index.
    #[bits(9, from = index_from_bits, into = index_into_bits)]
    pub index: PrgIndex,
    /// Bits 63:12: the page address.
    #[bits(52)]
    pub page: u64,
}

impl PageRequestWord {
    /// Whether the message is a stop marker, whatever its other bits are.
    pub const fn is_marker(self) -> bool {
        self.last() && !self.read() && !self.write()
    }

    /// Whether the device awaits a response to its group after this message, even if the message is
    /// invalid. A receiver that refuses the message responds to group [`index`](Self::index).
    pub const fn awaits_answer(self) -> bool {
        self.last() && !self.is_marker()
    }
}

/// Bytes 8 to 15 of the header of a stop marker (section 10.4.1.2.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct StopMarkerWord {
    /// Bits 2:0: L, W and R, which make it a marker.
    #[bits(3, default = 0b100)]
    pub last_write_read: u8,
    /// Bits 7:3: Marker Type, 0 for a stop marker.
    #[bits(5)]
    pub kind: u8,
    #[bits(56)]
    reserved: u64,
}

/// A page request or a stop marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequestTlp {
    /// The PASID prefix, in which the flags are reserved for a stop marker.
    pub prefix: Option<PasidPrefix>,
    /// Bytes 8 to 15 of the header.
    pub word: PageRequestWord,
}

/// The content of a [`PageRequestTlp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageMessage {
    /// A page request.
    Request(PageRequest),
    /// A stop marker.
    Stop(StopMarker),
}

impl PageRequestTlp {
    /// Encodes `message`.
    ///
    /// # Errors
    /// The request cannot be encoded. Every stop marker can.
    pub fn encode(message: &PageMessage) -> Result<Self, EncodeError> {
        match message {
            PageMessage::Request(request) => Self::request(request),
            PageMessage::Stop(marker) => Ok(Self::marker(*marker)),
        }
    }

    const fn marker(marker: StopMarker) -> Self {
        let word = PageRequestWord::from_bits(StopMarkerWord::new().into_bits());
        Self { prefix: Some(PasidPrefix::of(marker.pasid)), word }
    }

    fn request(request: &PageRequest) -> Result<Self, EncodeError> {
        let PageRequest { pasid, address, read, write, execute, privileged, index, last } =
            *request;
        if address & 0xfff != 0 {
            return Err(EncodeError::Misaligned { address });
        }
        if !read && !write && !execute {
            return Err(EncodeError::NoAccess);
        }
        if execute && !read {
            return Err(EncodeError::ExecuteWithoutRead);
        }
        if pasid.is_none() && (execute || privileged) {
            return Err(EncodeError::FlagsWithoutPasid);
        }
        let prefix = pasid
            .map(|pasid| PasidPrefix::of(pasid).with_execute(execute).with_privileged(privileged));
        let word = PageRequestWord::new()
            .with_read(read)
            .with_write(write)
            .with_last(last)
            .with_index(index)
            .with_page(address >> 12);
        Ok(Self { prefix, word })
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// The bits are not a valid message. The group may await a response all the same; see
    /// [`PageRequestWord::awaits_answer`].
    pub fn decode(self) -> Result<PageMessage, DecodeError> {
        if self.word.is_marker() {
            return self.decode_marker().map(PageMessage::Stop);
        }
        let pasid = self.prefix.map(PasidPrefix::checked).transpose()?;
        let flags = self.prefix.unwrap_or_default();
        let (read, write, index) = (self.word.read(), self.word.write(), self.word.index());
        if flags.execute() && !read {
            return Err(DecodeError::ExecuteWithoutRead { index });
        }
        if !read && !write {
            return Err(DecodeError::NoAccess { index });
        }
        Ok(PageMessage::Request(PageRequest {
            pasid,
            address: self.word.page() << 12,
            read,
            write,
            execute: flags.execute(),
            privileged: flags.privileged(),
            index,
            last: self.word.last(),
        }))
    }

    fn decode_marker(self) -> Result<StopMarker, DecodeError> {
        const RESERVED: u64 = StopMarkerWord::from_bits(0).with_reserved((1 << 56) - 1).into_bits();
        let word = StopMarkerWord::from_bits(self.word.into_bits());
        let pasid = self.prefix.ok_or(DecodeError::MarkerWithoutPasid)?.checked_without_flags()?;
        if word.kind() != 0 {
            return Err(DecodeError::Marker { kind: word.kind() });
        }
        let reserved = word.into_bits() & RESERVED;
        if reserved != 0 {
            return Err(DecodeError::Reserved { bits: reserved });
        }
        Ok(StopMarker { pasid })
    }
}

/// Bytes 8 to 15 of the header of a page request group response (section 10.4.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageResponseWord {
    #[bits(32)]
    reserved_low: u32,
    /// Bits 40:32: the page request group index.
    #[bits(9, from = index_from_bits, into = index_into_bits)]
    pub index: PrgIndex,
    #[bits(3)]
    reserved: u8,
    /// Bits 47:44: the response code (section 10.4.2.1).
    #[bits(4)]
    pub code: u8,
    /// Bits 63:48: the requester ID of the device, by which the message is routed.
    pub destination: u16,
}

/// A page request group response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageResponseTlp {
    /// The PASID prefix, in which the flags are reserved. Present for devices with PRG Response
    /// PASID Required (section 10.5.2.3).
    pub prefix: Option<PasidPrefix>,
    /// Bytes 8 to 15 of the header.
    pub word: PageResponseWord,
}

impl PageResponseTlp {
    const RESERVED: u64 =
        PageResponseWord::new().with_reserved_low(u32::MAX).with_reserved(0b111).into_bits();

    /// Encodes `response`, with destination 0. The code that routes the message sets that.
    pub fn encode(response: &PageResponse) -> Self {
        let code = match response.code {
            ResponseCode::Success => 0b0000,
            ResponseCode::InvalidRequest => 0b0001,
            ResponseCode::ResponseFailure => 0b1111,
        };
        let word = PageResponseWord::new().with_index(response.index).with_code(code);
        Self { prefix: response.pasid.map(PasidPrefix::of), word }
    }

    /// Decodes the response. An unused code counts as Response Failure, as specified (table 10-8).
    /// The destination is ignored.
    ///
    /// # Errors
    /// The prefix is invalid, or reserved bits are set.
    pub fn decode(self) -> Result<PageResponse, DecodeError> {
        let pasid = self.prefix.map(PasidPrefix::checked_without_flags).transpose()?;
        let reserved = self.word.into_bits() & Self::RESERVED;
        if reserved != 0 {
            return Err(DecodeError::Reserved { bits: reserved });
        }
        let code = match self.word.code() {
            0b0000 => ResponseCode::Success,
            0b0001 => ResponseCode::InvalidRequest,
            _ => ResponseCode::ResponseFailure,
        };
        Ok(PageResponse { pasid, index: self.word.index(), code })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
