//! The queue and its slow reference: makes each step on both and compares them.

use std::rc::Rc;

use super::reference::{Group, Location, Reference, Response};
use super::stubs::{Device, Domain, Target};
use super::*;

pub(super) struct Harness {
    pub(super) queue: PageRequestQueue<Device>,
    pub(super) reference: Reference,
    addresses: u64,
}

impl Harness {
    pub(super) fn new() -> Self {
        let mut queue = PageRequestQueue::new(CAPACITY);
        let reference = Reference::new();
        reference.devices.iter().for_each(|device| queue.admit(device, ALLOCATION));
        Self { queue, reference, addresses: 0 }
    }

    pub(super) fn step(&mut self, step: &Step) {
        let mut actions = QueueActions::default();
        match *step {
            Step::Receive { device, pasid, index, last } => {
                self.addresses += 4096;
                let address = self.addresses;
                let request = request(pasid, address, index, last);
                let requester = &self.reference.devices[device as usize];
                self.queue.receive(requester, request, None, &mut actions);
                self.reference.receive_request(device, request);
            }
            Step::Stop { device, pasid } => {
                self.queue.receive_stop(device, StopMarker { pasid }, &mut actions);
                self.reference.receive_stop(device, pasid);
            }
            Step::Sort => assert_eq!(self.queue.sort(None, &mut actions), self.reference.sort()),
            Step::Next => self.next(),
            Step::Finish { which, code } => self.finish(which, code, &mut actions),
            Step::Answer { which, code } => {
                let cookie = which as u64 % (self.reference.cookies + 1);
                // A group that is being resolved is answered by `Finish`.
                if !self.reference.awaits_a_worker(cookie) {
                    assert_eq!(
                        self.queue.answer(cookie, code, false, &mut actions),
                        self.reference.answer(cookie, code)
                    );
                }
            }
            Step::Drain { device, scope } => self.drain(device, scope, &mut actions),
            Step::End { pasid } => {
                self.reference.spaces[pasid.get() as usize - 1].has_ended.set(true)
            }
            Step::Reset { device } => self.drop_device(device, false),
            Step::Reception { device, is_on } => {
                self.reference.accepting[device as usize] = is_on;
                if is_on {
                    self.queue.admit(&self.reference.devices[device as usize], ALLOCATION);
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
            std::mem::take(&mut self.reference.expected),
            "{step:?}"
        );
        self.compare();
    }

    fn next(&mut self) {
        let ready = self.queue.next_group();
        let Some(key) = (!self.reference.ready.is_empty()).then(|| self.reference.ready.remove(0))
        else {
            assert!(ready.is_none());
            return;
        };
        let ready = ready.expect("a space is ready");
        let group = self
            .reference
            .groups
            .iter_mut()
            .find(|group| group.key == key && group.stage == Stage::Waiting)
            .expect("it is ready");
        group.stage = Stage::Resolving;
        assert_eq!(
            (ready.cookie, ready.key, ready.device.key()),
            (group.cookie, key, group.device)
        );
        let members = self
            .reference
            .items
            .iter()
            .filter(|item| item.location == Location::Group(ready.cookie));
        assert_eq!(
            ready.requests.iter().map(|page| page.address).collect::<Vec<_>>(),
            members.map(|item| item.address).collect::<Vec<_>>()
        );
        assert!(
            ready.requests.iter().rev().skip(1).all(|page| !page.last)
                && ready.requests.last().is_some_and(|page| page.last)
        );
        self.reference.resolving.push(ready);
    }

    fn finish(
        &mut self,
        which: usize,
        code: Option<ResponseCode>,
        actions: &mut QueueActions<Device>,
    ) {
        if self.reference.resolving.is_empty() {
            return;
        }
        let at = which % self.reference.resolving.len();
        let cookie = self.reference.resolving[at].cookie;
        match code {
            Some(code) => {
                assert_eq!(
                    self.queue.answer(cookie, code, false, actions),
                    self.reference.answer(cookie, code)
                )
            }
            None => {
                let group = self
                    .reference
                    .groups
                    .iter_mut()
                    .find(|group| group.cookie == cookie && !group.is_closed);
                let is_handed_out = group.map(|group| group.stage = Stage::HandedOut).is_some();
                assert_eq!(self.queue.hand_out(cookie), is_handed_out);
                if !is_handed_out {
                    let code = ResponseCode::InvalidRequest;
                    assert_eq!(
                        self.queue.answer(cookie, code, false, actions),
                        self.reference.answer(cookie, code)
                    );
                }
            }
        }
        let ready = self.reference.resolving.remove(at);
        self.queue.finish(ready.key, actions);
        self.reference.update_ready(ready.key);
    }

    /// Closes the target, as an unbind does, drains it, and replaces it.
    fn drain(
        &mut self,
        key: u64,
        scope: Option<Option<Pasid>>,
        actions: &mut QueueActions<Device>,
    ) {
        let device = self.reference.devices[key as usize].clone();
        // Groups of earlier entries of the PASID are not in scope.
        let is_in_scope = |group: &Group| {
            group.device == key
                && scope.is_none_or(|scope| group.pasid == scope && !group.is_closed)
        };
        let before = self.reference.expected.len();
        let answered = match scope {
            None => {
                self.reference.drain(key, scope, is_in_scope);
                self.queue.drain(key, DrainScope::AllButResolving, None, actions)
            }
            Some(None) => {
                let ended = device.0.domain.replace(Rc::new(Domain::default()));
                ended.is_closed.set(true);
                self.reference.epochs[key as usize] += 1;
                self.reference.drain(key, scope, is_in_scope);
                self.queue.drain(key, DrainScope::Target(&Target::Domain(ended)), None, actions)
            }
            Some(Some(pasid)) => {
                let entry = device.bound(pasid);
                entry.is_closed.set(true);
                self.reference.closed = Some((key, pasid));
                self.reference.drain(key, scope, is_in_scope);
                self.reference.closed = None;
                let target = Target::Entry(entry);
                let answered = self.queue.drain(key, DrainScope::Target(&target), None, actions);
                if self.reference.spaces[pasid.get() as usize - 1].has_ended.get() {
                    self.reference.replace_space(pasid);
                } else {
                    self.reference.bind(key, pasid);
                }
                answered
            }
        };
        let own = self.reference.expected[before..].iter().filter(|(device, pasid, ..)| {
            *device == key && scope.is_none_or(|scope| *pasid == scope)
        });
        assert_eq!(answered, own.count());
    }

    fn drop_device(&mut self, key: u64, is_gone: bool) {
        self.queue.forget(key, is_gone, &mut QueueActions::default());
        self.reference.drop_device(key);
    }

    fn compare(&self) {
        assert_eq!(self.queue.counts, self.reference.counts);
        let in_groups = self
            .reference
            .items
            .iter()
            .filter(|item| matches!(item.location, Location::Group(_)))
            .count();
        assert_eq!(
            self.queue.outstanding(),
            (self.reference.items.len() - in_groups, self.reference.groups.len())
        );
        for key in 0..DEVICES {
            let outstanding = self.queue.shares[&key].outstanding;
            assert_eq!(outstanding as usize, self.reference.outstanding(key), "device {key}");
            assert!(outstanding <= ALLOCATION, "device {key} has {outstanding}");
        }
        assert_eq!(
            (self.queue.has_ready(), self.queue.has_overflowed),
            (!self.reference.ready.is_empty(), self.reference.has_overflowed)
        );
    }

    /// Ends everything in flight and removes the devices.
    pub(super) fn end(mut self) {
        while self.queue.has_unsorted() {
            self.step(&Step::Sort);
        }
        while !self.reference.resolving.is_empty() || self.queue.has_ready() {
            self.step(&Step::Next);
            self.step(&Step::Finish { which: 0, code: Some(ResponseCode::Success) });
        }
        // The groups that are left have been handed out and are not answered any more.
        (0..DEVICES).for_each(|key| self.drop_device(key, true));
        assert_eq!(
            self.reference.last_requests.0, self.reference.last_requests.1,
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
