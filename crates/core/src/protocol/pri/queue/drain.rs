//! How groups leave the queue: answered, drained, forgotten.

use std::time::Duration;

use super::{
    Actions, Cookie, DeviceKey, DrainScope, Entry, FaultTarget, Outgoing, PageRequestQueue,
    PageRequester, Pending, Stage,
};
use crate::api::pri::ResponseCode;

impl<D: PageRequester> PageRequestQueue<D> {
    /// What a group is for, while it is pending.
    pub(crate) fn target_of(&self, cookie: Cookie) -> Option<&D::Target> {
        self.pending.get(&cookie).map(|group| &group.target)
    }

    /// Answers a pending group. False where it is not pending any more: dropped and counted. A group
    /// that is answered as invalid is to be logged, unless `is_logged`.
    pub(crate) fn answer(
        &mut self,
        cookie: Cookie,
        code: ResponseCode,
        is_logged: bool,
        actions: &mut Actions<D>,
    ) -> bool {
        let Some(group) = self.pending.remove(&cookie) else {
            self.counts.late_answers += 1;
            return false;
        };
        self.dequeue(cookie, &group);
        self.release(group.device, group.count);
        if let Some(share) = self.shares.get_mut(&group.device) {
            share.has_failed |= code == ResponseCode::ResponseFailure;
            let device = share.device.clone();
            if is_logged {
                self.respond_unlogged(&device, &group.first, code, actions);
            } else {
                self.respond(&device, &group.first, code, actions);
            }
        }
        actions.released.push(group.target);
        true
    }

    /// Takes a group that waits out of the queue of its space.
    fn dequeue(&mut self, cookie: Cookie, group: &Pending<D::Target>) {
        if group.stage != Stage::Waiting {
            return;
        }
        if let Some(queue) = self.resolve_queues.get_mut(&group.key) {
            // Cookies only grow, and a queue is in the order in which they were given. A search of
            // all of them would make a drain of many groups hold up everybody.
            if let Ok(at) = queue.waiting.binary_search(&cookie) {
                queue.waiting.remove(at);
            }
            if queue.waiting.is_empty() && !queue.is_busy {
                self.resolve_queues.remove(&group.key);
                self.ready.retain(|key| *key != group.key);
            }
        }
    }

    /// Drains hardware, then software: sorts the whole queue, throws partial groups away and
    /// answers what is pending as invalid. A group that is being resolved right now is answered by
    /// whoever does that, inside the gate that the caller has closed. Answers how many groups were
    /// answered.
    pub(crate) fn drain(
        &mut self,
        key: DeviceKey,
        scope: DrainScope<'_, D::Target>,
        now: Option<Duration>,
        actions: &mut Actions<D>,
    ) -> usize {
        let pasid = match scope {
            DrainScope::Target(target) => Some(target.pasid()),
            DrainScope::Everything | DrainScope::Device => None,
        };
        let before = actions.responses.len();
        self.sort_all(now, actions);
        self.discard_partial(|(device, _, of)| {
            *device == key && pasid.is_none_or(|pasid| *of == pasid)
        });
        let is_meant = |group: &Pending<D::Target>| match scope {
            DrainScope::Device => true,
            DrainScope::Everything => group.stage != Stage::Resolving,
            DrainScope::Target(target) => {
                group.stage != Stage::Resolving && target.is_same(&group.target)
            }
        };
        for cookie in self.pending_of(key, is_meant) {
            self.answer(cookie, ResponseCode::InvalidRequest, false, actions);
        }
        // Groups count as well that were complete in the queue and found no open target when they
        // were sorted.
        let own = |outgoing: &&Outgoing<D>| {
            outgoing.device.key() == key && pasid.is_none_or(|pasid| outgoing.pasid == pasid)
        };
        actions.responses[before..].iter().filter(own).count()
    }

    /// Forgets all that a device has in here, which cannot be answered: it was reset, or it is gone
    /// (then `is_gone`, and its share goes as well).
    pub(crate) fn forget(&mut self, key: DeviceKey, is_gone: bool, actions: &mut Actions<D>) {
        let before = self.ring.len();
        self.ring.retain_mut(|entry| match entry {
            Entry::Request(of, _, domain) if *of == key => {
                actions.released.extend(domain.take());
                false
            }
            Entry::Stop(of, _) => *of != key,
            Entry::Request(..) => true,
        });
        self.counts.dropped += (before - self.ring.len()) as u64;
        self.discard_partial(|(device, _, _)| *device == key);
        for cookie in self.pending_of(key, |_| true) {
            if let Some(group) = self.pending.remove(&cookie) {
                self.dequeue(cookie, &group);
                actions.released.push(group.target);
                self.counts.unanswerable += 1;
            }
        }
        if is_gone {
            self.shares.remove(&key);
        } else if let Some(share) = self.shares.get_mut(&key) {
            (share.outstanding, share.stop_markers, share.has_failed) = (0, 0, false);
        }
    }

    /// The pending groups of a device that are meant, in the order in which they became complete,
    /// so that a run can be repeated.
    fn pending_of(
        &self,
        key: DeviceKey,
        is_meant: impl Fn(&Pending<D::Target>) -> bool,
    ) -> Vec<Cookie> {
        let found = self.pending.iter().filter(|(_, group)| group.device == key && is_meant(group));
        let mut cookies: Vec<Cookie> = found.map(|(&cookie, _)| cookie).collect();
        cookies.sort_unstable();
        cookies
    }
}
