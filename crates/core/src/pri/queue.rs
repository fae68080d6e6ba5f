//! The IOMMU's side of page requests: its queue, the groups that are not complete yet, and those
//! that wait for their answer.
//!
//! A state machine without locks, links or clock; one lock of the IOMMU is around all of it, so
//! that nothing has an order to get wrong. Each call is short and bounded by the queue's capacity.
//! Nothing is resolved here: [`PageRequests::next_work`] hands a group out,
//! [`PageRequests::answer`] takes its answer. Invariants:
//!
//! 1. A group goes partial, pending, answered, and is answered once. Who drains takes it out; an
//!    answer that comes after is dropped and counted.
//! 2. What a device may have in here is bounded by its allocation, all of it by the devices; the
//!    queue by its capacity.
//! 3. When the queue is full its overflow flag is set and everything is refused until it has been
//!    sorted out. A lost request leaves nobody waiting: where it was the last of its group it is
//!    answered with success at once, which has the device look again; sorting throws away the
//!    partial groups, which may have lost a member (rule F3).
//! 4. Groups of one space are resolved one at a time, in the order in which they became complete;
//!    spaces take turns (rule S3).

mod drain;
mod parts;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::message::{PageRequest, PrgIndex, ResponseCode, StopMarker};
use crate::ids::Pasid;
use crate::iommu::parts::DeviceInner;
use crate::mutation;
pub use parts::Cookie;
pub(crate) use parts::{DeviceKey, Drained, LineKey, Outbox, Outgoing, Requests, Target, Work};
use parts::{Entry, Holder, Line, Pending, STOPS, Stage};

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

/// See the module.
pub(crate) struct PageRequests {
    ring: VecDeque<Entry>,
    capacity: usize,
    overflow: bool,
    holders: FxHashMap<DeviceKey, Holder>,
    partial: FxHashMap<(DeviceKey, PrgIndex, Option<Pasid>), Requests>,
    pending: FxHashMap<Cookie, Pending>,
    lines: FxHashMap<LineKey, Line>,
    /// Lines with somebody waiting and nobody resolving.
    turn: VecDeque<LineKey>,
    next_cookie: Cookie,
    pub(crate) counts: PageCounts,
}

impl PageRequests {
    /// A queue for `capacity` requests (at least one).
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            capacity: capacity.max(1),
            overflow: false,
            holders: FxHashMap::default(),
            partial: FxHashMap::default(),
            pending: FxHashMap::default(),
            lines: FxHashMap::default(),
            turn: VecDeque::new(),
            next_cookie: 0,
            counts: PageCounts::default(),
        }
    }

    /// Takes requests of a device from now on.
    pub(crate) fn admit(&mut self, device: &Arc<DeviceInner>, key: DeviceKey, allocation: u32) {
        let holder = self.holders.entry(key).or_insert(Holder {
            device: Arc::clone(device),
            allocation,
            held: 0,
            stops: 0,
            accepting: true,
            failed: false,
        });
        holder.accepting = true;
    }

    /// Takes no requests of a device any more. What it has in here stays.
    pub(crate) fn stop_reception(&mut self, key: DeviceKey) {
        if let Some(holder) = self.holders.get_mut(&key) {
            holder.accepting = false;
        }
    }

    /// A request has come.
    pub(crate) fn receive(
        &mut self,
        device: &Arc<DeviceInner>,
        key: DeviceKey,
        request: PageRequest,
        now: Option<Duration>,
        out: &mut Outbox,
    ) {
        self.counts.requests += 1;
        if !self.overflow
            && self
                .holders
                .get(&key)
                .is_some_and(|holder| holder.held >= holder.allocation && holder.stops > 0)
        {
            // A stop marker that is queued gives back what its device gave up before.
            self.sort_all(now, out);
        }
        let Some(holder) =
            self.holders.get_mut(&key).filter(|holder| holder.accepting && !holder.failed)
        else {
            self.counts.dropped += 1;
            if request.last {
                self.send(device, request.pasid, request.index, ResponseCode::ResponseFailure, out);
            }
            return;
        };
        let beyond = holder.held >= holder.allocation;
        if beyond || self.overflow || self.ring.len() >= self.capacity {
            self.counts.lost += 1;
            if !beyond && !self.overflow {
                self.overflow = true;
                self.counts.overflows += 1;
                out.work = true;
            }
            if request.last {
                self.send(device, request.pasid, request.index, ResponseCode::Success, out);
            }
            if beyond {
                self.discard_partial(|(device, _, _)| *device == key);
            }
            return;
        }
        holder.held += 1;
        let used = request.pasid.is_none().then(|| device.face.translation.current());
        self.ring.push_back(Entry::Request(key, request, used));
        out.work = true;
    }

    /// A stop marker has come.
    pub(crate) fn receive_stop(&mut self, key: DeviceKey, marker: StopMarker, out: &mut Outbox) {
        self.counts.stop_markers += 1;
        let Some(holder) = self.holders.get_mut(&key).filter(|holder| holder.accepting) else {
            self.counts.dropped += 1;
            return;
        };
        if holder.stops >= STOPS {
            // More than a device has a use for: it is not to fill the queue of the others (rule
            // S3).
            self.counts.lost += 1;
            self.discard_partial(|(device, _, of)| *device == key && *of == Some(marker.pasid));
        } else if self.overflow || self.ring.len() >= self.capacity {
            // What it would have thrown away goes with the partial groups.
            self.counts.lost += 1;
            self.counts.overflows += u64::from(!std::mem::replace(&mut self.overflow, true));
            out.work = true;
        } else {
            holder.stops += 1;
            self.ring.push_back(Entry::Stop(key, marker.pasid));
            out.work = true;
        }
    }

    /// Takes one entry out of the queue and puts it where it belongs; clears an overflow when the
    /// queue is empty. False where there was nothing to do.
    pub(crate) fn sort(&mut self, now: Option<Duration>, out: &mut Outbox) -> bool {
        match self.ring.pop_front() {
            Some(Entry::Request(key, request, used)) => {
                self.sort_request(key, request, used.map(Target::Domain), now, out)
            }
            Some(Entry::Stop(key, pasid)) => {
                if let Some(holder) = self.holders.get_mut(&key) {
                    holder.stops = holder.stops.saturating_sub(1);
                }
                self.discard_partial(|(device, _, of)| *device == key && *of == Some(pasid));
            }
            None if self.overflow => {
                if !mutation::is_on(27) {
                    self.discard_partial(|_| true);
                }
                self.overflow = false;
            }
            None => return false,
        }
        true
    }

    fn sort_all(&mut self, now: Option<Duration>, out: &mut Outbox) {
        while self.sort(now, out) {}
    }

    /// `domain` is what a request without PASID is for.
    fn sort_request(
        &mut self,
        key: DeviceKey,
        request: PageRequest,
        domain: Option<Target>,
        now: Option<Duration>,
        out: &mut Outbox,
    ) {
        let at = (key, request.index, request.pasid);
        if !request.last {
            self.partial.entry(at).or_default().push(request);
            out.retired.extend(domain);
            return;
        }
        let mut pages = self.partial.remove(&at).unwrap_or_default();
        pages.push(request);
        let Some(holder) = self.holders.get(&key) else { return out.retired.extend(domain) };
        let device = Arc::clone(&holder.device);
        self.counts.groups += 1;
        let bound = |pasid| device.requester.table.read().get(&pasid).cloned().map(Target::Space);
        let target = request.pasid.map_or(domain, bound);
        if !target.as_ref().is_some_and(Target::is_open) {
            let (pasid, address) = (request.pasid.map(Pasid::get), request.address);
            tracing::debug!(device = %device.bdf(), pasid, address, "page request for what is not bound, has ended or takes no page faults");
            out.retired.extend(target);
            self.release(key, pages.len() as u32);
            self.send(&device, request.pasid, request.index, ResponseCode::InvalidRequest, out);
            return;
        }
        let Some(target) = target else { return };
        let (cookie, line, requests) = (self.next_cookie, target.line(), pages.len() as u32);
        self.next_cookie += 1;
        let (pasid, index) = (request.pasid, request.index);
        let stage = Stage::Waiting;
        self.pending.insert(
            cookie,
            Pending {
                device: key,
                pasid,
                index,
                requests,
                line,
                target,
                stage,
                pages,
                complete_at: now,
            },
        );
        let entry = self.lines.entry(line).or_default();
        entry.waiting.push_back(cookie);
        if !entry.busy && entry.waiting.len() == 1 {
            self.turn.push_back(line);
        }
    }

    /// The group of the space that has waited longest; its line is busy until
    /// [`line_free`](Self::line_free).
    pub(crate) fn next_work(&mut self) -> Option<Work> {
        let line = self.turn.pop_front()?;
        let entry = self.lines.get_mut(&line)?;
        let cookie = entry.waiting.pop_front()?;
        entry.busy = true;
        let group = self.pending.get_mut(&cookie)?;
        group.stage = Stage::Resolving;
        let device = Arc::clone(&self.holders.get(&group.device)?.device);
        let pages = std::mem::take(&mut group.pages);
        Some(Work {
            cookie,
            line,
            device,
            target: group.target.clone(),
            pages,
            complete_at: group.complete_at,
        })
    }

    /// Whether a group waits that [`next_work`](Self::next_work) would hand out.
    #[cfg(not(loom))]
    pub(crate) fn has_work(&self) -> bool {
        !self.turn.is_empty()
    }

    /// Whether everything is refused until the queue has been sorted out.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.overflow
    }

    /// Whether there is something to sort.
    #[cfg(not(loom))]
    pub(crate) fn has_unsorted(&self) -> bool {
        !self.ring.is_empty() || self.overflow
    }

    /// The group that the line was busy with is answered or with its owner.
    pub(crate) fn line_free(&mut self, line: LineKey, out: &mut Outbox) {
        let Some(entry) = self.lines.get_mut(&line) else { return };
        entry.busy = false;
        if entry.waiting.is_empty() {
            self.lines.remove(&line);
        } else {
            self.turn.push_back(line);
            out.work = true;
        }
    }

    /// The group is about to be handed to an owner, who answers by its cookie. False where it is
    /// too late for that: the group has been forgotten, or its target has been closed, so
    /// that the drain which would answer an owner's groups may have passed.
    pub(crate) fn hand_out(&mut self, cookie: Cookie) -> bool {
        let group = self.pending.get_mut(&cookie).filter(|group| !group.target.is_closed());
        group.map(|group| group.stage = Stage::Out).is_some()
    }

    /// What is in here: requests that are queued or in partial groups, and groups that are pending.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        (
            self.ring.len() + self.partial.values().map(SmallVec::len).sum::<usize>(),
            self.pending.len(),
        )
    }

    fn discard_partial(&mut self, which: impl Fn(&(DeviceKey, PrgIndex, Option<Pasid>)) -> bool) {
        let (holders, counts) = (&mut self.holders, &mut self.counts);
        self.partial.retain(|at, requests| {
            let goes = which(at);
            if goes {
                counts.discarded += requests.len() as u64;
                if let Some(holder) = holders.get_mut(&at.0) {
                    holder.held = holder.held.saturating_sub(requests.len() as u32);
                }
            }
            !goes
        });
    }

    fn release(&mut self, key: DeviceKey, requests: u32) {
        if let Some(holder) = self.holders.get_mut(&key) {
            holder.held = holder.held.saturating_sub(requests);
        }
    }

    fn send(
        &mut self,
        device: &Arc<DeviceInner>,
        pasid: Option<Pasid>,
        index: PrgIndex,
        code: ResponseCode,
        out: &mut Outbox,
    ) {
        if device.gate.is_closed() {
            self.counts.unanswerable += 1;
            return;
        }
        match code {
            ResponseCode::Success => self.counts.succeeded += 1,
            ResponseCode::InvalidRequest => self.counts.invalid += 1,
            ResponseCode::ResponseFailure => self.counts.failed += 1,
        }
        out.answers.push(Outgoing::new(device, pasid, index, code));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
