//! The part of a group that is read without looking the group up.

use sva_sync::atomic::AtomicBool;

use super::domain::DomainSlot;

/// The part of a group that the data path and device binds read.
pub(crate) struct GroupRecord {
    /// The domain that is attached to the group.
    pub(crate) domain: DomainSlot,
    /// The group has one member and is in no container, so that the device can be bound alone.
    /// Written and read under the control lock, together with the members and the container. It
    /// saves a bind the look-up of the group, which is noticeable with thousands of groups.
    pub(crate) is_singleton: AtomicBool,
}
