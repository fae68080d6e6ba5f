//! What the page request queue holds, and what it asks of devices and of their address spaces.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use crate::api::pri::{Cookie, PageRequest, PageResponse, ResponseCode};
use crate::types::ids::{Bdf, Generation, Pasid};

/// Stop markers of one device that the queue holds.
pub(super) const STOP_MARKERS: u32 = 32;

/// The requests of a group; mostly one.
pub(crate) type Requests = SmallVec<[PageRequest; 1]>;

/// Names a device as it was plugged in: an address can be used again, this number is not.
pub(crate) type DeviceKey = u64;

/// A device, as the queue needs it.
pub(crate) trait PageRequester: Clone {
    /// What its page requests are for.
    type Target: FaultTarget;

    fn key(&self) -> DeviceKey;

    fn bdf(&self) -> Bdf;

    /// The PASID table entry that its requests with this PASID are for.
    fn entry(&self, pasid: Pasid) -> Option<Self::Target>;

    /// The domain that its requests without PASID are for.
    fn domain(&self) -> Self::Target;

    /// Whether it is gone, so that it cannot be answered.
    fn is_gone(&self) -> bool;

    /// Whether its responses carry the PASID (PRG Response PASID Required).
    fn names_pasid(&self) -> bool;
}

/// What the pages of a group belong to: a PASID table entry, or a domain as it is attached.
pub(crate) trait FaultTarget: Clone {
    /// Its PASID; a domain has none.
    fn pasid(&self) -> Option<Pasid>;

    fn is_same(&self, other: &Self) -> bool;

    /// Groups with the same key are resolved one at a time.
    fn resolve_key(&self) -> ResolveKey;

    /// Whether it has been closed, so that a drain of it may have passed.
    fn is_closed(&self) -> bool;

    /// Whether pages can be requested through it now.
    fn accepts_faults(&self) -> bool;
}

/// Names one of the queues of groups that are resolved one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ResolveKey {
    Space(Generation),
    /// The address of a domain's attachment, which the waiting groups keep alive.
    Domain(usize),
}

/// What is to be drained of one device.
#[derive(Debug)]
pub(crate) enum DrainScope<'a, T> {
    /// What it has pending for this target.
    Target(&'a T),
    /// Whatever it has, but for groups that are being resolved right now.
    Everything,
    /// The device is about to go: groups that are being resolved as well. The answer of whoever
    /// resolves them is dropped.
    Device,
}

impl<T> Clone for DrainScope<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DrainScope<'_, T> {}

pub(super) enum Entry<T> {
    /// One without PASID is for the domain that was attached when it came, and for no later one.
    Request(DeviceKey, PageRequest, Option<T>),
    Stop(DeviceKey, Pasid),
}

/// A device with the share of the queue that it has.
pub(super) struct Share<D> {
    pub(super) device: D,
    /// Requests that it may have in the queue and in its groups.
    pub(super) allocation: u32,
    /// Requests that it has.
    pub(super) outstanding: u32,
    /// Stop markers of it that are not sorted yet.
    pub(super) stop_markers: u32,
    pub(super) is_accepting: bool,
    /// A response failure was sent: nothing is taken before a reset.
    pub(super) has_failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    Resolving,
    /// An owner has it and will answer by its cookie.
    HandedOut,
}

pub(super) struct Pending<T> {
    pub(super) device: DeviceKey,
    /// The first of its requests.
    pub(super) first: PageRequest,
    /// How many requests it has.
    pub(super) count: u32,
    pub(super) key: ResolveKey,
    pub(super) target: T,
    pub(super) stage: Stage,
    /// Until it is handed out.
    pub(super) requests: Requests,
    pub(super) complete_at: Option<Duration>,
}

/// Groups that are resolved one at a time.
#[derive(Default)]
pub(super) struct ResolveQueue {
    pub(super) waiting: VecDeque<Cookie>,
    pub(super) is_busy: bool,
}

/// A group that is to be resolved.
pub(crate) struct ReadyGroup<D: PageRequester> {
    pub(crate) cookie: Cookie,
    pub(crate) key: ResolveKey,
    pub(crate) device: D,
    pub(crate) target: D::Target,
    pub(crate) requests: Requests,
    pub(crate) complete_at: Option<Duration>,
}

/// A response that is to be sent.
pub(crate) struct Outgoing<D> {
    pub(crate) device: D,
    /// The group's, which the response need not carry.
    pub(crate) pasid: Option<Pasid>,
    pub(crate) response: PageResponse,
}

/// What follows from a call; to be done with no lock held.
pub(crate) struct Actions<D: PageRequester> {
    pub(crate) responses: SmallVec<[Outgoing<D>; 1]>,
    /// Groups that were answered as invalid by their first requests, for the event log.
    pub(crate) refused: Vec<(D, PageRequest)>,
    /// There is something to sort or to resolve that was not there before.
    pub(crate) has_work: bool,
    /// Targets that nothing in the queue needs any more. One may hold the last reference to a
    /// space, a handler or a mapping, whose drop is foreign code.
    pub(super) released: Vec<D::Target>,
}

impl<D: PageRequester> Default for Actions<D> {
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
    /// The response to the group of `request`.
    pub(super) fn new(device: &D, request: &PageRequest, code: ResponseCode) -> Self {
        let pasid = request.pasid.filter(|_| device.names_pasid());
        Self {
            device: device.clone(),
            pasid: request.pasid,
            response: PageResponse { pasid, index: request.index, code },
        }
    }
}
