//! The oracle: whether an access that a device made by a translation is permitted at this instant.

use sva_core::{Access, AddrRange, Frame};

use super::state::Memory;
use crate::protection::Protection;

/// An access by a translation that the table no longer has, and that no change still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{access} at {address:#x} (privileged: {privileged}) used {used}{reason}")]
pub struct StaleAccess {
    /// The kind of access.
    pub access: Access,
    /// Whether it was a privileged access.
    pub privileged: bool,
    /// The address of the access.
    pub address: u64,
    /// The frame that was used.
    pub used: Frame,
    /// Why the access was not permitted.
    pub reason: StaleReason,
}

/// Why an access was not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StaleReason {
    /// The space has ended.
    #[error(" after the end of the address space")]
    Ended,
    /// The space has freed the frame, or never had it.
    #[error(", which is not the space's (any more)")]
    Freed,
    /// The frame is in use, but not here: the address leads to another.
    #[error(", but the address leads to {0}")]
    Elsewhere(Frame),
    /// The frame is in use, but not here: nothing is mapped at the address, or its page is absent.
    #[error(", but the address leads nowhere")]
    Nowhere,
    /// The address leads there, but its protection does not permit the access.
    #[error(", but the protection of the page is {0}")]
    Denied(Protection),
}

impl Memory {
    /// See [`MemorySpace::audit`](crate::MemorySpace::audit).
    pub(crate) fn audit(
        &self,
        address: u64,
        access: Access,
        used: Frame,
    ) -> Result<(), StaleAccess> {
        let (kind, privileged) = (access.kind(), access.is_privileged());
        let stale = |reason| Err(StaleAccess { access: kind, privileged, address, used, reason });
        if self.table.ended {
            return stale(StaleReason::Ended);
        }
        if !AddrRange::new(used.0, 1).is_some_and(|place| self.frames.are_live(place)) {
            return stale(StaleReason::Freed);
        }
        let now = self.table.get(address).filter(|mapping| mapping.present);
        let not_over = self.changes.values().filter_map(|change| change.old.get(&address));
        let leads_there =
            now.into_iter().chain(not_over).filter(|mapping| mapping.frame(address) == used.0);
        let mut permitted = leads_there.map(|mapping| mapping.protection);
        match (permitted.next(), now) {
            (Some(first), _)
                if first.permits(access)
                    || permitted.any(|protection| protection.permits(access)) =>
            {
                Ok(())
            }
            (Some(first), _) => stale(StaleReason::Denied(first)),
            (None, Some(now)) => stale(StaleReason::Elsewhere(Frame(now.frame(address)))),
            (None, None) => stale(StaleReason::Nowhere),
        }
    }
}
