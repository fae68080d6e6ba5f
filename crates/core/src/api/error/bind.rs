//! Errors of binding and unbinding.

use super::{List, Sibling};
use crate::api::device::Feature;
use crate::api::fault::HostFailure;
use crate::api::space::SpaceEnded;
use crate::api::topology::PathDefect;
use crate::types::ids::{Bdf, ContainerId, GroupId, Pasid, PasidWidth, SpaceId};

/// Why one device cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot issue transactions with a PASID.
    #[error("{device} has no PASID capability: it can only use the group's domain (map)")]
    NoPasidCapability {
        /// The device.
        device: Bdf,
    },
    /// Its path to the root has a defect, and the policy of the bus is strict.
    #[error("{device}: {defect}; enable it there, or use a fabric with the policy `permissive`")]
    Path {
        /// The device.
        device: Bdf,
        /// What the path lacks, and at which function.
        defect: PathDefect,
    },
    /// The device lacks a feature that the bond is to grant.
    #[error("{device} does not support {feature}; bind without it")]
    DeviceLacks {
        /// The device.
        device: Bdf,
        /// The feature.
        feature: Feature,
    },
    /// The provider of the address space lacks a feature that the bond is to grant.
    #[error("{space} cannot provide {feature}; bind without it")]
    SpaceLacks {
        /// The space.
        space: SpaceId,
        /// The feature.
        feature: Feature,
    },
    /// There is a bond of this device and this space already.
    #[error(
        "{device} is bound to this address space already, with PASID {pasid}; unbind that first or \
         use it"
    )]
    AlreadyBound {
        /// The device.
        device: Bdf,
        /// The PASID of the bond that there is.
        pasid: Pasid,
    },
    /// The last bond of this device and this space is being unbound: an access, a pin or a handler
    /// is not over, or the device has not completed its invalidation.
    #[error("{device}: the unbind of PASID {pasid} is not over; wait for it and try again")]
    StillUnbinding {
        /// The device.
        device: Bdf,
        /// The PASID.
        pasid: Pasid,
    },
    /// The space has a PASID already, and the device cannot issue it.
    #[error(
        "{device} issues PASIDs of {} bits, and the address space has PASID {pasid}; bind the \
         narrowest device first",
        width.bits()
    )]
    PasidTooWide {
        /// The device.
        device: Bdf,
        /// The space's PASID.
        pasid: Pasid,
        /// The device's width.
        width: PasidWidth,
    },
    /// The device has been removed, or is one of another IOMMU.
    #[error("{device} has been removed from this IOMMU; plug it in again")]
    DeviceRemoved {
        /// The device.
        device: Bdf,
    },
}

/// Why an address space cannot be given to any device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceRefusal {
    /// It has ended.
    #[error(transparent)]
    Ended(SpaceEnded),
    /// No PASID of the width is left.
    #[error(
        "no PASID of {} bits is left: {in_use} are in use; unbind address spaces that have ended",
        width.bits()
    )]
    NoPasidLeft {
        /// The width that all devices of the bind can issue.
        width: PasidWidth,
        /// PASIDs in use, of all widths.
        in_use: u32,
    },
    /// Its provider failed to report which of its memory is at addresses that a peer decodes.
    #[error("the overlaps with peer windows could not be determined: {0}")]
    Host(#[source] HostFailure),
}

/// Why `bind_device` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The device's group has other members, which the bond would have to include.
    #[error("{device} shares {group} with {}; use bind_group, or separate them", List(siblings))]
    NotSingleton {
        /// The device.
        device: Bdf,
        /// Its group.
        group: GroupId,
        /// The other members, each with the reason.
        siblings: Vec<Sibling>,
    },
    /// The device's group is in a container.
    #[error("{device} is in {container}; bind there")]
    InContainer {
        /// The device.
        device: Bdf,
        /// The container.
        container: ContainerId,
    },
    /// This device cannot be given the bond.
    #[error(transparent)]
    Device(#[from] Refusal),
    /// This space cannot be given.
    #[error(transparent)]
    Space(#[from] SpaceRefusal),
}

/// Why `bind_group` was refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindGroupError {
    /// There is no such group.
    #[error("there is no {group}")]
    NoSuchGroup {
        /// What was named.
        group: GroupId,
    },
    /// The group is in a container.
    #[error("{group} is in {container}; bind there")]
    InContainer {
        /// The group.
        group: GroupId,
        /// The container.
        container: ContainerId,
    },
    /// No member can issue a PASID.
    #[error("no member of {group} can issue a PASID: {}", List(left_out))]
    NoCapableMember {
        /// The group.
        group: GroupId,
        /// Every member with the reason.
        left_out: Vec<Refusal>,
    },
    /// A capable member cannot be bound.
    #[error(transparent)]
    Device(#[from] Refusal),
    /// This space cannot be given.
    #[error(transparent)]
    Space(#[from] SpaceRefusal),
}

/// Why a container's BIND was refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerBindError {
    /// The container has no group yet.
    #[error("{container} has no group; add one first")]
    NoGroup {
        /// The container.
        container: ContainerId,
    },
    /// No member of any group can issue a PASID.
    #[error("no member of {container} can issue a PASID: {}", List(left_out))]
    NoCapableMember {
        /// The container.
        container: ContainerId,
        /// Every member with the reason.
        left_out: Vec<Refusal>,
    },
    /// The space is bound here with other features or other drvdata.
    #[error(
        "{container} has bound {space} already, with PASID {pasid} and other features or drvdata; \
         unbind that first"
    )]
    Different {
        /// The container.
        container: ContainerId,
        /// The space.
        space: SpaceId,
        /// The PASID of the bond that there is.
        pasid: Pasid,
    },
    /// A capable member cannot be bound.
    #[error(transparent)]
    Device(#[from] Refusal),
    /// This space cannot be given.
    #[error(transparent)]
    Space(#[from] SpaceRefusal),
}

/// Why a container's UNBIND was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerUnbindError {
    /// The space is not bound here.
    #[error("{container} has not bound {space}")]
    NotBound {
        /// The container.
        container: ContainerId,
        /// The space.
        space: SpaceId,
    },
}
