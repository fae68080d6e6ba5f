//! The state of a bond that the control lock covers.

use std::sync::Arc;

use smallvec::SmallVec;

use super::records::PasidEntry;
use super::space::SpaceRecord;
use crate::api::bond::{ExitHandler, IsolationHandler};
use crate::api::device::Features;
use crate::api::pri::{FaultTimes, PageRequestHandler};
use crate::types::ids::{Bdf, ContainerId, GroupId};

/// What a bond binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BondKind {
    /// One device. The bond ends with that device, even if other devices share its requester ID.
    Device(Bdf),
    Group(GroupId),
    Container(ContainerId),
}

/// The phase of a bond. It only advances, in the order of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Live,
    /// The end of the bond has begun, by an unbind, by the removal of its device or by the close of
    /// its container. No entry is added. No exit or isolation handler starts, except one that is
    /// queued. A page request handler may start until the gate of its entry is closed.
    Closing,
    /// No access is in flight, no handler runs, and the bond has no PASID entry.
    Gone,
}

/// The state of the exit handler. Each transition is made under the control lock, so the handler
/// runs at most once.
pub(crate) enum ExitState {
    Armed(Option<ExitHandler>),
    /// The space has ended, and the handler waits to be run. It counts in `callbacks`.
    Queued(Option<ExitHandler>),
    Running,
    Done,
    Disarmed,
}

/// A bond: its space, its PASID entries and its handlers.
pub(crate) struct BondState {
    pub(crate) phase: Phase,
    pub(crate) kind: BondKind,
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) features: Features,
    pub(crate) entries: SmallVec<[Arc<PasidEntry>; 1]>,
    /// The handler of its page requests; if `None`, the provider of the space resolves them. It
    /// does not count in `callbacks`.
    pub(crate) page_handler: Option<Arc<dyn PageRequestHandler>>,
    /// The times of faults through entries that have been removed.
    pub(crate) times: Option<Box<FaultTimes>>,
    pub(crate) exit: ExitState,
    pub(crate) on_isolation: Option<IsolationHandler>,
    /// The number of exit and isolation handlers of this bond that are queued or running.
    pub(crate) callbacks: u32,
    /// The user's handle (such as [`Bond`](crate::Bond)) has been unbound or dropped and does not
    /// read this state any more. It is removed once the bond is gone.
    pub(super) is_handle_dropped: bool,
}
