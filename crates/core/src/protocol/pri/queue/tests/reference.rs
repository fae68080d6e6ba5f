//! The slow reference: one list of all requests, all of which each step searches.

use std::rc::Rc;

use super::stubs::{Device, Space};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Location {
    Ring,
    Partial,
    Group(Cookie),
}

/// A request in the queue, or a stop marker in its ring. Items are listed in the order in which
/// they were received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) device: u64,
    pub(super) pasid: Option<Pasid>,
    pub(super) index: PrgIndex,
    pub(super) address: u64,
    pub(super) last: bool,
    pub(super) is_stop: bool,
    /// The number of domains that the device had had when the request was received.
    pub(super) epoch: u64,
    pub(super) location: Location,
}

pub(super) struct Group {
    pub(super) cookie: Cookie,
    pub(super) device: u64,
    pub(super) pasid: Option<Pasid>,
    pub(super) index: PrgIndex,
    pub(super) key: ResolveKey,
    pub(super) stage: Stage,
    /// Its PASID entry or domain attachment has been replaced.
    pub(super) is_closed: bool,
}

/// A response: device, PASID, index, code.
pub(super) type Response = (u64, Option<Pasid>, PrgIndex, ResponseCode);

/// What the queue should hold, and the devices and spaces that it looks at.
pub(super) struct Reference {
    pub(super) devices: Vec<Device>,
    pub(super) spaces: Vec<Rc<Space>>,
    /// The PASID entry that is being drained, for which requests are invalid.
    pub(super) closed: Option<(u64, Pasid)>,
    pub(super) epochs: [u64; DEVICES as usize],
    pub(super) items: Vec<Item>,
    pub(super) groups: Vec<Group>,
    /// The spaces that are ready, in the order of their turns.
    pub(super) ready: Vec<ResolveKey>,
    pub(super) resolving: Vec<ReadyGroup<Device>>,
    pub(super) has_overflowed: bool,
    pub(super) accepting: [bool; DEVICES as usize],
    failed: [bool; DEVICES as usize],
    pub(super) cookies: u64,
    pub(super) counts: PageQueueCounts,
    pub(super) expected: Vec<Response>,
    /// The number of last requests of groups received, and of those answered or dropped.
    pub(super) last_requests: (u64, u64),
}

impl Reference {
    /// Devices that have every space bound.
    pub(super) fn new() -> Self {
        let mut reference = Self {
            devices: (0..DEVICES).map(Device::new).collect(),
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
            counts: PageQueueCounts::default(),
            expected: Vec::new(),
            last_requests: (0, 0),
        };
        for number in 1..=SPACES {
            reference.spaces.push(Space::new());
            (0..DEVICES).for_each(|key| reference.bind(key, pasid(number)));
        }
        reference
    }

    /// Programs a new entry of a device for the space of a PASID.
    pub(super) fn bind(&mut self, key: u64, pasid: Pasid) {
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

    pub(super) fn outstanding(&self, device: u64) -> usize {
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

    pub(super) fn receive_request(&mut self, device: u64, request: PageRequest) {
        let PageRequest { pasid, address, index, last, .. } = request;
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

    pub(super) fn receive_stop(&mut self, device: u64, pasid: Pasid) {
        self.receive(Item {
            device,
            pasid: Some(pasid),
            index: PrgIndex::new(0).expect("small"),
            address: 0,
            last: false,
            is_stop: true,
            epoch: 0,
            location: Location::Ring,
        });
    }

    fn receive(&mut self, item: Item) {
        let at = item.device as usize;
        let stop_markers =
            self.items.iter().filter(|other| other.device == item.device && other.is_stop).count();
        self.counts.requests += u64::from(!item.is_stop);
        self.counts.stop_markers += u64::from(item.is_stop);
        self.last_requests.0 += u64::from(item.last);
        let exceeds_allocation = |reference: &Self| {
            !item.is_stop && reference.outstanding(item.device) >= ALLOCATION as usize
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

    pub(super) fn sort(&mut self) -> bool {
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
    pub(super) fn update_ready(&mut self, key: ResolveKey) {
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

    /// Whether the group waits or is being resolved, so that no handler has it.
    pub(super) fn awaits_a_worker(&self, cookie: Cookie) -> bool {
        let is_it = |group: &Group| group.cookie == cookie && group.stage != Stage::HandedOut;
        self.groups.iter().any(is_it)
    }

    pub(super) fn answer(&mut self, cookie: Cookie, code: ResponseCode) -> bool {
        let Some(group) = self.take(cookie) else {
            self.counts.late_answers += 1;
            return false;
        };
        self.failed[group.device as usize] |= code == ResponseCode::ResponseFailure;
        self.reply(group.device, group.pasid, group.index, code);
        true
    }

    pub(super) fn drain(
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

    /// Replaces a space that has ended, for all devices.
    pub(super) fn replace_space(&mut self, pasid: Pasid) {
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

    /// Drops everything of a device that is reset or removed.
    pub(super) fn drop_device(&mut self, key: u64) {
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
}
