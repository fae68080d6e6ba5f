//! Events, which the IOMMU logs for the owner of the system.

use std::fmt;

use crate::api::fault::Fault;
use crate::api::space::EndReason;
use crate::types::ids::{Bdf, Pasid, PasidTag, RequesterId, SpaceId};
use crate::types::range::AddrRange;

/// An entry of the event log. Its text is one line, with addresses in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A transaction was aborted, or a page request was answered with Invalid Request.
    Fault(Fault),
    /// A transaction did not reach the IOMMU, because a peer's window decoded its address.
    Misrouted {
        /// The device that issued it.
        device: Bdf,
        /// The PASID that it carried.
        pasid: Option<Pasid>,
        /// Its addresses.
        range: AddrRange,
        /// The port or device that decoded them.
        decoder: Bdf,
        /// Whether a BAR decoded it. If not, the transaction is lost in the window of a bridge.
        claimed: bool,
    },
    /// A bond or a mapping has memory at addresses that a peer decodes before the IOMMU.
    Overlap(Overlap),
    /// An address space has ended.
    SpaceEnded {
        /// The space.
        space: SpaceId,
        /// Its PASID. It is not reused before the last bond of the space is unbound.
        pasid: Pasid,
        /// How the space ended.
        reason: EndReason,
        /// The number of bonds that it had.
        bonds: usize,
    },
    /// An exit handler panicked. It is not run again.
    HandlerPanicked {
        /// The space that had ended.
        space: SpaceId,
        /// Its PASID.
        pasid: Pasid,
    },
    /// The device of a device bond got a sibling that it is not isolated from.
    IsolationChanged {
        /// The bound device.
        device: Bdf,
        /// The PASID of its bond.
        pasid: Pasid,
        /// The new device.
        newcomer: Bdf,
    },
    /// A device was removed while it was bound: its bond has ended.
    BondEnded {
        /// The device.
        device: Bdf,
        /// The PASID.
        pasid: Pasid,
    },
    /// A transaction for an earlier owner of a PASID was dropped.
    StaleDropped {
        /// The device that issued it.
        device: Bdf,
        /// The earlier owner.
        tag: PasidTag,
    },
    /// A device did not complete invalidations in time. They are sent again, or the device is cut
    /// off.
    InvalidationsOverdue {
        /// The device.
        device: Bdf,
        /// The number of invalidations.
        invalidations: u64,
    },
    /// A device was cut off: it did not complete invalidations in time although they were sent
    /// repeatedly. Its transactions are aborted until it is reset.
    CutOff {
        /// The device.
        device: Bdf,
    },
    /// Page request groups of a device got no response in time. Their indexes are not used again
    /// before a reset of the device.
    ResponseOverdue {
        /// The device.
        device: Bdf,
        /// The number of groups.
        groups: usize,
    },
    /// Slow spaces occupy the largest number of worker threads, and page requests of other spaces
    /// wait. Logged once by each [`Workers`](crate::Workers).
    WorkersExhausted {
        /// The number of threads.
        threads: usize,
    },
    /// A thread has waited for a second, and this range is pinned: an unbind, a removal or a change
    /// of the space waits for the drop of the pin. A pin that was forgotten lasts as long as its
    /// port.
    PinOutstanding {
        /// The requester ID of the device that has the pin.
        requester: RequesterId,
        /// The PASID of the space.
        pasid: Pasid,
        /// The pinned addresses.
        range: AddrRange,
    },
    /// A call to the host failed during an access, which ended the transfer.
    HostFailure {
        /// The device that issued it.
        device: Bdf,
        /// The call that failed.
        call: &'static str,
        /// The operating system's error number, if there is one.
        errno: Option<i32>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Misrouted { device, pasid, range, decoder, claimed } => {
                write!(f, "{device}: a transaction to {range}")?;
                if let Some(pasid) = pasid {
                    write!(f, " with PASID {pasid}")?;
                }
                match claimed {
                    true => write!(f, " was decoded by {decoder} and never reached the IOMMU"),
                    false => write!(f, " was lost in the window of {decoder}"),
                }
            }
            Self::Overlap(overlap) => overlap.fmt(f),
            Self::SpaceEnded { space, pasid, reason, bonds } => {
                write!(f, "{space} (PASID {pasid}, {bonds} bonds) has ended: {reason}")
            }
            Self::HandlerPanicked { space, pasid } => {
                write!(f, "an exit handler of {space} (PASID {pasid}) panicked")
            }
            Self::IsolationChanged { device, pasid, newcomer } => {
                write!(f, "{device}, bound with PASID {pasid}, is not isolated from {newcomer}")
            }
            Self::BondEnded { device, pasid } => {
                write!(f, "{device} was removed while it was bound with PASID {pasid}")
            }
            Self::StaleDropped { device, tag } => write!(
                f,
                "{device}: a transaction for an earlier owner of PASID {} ({}) was dropped",
                tag.pasid, tag.generation
            ),
            Self::InvalidationsOverdue { device, invalidations } => {
                write!(f, "{device}: {invalidations} invalidations were not completed in time")
            }
            Self::CutOff { device } => {
                write!(f, "{device} is cut off: it does not complete invalidations; reset it")
            }
            Self::ResponseOverdue { device, groups } => {
                write!(f, "{device}: {groups} page request groups got no response in time")
            }
            Self::WorkersExhausted { threads } => write!(
                f,
                "slow spaces occupy all {threads} workers, and page requests of others wait"
            ),
            Self::PinOutstanding { requester, pasid, range } => write!(
                f,
                "{requester}: {range} of PASID {pasid} is still pinned, and a thread waits for it; \
                 drop the pin or its port"
            ),
            Self::HostFailure { device, call, errno } => {
                write!(f, "{device}: {call} failed")?;
                errno.map_or(Ok(()), |errno| write!(f, " (errno {errno})"))
            }
        }
    }
}

/// Memory at addresses that a peer decodes before the IOMMU sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// The device whose transactions to these addresses do not reach the IOMMU.
    pub device: Bdf,
    /// The addresses.
    pub range: AddrRange,
    /// The port or device that decodes them.
    pub decoder: Bdf,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} is decoded by {} and never reaches the IOMMU",
            self.device, self.range, self.decoder
        )
    }
}

/// The contents of the event log since the last drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainedEvents {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// The number of older events that were lost because the log was full.
    pub lost: u64,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::api::fault::FaultReason;
    use crate::types::access::Access;

    #[test]
    fn an_event_is_one_line_with_its_values_and_addresses_in_hexadecimal() {
        let device = Bdf::new(0, 1, 0, 0).expect("a function");
        let fault = Fault {
            device,
            pasid: Pasid::new(7),
            address: 0x7f00_1000,
            access: Access::WRITE,
            reason: FaultReason::NotMapped,
        };
        assert_eq!(
            Event::Fault(fault).to_string(),
            "0000:01:00.0: write at 0x7f001000 with PASID 7: nothing is mapped there"
        );
        assert!(format!("{fault:?}").contains("address: 0x7f001000"), "{fault:?}");
        let range = AddrRange::new(0x1000, 0x1000).expect("a page");
        let decoder = Bdf::new(0, 2, 0, 0).expect("a function");
        let lost = Event::Misrouted { device, pasid: None, range, decoder, claimed: false };
        assert_eq!(
            lost.to_string(),
            "0000:01:00.0: a transaction to [0x1000, 0x1fff] was lost in the window of 0000:02:00.0"
        );
    }
}
