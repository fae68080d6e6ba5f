//! What the control state knows of a bond.

use std::sync::Arc;

use smallvec::SmallVec;

use super::records::PasidEntry;
use super::space::SpaceRecord;
use crate::api::bond::{ExitHandler, IsolationHandler};
use crate::api::device::Features;
use crate::api::pri::{FaultTimes, PageRequestHandler};
use crate::types::ids::{Bdf, ContainerId, GroupId};

/// Who asked for a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BondKind {
    /// The bond ends with this device, also where others use its requester ID.
    Device(Bdf),
    Group(GroupId),
    Container(ContainerId),
}

/// Where a bond is in its life. It goes down this list and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Live,
    /// Claimed by whoever unbinds it: gets no new entry, no handler of it starts but one that
    /// is queued.
    Closing,
    /// No access, no handler, no PASID.
    Gone,
}

/// The exit handler's life; each step is made under the control lock, so that it runs at most once.
pub(crate) enum ExitState {
    Armed(Option<ExitHandler>),
    /// The space has ended and the handler waits for its turn. It counts in `callbacks`.
    Queued(Option<ExitHandler>),
    Running,
    Done,
    Disarmed,
}

pub(crate) struct BondState {
    pub(crate) phase: Phase,
    pub(crate) kind: BondKind,
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) features: Features,
    pub(crate) entries: SmallVec<[Arc<PasidEntry>; 1]>,
    pub(crate) handler: Option<Arc<dyn PageRequestHandler>>,
    /// Of the faults of entries that have been taken out.
    pub(crate) times: Option<Box<FaultTimes>>,
    pub(crate) exit: ExitState,
    pub(crate) on_isolation: Option<IsolationHandler>,
    /// Handlers of this bond that are queued or running.
    pub(crate) callbacks: u32,
    /// The owned value is gone: the entry goes when the bond is gone.
    pub(super) is_handle_dropped: bool,
}
