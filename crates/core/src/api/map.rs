//! What MAP and UNMAP ask for, and what they answer.

use std::sync::Arc;

use crate::api::event::Overlap;
use crate::api::space::{AddressSpace, SpaceHandle};
use crate::types::access::Permissions;
use crate::types::range::AddrRange;

/// What a MAP asks for.
#[derive(Clone)]
pub struct MapRequest {
    /// First I/O virtual address; a multiple of the page size.
    pub iova: u64,
    /// Bytes; a multiple of the page size.
    pub len: u64,
    /// The space whose memory is mapped. The mapping does not keep it alive.
    pub space: Arc<dyn AddressSpace>,
    /// First address in that space; a multiple of the page size.
    pub address: u64,
    /// What devices may do: [`READ`](Permissions::READ), [`WRITE`](Permissions::WRITE) or both.
    /// Execute requests carry a PASID by definition, so [`EXECUTE`](Permissions::EXECUTE) permits
    /// nothing here.
    pub permissions: Permissions,
}

impl MapRequest {
    /// Maps `len` bytes at `iova` to those at `address` in `space`. All three are multiples of the
    /// page size, 4 KiB.
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
    /// Its IOVAs.
    pub range: AddrRange,
    /// The parts that a member cannot reach, because a peer decodes the addresses (rule B7).
    pub overlaps: Vec<Overlap>,
}

/// What an UNMAP did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unmapped {
    /// Bytes that were mapped and are no more; 0 where nothing was.
    pub bytes: u64,
    /// It was asked from inside a callback: no access starts any more, and those in flight end
    /// after that callback.
    pub deferred: bool,
}
