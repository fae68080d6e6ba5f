//! Why a request to the IOMMU was refused: one enum per operation, the values in the variant.

mod services;

use std::fmt;

use crate::device::Feature;
use crate::fault::HostFailure;
use crate::ids::{Bdf, ContainerId, GroupId, Pasid, PasidWidth, SpaceId};
use crate::range::AddrRange;
use crate::space::SpaceEnded;
use crate::topology::{PathDefect, SharedBecause};
pub use services::{DomainOf, HandlerError, ResetError, Service, ServiceError};

/// Another member of a device's group, and why it cannot be isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sibling {
    /// Which device.
    pub device: Bdf,
    /// Why the two share a group.
    pub because: SharedBecause,
}

impl fmt::Display for Sibling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.device, self.because)
    }
}

/// Writes a list with commas, since error messages name everything that they are about.
pub(crate) struct List<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, item) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

/// Why one device cannot be given a bond (rule B1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot issue transactions with a PASID.
    #[error("{device} has no PASID capability: it can only use the group's domain (map)")]
    NoPasidCapability {
        /// The device.
        device: Bdf,
    },
    /// A port on its path to the root falls short, and the fabric's policy is strict.
    #[error("{device}: {defect}; enable it there, or use a fabric with the policy `permissive`")]
    Path {
        /// The device.
        device: Bdf,
        /// What is missing where.
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
    #[error("{device} is bound to this address space already, with PASID {pasid}; unbind that first or use it")]
    AlreadyBound {
        /// The device.
        device: Bdf,
        /// The PASID of the bond that there is.
        pasid: Pasid,
    },
    /// The last bond of this device and this space is being unbound and waits for a callback to return.
    #[error("{device}: the unbind of PASID {pasid} still waits for a callback to return; try again after it")]
    StillUnbinding {
        /// The device.
        device: Bdf,
        /// The PASID.
        pasid: Pasid,
    },
    /// The space has a PASID already, and the device cannot issue it.
    #[error("{device} issues PASIDs of {} bits, and the address space has PASID {pasid}; bind the narrowest device first", width.bits())]
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
    #[error("no PASID of {} bits is left: {in_use} are in use; unbind address spaces that have ended", width.bits())]
    NoPasidLeft {
        /// The width that all devices of the bind can issue.
        width: PasidWidth,
        /// PASIDs in use, of all widths.
        in_use: u32,
    },
    /// Its provider could not tell which peer windows it overlaps (rule B7).
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
    #[error("{container} has bound {space} already, with PASID {pasid} and other features or drvdata; unbind that first")]
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

/// Why a MAP was refused; nothing has changed (rule T8).
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

/// Why an UNMAP was refused; nothing has changed (rule T8).
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

/// Why a group could not join a container; nothing has changed (rules G3, G6).
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
    /// The group has bonds that none of its members uses now, but that a device which comes back would join.
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
    #[error("the container's mapping {mapping} meets the region {reserved} that is reserved for {device}")]
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
