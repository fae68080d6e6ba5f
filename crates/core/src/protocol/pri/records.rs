//! The records of the page request queue, and the traits by which it refers to devices and to the
//! targets of their page requests.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use crate::api::pri::{Cookie, PageRequest, PageResponse, ResponseCode};
use crate::types::ids::{Bdf, DeviceKey, Generation, Pasid};

/// The largest number of stop markers of one device in the queue.
pub(super) const STOP_MARKERS: u32 = 32;

/// The requests of a group, which usually has one.
pub(crate) type Requests = SmallVec<[PageRequest; 1]>;

/// A device that sends page requests, as the queue uses it.
pub(crate) trait PageRequester: Clone {
    /// What its page requests are resolved through.
    type Target: PageRequestTarget;

    fn key(&self) -> DeviceKey;

    fn bdf(&self) -> Bdf;

    /// The PASID entry for requests with this PASID.
    fn entry(&self, pasid: Pasid) -> Option<Self::Target>;

    /// The attached domain, for requests without PASID.
    fn domain(&self) -> Self::Target;

    /// Whether it has been removed, so that it cannot be answered.
    fn is_gone(&self) -> bool;

    /// Whether its responses carry the PASID (PRG Response PASID Required; PCIe 6.0, section
    /// 10.5.2.3).
    fn response_pasid(&self) -> bool;
}

/// The target of a page request group: a PASID entry, or an attachment of a domain.
pub(crate) trait PageRequestTarget: Clone {
    /// The PASID; `None` for a domain.
    fn pasid(&self) -> Option<Pasid>;

    fn is_same(&self, other: &Self) -> bool;

    /// Groups with the same key are resolved one at a time.
    fn resolve_key(&self) -> ResolveKey;

    /// Whether it has been closed, so that it may have been drained already.
    fn is_closed(&self) -> bool;

    /// Whether page requests are resolved through it now.
    fn accepts_page_requests(&self) -> bool;
}

/// Identifies a queue of groups that are resolved one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ResolveKey {
    /// The space with this generation of its PASID.
    Space(Generation),
    /// The address of the attachment of a domain. The waiting groups have references to the
    /// attachment, so that the address is not reused.
    Domain(usize),
}

/// The groups of a device that a drain answers.
#[derive(Debug)]
pub(crate) enum DrainScope<'a, T> {
    /// Groups for this target, except those that are being resolved.
    Target(&'a T),
    /// All groups, except those that are being resolved.
    AllButResolving,
    /// All groups, for the removal of the device. The later answers to groups that are being
    /// resolved are dropped.
    All,
}

impl<T> Clone for DrainScope<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DrainScope<'_, T> {}

/// A message in the ring.
pub(super) enum RingMessage<T> {
    /// A page request. One without PASID is for the domain that was attached when it was received,
    /// which is the target here, and for no later domain.
    Request(DeviceKey, PageRequest, Option<T>),
    /// A stop marker.
    Stop(DeviceKey, Pasid),
}

/// A device and its use of the queue.
pub(super) struct DeviceShare<D> {
    pub(super) device: D,
    /// The number of requests that it may have in the ring and in groups.
    pub(super) allocation: u32,
    /// The number of requests that it has there.
    pub(super) outstanding: u32,
    /// The number of its stop markers in the ring.
    pub(super) stop_markers: u32,
    pub(super) is_accepting: bool,
    /// Whether a response failure was sent: no request is accepted before a reset.
    pub(super) has_failed: bool,
}

/// The progress of a pending group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is in the queue of its target.
    Waiting,
    /// A worker resolves it.
    Resolving,
    /// Its handler has it and will answer it by its cookie.
    HandedOut,
}

/// A complete group that has not been answered.
pub(super) struct PendingGroup<T> {
    pub(super) device: DeviceKey,
    /// The number of its requests.
    pub(super) count: u32,
    pub(super) key: ResolveKey,
    pub(super) target: T,
    pub(super) stage: Stage,
    /// Its requests, while it waits. Then the worker that resolves it has them, and the first one
    /// stays here for the response, and for the log of a refusal. Never empty.
    pub(super) requests: Requests,
    pub(super) complete_at: Option<Duration>,
}

impl<T> PendingGroup<T> {
    /// Takes the requests for the worker that resolves the group.
    pub(super) fn take_requests(&mut self) -> Requests {
        let first = self.requests.iter().take(1).copied().collect();
        std::mem::replace(&mut self.requests, first)
    }
}

/// Groups with the same key, which are resolved one at a time.
#[derive(Default)]
pub(super) struct ResolveQueue {
    pub(super) waiting: VecDeque<Cookie>,
    pub(super) is_busy: bool,
}

/// A group to resolve.
pub(crate) struct ReadyGroup<D: PageRequester> {
    pub(crate) cookie: Cookie,
    pub(crate) key: ResolveKey,
    pub(crate) device: D,
    pub(crate) target: D::Target,
    pub(crate) requests: Requests,
    pub(crate) complete_at: Option<Duration>,
}

/// A response to send.
pub(crate) struct Outgoing<D> {
    pub(crate) device: D,
    /// The PASID of the group, which the response does not always carry.
    pub(crate) pasid: Option<Pasid>,
    pub(crate) response: PageResponse,
}

/// What the caller is to do after a call, with no lock held.
pub(crate) struct QueueActions<D: PageRequester> {
    pub(crate) responses: SmallVec<[Outgoing<D>; 1]>,
    /// The first requests of groups that were answered as invalid, for the event log.
    pub(crate) refused: Vec<(D, PageRequest)>,
    /// Whether there are new entries to sort or groups to resolve, so that workers are to be woken.
    pub(crate) has_work: bool,
    /// Targets that the queue has released, to be dropped with no lock held: one may have the last
    /// reference to a space, a handler or a mapping, the drop of which is foreign code.
    pub(super) released: Vec<D::Target>,
}

impl<D: PageRequester> Default for QueueActions<D> {
    fn default() -> Self {
        Self {
            responses: SmallVec::new(),
            refused: Vec::new(),
            has_work: false,
            released: Vec::new(),
        }
    }
}

impl<D: PageRequester> Outgoing<D> {
    /// Makes the response to the group of `request`.
    pub(super) fn new(device: &D, request: &PageRequest, code: ResponseCode) -> Self {
        let pasid = request.pasid.filter(|_| device.response_pasid());
        Self {
            device: device.clone(),
            pasid: request.pasid,
            response: PageResponse { pasid, index: request.index, code },
        }
    }
}
