//! What the queue is made of.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::domain::DomainUse;
use crate::ids::{Generation, Pasid};
use crate::iommu::parts::{Attachment, DeviceInner};
use crate::pri::message::{PageRequest, PageResponse, PrgIndex, ResponseCode};
use crate::sync::atomic::Ordering;

/// Stop markers of one device that the queue holds.
pub(super) const STOPS: u32 = 32;

/// Names a pending group; never used again, so that a late answer meets no other group (rule U6).
pub type Cookie = u64;

/// Requests of a group; mostly one.
pub(crate) type Requests = SmallVec<[PageRequest; 1]>;

/// Names a device as it was plugged in: an address can be used again, this number not.
pub(crate) type DeviceKey = u64;

/// What a group's pages belong to.
#[derive(Clone)]
pub(crate) enum Target {
    Space(Arc<Attachment>),
    Domain(Arc<DomainUse>),
}

/// A line of groups that are resolved one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LineKey {
    Space(Generation),
    /// The address of a use of a domain that the waiting groups keep alive.
    Domain(usize),
}

impl Target {
    pub(super) fn line(&self) -> LineKey {
        match self {
            Self::Space(attachment) => LineKey::Space(attachment.record.tag.generation),
            Self::Domain(used) => LineKey::Domain(Arc::as_ptr(used) as usize),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Space(entry) => entry.gate.is_closed(),
            Self::Domain(used) => used.gate.is_closed(),
        }
    }

    /// Whether pages can be asked for through it now.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Space(entry) => {
                let open = !entry.gate.is_closed()
                    && entry.published.load(Ordering::Acquire)
                    && !entry.record.ended();
                open && entry.features.page_faults
            }
            Self::Domain(used) => !used.gate.is_closed(),
        }
    }
}

/// What is to be drained: what one device has for this.
#[derive(Clone, Copy)]
pub(crate) enum Drained<'a> {
    Space(&'a Arc<Attachment>),
    Domain(&'a Arc<DomainUse>),
    /// Whatever it has, but for what is being resolved right now.
    Everything,
    /// The device is about to go: also what is being resolved. The answer of whoever does that is
    /// dropped.
    Device,
}

pub(super) enum Entry {
    /// One without PASID is for the domain that was in use when it came, and for no later one (rule
    /// U1).
    Request(DeviceKey, PageRequest, Option<Arc<DomainUse>>),
    Stop(DeviceKey, Pasid),
}

pub(super) struct Holder {
    pub(super) device: Arc<DeviceInner>,
    /// Requests that it may have in here.
    pub(super) allocation: u32,
    /// Requests that it has.
    pub(super) held: u32,
    /// Stop markers of it that are not sorted yet.
    pub(super) stops: u32,
    pub(super) accepting: bool,
    /// A response failure was sent: nothing is taken before a reset.
    pub(super) failed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    Resolving,
    /// An owner has it and will answer by its cookie.
    Out,
}

pub(super) struct Pending {
    pub(super) device: DeviceKey,
    pub(super) pasid: Option<Pasid>,
    pub(super) index: PrgIndex,
    pub(super) requests: u32,
    pub(super) line: LineKey,
    pub(super) target: Target,
    pub(super) stage: Stage,
    /// Until it is handed out.
    pub(super) pages: Requests,
    pub(super) complete_at: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) waiting: VecDeque<Cookie>,
    pub(super) busy: bool,
}

/// A group that is to be resolved.
pub(crate) struct Work {
    pub(crate) cookie: Cookie,
    pub(crate) line: LineKey,
    pub(crate) device: Arc<DeviceInner>,
    pub(crate) target: Target,
    pub(crate) pages: Requests,
    pub(crate) complete_at: Option<Duration>,
}

/// An answer that is to be sent.
pub(crate) struct Outgoing {
    pub(crate) device: Arc<DeviceInner>,
    /// The group's, which the response need not name.
    pub(crate) pasid: Option<Pasid>,
    pub(crate) response: PageResponse,
}

/// What follows from a call; to be done with no lock held.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) answers: SmallVec<[Outgoing; 1]>,
    /// There is something to sort or to resolve that was not there before.
    pub(crate) work: bool,
    /// What nothing in here needs any more. It may hold the last of a space, a handler or a
    /// mapping, whose drop is foreign code.
    pub(super) retired: Vec<Target>,
}

impl Outgoing {
    /// The response carries the PASID where the device wants it (PRG Response PASID Required).
    pub(super) fn new(
        device: &Arc<DeviceInner>,
        pasid: Option<Pasid>,
        index: PrgIndex,
        code: ResponseCode,
    ) -> Self {
        let named = pasid.filter(|_| device.spec.capabilities.response_pasid);
        Self {
            device: Arc::clone(device),
            pasid,
            response: PageResponse { pasid: named, index, code },
        }
    }
}
