//! Errors of translation services, resets and page requests.

use std::fmt;

use crate::types::ids::{Bdf, ContainerId, GroupId, RequesterId};

/// A service of a device that is enabled and disabled.
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

/// The group or the container that a domain belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DomainOf {
    /// A group.
    Group(GroupId),
    /// A container.
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

/// Why a service of a device cannot be enabled or disabled.
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
    /// Its requests reach the IOMMU with the requester ID of a bridge, to which no invalidation
    /// could be sent.
    #[error("{device} issues requests as {requester}: invalidations could not be sent to it")]
    SharedRequesterId {
        /// The device.
        device: Bdf,
        /// The requester ID that the IOMMU sees.
        requester: RequesterId,
    },
    /// Page requests need address translation services, which are off.
    #[error("the address translation services of {device} are off; enable them first")]
    AtsOff {
        /// The device.
        device: Bdf,
    },
    /// Address translation services cannot be disabled while page requests are enabled.
    #[error("{device} uses page requests; disable them first")]
    PriOn {
        /// The device.
        device: Bdf,
    },
    /// The service is on.
    #[error("the {service} of {device} are on already; use them, or disable them first")]
    AlreadyOn {
        /// The device.
        device: Bdf,
        /// The service.
        service: Service,
    },
    /// The service is off.
    #[error("the {service} of {device} are off; enable them first")]
    NotOn {
        /// The device.
        device: Bdf,
        /// The service.
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

/// Why a handler of the page requests of a domain cannot be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// There is no such group.
    #[error("{group} does not exist")]
    NoSuchGroup {
        /// The group.
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
    /// Another handler is registered.
    #[error(
        "the page requests of the domain of {domain} have a handler already; drop its \
         registration first"
    )]
    Taken {
        /// The group or the container that the domain belongs to.
        domain: DomainOf,
    },
}
