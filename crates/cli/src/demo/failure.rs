//! Why a chapter could not be told to its end.

use sva_core::DmaError;
use sva_core::error::{
    BindError, BindGroupError, ContainerBindError, ContainerUnbindError, JoinError, LeaveError,
    MapError, PlugError, RemoveError, ServiceError, SpaceRefusal, UnmapError,
};
use sva_core::pri::PageRequestError;
use sva_devices::{Aborted, ListError, SearchError};
use sva_host::{AttachError, RegionsError};
use sva_pci::{AddError, ConfigError};

use super::process::ProcessError;
use super::wait::Late;
use crate::interrupt::Interrupted;

/// One of the many things that a chapter does was refused or failed. The chapter ends there, with a
/// claim that did not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Failure {
    /// A child.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A process cannot be made an address space.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Its mappings cannot be listed.
    #[error(transparent)]
    Regions(#[from] RegionsError),
    /// The fabric.
    #[error(transparent)]
    Fabric(#[from] ConfigError),
    /// A hotplug into the fabric.
    #[error(transparent)]
    Add(#[from] AddError),
    /// A hotplug into the IOMMU.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// A removal.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// `bind_device`.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `bind_group`.
    #[error(transparent)]
    BindGroup(#[from] BindGroupError),
    /// A container's BIND.
    #[error(transparent)]
    ContainerBind(#[from] ContainerBindError),
    /// A container's UNBIND.
    #[error(transparent)]
    ContainerUnbind(#[from] ContainerUnbindError),
    /// A group that joins.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A group that leaves.
    #[error(transparent)]
    Leave(#[from] LeaveError),
    /// MAP.
    #[error(transparent)]
    Map(#[from] MapError),
    /// UNMAP.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// A space.
    #[error(transparent)]
    Space(#[from] SpaceRefusal),
    /// ATS or page requests cannot be enabled.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The threads that resolve page requests.
    #[error("cannot start threads for page requests: {0}")]
    Workers(#[source] std::io::Error),
    /// A page request.
    #[error(transparent)]
    Ask(#[from] PageRequestError),
    /// A signal came; the whole demonstration ends.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A transaction.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A descriptor.
    #[error(transparent)]
    Aborted(#[from] Aborted),
    /// A list walk.
    #[error(transparent)]
    List(#[from] ListError),
    /// A search.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The fabric of the chapter lacks a device that it is about.
    #[error("the fabric has no {what}")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// What has to happen did not.
    #[error(transparent)]
    Late(#[from] Late),
}
