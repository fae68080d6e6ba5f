//! Requests and results of MAP and UNMAP.

use std::sync::Arc;

use crate::api::event::Overlap;
use crate::api::space::{AddressSpace, SpaceHandle};
use crate::types::access::Permissions;
use crate::types::range::AddrRange;

/// A request to map memory of an address space into a domain, for transactions without a PASID.
#[derive(Clone)]
pub struct MapRequest {
    /// The first I/O virtual address; a multiple of 4 KiB.
    pub iova: u64,
    /// The length in bytes; a multiple of 4 KiB.
    pub len: u64,
    /// The space whose memory is mapped. The mapping does not keep it alive.
    pub space: Arc<dyn AddressSpace>,
    /// The first address in that space; a multiple of 4 KiB.
    pub address: u64,
    /// What devices may do there: [`READ`](Permissions::READ), [`WRITE`](Permissions::WRITE) or
    /// both. Execute requests carry a PASID by definition, so [`EXECUTE`](Permissions::EXECUTE)
    /// permits nothing here.
    pub permissions: Permissions,
}

impl MapRequest {
    /// Makes a request that maps `len` bytes at `iova` to the bytes at `address` in `space`. The
    /// three numbers are multiples of 4 KiB, which the MAP checks.
    pub fn new(
        iova: u64,
        len: u64,
        space: &impl SpaceHandle,
        address: u64,
        permissions: Permissions,
    ) -> Self {
        Self { iova, len, space: space.to_space(), address, permissions }
    }
}

/// A mapping that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// The I/O virtual addresses of the mapping.
    pub range: AddrRange,
    /// The parts that a member of the domain cannot reach, because a peer decodes the addresses.
    pub overlaps: Vec<Overlap>,
}

/// The result of an UNMAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unmapped {
    /// The number of bytes that were unmapped; 0 if nothing was mapped in the range.
    pub bytes: u64,
    /// The unmap was requested from inside a callback. No access starts any more; accesses in
    /// flight may end after the callback has returned.
    pub deferred: bool,
}
