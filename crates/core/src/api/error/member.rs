//! Errors of devices that come and go, and of groups that join and leave containers.

use super::Refusal;
use crate::types::ids::{Bdf, ContainerId, GroupId};
use crate::types::range::AddrRange;

/// Why a device could not be plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlugError {
    /// There is a device at this address.
    #[error("there is a device at {device} already; remove it first")]
    Occupied {
        /// The address.
        device: Bdf,
    },
}

/// Why a device could not be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// It has been removed before, or is one of another IOMMU.
    #[error("{device} is not in this IOMMU: it has been removed before")]
    Gone {
        /// The device.
        device: Bdf,
    },
}

/// Why a group could not join a container. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// There is no such group.
    #[error("there is no {group}")]
    NoSuchGroup {
        /// What was named.
        group: GroupId,
    },
    /// It is in a container.
    #[error("{group} is in {container} already")]
    InContainer {
        /// The group.
        group: GroupId,
        /// The container that it is in.
        container: ContainerId,
    },
    /// A member is bound outside the container.
    #[error("{device} in {group} has {bonds} bonds of its own; unbind them first")]
    HasBonds {
        /// The group.
        group: GroupId,
        /// The first member that is bound.
        device: Bdf,
        /// How many bonds it has, those still being unbound included.
        bonds: usize,
    },
    /// The group has bonds that none of its members uses now, but that a device which comes back
    /// would join.
    #[error("{group} has {bonds} bonds of its own; unbind them first")]
    HasGroupBonds {
        /// The group.
        group: GroupId,
        /// How many.
        bonds: usize,
    },
    /// The group's own domain has mappings.
    #[error("{group} has {mappings} mappings of its own; unmap them first")]
    HasMappings {
        /// The group.
        group: GroupId,
        /// How many.
        mappings: usize,
    },
    /// A mapping of the container meets a region reserved for a member.
    #[error(
        "the container's mapping {mapping} meets the region {reserved} that is reserved for \
         {device}"
    )]
    Reserved {
        /// The mapping.
        mapping: AddrRange,
        /// The reserved region.
        reserved: AddrRange,
        /// The member.
        device: Bdf,
    },
    /// A capable member could not be given one of the container's bindings.
    #[error(transparent)]
    Device(#[from] Refusal),
}

/// Why a group could not leave a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// It is not in this container.
    #[error("{group} is not in {container}")]
    NotIn {
        /// The group.
        group: GroupId,
        /// The container.
        container: ContainerId,
    },
}
