//! The IOMMU's side of page requests: its queue, the groups that are not complete yet, and those
//! that wait for their answer.
//!
//! A state machine: one lock of the IOMMU is around all of it, so there is no order of locks in
//! here to get wrong. Each call is short and bounded by the queue's capacity. Nothing is resolved
//! here: [`PageRequestQueue::next_group`] hands a group out, [`PageRequestQueue::answer`] takes its
//! answer. Invariants:
//!
//! 1. A group goes from partial to pending to answered, and is answered once. Who drains takes it
//!    out; an answer that comes after is dropped and counted.
//! 2. What a device has in here is bounded by its allocation, and the queue by its capacity.
//! 3. When the queue is full its overflow flag is set and everything is refused until it has been
//!    sorted out. A lost request leaves nobody waiting: where it was the last of its group it is
//!    answered with success at once, which has the device look again. Sorting throws away the
//!    partial groups, which may have lost a member.
//! 4. Groups of one space are resolved one at a time, in the order in which they became complete;
//!    spaces take turns, so that a slow space does not hold up the others.

mod drain;

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::group::{
    Actions, DeviceKey, DrainScope, Entry, FaultTarget, Outgoing, PageRequester, Pending,
    ReadyGroup, Requests, ResolveKey, ResolveQueue, STOP_MARKERS, Share, Stage,
};
use crate::api::pri::{Cookie, PageRequest, PrgIndex, ResponseCode, StopMarker};
use crate::types::ids::Pasid;

/// What happened to page requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PageCounts {
    /// Page requests that came.
    pub requests: u64,
    /// Stop markers that came.
    pub stop_markers: u64,
    /// Groups that became complete.
    pub groups: u64,
    /// Groups answered with success.
    pub succeeded: u64,
    /// Groups answered as invalid.
    pub invalid: u64,
    /// Groups answered with a response failure.
    pub failed: u64,
    /// Times that the queue overflowed.
    pub overflows: u64,
    /// Page requests and stop markers lost to an overflow, or beyond what a device may have in the
    /// queue.
    pub lost: u64,
    /// Requests of partial groups that were thrown away.
    pub discarded: u64,
    /// Page requests and stop markers dropped because their device was removed, reset or not
    /// enabled; page requests also after a response failure.
    pub dropped: u64,
    /// Groups that nobody could be answered for: the device was gone or had been reset.
    pub unanswerable: u64,
    /// Answers for groups that had been answered, drained or forgotten before (rule U6).
    pub late_answers: u64,
}

/// The page requests of all devices of an IOMMU.
pub(crate) struct PageRequestQueue<D: PageRequester> {
    ring: VecDeque<Entry<D::Target>>,
    capacity: usize,
    has_overflowed: bool,
    shares: FxHashMap<DeviceKey, Share<D>>,
    partial: FxHashMap<(DeviceKey, PrgIndex, Option<Pasid>), Requests>,
    pending: FxHashMap<Cookie, Pending<D::Target>>,
    resolve_queues: FxHashMap<ResolveKey, ResolveQueue>,
    /// Queues in which a group waits and none is being resolved, in the order of their turns.
    ready: VecDeque<ResolveKey>,
    next_cookie: Cookie,
    pub(crate) counts: PageCounts,
}

impl<D: PageRequester> PageRequestQueue<D> {
    /// A queue for `capacity` requests (at least one).
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
            counts: PageCounts::default(),
        }
    }

    /// Takes requests of a device from now on.
    pub(crate) fn admit(&mut self, device: &D, allocation: u32) {
        let share = self.shares.entry(device.key()).or_insert_with(|| Share {
            device: device.clone(),
            allocation,
            outstanding: 0,
            stop_markers: 0,
            is_accepting: true,
            has_failed: false,
        });
        share.is_accepting = true;
    }

    /// Takes no requests of a device any more. What it has in here stays.
    pub(crate) fn stop_reception(&mut self, key: DeviceKey) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.is_accepting = false;
        }
    }

    /// A request has come.
    pub(crate) fn receive(
        &mut self,
        device: &D,
        request: PageRequest,
        now: Option<Duration>,
        actions: &mut Actions<D>,
    ) {
        let key = device.key();
        self.counts.requests += 1;
        let is_used_up = |share: &Share<D>| share.outstanding >= share.allocation;
        if !self.has_overflowed
            && self
                .shares
                .get(&key)
                .is_some_and(|share| is_used_up(share) && share.stop_markers > 0)
        {
            // A stop marker in the queue gives back what its device gave up before it.
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
        let is_beyond = is_used_up(share);
        if is_beyond || self.has_overflowed || self.ring.len() >= self.capacity {
            self.lose(device, &request, is_beyond, actions);
            return;
        }
        share.outstanding += 1;
        let domain = request.pasid.is_none().then(|| device.domain());
        self.ring.push_back(Entry::Request(key, request, domain));
        actions.has_work = true;
    }

    /// A request is lost: beyond its device's allocation, or to an overflow.
    fn lose(
        &mut self,
        device: &D,
        request: &PageRequest,
        is_beyond: bool,
        actions: &mut Actions<D>,
    ) {
        self.counts.lost += 1;
        if !is_beyond && !self.has_overflowed {
            self.has_overflowed = true;
            self.counts.overflows += 1;
            actions.has_work = true;
        }
        if request.last {
            self.respond(device, request, ResponseCode::Success, actions);
        }
        if is_beyond {
            let key = device.key();
            self.discard_partial(|(of, _, _)| *of == key);
        }
    }

    /// A stop marker has come.
    pub(crate) fn receive_stop(
        &mut self,
        key: DeviceKey,
        marker: StopMarker,
        actions: &mut Actions<D>,
    ) {
        self.counts.stop_markers += 1;
        let Some(share) = self.shares.get_mut(&key).filter(|share| share.is_accepting) else {
            self.counts.dropped += 1;
            return;
        };
        if share.stop_markers >= STOP_MARKERS {
            // More than a device has a use for: they must not fill the queue of the others.
            self.counts.lost += 1;
            self.discard_partial(|(device, _, of)| *device == key && *of == Some(marker.pasid));
        } else if self.has_overflowed || self.ring.len() >= self.capacity {
            // What it would have thrown away goes with the partial groups.
            self.counts.lost += 1;
            let had_overflowed = std::mem::replace(&mut self.has_overflowed, true);
            self.counts.overflows += u64::from(!had_overflowed);
            actions.has_work = true;
        } else {
            share.stop_markers += 1;
            self.ring.push_back(Entry::Stop(key, marker.pasid));
            actions.has_work = true;
        }
    }

    /// Takes one entry out of the queue and sorts it into its group; clears an overflow when the
    /// queue is empty. False where there was nothing to do.
    pub(crate) fn sort(&mut self, now: Option<Duration>, actions: &mut Actions<D>) -> bool {
        match self.ring.pop_front() {
            Some(Entry::Request(key, request, domain)) => {
                self.sort_request(key, request, domain, now, actions)
            }
            Some(Entry::Stop(key, pasid)) => {
                if let Some(share) = self.shares.get_mut(&key) {
                    share.stop_markers = share.stop_markers.saturating_sub(1);
                }
                self.discard_partial(|(device, _, of)| *device == key && *of == Some(pasid));
            }
            None if self.has_overflowed => {
                self.discard_partial(|_| true);
                self.has_overflowed = false;
            }
            None => return false,
        }
        true
    }

    fn sort_all(&mut self, now: Option<Duration>, actions: &mut Actions<D>) {
        while self.sort(now, actions) {}
    }

    /// `domain` is what a request without PASID is for.
    fn sort_request(
        &mut self,
        key: DeviceKey,
        request: PageRequest,
        domain: Option<D::Target>,
        now: Option<Duration>,
        actions: &mut Actions<D>,
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
            let accepts = target.accepts_faults();
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

    /// Has a complete group wait for its turn.
    fn enqueue(
        &mut self,
        device: DeviceKey,
        target: D::Target,
        requests: Requests,
        now: Option<Duration>,
    ) {
        let Some(&first) = requests.first() else { return };
        let key = target.resolve_key();
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.pending.insert(
            cookie,
            Pending {
                device,
                first,
                count: requests.len() as u32,
                key,
                target,
                stage: Stage::Waiting,
                requests,
                complete_at: now,
            },
        );
        let queue = self.resolve_queues.entry(key).or_default();
        queue.waiting.push_back(cookie);
        if !queue.is_busy && queue.waiting.len() == 1 {
            self.ready.push_back(key);
        }
    }

    /// Takes the group of the space that has waited longest. Its space is busy until
    /// [`finish`](Self::finish).
    pub(crate) fn next_group(&mut self) -> Option<ReadyGroup<D>> {
        let key = self.ready.pop_front()?;
        let queue = self.resolve_queues.get_mut(&key)?;
        let cookie = queue.waiting.pop_front()?;
        queue.is_busy = true;
        let group = self.pending.get_mut(&cookie)?;
        group.stage = Stage::Resolving;
        let device = self.shares.get(&group.device)?.device.clone();
        Some(ReadyGroup {
            cookie,
            key,
            device,
            target: group.target.clone(),
            requests: std::mem::take(&mut group.requests),
            complete_at: group.complete_at,
        })
    }

    /// Whether a group waits that [`next_group`](Self::next_group) would hand out.
    #[cfg(not(loom))]
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether everything is refused until the queue has been sorted out.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// Whether there is something to sort.
    #[cfg(not(loom))]
    pub(crate) fn has_unsorted(&self) -> bool {
        !self.ring.is_empty() || self.has_overflowed
    }

    /// The group that this space was busy with is answered or with its owner.
    pub(crate) fn finish(&mut self, key: ResolveKey, actions: &mut Actions<D>) {
        let Some(queue) = self.resolve_queues.get_mut(&key) else { return };
        queue.is_busy = false;
        if queue.waiting.is_empty() {
            self.resolve_queues.remove(&key);
        } else {
            self.ready.push_back(key);
            actions.has_work = true;
        }
    }

    /// A group is about to be handed to an owner, who answers by its cookie. False where it is too
    /// late for that: the group has been forgotten, or its target has been closed, so that the
    /// drain which would answer an owner's groups may have passed.
    pub(crate) fn hand_out(&mut self, cookie: Cookie) -> bool {
        let group = self.pending.get_mut(&cookie).filter(|group| !group.target.is_closed());
        group.map(|group| group.stage = Stage::HandedOut).is_some()
    }

    /// What is in here: requests that are queued or in partial groups, and groups that are pending.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let partial: usize = self.partial.values().map(SmallVec::len).sum();
        (self.ring.len() + partial, self.pending.len())
    }

    fn discard_partial(&mut self, which: impl Fn(&(DeviceKey, PrgIndex, Option<Pasid>)) -> bool) {
        let (shares, counts) = (&mut self.shares, &mut self.counts);
        self.partial.retain(|at, requests| {
            let goes = which(at);
            if goes {
                counts.discarded += requests.len() as u64;
                if let Some(share) = shares.get_mut(&at.0) {
                    share.outstanding = share.outstanding.saturating_sub(requests.len() as u32);
                }
            }
            !goes
        });
    }

    fn release(&mut self, key: DeviceKey, requests: u32) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.outstanding = share.outstanding.saturating_sub(requests);
        }
    }

    /// Responds to the group of `request`; one that is answered as invalid is to be logged.
    fn respond(
        &mut self,
        device: &D,
        request: &PageRequest,
        code: ResponseCode,
        actions: &mut Actions<D>,
    ) {
        if self.respond_unlogged(device, request, code, actions)
            && code == ResponseCode::InvalidRequest
        {
            actions.refused.push((device.clone(), *request));
        }
    }

    /// As [`respond`](Self::respond), where the caller logs. False where the device is gone.
    fn respond_unlogged(
        &mut self,
        device: &D,
        request: &PageRequest,
        code: ResponseCode,
        actions: &mut Actions<D>,
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
