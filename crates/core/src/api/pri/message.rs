//! Page requests, stop markers and responses (PCIe 6.0, section 10.4).

use std::fmt;

use crate::types::access::Access;
use crate::types::ids::Pasid;

/// Names a page request group of one device: 0..=511 (PCIe 6.0, section 10.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrgIndex(u16);

impl PrgIndex {
    /// How many there are.
    pub const COUNT: usize = 512;

    /// Checks the range 0..=511.
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

/// A device asks for a page (PCIe 6.0, section 10.4.1). With neither `read` nor `write` and with
/// `last` it would be a stop marker; `execute` comes with `read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// In which space; without one in the domain of its group.
    pub pasid: Option<Pasid>,
    /// The first address of the page: a multiple of 4 KiB.
    pub address: u64,
    /// It wants to read.
    pub read: bool,
    /// It wants to write.
    pub write: bool,
    /// It wants to execute.
    pub execute: bool,
    /// As a privileged access.
    pub privileged: bool,
    /// The group that it belongs to.
    pub index: PrgIndex,
    /// It is the last of its group, which is answered now.
    pub last: bool,
}

impl PageRequest {
    /// The first kind of access that it asks for: to read, else to write, else to execute.
    pub fn kind(&self) -> Access {
        self.accesses().next().map_or(Access::READ, Access::kind)
    }

    /// The accesses that it asks for, each of one kind, in the order read, write, execute.
    pub fn accesses(&self) -> impl Iterator<Item = Access> {
        let kinds = [
            (self.read, Access::READ),
            (self.write, Access::WRITE),
            (self.execute, Access::EXECUTE),
        ];
        let how = if self.privileged { Access::PRIVILEGED } else { Access::empty() };
        kinds.into_iter().filter(|(wanted, _)| *wanted).map(move |(_, kind)| kind | how)
    }
}

/// A device has stopped to use a PASID: all its requests of it have been sent before this (PCIe
/// 6.0, section 10.4.1.2). Never answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopMarker {
    /// Which PASID.
    pub pasid: Pasid,
}

/// What came of a group (PCIe 6.0, section 10.4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResponseCode {
    /// All pages are there, or may be asked for once more.
    Success,
    /// A page cannot be had: no mapping, no permission, no such PASID, or the space has ended.
    InvalidRequest,
    /// The IOMMU cannot answer this device any more: it sends no page request until it has been
    /// reset.
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

/// The IOMMU answers a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageResponse {
    /// The PASID of the group, as its requests had it.
    pub pasid: Option<Pasid>,
    /// The group.
    pub index: PrgIndex,
    /// What came of it.
    pub code: ResponseCode,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    // shows F1
    #[test]
    fn a_group_has_an_index_of_nine_bits() {
        assert_eq!((PrgIndex::new(511).map(PrgIndex::get), PrgIndex::new(512)), (Some(511), None));
    }
}
