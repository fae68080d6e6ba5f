//! Events: what the owner of the system may want to know.

use crate::api::fault::Fault;
use crate::api::space::EndReason;
use crate::types::ids::{Bdf, Pasid, PasidTag, SpaceId};
use crate::types::range::AddrRange;

/// Something that the owner of the system may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A transaction was aborted (rule F6).
    Fault(Fault),
    /// A peer's window caught a transaction before the IOMMU saw it (rule B7).
    Misrouted {
        /// Who issued it.
        device: Bdf,
        /// The PASID that it carried.
        pasid: Option<Pasid>,
        /// The addresses.
        range: AddrRange,
        /// Who decoded them.
        decoder: Bdf,
        /// Whether a BAR answered; without one the transaction is lost.
        claimed: bool,
    },
    /// A bond or a mapping has memory at addresses that a peer decodes (rule B7).
    Overlap(Overlap),
    /// An address space has ended (rule U4).
    SpaceEnded {
        /// Which.
        space: SpaceId,
        /// Its PASID, held until its last bond is gone.
        pasid: Pasid,
        /// How.
        reason: EndReason,
        /// Bonds that it had.
        bonds: usize,
    },
    /// An exit handler panicked; it counts as run.
    HandlerPanicked {
        /// Of which space.
        space: SpaceId,
        /// Its PASID.
        pasid: Pasid,
    },
    /// A device bond's device got a sibling that it is not isolated from (rule G4).
    IsolationChanged {
        /// The bound device.
        device: Bdf,
        /// Its bond's PASID.
        pasid: Pasid,
        /// Who came.
        newcomer: Bdf,
    },
    /// A device was removed while bound: that bond has ended.
    BondEnded {
        /// The device.
        device: Bdf,
        /// The PASID.
        pasid: Pasid,
    },
    /// A transaction for an earlier owner of a PASID was dropped (rule U6).
    StaleDropped {
        /// Who issued it.
        device: Bdf,
        /// For which owner.
        tag: PasidTag,
    },
    /// A device did not complete invalidations in time. They are sent again, or it is cut off.
    InvalidationsOverdue {
        /// Which.
        device: Bdf,
        /// How many.
        invalidations: u64,
    },
    /// A device did not answer invalidations in time and gets nothing through until it is reset.
    CutOff {
        /// Which.
        device: Bdf,
    },
    /// Groups of page requests of a device got no answer in time; their indexes are not used again
    /// before a reset.
    ResponseOverdue {
        /// The device.
        device: Bdf,
        /// How many groups.
        groups: usize,
    },
    /// Slow spaces hold as many threads as there may be, and page requests of others wait for one.
    /// Said once by each [`Workers`](crate::control::workers).
    WorkersExhausted {
        /// Threads that there are.
        threads: usize,
    },
    /// The machine below failed during an access; the transfer ended there.
    HostFailure {
        /// Who issued it.
        device: Bdf,
        /// The call that failed.
        call: &'static str,
        /// The operating system's error number, where there is one.
        errno: Option<i32>,
    },
}

/// Memory at addresses that a peer decodes before the IOMMU sees them (rule B7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// The device whose transactions would be caught.
    pub device: Bdf,
    /// The addresses at which there is memory as well.
    pub range: AddrRange,
    /// Who decodes them.
    pub decoder: Bdf,
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} is decoded by {} and never reaches the IOMMU",
            self.device, self.range, self.decoder
        )
    }
}

/// What the log held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainedEvents {
    /// Oldest first.
    pub events: Vec<Event>,
    /// How many older events were lost since the last drain because the log was full.
    pub lost: u64,
}
