//! What a device sees of its group without the control lock.

use sva_sync::atomic::AtomicBool;

use super::domain::DomainSlot;

/// The part of a group that the data path and device binds use.
pub(crate) struct GroupRecord {
    /// The domain that the group uses.
    pub(crate) domain: DomainSlot,
    /// The group has one member and is in no container: that device can be bound by itself.
    /// Written under the control lock, with what it follows from, and read under it: a bind then
    /// need not look the group up, which counts where there are thousands.
    pub(crate) is_singleton: AtomicBool,
}
