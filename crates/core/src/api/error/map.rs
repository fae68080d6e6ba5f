//! Errors of MAP and UNMAP.

use crate::api::space::SpaceEnded;
use crate::types::ids::{Bdf, ContainerId, GroupId};
use crate::types::range::AddrRange;

/// Why a MAP was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// There is no such group.
    #[error("there is no {group}")]
    NoSuchGroup {
        /// What was named.
        group: GroupId,
    },
    /// The group is in a container.
    #[error("{group} is in {container}; map there")]
    InContainer {
        /// The group.
        group: GroupId,
        /// The container.
        container: ContainerId,
    },
    /// The container has no group yet.
    #[error("{container} has no group; add one first")]
    NoGroup {
        /// The container.
        container: ContainerId,
    },
    /// The length is 0.
    #[error("a mapping of 0 bytes at IOVA {iova:#x}; give a length")]
    Empty {
        /// The IOVA.
        iova: u64,
    },
    /// An address, a target or a length is not a multiple of the page size.
    #[error("{value:#x} is not a multiple of the page size {page:#x}")]
    Unaligned {
        /// The value that is not.
        value: u64,
        /// The page size in bytes.
        page: u64,
    },
    /// Neither reading nor writing is permitted.
    #[error("a mapping at IOVA {iova:#x} that permits nothing; permit read or write")]
    NoAccess {
        /// The IOVA.
        iova: u64,
    },
    /// The end wraps.
    #[error("{len:#x} bytes at {address:#x} wrap past the last address")]
    Wraps {
        /// The IOVA, or the address in the target space.
        address: u64,
        /// The length in bytes.
        len: u64,
    },
    /// The end is past the address width.
    #[error("{range} ends past the IOMMU's address width of {width} bits")]
    PastWidth {
        /// The range asked for.
        range: AddrRange,
        /// Bits.
        width: u8,
    },
    /// It meets a reserved region.
    #[error("{range} meets the region {reserved} that is reserved for {device}")]
    Reserved {
        /// The range asked for.
        range: AddrRange,
        /// The reserved region.
        reserved: AddrRange,
        /// The member for which it is reserved.
        device: Bdf,
    },
    /// It meets a mapping.
    #[error("{range} meets the mapping {existing}; unmap that first")]
    Overlaps {
        /// The range asked for.
        range: AddrRange,
        /// The mapping that there is.
        existing: AddrRange,
    },
    /// The domain holds as many mappings as it may.
    #[error("the domain holds {limit} mappings, its limit; unmap some or map larger ranges")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The target space has ended.
    #[error("the target of the mapping: {0}")]
    Target(SpaceEnded),
}

/// Why an UNMAP was refused. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnmapError {
    /// There is no such group.
    #[error("there is no {group}")]
    NoSuchGroup {
        /// What was named.
        group: GroupId,
    },
    /// The group is in a container.
    #[error("{group} is in {container}; unmap there")]
    InContainer {
        /// The group.
        group: GroupId,
        /// The container.
        container: ContainerId,
    },
    /// The range is empty or wraps.
    #[error("{len:#x} bytes at {iova:#x} are no range")]
    NoRange {
        /// The IOVA.
        iova: u64,
        /// The length in bytes.
        len: u64,
    },
    /// The range covers only a part of a mapping.
    #[error("{range} would split the mapping {mapping}; unmap all of it")]
    WouldSplit {
        /// The range asked for.
        range: AddrRange,
        /// The mapping.
        mapping: AddrRange,
    },
}
