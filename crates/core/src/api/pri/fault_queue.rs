//! A queue of page request groups for handlers that read and answer them asynchronously.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sva_sync::Mutex;

use super::group::{AnswerError, Cookie, PageRequestGroup, PageRequestHandler};
use super::message::{PageRequest, ResponseCode};
use crate::types::ids::Bdf;

/// An answer to a group that was read from a [`FaultQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupAnswer {
    /// The group.
    pub cookie: Cookie,
    /// The response code.
    pub code: ResponseCode,
}

/// An answer was refused. The answers before it in the list were taken, and the later ones were
/// not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{done} answers were taken, then: {cause}")]
pub struct AnswersError {
    /// The number of answers that were taken: the first ones of the list.
    pub done: usize,
    /// Why the next one was refused.
    #[source]
    pub cause: AnswerError,
}

/// There is not enough room for the next group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the next group has {requests} page requests and there is room for {room}; read with more room"
)]
pub struct NoRoom {
    /// The number of requests in the next group.
    pub requests: usize,
    /// The number of requests that there was room for.
    pub room: usize,
}

#[derive(Default)]
struct Groups {
    /// Groups that have not been read.
    unread: VecDeque<PageRequestGroup>,
    /// Groups that have been read and not answered.
    read: FxHashMap<Cookie, PageRequestGroup>,
    /// Whether the queue has been dropped.
    is_closed: bool,
}

impl Groups {
    fn len(&self) -> usize {
        self.unread.len() + self.read.len()
    }

    /// Removes the groups that are not pending any more.
    fn take_drained(&mut self) -> VecDeque<PageRequestGroup> {
        let (pending, mut drained): (VecDeque<_>, VecDeque<_>) =
            self.unread.drain(..).partition(PageRequestGroup::is_pending);
        self.unread = pending;
        drained
            .extend(self.read.extract_if(|_, group| !group.is_pending()).map(|(_, group)| group));
        drained
    }
}

/// A queue of page request groups for code that reads and answers them asynchronously, such as a
/// VMM on behalf of a guest.
///
/// Its [`handler`](Self::handler) is registered for a domain or a bond. When the queue is dropped,
/// the groups in it and later ones are answered as invalid.
pub struct FaultQueue(Arc<Queue>);

struct Queue {
    groups: Mutex<Groups>,
    capacity: usize,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl FaultQueue {
    /// Makes a queue for at most `capacity` groups (at least one), read and unread ones together.
    /// Groups that come when it is full are answered as invalid. `notify` is called after each
    /// group that was added, on the thread that resolves, with no lock held. It should wake the
    /// reader and return.
    pub fn new(capacity: usize, notify: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Queue {
            groups: Mutex::default(),
            capacity: capacity.max(1),
            notify: Box::new(notify),
        }))
    }

    /// The handler to register.
    pub fn handler(&self) -> Arc<dyn PageRequestHandler> {
        Arc::clone(&self.0) as _
    }

    /// Reads complete groups, the oldest first: passes them to `sink` as long as they have at most
    /// `room` requests together, and returns the number of groups. Groups that have been drained
    /// since they were added are skipped. `sink` runs with no lock held: it may block, and may
    /// itself cause page requests for this queue.
    ///
    /// # Errors
    /// The first group has more than `room` requests; nothing was read.
    pub fn read(
        &self,
        room: usize,
        mut sink: impl FnMut(Cookie, Bdf, &[PageRequest]),
    ) -> Result<usize, NoRoom> {
        let mut left = room;
        let mut count = 0;
        loop {
            let mut groups = self.0.groups.lock();
            let Some(next) = groups.unread.front() else { return Ok(count) };
            if !next.is_pending() {
                let drained = groups.unread.pop_front();
                drop(groups);
                drained.into_iter().for_each(PageRequestGroup::discard);
                continue;
            }
            let requests = next.requests().len();
            if requests > left {
                return if count == 0 { Err(NoRoom { requests, room }) } else { Ok(count) };
            }
            let Some(group) = groups.unread.pop_front() else { return Ok(count) };
            let (cookie, device) = (group.cookie(), group.device());
            let pages = group.requests().to_vec();
            groups.read.insert(cookie, group);
            drop(groups);
            sink(cookie, device, &pages);
            left -= requests;
            count += 1;
        }
    }

    /// The number of unread groups, and the number of groups that were read and not answered.
    pub fn len(&self) -> (usize, usize) {
        let groups = self.0.groups.lock();
        (groups.unread.len(), groups.read.len())
    }

    /// Whether there is neither an unread group nor one to be answered.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Answers groups that were read, in the order of the list. Does not block.
    ///
    /// # Errors
    /// An answer was refused; the answers before it were taken, and the later ones were not.
    pub fn answer(&self, answers: &[GroupAnswer]) -> Result<(), AnswersError> {
        for (done, answer) in answers.iter().enumerate() {
            let group = self.0.groups.lock().read.remove(&answer.cookie);
            let taken = group
                .ok_or(AnswerError::Unknown { cookie: answer.cookie })
                .and_then(|group| group.answer(answer.code));
            if let Err(cause) = taken {
                return Err(AnswersError { done, cause });
            }
        }
        Ok(())
    }
}

impl PageRequestHandler for Queue {
    fn page_requests(&self, group: PageRequestGroup) {
        let mut groups = self.groups.lock();
        let drained =
            if groups.len() >= self.capacity { groups.take_drained() } else { VecDeque::new() };
        let refused = if groups.is_closed || groups.len() >= self.capacity {
            Some(group)
        } else {
            groups.unread.push_back(group);
            None
        };
        drop(groups);
        drained.into_iter().for_each(PageRequestGroup::discard);
        match refused {
            // Its drop answers the device, which must happen without the lock.
            Some(group) => drop(group),
            None => (self.notify)(),
        }
    }
}

impl Drop for FaultQueue {
    fn drop(&mut self) {
        let left = {
            let mut groups = self.0.groups.lock();
            groups.is_closed = true;
            (std::mem::take(&mut groups.unread), std::mem::take(&mut groups.read))
        };
        drop(left);
    }
}

impl fmt::Debug for FaultQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unread, read) = self.len();
        f.debug_struct("FaultQueue")
            .field("unread", &unread)
            .field("read", &read)
            .finish_non_exhaustive()
    }
}
