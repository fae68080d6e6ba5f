//! The queue, the slow reference of it, and each step on both.

use std::rc::Rc;

use super::stubs::{Device, Domain, Space, Target};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Ring,
    Partial,
    Group(Cookie),
}

/// A request that is somewhere in the queue, or a stop marker in its ring. The list of them is in
/// the order in which they came.
#[derive(Debug, Clone, Copy)]
struct Item {
    device: u64,
    pasid: Option<Pasid>,
    index: PrgIndex,
    address: u64,
    last: bool,
    is_stop: bool,
    /// How often the domain of the device had been switched when it came.
    epoch: u64,
    place: Place,
}

struct Group {
    cookie: Cookie,
    device: u64,
    pasid: Option<Pasid>,
    index: PrgIndex,
    key: ResolveKey,
    stage: Stage,
    /// It is for an entry or a use of a domain that is there no more.
    closed: bool,
}

/// What was answered: device, PASID, index, code.
type Answered = (u64, Option<Pasid>, PrgIndex, ResponseCode);

pub(super) struct Bench {
    pub(super) queue: PageRequestQueue<Device>,
    pub(super) devices: Vec<Device>,
    spaces: Vec<Rc<Space>>,
    /// An entry that is being drained: requests for it find nobody.
    closed: Option<(u64, Pasid)>,
    epochs: [u64; DEVICES as usize],
    items: Vec<Item>,
    groups: Vec<Group>,
    /// Keys of spaces that are ready for a turn, the one that has been for the longest first.
    ready: Vec<ResolveKey>,
    resolving: Vec<ReadyGroup<Device>>,
    overflow: bool,
    accepting: [bool; DEVICES as usize],
    failed: [bool; DEVICES as usize],
    cookies: u64,
    addresses: u64,
    counts: PageCounts,
    expected: Vec<Answered>,
    /// Requests that were the last of a group: that came, and that were answered or given up.
    lasts: (u64, u64),
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut queue = PageRequestQueue::new(CAPACITY);
        let devices: Vec<_> = (0..DEVICES).map(Device::new).collect();
        devices.iter().for_each(|device| queue.admit(device, ALLOCATION));
        let mut bench = Self {
            queue,
            devices,
            spaces: Vec::new(),
            closed: None,
            epochs: [0; DEVICES as usize],
            items: Vec::new(),
            groups: Vec::new(),
            ready: Vec::new(),
            resolving: Vec::new(),
            overflow: false,
            accepting: [true; DEVICES as usize],
            failed: [false; DEVICES as usize],
            cookies: 0,
            addresses: 0,
            counts: PageCounts::default(),
            expected: Vec::new(),
            lasts: (0, 0),
        };
        for number in 1..=SPACES {
            bench.spaces.push(Space::new());
            (0..DEVICES).for_each(|key| bench.bind(key, pasid(number)));
        }
        bench
    }

    /// A new entry of a device for the space of a PASID.
    fn bind(&mut self, key: u64, pasid: Pasid) {
        self.devices[key as usize].bind(pasid, &self.spaces[pasid.get() as usize - 1]);
    }

    /// The key of a group with this last request; `None` where nobody is there for it.
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

    fn held(&self, device: u64) -> usize {
        self.items.iter().filter(|item| item.device == device && !item.is_stop).count()
    }

    fn in_ring(&self) -> usize {
        self.items.iter().filter(|item| item.place == Place::Ring).count()
    }

    fn reply(&mut self, device: u64, pasid: Option<Pasid>, index: PrgIndex, code: ResponseCode) {
        let count = match code {
            ResponseCode::Success => &mut self.counts.succeeded,
            ResponseCode::InvalidRequest => &mut self.counts.invalid,
            ResponseCode::ResponseFailure => &mut self.counts.failed,
        };
        *count += 1;
        self.lasts.1 += 1;
        self.expected.push((device, pasid, index, code));
    }

    fn discard(&mut self, which: impl Fn(&Item) -> bool) {
        let before = self.items.len();
        self.items.retain(|item| item.place != Place::Partial || !which(item));
        self.counts.discarded += (before - self.items.len()) as u64;
    }

    fn receive(&mut self, item: Item) {
        let at = item.device as usize;
        let stops =
            self.items.iter().filter(|other| other.device == item.device && other.is_stop).count();
        self.counts.requests += u64::from(!item.is_stop);
        self.counts.stop_markers += u64::from(item.is_stop);
        self.lasts.0 += u64::from(item.last);
        let beyond = |bench: &Self| !item.is_stop && bench.held(item.device) >= ALLOCATION as usize;
        if beyond(self) && stops > 0 && !self.overflow {
            while self.sort() {}
        }
        if !self.accepting[at] || self.failed[at] && !item.is_stop {
            self.counts.dropped += 1;
            if item.last {
                self.reply(item.device, item.pasid, item.index, ResponseCode::ResponseFailure);
            }
        } else if item.is_stop && stops >= STOP_MARKERS as usize {
            self.counts.lost += 1;
            self.discard(|other| (other.device, other.pasid) == (item.device, item.pasid));
        } else if beyond(self) {
            self.counts.lost += 1;
            self.discard(|other| other.device == item.device);
            if item.last {
                self.reply(item.device, item.pasid, item.index, ResponseCode::Success);
            }
        } else if self.overflow || self.in_ring() >= CAPACITY {
            self.counts.lost += 1;
            self.counts.overflows += u64::from(!self.overflow);
            self.overflow = true;
            if item.last {
                self.reply(item.device, item.pasid, item.index, ResponseCode::Success);
            }
        } else {
            self.items.push(item);
        }
    }

    fn sort(&mut self) -> bool {
        let Some(at) = self.items.iter().position(|item| item.place == Place::Ring) else {
            if self.overflow {
                self.discard(|_| true);
            }
            return std::mem::take(&mut self.overflow);
        };
        let item = self.items[at];
        let same = |other: &Item| (other.device, other.pasid) == (item.device, item.pasid);
        if item.is_stop {
            self.items.remove(at);
            self.discard(same);
        } else if !item.last {
            self.items[at].place = Place::Partial;
        } else {
            self.counts.groups += 1;
            self.items[at].place = Place::Partial;
            let member = |other: &Item| {
                other.place == Place::Partial && same(other) && other.index == item.index
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
                .for_each(|other| other.place = Place::Group(cookie));
            let (device, pasid, index) = (item.device, item.pasid, item.index);
            self.groups.push(Group {
                cookie,
                device,
                pasid,
                index,
                key,
                stage: Stage::Waiting,
                closed: false,
            });
            self.settle(key);
        }
        true
    }

    /// A space is ready where a group of it waits and none is being resolved.
    fn settle(&mut self, key: ResolveKey) {
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
        self.items.retain(|item| item.place != Place::Group(cookie));
        self.settle(group.key);
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
        let work = self.queue.next_group();
        let Some(key) = (!self.ready.is_empty()).then(|| self.ready.remove(0)) else {
            assert!(work.is_none());
            return;
        };
        let work = work.expect("a space is ready");
        let group = self
            .groups
            .iter_mut()
            .find(|group| group.key == key && group.stage == Stage::Waiting)
            .expect("it is ready");
        group.stage = Stage::Resolving;
        assert_eq!((work.cookie, work.key, work.device.key()), (group.cookie, key, group.device));
        let members = self.items.iter().filter(|item| item.place == Place::Group(work.cookie));
        assert_eq!(
            work.requests.iter().map(|page| page.address).collect::<Vec<_>>(),
            members.map(|item| item.address).collect::<Vec<_>>()
        );
        assert!(
            work.requests.iter().rev().skip(1).all(|page| !page.last)
                && work.requests.last().is_some_and(|page| page.last)
        );
        self.resolving.push(work);
    }

    fn finish(&mut self, which: usize, code: Option<ResponseCode>, out: &mut Actions<Device>) {
        if self.resolving.is_empty() {
            return;
        }
        let at = which % self.resolving.len();
        let cookie = self.resolving[at].cookie;
        match code {
            Some(code) => {
                assert_eq!(self.queue.answer(cookie, code, false, out), self.answer(cookie, code))
            }
            None => {
                let group =
                    self.groups.iter_mut().find(|group| group.cookie == cookie && !group.closed);
                let there = group.map(|group| group.stage = Stage::HandedOut).is_some();
                assert_eq!(self.queue.hand_out(cookie), there);
                if !there {
                    let code = ResponseCode::InvalidRequest;
                    assert_eq!(
                        self.queue.answer(cookie, code, false, out),
                        self.answer(cookie, code)
                    );
                }
            }
        }
        let work = self.resolving.remove(at);
        self.queue.finish(work.key, out);
        self.settle(work.key);
    }

    /// Closes what is to be drained, as an unbind does, drains it, and puts another in its place.
    fn drain(&mut self, key: u64, what: Option<Option<Pasid>>, out: &mut Actions<Device>) {
        let device = self.devices[key as usize].clone();
        // What earlier entries of a PASID have left behind is not this one's.
        let is_meant = |group: &Group| {
            group.device == key && what.is_none_or(|what| group.pasid == what && !group.closed)
        };
        let before = self.expected.len();
        let answered = match what {
            None => {
                self.drain_reference(key, what, is_meant);
                self.queue.drain(key, DrainScope::Everything, None, out)
            }
            Some(None) => {
                let ended = device.0.domain.replace(Rc::new(Domain::default()));
                ended.is_closed.set(true);
                self.epochs[key as usize] += 1;
                self.drain_reference(key, what, is_meant);
                self.queue.drain(key, DrainScope::Target(&Target::Domain(ended)), None, out)
            }
            Some(Some(pasid)) => {
                let entry = device.bound(pasid);
                entry.is_closed.set(true);
                self.closed = Some((key, pasid));
                self.drain_reference(key, what, is_meant);
                self.closed = None;
                let target = Target::Entry(entry);
                let answered = self.queue.drain(key, DrainScope::Target(&target), None, out);
                if self.spaces[pasid.get() as usize - 1].has_ended.get() {
                    self.renew(pasid);
                } else {
                    self.bind(key, pasid);
                }
                answered
            }
        };
        let own = self.expected[before..]
            .iter()
            .filter(|(device, pasid, ..)| *device == key && what.is_none_or(|what| *pasid == what));
        assert_eq!(answered, own.count());
    }

    /// Puts another space in the place of one that has ended, for all devices.
    fn renew(&mut self, pasid: Pasid) {
        self.spaces[pasid.get() as usize - 1] = Space::new();
        self.groups
            .iter_mut()
            .filter(|group| group.pasid == Some(pasid))
            .for_each(|group| group.closed = true);
        for key in 0..DEVICES {
            self.devices[key as usize].bound(pasid).is_closed.set(true);
            self.bind(key, pasid);
        }
    }

    fn drain_reference(
        &mut self,
        key: u64,
        what: Option<Option<Pasid>>,
        is_meant: impl Fn(&Group) -> bool,
    ) {
        while self.sort() {}
        self.discard(|item| item.device == key && what.is_none_or(|what| item.pasid == what));
        let meant =
            self.groups.iter().filter(|group| is_meant(group) && group.stage != Stage::Resolving);
        let meant: Vec<Cookie> = meant.map(|group| group.cookie).collect();
        for cookie in meant {
            self.answer(cookie, ResponseCode::InvalidRequest);
        }
        if what.is_some() {
            self.groups
                .iter_mut()
                .filter(|group| is_meant(group))
                .for_each(|group| group.closed = true);
        }
    }

    fn forget(&mut self, key: u64, gone: bool) {
        self.queue.forget(key, gone, &mut Actions::default());
        let ring: Vec<Item> = self
            .items
            .iter()
            .filter(|item| item.device == key && item.place == Place::Ring)
            .copied()
            .collect();
        self.counts.dropped += ring.len() as u64;
        self.lasts.1 += ring.iter().filter(|item| item.last).count() as u64;
        self.items.retain(|item| item.device != key || item.place != Place::Ring);
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
            self.lasts.1 += 1;
        }
        self.failed[key as usize] = false;
    }

    pub(super) fn step(&mut self, step: &Step) {
        let mut out = Actions::default();
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
                self.queue.receive(&self.devices[device as usize], request, None, &mut out);
                self.receive(Item {
                    device,
                    pasid,
                    index,
                    address,
                    last,
                    is_stop: false,
                    epoch: self.epochs[device as usize],
                    place: Place::Ring,
                });
            }
            Step::Stop { device, pasid } => {
                self.queue.receive_stop(device, StopMarker { pasid }, &mut out);
                let index = PrgIndex::new(0).expect("small");
                let stop = Item {
                    device,
                    pasid: Some(pasid),
                    index,
                    address: 0,
                    last: false,
                    is_stop: true,
                    epoch: 0,
                    place: Place::Ring,
                };
                self.receive(stop);
            }
            Step::Sort => assert_eq!(self.queue.sort(None, &mut out), self.sort()),
            Step::Next => self.next(),
            Step::Finish { which, code } => self.finish(which, code, &mut out),
            Step::Answer { which, code } => {
                // Who resolves a group answers by `Finish`.
                let cookie = which as u64 % (self.cookies + 1);
                if !self
                    .groups
                    .iter()
                    .any(|group| group.cookie == cookie && group.stage != Stage::HandedOut)
                {
                    assert_eq!(
                        self.queue.answer(cookie, code, false, &mut out),
                        self.answer(cookie, code)
                    );
                }
            }
            Step::Drain { device, what } => self.drain(device, what, &mut out),
            Step::End { pasid } => self.spaces[pasid.get() as usize - 1].has_ended.set(true),
            Step::Forget { device } => self.forget(device, false),
            Step::Reception { device, on } => {
                self.accepting[device as usize] = on;
                if on {
                    self.queue.admit(&self.devices[device as usize], ALLOCATION);
                } else {
                    self.queue.stop_reception(device);
                }
            }
        }
        let sent = |answer: Outgoing<Device>| {
            // These devices want their PASID named.
            assert_eq!(answer.response.pasid, answer.pasid);
            (answer.device.key(), answer.pasid, answer.response.index, answer.response.code)
        };
        assert_eq!(
            out.responses.into_iter().map(sent).collect::<Vec<Answered>>(),
            std::mem::take(&mut self.expected),
            "{step:?}"
        );
        self.compare();
    }

    fn compare(&self) {
        assert_eq!(self.queue.counts, self.counts);
        let in_groups =
            self.items.iter().filter(|item| matches!(item.place, Place::Group(_))).count();
        assert_eq!(self.queue.outstanding(), (self.items.len() - in_groups, self.groups.len()));
        for key in 0..DEVICES {
            let held = self.queue.shares[&key].outstanding;
            assert_eq!(held as usize, self.held(key), "device {key}");
            assert!(held <= ALLOCATION, "device {key} holds {held}");
        }
        assert_eq!(
            (self.queue.has_ready(), self.queue.has_overflowed),
            (!self.ready.is_empty(), self.overflow)
        );
    }

    /// Everything that is under way ends, and the devices go.
    pub(super) fn end(mut self) {
        while self.queue.has_unsorted() {
            self.step(&Step::Sort);
        }
        while !self.resolving.is_empty() || self.queue.has_ready() {
            self.step(&Step::Next);
            self.step(&Step::Finish { which: 0, code: Some(ResponseCode::Success) });
        }
        // What is left is with owners that do not answer any more.
        (0..DEVICES).for_each(|key| self.forget(key, true));
        assert_eq!(
            self.lasts.0, self.lasts.1,
            "every last request was answered, or given up with its device"
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
