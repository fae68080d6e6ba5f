//! Page requests, stop markers and responses (PCIe 6.0, section 10.4).

use std::fmt;

use crate::types::access::Access;
use crate::types::ids::Pasid;

/// A page request group index of one device: 0..=511 (PCIe 6.0, section 10.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrgIndex(u16);

impl PrgIndex {
    /// The number of indexes.
    pub const COUNT: usize = 512;

    /// Makes an index; `None` if `value` is not in 0..=511.
    pub const fn new(value: u16) -> Option<Self> {
        if (value as usize) < Self::COUNT { Some(Self(value)) } else { None }
    }

    /// The number on the wire.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PrgIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A page request (PCIe 6.0, section 10.4.1).
///
/// `read` or `write` is set: with neither, and with `last`, the message would be a stop marker.
/// `execute` requires `read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// The PASID; `None` for the domain of the device's group.
    pub pasid: Option<Pasid>,
    /// The first address of the page: a multiple of 4 KiB.
    pub address: u64,
    /// Whether read access is requested.
    pub read: bool,
    /// Whether write access is requested.
    pub write: bool,
    /// Whether execute access is requested.
    pub execute: bool,
    /// Whether the access is privileged.
    pub privileged: bool,
    /// The page request group.
    pub index: PrgIndex,
    /// Whether this is the last request of its group, which makes the group complete.
    pub last: bool,
}

impl PageRequest {
    /// The first kind of access that is requested, in the order read, write, execute.
    pub fn kind(&self) -> Access {
        self.accesses().next().map_or(Access::READ, Access::kind)
    }

    /// The requested accesses, each of one kind, in the order read, write, execute.
    pub fn accesses(&self) -> impl Iterator<Item = Access> {
        let kinds = [
            (self.read, Access::READ),
            (self.write, Access::WRITE),
            (self.execute, Access::EXECUTE),
        ];
        let flags = if self.privileged { Access::PRIVILEGED } else { Access::empty() };
        kinds.into_iter().filter(|(requested, _)| *requested).map(move |(_, kind)| kind | flags)
    }
}

/// A stop marker: the device has stopped using a PASID, and has sent all page requests with it
/// before (PCIe 6.0, section 10.4.1.2). It has no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopMarker {
    /// The PASID.
    pub pasid: Pasid,
}

/// The code of a page request group response (PCIe 6.0, section 10.4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResponseCode {
    /// All pages are present, or may be requested again.
    Success,
    /// A page is not available: there is no mapping, no permission or no such PASID, or the space
    /// has ended.
    InvalidRequest,
    /// The IOMMU cannot answer this device any more. The device sends no page request until it has
    /// been reset.
    ResponseFailure,
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::InvalidRequest => "invalid request",
            Self::ResponseFailure => "response failure",
        })
    }
}

/// A page request group response, by which the IOMMU answers a group (PCIe 6.0, section 10.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageResponse {
    /// The PASID of the group, for devices with PRG Response PASID Required; `None` for others.
    pub pasid: Option<Pasid>,
    /// The page request group.
    pub index: PrgIndex,
    /// The response code.
    pub code: ResponseCode,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows F1
    #[test]
    fn a_group_index_has_nine_bits() {
        assert_eq!((PrgIndex::new(511).map(PrgIndex::get), PrgIndex::new(512)), (Some(511), None));
    }
}
