//! The page request queue of the IOMMU: a ring of received messages, the partial groups that these
//! are sorted into, and the pending groups that wait for their answers.
//!
//! It is a state machine. One lock of the IOMMU is around all of it, so that no lock order is
//! needed inside. Each call takes time bounded by the capacity of the queue. It resolves no group:
//! [`PageRequestQueue::next_group`] returns a group to resolve, and [`PageRequestQueue::answer`]
//! takes the answer. Invariants:
//!
//! 1. A group is partial, then pending, then answered, and is answered once. A drain removes it; a
//!    later answer is dropped and counted.
//! 2. The requests of a device in the queue are bounded by its allocation, and the ring by its
//!    capacity.
//! 3. When the ring is full the overflow flag is set, and all messages are refused until the ring
//!    has been sorted. No device waits for a lost request: if it was the last of its group it is
//!    answered with Success at once, so that the device tries its access again. At the end of an
//!    overflow the partial groups are discarded, since they may have lost requests.
//! 4. Groups of one space are resolved one at a time, in the order in which they became complete.
//!    Spaces take turns, so that a slow space does not delay the others.

mod removal;
mod resolve;

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::records::{
    DeviceShare, DrainScope, Outgoing, PageRequestTarget, PageRequester, PendingGroup,
    QueueActions, ReadyGroup, Requests, ResolveKey, ResolveQueue, RingMessage, STOP_MARKERS, Stage,
};
use crate::api::pri::{Cookie, PageRequest, PrgIndex, ResponseCode, StopMarker};
use crate::types::ids::{DeviceKey, Pasid};

pub use super::counts::PageQueueCounts;

/// Device, index and PASID of a partial group.
type PartialKey = (DeviceKey, PrgIndex, Option<Pasid>);

/// The page requests of all devices of an IOMMU.
pub(crate) struct PageRequestQueue<D: PageRequester> {
    ring: VecDeque<RingMessage<D::Target>>,
    capacity: usize,
    has_overflowed: bool,
    shares: FxHashMap<DeviceKey, DeviceShare<D>>,
    partial: FxHashMap<PartialKey, Requests>,
    pending: FxHashMap<Cookie, PendingGroup<D::Target>>,
    resolve_queues: FxHashMap<ResolveKey, ResolveQueue>,
    /// The queues in which a group waits and none is being resolved, in the order of their turns.
    ready: VecDeque<ResolveKey>,
    next_cookie: Cookie,
    pub(crate) counts: PageQueueCounts,
}

impl<D: PageRequester> PageRequestQueue<D> {
    /// Makes a queue with a ring of `capacity` messages (at least one).
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            capacity: capacity.max(1),
            has_overflowed: false,
            shares: FxHashMap::default(),
            partial: FxHashMap::default(),
            pending: FxHashMap::default(),
            resolve_queues: FxHashMap::default(),
            ready: VecDeque::new(),
            next_cookie: 0,
            counts: PageQueueCounts::default(),
        }
    }

    /// Accepts messages of a device from now on. `allocation` is the number of requests that it may
    /// have in the queue.
    pub(crate) fn admit(&mut self, device: &D, allocation: u32) {
        let share = self.shares.entry(device.key()).or_insert_with(|| DeviceShare {
            device: device.clone(),
            allocation,
            outstanding: 0,
            stop_markers: 0,
            is_accepting: true,
            has_failed: false,
        });
        share.is_accepting = true;
    }

    /// Accepts no more messages of a device. Its messages in the queue stay.
    pub(crate) fn stop_reception(&mut self, key: DeviceKey) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.is_accepting = false;
        }
    }

    /// Receives a page request.
    pub(crate) fn receive(
        &mut self,
        device: &D,
        request: PageRequest,
        now: Option<Duration>,
        actions: &mut QueueActions<D>,
    ) {
        let key = device.key();
        self.counts.requests += 1;
        let is_exhausted = |share: &DeviceShare<D>| share.outstanding >= share.allocation;
        if !self.has_overflowed
            && self
                .shares
                .get(&key)
                .is_some_and(|share| is_exhausted(share) && share.stop_markers > 0)
        {
            // A stop marker in the ring releases the requests of groups that its device dropped.
            self.sort_all(now, actions);
        }
        let share =
            self.shares.get_mut(&key).filter(|share| share.is_accepting && !share.has_failed);
        let Some(share) = share else {
            self.counts.dropped += 1;
            if request.last {
                self.respond(device, &request, ResponseCode::ResponseFailure, actions);
            }
            return;
        };
        let exceeds_allocation = is_exhausted(share);
        if exceeds_allocation || self.has_overflowed || self.ring.len() >= self.capacity {
            self.lose(device, &request, exceeds_allocation, actions);
            return;
        }
        share.outstanding += 1;
        let domain = request.pasid.is_none().then(|| device.domain());
        self.ring.push_back(RingMessage::Request(key, request, domain));
        actions.has_work = true;
    }

    /// Drops a request, since it exceeds the allocation of its device or the ring is full.
    fn lose(
        &mut self,
        device: &D,
        request: &PageRequest,
        exceeds_allocation: bool,
        actions: &mut QueueActions<D>,
    ) {
        self.counts.lost += 1;
        if !exceeds_allocation && !self.has_overflowed {
            self.has_overflowed = true;
            self.counts.overflows += 1;
            actions.has_work = true;
        }
        if request.last {
            self.respond(device, request, ResponseCode::Success, actions);
        }
        if exceeds_allocation {
            let key = device.key();
            self.discard_partial(|(device, _, _)| *device == key);
        }
    }

    /// Receives a stop marker.
    pub(crate) fn receive_stop(
        &mut self,
        key: DeviceKey,
        marker: StopMarker,
        actions: &mut QueueActions<D>,
    ) {
        self.counts.stop_markers += 1;
        let Some(share) = self.shares.get_mut(&key).filter(|share| share.is_accepting) else {
            self.counts.dropped += 1;
            return;
        };
        if share.stop_markers >= STOP_MARKERS {
            // More than a device needs: they must not take the capacity of other devices.
            self.counts.lost += 1;
            self.discard_partial(|(device, _, pasid)| {
                *device == key && *pasid == Some(marker.pasid)
            });
        } else if self.has_overflowed || self.ring.len() >= self.capacity {
            // The partial groups that it would discard are discarded at the end of the overflow.
            self.counts.lost += 1;
            let had_overflowed = std::mem::replace(&mut self.has_overflowed, true);
            self.counts.overflows += u64::from(!had_overflowed);
            actions.has_work = true;
        } else {
            share.stop_markers += 1;
            self.ring.push_back(RingMessage::Stop(key, marker.pasid));
            actions.has_work = true;
        }
    }

    /// Takes one message out of the ring and sorts it into its group; ends an overflow when the
    /// ring is empty. Returns false if there was nothing to do.
    pub(crate) fn sort(&mut self, now: Option<Duration>, actions: &mut QueueActions<D>) -> bool {
        match self.ring.pop_front() {
            Some(RingMessage::Request(key, request, domain)) => {
                self.sort_request(key, request, domain, now, actions)
            }
            Some(RingMessage::Stop(key, pasid)) => {
                if let Some(share) = self.shares.get_mut(&key) {
                    share.stop_markers = share.stop_markers.saturating_sub(1);
                }
                self.discard_partial(|(device, _, stopped)| {
                    *device == key && *stopped == Some(pasid)
                });
            }
            None if self.has_overflowed => {
                self.discard_partial(|_| true);
                self.has_overflowed = false;
            }
            None => return false,
        }
        true
    }

    fn sort_all(&mut self, now: Option<Duration>, actions: &mut QueueActions<D>) {
        while self.sort(now, actions) {}
    }

    /// Sorts a request into its group; the last one makes the group pending. `domain` is the target
    /// of a request without PASID.
    fn sort_request(
        &mut self,
        key: DeviceKey,
        request: PageRequest,
        domain: Option<D::Target>,
        now: Option<Duration>,
        actions: &mut QueueActions<D>,
    ) {
        let at = (key, request.index, request.pasid);
        if !request.last {
            self.partial.entry(at).or_default().push(request);
            actions.released.extend(domain);
            return;
        }
        let mut requests = self.partial.remove(&at).unwrap_or_default();
        requests.push(request);
        let Some(share) = self.shares.get(&key) else { return actions.released.extend(domain) };
        let device = share.device.clone();
        self.counts.groups += 1;
        let target = request.pasid.map_or(domain, |pasid| device.entry(pasid));
        let Some(target) = target.filter(|target| {
            let accepts = target.accepts_page_requests();
            if !accepts {
                actions.released.push(target.clone());
            }
            accepts
        }) else {
            let (pasid, address) = (request.pasid.map(Pasid::get), request.address);
            tracing::debug!(
                device = %device.bdf(), pasid, address,
                "page request for what is not bound, has ended or takes no page faults"
            );
            self.release(key, requests.len() as u32);
            self.respond(&device, &request, ResponseCode::InvalidRequest, actions);
            return;
        };
        self.enqueue(key, target, requests, now);
    }

    /// Whether all messages are refused until the ring has been sorted.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// Whether [`sort`](Self::sort) would do something.
    #[cfg(not(loom))]
    pub(crate) fn has_unsorted(&self) -> bool {
        !self.ring.is_empty() || self.has_overflowed
    }

    /// The number of requests in the ring and in partial groups, and the number of pending groups.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let partial: usize = self.partial.values().map(SmallVec::len).sum();
        (self.ring.len() + partial, self.pending.len())
    }

    /// Discards the partial groups that `selects` selects.
    fn discard_partial(&mut self, selects: impl Fn(&PartialKey) -> bool) {
        let (shares, counts) = (&mut self.shares, &mut self.counts);
        self.partial.retain(|key, requests| {
            let is_discarded = selects(key);
            if is_discarded {
                counts.discarded += requests.len() as u64;
                if let Some(share) = shares.get_mut(&key.0) {
                    share.outstanding = share.outstanding.saturating_sub(requests.len() as u32);
                }
            }
            !is_discarded
        });
    }

    /// Releases requests of a device's allocation.
    fn release(&mut self, key: DeviceKey, requests: u32) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.outstanding = share.outstanding.saturating_sub(requests);
        }
    }

    /// Responds to the group of `request`, and has an invalid request logged.
    fn respond(
        &mut self,
        device: &D,
        request: &PageRequest,
        code: ResponseCode,
        actions: &mut QueueActions<D>,
    ) {
        if self.respond_unlogged(device, request, code, actions)
            && code == ResponseCode::InvalidRequest
        {
            actions.refused.push((device.clone(), *request));
        }
    }

    /// Responds as [`respond`](Self::respond) does, without logging. Returns false if the device
    /// has been removed.
    fn respond_unlogged(
        &mut self,
        device: &D,
        request: &PageRequest,
        code: ResponseCode,
        actions: &mut QueueActions<D>,
    ) -> bool {
        if device.is_gone() {
            self.counts.unanswerable += 1;
            return false;
        }
        match code {
            ResponseCode::Success => self.counts.succeeded += 1,
            ResponseCode::InvalidRequest => self.counts.invalid += 1,
            ResponseCode::ResponseFailure => self.counts.failed += 1,
        }
        actions.responses.push(Outgoing::new(device, request, code));
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
