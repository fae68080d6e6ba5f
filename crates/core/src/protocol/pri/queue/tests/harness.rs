//! The queue and its slow reference: makes each step on both and compares them.

use std::rc::Rc;

use super::stubs::{Device, Domain, Space, Target};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Location {
    Ring,
    Partial,
    Group(Cookie),
}

/// A request in the queue, or a stop marker in its ring. Items are listed in the order in which
/// they were received.
#[derive(Debug, Clone, Copy)]
struct Item {
    device: u64,
    pasid: Option<Pasid>,
    index: PrgIndex,
    address: u64,
    last: bool,
    is_stop: bool,
    /// The number of domains that the device had had when the request was received.
    epoch: u64,
    location: Location,
}

struct Group {
    cookie: Cookie,
    device: u64,
    pasid: Option<Pasid>,
    index: PrgIndex,
    key: ResolveKey,
    stage: Stage,
    /// Its PASID entry or domain attachment has been replaced.
    is_closed: bool,
}

/// A response: device, PASID, index, code.
type Response = (u64, Option<Pasid>, PrgIndex, ResponseCode);

pub(super) struct Harness {
    pub(super) queue: PageRequestQueue<Device>,
    pub(super) devices: Vec<Device>,
    spaces: Vec<Rc<Space>>,
    /// The PASID entry that is being drained, for which requests are invalid.
    closed: Option<(u64, Pasid)>,
    epochs: [u64; DEVICES as usize],
    items: Vec<Item>,
    groups: Vec<Group>,
    /// The spaces that are ready, in the order of their turns.
    ready: Vec<ResolveKey>,
    resolving: Vec<ReadyGroup<Device>>,
    has_overflowed: bool,
    accepting: [bool; DEVICES as usize],
    failed: [bool; DEVICES as usize],
    cookies: u64,
    addresses: u64,
    counts: PageQueueCounts,
    expected: Vec<Response>,
    /// The number of last requests of groups received, and of those answered or dropped.
    last_requests: (u64, u64),
}

impl Harness {
    pub(super) fn new() -> Self {
        let mut queue = PageRequestQueue::new(CAPACITY);
        let devices: Vec<_> = (0..DEVICES).map(Device::new).collect();
        devices.iter().for_each(|device| queue.admit(device, ALLOCATION));
        let mut harness = Self {
            queue,
            devices,
            spaces: Vec::new(),
            closed: None,
            epochs: [0; DEVICES as usize],
            items: Vec::new(),
            groups: Vec::new(),
            ready: Vec::new(),
            resolving: Vec::new(),
            has_overflowed: false,
            accepting: [true; DEVICES as usize],
            failed: [false; DEVICES as usize],
            cookies: 0,
            addresses: 0,
            counts: PageQueueCounts::default(),
            expected: Vec::new(),
            last_requests: (0, 0),
        };
        for number in 1..=SPACES {
            harness.spaces.push(Space::new());
            (0..DEVICES).for_each(|key| harness.bind(key, pasid(number)));
        }
        harness
    }

    /// Programs a new entry of a device for the space of a PASID.
    fn bind(&mut self, key: u64, pasid: Pasid) {
        self.devices[key as usize].bind(pasid, &self.spaces[pasid.get() as usize - 1]);
    }

    /// The key of a group with this last request; `None` if it has no open target.
    fn resolve_key(&self, last: &Item) -> Option<ResolveKey> {
        let key = last.device;
        match last.pasid {
            None if last.epoch != self.epochs[key as usize] => None,
            None => Some(self.devices[key as usize].domain().resolve_key()),
            Some(pasid) => {
                let space = self.spaces.get(pasid.get() as usize - 1)?;
                if space.has_ended.get() || self.closed == Some((key, pasid)) {
                    return None;
                }
                Some(ResolveKey::Space(space.generation))
            }
        }
    }

    fn outstanding(&self, device: u64) -> usize {
        self.items.iter().filter(|item| item.device == device && !item.is_stop).count()
    }

    fn in_ring(&self) -> usize {
        self.items.iter().filter(|item| item.location == Location::Ring).count()
    }

    fn reply(&mut self, device: u64, pasid: Option<Pasid>, index: PrgIndex, code: ResponseCode) {
        let count = match code {
            ResponseCode::Success => &mut self.counts.succeeded,
            ResponseCode::InvalidRequest => &mut self.counts.invalid,
            ResponseCode::ResponseFailure => &mut self.counts.failed,
        };
        *count += 1;
        self.last_requests.1 += 1;
        self.expected.push((device, pasid, index, code));
    }

    fn discard(&mut self, selects: impl Fn(&Item) -> bool) {
        let before = self.items.len();
        self.items.retain(|item| item.location != Location::Partial || !selects(item));
        self.counts.discarded += (before - self.items.len()) as u64;
    }

    fn receive(&mut self, item: Item) {
        let at = item.device as usize;
        let stop_markers =
            self.items.iter().filter(|other| other.device == item.device && other.is_stop).count();
        self.counts.requests += u64::from(!item.is_stop);
        self.counts.stop_markers += u64::from(item.is_stop);
        self.last_requests.0 += u64::from(item.last);
        let exceeds_allocation = |harness: &Self| {
            !item.is_stop && harness.outstanding(item.device) >= ALLOCATION as usize
        };
        if exceeds_allocation(self) && stop_markers > 0 && !self.has_overflowed {
            while self.sort() {}
        }
        if !self.accepting[at] || self.failed[at] && !item.is_stop {
            self.counts.dropped += 1;
            if item.last {
                self.reply(item.device, item.pasid, item.index, ResponseCode::ResponseFailure);
            }
        } else if item.is_stop && stop_markers >= STOP_MARKERS as usize {
            self.counts.lost += 1;
            self.discard(|other| (other.device, other.pasid) == (item.device, item.pasid));
        } else if exceeds_allocation(self) {
            self.counts.lost += 1;
            self.discard(|other| other.device == item.device);
            if item.last {
                self.reply(item.device, item.pasid, item.index, ResponseCode::Success);
            }
        } else if self.has_overflowed || self.in_ring() >= CAPACITY {
            self.counts.lost += 1;
            self.counts.overflows += u64::from(!self.has_overflowed);
            self.has_overflowed = true;
            if item.last {
                self.reply(item.device, item.pasid, item.index, ResponseCode::Success);
            }
        } else {
            self.items.push(item);
        }
    }

    fn sort(&mut self) -> bool {
        let Some(at) = self.items.iter().position(|item| item.location == Location::Ring) else {
            if self.has_overflowed {
                self.discard(|_| true);
            }
            return std::mem::take(&mut self.has_overflowed);
        };
        let item = self.items[at];
        let same = |other: &Item| (other.device, other.pasid) == (item.device, item.pasid);
        if item.is_stop {
            self.items.remove(at);
            self.discard(same);
        } else if !item.last {
            self.items[at].location = Location::Partial;
        } else {
            self.counts.groups += 1;
            self.items[at].location = Location::Partial;
            let member = |other: &Item| {
                other.location == Location::Partial && same(other) && other.index == item.index
            };
            let Some(key) = self.resolve_key(&item) else {
                self.items.retain(|other| !member(other));
                self.reply(item.device, item.pasid, item.index, ResponseCode::InvalidRequest);
                return true;
            };
            let cookie = self.cookies;
            self.cookies += 1;
            self.items
                .iter_mut()
                .filter(|other| member(other))
                .for_each(|other| other.location = Location::Group(cookie));
            let (device, pasid, index) = (item.device, item.pasid, item.index);
            self.groups.push(Group {
                cookie,
                device,
                pasid,
                index,
                key,
                stage: Stage::Waiting,
                is_closed: false,
            });
            self.update_ready(key);
        }
        true
    }

    /// Updates whether a space is ready: a group of it waits and none is being resolved.
    fn update_ready(&mut self, key: ResolveKey) {
        let waits =
            self.groups.iter().any(|group| group.key == key && group.stage == Stage::Waiting);
        let busy = self.resolving.iter().any(|group| group.key == key);
        if !waits || busy {
            self.ready.retain(|ready| *ready != key);
        } else if !self.ready.contains(&key) {
            self.ready.push(key);
        }
    }

    fn take(&mut self, cookie: Cookie) -> Option<Group> {
        let at = self.groups.iter().position(|group| group.cookie == cookie)?;
        let group = self.groups.remove(at);
        self.items.retain(|item| item.location != Location::Group(cookie));
        self.update_ready(group.key);
        Some(group)
    }

    fn answer(&mut self, cookie: Cookie, code: ResponseCode) -> bool {
        let Some(group) = self.take(cookie) else {
            self.counts.late_answers += 1;
            return false;
        };
        self.failed[group.device as usize] |= code == ResponseCode::ResponseFailure;
        self.reply(group.device, group.pasid, group.index, code);
        true
    }

    fn next(&mut self) {
        let ready = self.queue.next_group();
        let Some(key) = (!self.ready.is_empty()).then(|| self.ready.remove(0)) else {
            assert!(ready.is_none());
            return;
        };
        let ready = ready.expect("a space is ready");
        let group = self
            .groups
            .iter_mut()
            .find(|group| group.key == key && group.stage == Stage::Waiting)
            .expect("it is ready");
        group.stage = Stage::Resolving;
        assert_eq!(
            (ready.cookie, ready.key, ready.device.key()),
            (group.cookie, key, group.device)
        );
        let members =
            self.items.iter().filter(|item| item.location == Location::Group(ready.cookie));
        assert_eq!(
            ready.requests.iter().map(|page| page.address).collect::<Vec<_>>(),
            members.map(|item| item.address).collect::<Vec<_>>()
        );
        assert!(
            ready.requests.iter().rev().skip(1).all(|page| !page.last)
                && ready.requests.last().is_some_and(|page| page.last)
        );
        self.resolving.push(ready);
    }

    fn finish(
        &mut self,
        which: usize,
        code: Option<ResponseCode>,
        actions: &mut QueueActions<Device>,
    ) {
        if self.resolving.is_empty() {
            return;
        }
        let at = which % self.resolving.len();
        let cookie = self.resolving[at].cookie;
        match code {
            Some(code) => {
                assert_eq!(
                    self.queue.answer(cookie, code, false, actions),
                    self.answer(cookie, code)
                )
            }
            None => {
                let group =
                    self.groups.iter_mut().find(|group| group.cookie == cookie && !group.is_closed);
                let is_handed_out = group.map(|group| group.stage = Stage::HandedOut).is_some();
                assert_eq!(self.queue.hand_out(cookie), is_handed_out);
                if !is_handed_out {
                    let code = ResponseCode::InvalidRequest;
                    assert_eq!(
                        self.queue.answer(cookie, code, false, actions),
                        self.answer(cookie, code)
                    );
                }
            }
        }
        let ready = self.resolving.remove(at);
        self.queue.finish(ready.key, actions);
        self.update_ready(ready.key);
    }

    /// Closes the target, as an unbind does, drains it, and replaces it.
    fn drain(
        &mut self,
        key: u64,
        scope: Option<Option<Pasid>>,
        actions: &mut QueueActions<Device>,
    ) {
        let device = self.devices[key as usize].clone();
        // Groups of earlier entries of the PASID are not in scope.
        let is_in_scope = |group: &Group| {
            group.device == key
                && scope.is_none_or(|scope| group.pasid == scope && !group.is_closed)
        };
        let before = self.expected.len();
        let answered = match scope {
            None => {
                self.drain_reference(key, scope, is_in_scope);
                self.queue.drain(key, DrainScope::AllButResolving, None, actions)
            }
            Some(None) => {
                let ended = device.0.domain.replace(Rc::new(Domain::default()));
                ended.is_closed.set(true);
                self.epochs[key as usize] += 1;
                self.drain_reference(key, scope, is_in_scope);
                self.queue.drain(key, DrainScope::Target(&Target::Domain(ended)), None, actions)
            }
            Some(Some(pasid)) => {
                let entry = device.bound(pasid);
                entry.is_closed.set(true);
                self.closed = Some((key, pasid));
                self.drain_reference(key, scope, is_in_scope);
                self.closed = None;
                let target = Target::Entry(entry);
                let answered = self.queue.drain(key, DrainScope::Target(&target), None, actions);
                if self.spaces[pasid.get() as usize - 1].has_ended.get() {
                    self.replace_space(pasid);
                } else {
                    self.bind(key, pasid);
                }
                answered
            }
        };
        let own = self.expected[before..].iter().filter(|(device, pasid, ..)| {
            *device == key && scope.is_none_or(|scope| *pasid == scope)
        });
        assert_eq!(answered, own.count());
    }

    /// Replaces a space that has ended, for all devices.
    fn replace_space(&mut self, pasid: Pasid) {
        self.spaces[pasid.get() as usize - 1] = Space::new();
        self.groups
            .iter_mut()
            .filter(|group| group.pasid == Some(pasid))
            .for_each(|group| group.is_closed = true);
        for key in 0..DEVICES {
            self.devices[key as usize].bound(pasid).is_closed.set(true);
            self.bind(key, pasid);
        }
    }

    fn drain_reference(
        &mut self,
        key: u64,
        scope: Option<Option<Pasid>>,
        is_in_scope: impl Fn(&Group) -> bool,
    ) {
        while self.sort() {}
        self.discard(|item| item.device == key && scope.is_none_or(|scope| item.pasid == scope));
        let in_scope = self
            .groups
            .iter()
            .filter(|group| is_in_scope(group) && group.stage != Stage::Resolving);
        let in_scope: Vec<Cookie> = in_scope.map(|group| group.cookie).collect();
        for cookie in in_scope {
            self.answer(cookie, ResponseCode::InvalidRequest);
        }
        if scope.is_some() {
            self.groups
                .iter_mut()
                .filter(|group| is_in_scope(group))
                .for_each(|group| group.is_closed = true);
        }
    }

    fn drop_device(&mut self, key: u64, is_gone: bool) {
        self.queue.forget(key, is_gone, &mut QueueActions::default());
        let ring: Vec<Item> = self
            .items
            .iter()
            .filter(|item| item.device == key && item.location == Location::Ring)
            .copied()
            .collect();
        self.counts.dropped += ring.len() as u64;
        self.last_requests.1 += ring.iter().filter(|item| item.last).count() as u64;
        self.items.retain(|item| item.device != key || item.location != Location::Ring);
        self.discard(|item| item.device == key);
        let groups: Vec<Cookie> = self
            .groups
            .iter()
            .filter(|group| group.device == key)
            .map(|group| group.cookie)
            .collect();
        for cookie in groups {
            self.take(cookie);
            self.counts.unanswerable += 1;
            self.last_requests.1 += 1;
        }
        self.failed[key as usize] = false;
    }

    pub(super) fn step(&mut self, step: &Step) {
        let mut actions = QueueActions::default();
        match *step {
            Step::Receive { device, pasid, index, last } => {
                self.addresses += 4096;
                let address = self.addresses;
                let request = PageRequest {
                    pasid,
                    address,
                    read: true,
                    write: false,
                    execute: false,
                    privileged: false,
                    index,
                    last,
                };
                self.queue.receive(&self.devices[device as usize], request, None, &mut actions);
                self.receive(Item {
                    device,
                    pasid,
                    index,
                    address,
                    last,
                    is_stop: false,
                    epoch: self.epochs[device as usize],
                    location: Location::Ring,
                });
            }
            Step::Stop { device, pasid } => {
                self.queue.receive_stop(device, StopMarker { pasid }, &mut actions);
                let index = PrgIndex::new(0).expect("small");
                let stop = Item {
                    device,
                    pasid: Some(pasid),
                    index,
                    address: 0,
                    last: false,
                    is_stop: true,
                    epoch: 0,
                    location: Location::Ring,
                };
                self.receive(stop);
            }
            Step::Sort => assert_eq!(self.queue.sort(None, &mut actions), self.sort()),
            Step::Next => self.next(),
            Step::Finish { which, code } => self.finish(which, code, &mut actions),
            Step::Answer { which, code } => {
                // A group that is being resolved is answered by `Finish`.
                let cookie = which as u64 % (self.cookies + 1);
                if !self
                    .groups
                    .iter()
                    .any(|group| group.cookie == cookie && group.stage != Stage::HandedOut)
                {
                    assert_eq!(
                        self.queue.answer(cookie, code, false, &mut actions),
                        self.answer(cookie, code)
                    );
                }
            }
            Step::Drain { device, scope } => self.drain(device, scope, &mut actions),
            Step::End { pasid } => self.spaces[pasid.get() as usize - 1].has_ended.set(true),
            Step::Reset { device } => self.drop_device(device, false),
            Step::Reception { device, is_on } => {
                self.accepting[device as usize] = is_on;
                if is_on {
                    self.queue.admit(&self.devices[device as usize], ALLOCATION);
                } else {
                    self.queue.stop_reception(device);
                }
            }
        }
        let sent = |outgoing: Outgoing<Device>| {
            // The responses of these devices carry the PASID.
            assert_eq!(outgoing.response.pasid, outgoing.pasid);
            (outgoing.device.key(), outgoing.pasid, outgoing.response.index, outgoing.response.code)
        };
        assert_eq!(
            actions.responses.into_iter().map(sent).collect::<Vec<Response>>(),
            std::mem::take(&mut self.expected),
            "{step:?}"
        );
        self.compare();
    }

    fn compare(&self) {
        assert_eq!(self.queue.counts, self.counts);
        let in_groups =
            self.items.iter().filter(|item| matches!(item.location, Location::Group(_))).count();
        assert_eq!(self.queue.outstanding(), (self.items.len() - in_groups, self.groups.len()));
        for key in 0..DEVICES {
            let outstanding = self.queue.shares[&key].outstanding;
            assert_eq!(outstanding as usize, self.outstanding(key), "device {key}");
            assert!(outstanding <= ALLOCATION, "device {key} has {outstanding}");
        }
        assert_eq!(
            (self.queue.has_ready(), self.queue.has_overflowed),
            (!self.ready.is_empty(), self.has_overflowed)
        );
    }

    /// Ends everything in flight and removes the devices.
    pub(super) fn end(mut self) {
        while self.queue.has_unsorted() {
            self.step(&Step::Sort);
        }
        while !self.resolving.is_empty() || self.queue.has_ready() {
            self.step(&Step::Next);
            self.step(&Step::Finish { which: 0, code: Some(ResponseCode::Success) });
        }
        // The groups that are left have been handed out and are not answered any more.
        (0..DEVICES).for_each(|key| self.drop_device(key, true));
        assert_eq!(
            self.last_requests.0, self.last_requests.1,
            "every last request was answered, or dropped with its device"
        );
        let queue = &self.queue;
        let maps = (
            queue.ring.len(),
            queue.shares.len(),
            queue.partial.len(),
            queue.pending.len(),
            queue.resolve_queues.len(),
            queue.ready.len(),
        );
        assert_eq!(maps, (0, 0, 0, 0, 0, 0));
    }
}
