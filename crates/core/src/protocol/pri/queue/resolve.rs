//! The resolution of pending groups: the turns of spaces, and groups that are handed out.

use std::time::Duration;

use super::{
    Cookie, DeviceKey, PageRequestQueue, PageRequestTarget, PageRequester, PendingGroup,
    QueueActions, ReadyGroup, Requests, ResolveKey, Stage,
};

impl<D: PageRequester> PageRequestQueue<D> {
    /// Adds a complete group to the queue of its target.
    pub(super) fn enqueue(
        &mut self,
        device: DeviceKey,
        target: D::Target,
        requests: Requests,
        now: Option<Duration>,
    ) {
        if requests.is_empty() {
            return;
        }
        let key = target.resolve_key();
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.pending.insert(
            cookie,
            PendingGroup {
                device,
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

    /// Takes the first group of the space whose turn it is. The space is busy until
    /// [`finish`](Self::finish): no other group of it is returned before.
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
            requests: group.take_requests(),
            complete_at: group.complete_at,
        })
    }

    /// Whether [`next_group`](Self::next_group) would return a group.
    #[cfg(not(loom))]
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Ends the turn of a space: its group has been answered or handed out.
    pub(crate) fn finish(&mut self, key: ResolveKey, actions: &mut QueueActions<D>) {
        let Some(queue) = self.resolve_queues.get_mut(&key) else { return };
        queue.is_busy = false;
        if queue.waiting.is_empty() {
            self.resolve_queues.remove(&key);
        } else {
            self.ready.push_back(key);
            actions.has_work = true;
        }
    }

    /// Marks a group as handed out, before the caller passes it to a handler that answers it by its
    /// cookie. Returns false if the group must not be handed out: it has been dropped, or its
    /// target has been closed, so that the drain, which answers groups that were handed out, may be
    /// over.
    pub(crate) fn hand_out(&mut self, cookie: Cookie) -> bool {
        let group = self.pending.get_mut(&cookie).filter(|group| !group.target.is_closed());
        group.map(|group| group.stage = Stage::HandedOut).is_some()
    }
}
