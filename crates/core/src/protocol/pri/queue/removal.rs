//! The removal of groups from the queue: answers, drains, and the reset or removal of a device.

use std::time::Duration;

use super::{
    Cookie, DeviceKey, DrainScope, Outgoing, PageRequestQueue, PageRequestTarget, PageRequester,
    PendingGroup, QueueActions, RingMessage, Stage,
};
use crate::api::pri::ResponseCode;

impl<D: PageRequester> PageRequestQueue<D> {
    /// The target of a pending group.
    pub(crate) fn target_of(&self, cookie: Cookie) -> Option<&D::Target> {
        self.pending.get(&cookie).map(|group| &group.target)
    }

    /// Answers a pending group. Returns false if the group is not pending any more: the answer is
    /// dropped and counted. An invalid request is logged unless `is_logged` says that it has been.
    pub(crate) fn answer(
        &mut self,
        cookie: Cookie,
        code: ResponseCode,
        is_logged: bool,
        actions: &mut QueueActions<D>,
    ) -> bool {
        let Some(group) = self.pending.remove(&cookie) else {
            self.counts.late_answers += 1;
            return false;
        };
        self.dequeue(cookie, &group);
        self.release(group.device, group.count);
        if let Some(share) = self.shares.get_mut(&group.device)
            && let Some(first) = group.requests.first()
        {
            share.has_failed |= code == ResponseCode::ResponseFailure;
            let device = share.device.clone();
            if is_logged {
                self.respond_unlogged(&device, first, code, actions);
            } else {
                self.respond(&device, first, code, actions);
            }
        }
        actions.released.push(group.target);
        true
    }

    /// Removes a waiting group from the queue of its target.
    fn dequeue(&mut self, cookie: Cookie, group: &PendingGroup<D::Target>) {
        if group.stage != Stage::Waiting {
            return;
        }
        if let Some(queue) = self.resolve_queues.get_mut(&group.key) {
            // Cookies increase, and a queue is in their order. A linear search would make a drain
            // of many groups quadratic, with the lock of all page requests held.
            if let Ok(at) = queue.waiting.binary_search(&cookie) {
                queue.waiting.remove(at);
            }
            if queue.waiting.is_empty() && !queue.is_busy {
                self.resolve_queues.remove(&group.key);
                self.ready.retain(|key| *key != group.key);
            }
        }
    }

    /// Drains the page requests of a device: sorts the whole ring, discards the partial groups of
    /// `scope` and answers its pending groups as invalid. Returns the number of groups that were
    /// answered.
    ///
    /// A group that is being resolved is answered by the worker that resolves it; if the scope is a
    /// target, inside the gate that the caller has closed. [`DrainScope::All`] answers such a group
    /// too, and the worker's answer is dropped.
    pub(crate) fn drain(
        &mut self,
        key: DeviceKey,
        scope: DrainScope<'_, D::Target>,
        now: Option<Duration>,
        actions: &mut QueueActions<D>,
    ) -> usize {
        let pasid = match scope {
            DrainScope::Target(target) => Some(target.pasid()),
            DrainScope::AllButResolving | DrainScope::All => None,
        };
        let before = actions.responses.len();
        self.sort_all(now, actions);
        self.discard_partial(|(device, _, partial)| {
            *device == key && pasid.is_none_or(|pasid| *partial == pasid)
        });
        let is_in_scope = |group: &PendingGroup<D::Target>| match scope {
            DrainScope::All => true,
            DrainScope::AllButResolving => group.stage != Stage::Resolving,
            DrainScope::Target(target) => {
                group.stage != Stage::Resolving && target.is_same(&group.target)
            }
        };
        for cookie in self.pending_of(key, is_in_scope) {
            self.answer(cookie, ResponseCode::InvalidRequest, false, actions);
        }
        // Count also the groups that became complete in the sort above and had no open target.
        let own = |outgoing: &&Outgoing<D>| {
            outgoing.device.key() == key && pasid.is_none_or(|pasid| outgoing.pasid == pasid)
        };
        actions.responses[before..].iter().filter(own).count()
    }

    /// Drops all messages and groups of a device without an answer: it has been reset, or removed
    /// if `is_gone`. A removed device also loses its share of the queue.
    pub(crate) fn forget(&mut self, key: DeviceKey, is_gone: bool, actions: &mut QueueActions<D>) {
        let before = self.ring.len();
        self.ring.retain_mut(|entry| match entry {
            RingMessage::Request(device, _, domain) if *device == key => {
                actions.released.extend(domain.take());
                false
            }
            RingMessage::Stop(device, _) => *device != key,
            RingMessage::Request(..) => true,
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

    /// The pending groups of a device that `selects` selects, in the order in which they became
    /// complete, so that the order of responses is reproducible.
    fn pending_of(
        &self,
        key: DeviceKey,
        selects: impl Fn(&PendingGroup<D::Target>) -> bool,
    ) -> Vec<Cookie> {
        let found = self.pending.iter().filter(|(_, group)| group.device == key && selects(group));
        let mut cookies: Vec<Cookie> = found.map(|(&cookie, _)| cookie).collect();
        cookies.sort_unstable();
        cookies
    }
}
