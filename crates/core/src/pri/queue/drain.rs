//! How groups go: answered, drained, forgotten.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Cookie, DeviceKey, Drained, Entry, Outbox, Outgoing, PageRequests, Pending, Stage, Target,
};
use crate::mutation;
use crate::pri::message::ResponseCode;

impl PageRequests {
    /// What a group is for, while it is pending.
    pub(crate) fn target_of(&self, cookie: Cookie) -> Option<&Target> {
        self.pending.get(&cookie).map(|group| &group.target)
    }

    /// Answers a pending group. False where it is not pending any more: dropped and counted.
    pub(crate) fn answer(&mut self, cookie: Cookie, code: ResponseCode, out: &mut Outbox) -> bool {
        let Some(group) = self.pending.remove(&cookie) else {
            self.counts.late_answers += 1;
            return false;
        };
        self.unqueue(cookie, &group);
        out.retired.push(group.target);
        self.release(group.device, group.requests);
        if let Some(holder) = self.holders.get_mut(&group.device) {
            holder.failed |= code == ResponseCode::ResponseFailure;
            let device = Arc::clone(&holder.device);
            self.send(&device, group.pasid, group.index, code, out);
        }
        true
    }

    /// Takes a group that waits out of its line.
    fn unqueue(&mut self, cookie: Cookie, group: &Pending) {
        if group.stage != Stage::Waiting {
            return;
        }
        if let Some(line) = self.lines.get_mut(&group.line) {
            // Cookies only grow, and a line is in the order in which they were given. Looking at
            // all of them would make a drain of many groups hold up everybody.
            if let Ok(at) = line.waiting.binary_search(&cookie) {
                line.waiting.remove(at);
            }
            if line.waiting.is_empty() && !line.busy {
                self.lines.remove(&group.line);
                self.turn.retain(|turn| *turn != group.line);
            }
        }
    }

    /// Hardware, then software (rule U1): sorts the whole queue, throws partial groups away and
    /// answers what is pending as invalid. What is being resolved right now is answered by
    /// whoever does that, inside the gate that the caller has closed. Answers how many groups were
    /// answered.
    pub(crate) fn drain(
        &mut self,
        key: DeviceKey,
        what: Drained<'_>,
        now: Option<Duration>,
        out: &mut Outbox,
    ) -> usize {
        if mutation::is_on(12) && matches!(what, Drained::Domain(_)) {
            return 0;
        }
        let before = out.answers.len();
        self.sort_all(now, out);
        let pasid = match what {
            Drained::Space(attachment) => Some(Some(attachment.record.tag.pasid)),
            Drained::Domain(_) => Some(None),
            Drained::Everything | Drained::Device => None,
        };
        self.discard_partial(|(device, _, of)| {
            *device == key && pasid.is_none_or(|pasid| *of == pasid)
        });
        let meant = |group: &Pending| match (what, &group.target) {
            (Drained::Everything | Drained::Device, _) => true,
            (Drained::Space(a), Target::Space(b)) => Arc::ptr_eq(a, b),
            (Drained::Domain(a), Target::Domain(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let found = self.pending.iter().filter(|(_, group)| {
            group.device == key
                && (group.stage != Stage::Resolving || matches!(what, Drained::Device))
                && meant(group)
        });
        let mut found: Vec<Cookie> = found.map(|(&cookie, _)| cookie).collect();
        // In the order in which they became complete, so that a run can be repeated.
        found.sort_unstable();
        for cookie in found {
            self.answer(cookie, ResponseCode::InvalidRequest, out);
        }
        // Those included that were complete in the queue and found nobody any more when they were
        // sorted.
        let Some(holder) = self.holders.get(&key) else { return 0 };
        let own = |answer: &&Outgoing| {
            Arc::ptr_eq(&answer.device, &holder.device)
                && pasid.is_none_or(|pasid| answer.pasid == pasid)
        };
        out.answers[before..].iter().filter(own).count()
    }

    /// Forgets all that a device has in here, which nobody can be answered for: it was reset, or is
    /// gone (then `gone`, and its last trace goes as well).
    pub(crate) fn forget(&mut self, key: DeviceKey, gone: bool, out: &mut Outbox) {
        let before = self.ring.len();
        self.ring.retain_mut(|entry| match entry {
            Entry::Request(of, _, used) if *of == key => {
                out.retired.extend(used.take().map(Target::Domain));
                false
            }
            Entry::Stop(of, _) => *of != key,
            Entry::Request(..) => true,
        });
        self.counts.dropped += (before - self.ring.len()) as u64;
        self.discard_partial(|(device, _, _)| *device == key);
        let mut found: Vec<Cookie> = self
            .pending
            .iter()
            .filter(|(_, group)| group.device == key)
            .map(|(&cookie, _)| cookie)
            .collect();
        found.sort_unstable();
        for cookie in found {
            if let Some(group) = self.pending.remove(&cookie) {
                self.unqueue(cookie, &group);
                out.retired.push(group.target);
                self.counts.unanswerable += 1;
            }
        }
        if gone {
            self.holders.remove(&key);
        } else if let Some(holder) = self.holders.get_mut(&key) {
            (holder.held, holder.stops, holder.failed) = (0, 0, false);
        }
    }
}
