//! Errors of translation services, resets and page requests.

use std::fmt;

use crate::types::ids::{Bdf, ContainerId, GroupId, RequesterId};

/// A service of a device that is switched on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Address translation services.
    Ats,
    /// Page requests.
    Pri,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ats => "address translation services",
            Self::Pri => "page requests",
        })
    }
}

/// Whose a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DomainOf {
    /// A group's own.
    Group(GroupId),
    /// A container's.
    Container(ContainerId),
}

impl fmt::Display for DomainOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => group.fmt(f),
            Self::Container(container) => container.fmt(f),
        }
    }
}

/// Why a service of a device cannot be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The device has no address translation services.
    #[error("{device} has no address translation services; plug it in with the capability `ats`")]
    NoAts {
        /// The device.
        device: Bdf,
    },
    /// The device has no page request interface.
    #[error("{device} has no page request interface; plug it in with the capability `pri`")]
    NoPri {
        /// The device.
        device: Bdf,
    },
    /// Its requests reach the IOMMU under another's requester ID, to which no invalidation could be
    /// sent.
    #[error("{device} issues requests as {requester}: invalidations could not be sent to it")]
    SharedRequesterId {
        /// The device.
        device: Bdf,
        /// What the IOMMU sees of it.
        requester: RequesterId,
    },
    /// Page requests rest on address translation services.
    #[error("the address translation services of {device} are off; enable them first")]
    AtsOff {
        /// The device.
        device: Bdf,
    },
    /// Address translation services cannot be switched off under page requests.
    #[error("{device} uses page requests; disable them first")]
    PriOn {
        /// The device.
        device: Bdf,
    },
    /// It is on.
    #[error("the {service} of {device} are on already; use them, or disable them first")]
    AlreadyOn {
        /// The device.
        device: Bdf,
        /// What is on.
        service: Service,
    },
    /// It is off.
    #[error("the {service} of {device} are off; enable them first")]
    NotOn {
        /// The device.
        device: Bdf,
        /// What is off.
        service: Service,
    },
    /// The device is being reset, was cut off, or has been removed.
    #[error(
        "{device} is being reset, was cut off or has been removed; end the reset, or reset it first"
    )]
    Halted {
        /// The device.
        device: Bdf,
    },
}

/// Why a device cannot be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// It has been removed.
    #[error("{device} has been removed")]
    Gone {
        /// The device.
        device: Bdf,
    },
}

/// Why the page requests of a domain cannot be given to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// No such group.
    #[error("{group} does not exist")]
    NoSuchGroup {
        /// Which.
        group: GroupId,
    },
    /// The group uses the domain of its container.
    #[error("{group} is in {container}; register with the container")]
    InContainer {
        /// The group.
        group: GroupId,
        /// The container.
        container: ContainerId,
    },
    /// Somebody else has them.
    #[error(
        "the page requests of the domain of {domain} have an owner already; drop its registration first"
    )]
    Taken {
        /// Whose domain it is.
        domain: DomainOf,
    },
}
