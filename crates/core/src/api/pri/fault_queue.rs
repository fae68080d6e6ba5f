//! A queue of page request groups for owners that read and answer in their own time.

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
    /// Which group.
    pub cookie: Cookie,
    /// What came of it.
    pub code: ResponseCode,
}

/// Some answers were not taken. Those before the first failure were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{done} answers were taken, then: {cause}")]
pub struct AnswersError {
    /// How many answers were taken: exactly the first ones of the list.
    pub done: usize,
    /// Why the next one was not.
    #[source]
    pub cause: AnswerError,
}

/// The room is too small for the next group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the next group has {requests} page requests and there is room for {room}; read with more room"
)]
pub struct NoRoom {
    /// Requests in the next group.
    pub requests: usize,
    /// Requests that there was room for.
    pub room: usize,
}

#[derive(Default)]
struct Groups {
    /// Not read yet.
    unread: VecDeque<PageRequestGroup>,
    /// Read, and to be answered.
    read: FxHashMap<Cookie, PageRequestGroup>,
    closed: bool,
}

impl Groups {
    fn len(&self) -> usize {
        self.unread.len() + self.read.len()
    }

    /// Takes out what is not pending any more.
    fn take_drained(&mut self) -> VecDeque<PageRequestGroup> {
        let (pending, mut drained): (VecDeque<_>, VecDeque<_>) =
            self.unread.drain(..).partition(PageRequestGroup::is_pending);
        self.unread = pending;
        drained
            .extend(self.read.extract_if(|_, group| !group.is_pending()).map(|(_, group)| group));
        drained
    }
}

/// A queue of page request groups between the system and an owner who reads and answers in its own
/// time, such as a VMM on behalf of a guest.
///
/// It is the handler of a domain or a bond through [`handler`](Self::handler). Dropping the queue
/// answers everything in it as invalid, and what comes later as well.
pub struct FaultQueue(Arc<Queue>);

struct Queue {
    groups: Mutex<Groups>,
    capacity: usize,
    notify: Box<dyn Fn() + Send + Sync>,
}

impl FaultQueue {
    /// A queue for at most `capacity` groups (at least one), read and unread together; what comes
    /// beyond is answered as invalid. `notify` is called after each group that was put
    /// in, on the thread that resolves, with no lock held: it is to wake the reader and return.
    pub fn new(capacity: usize, notify: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Queue {
            groups: Mutex::default(),
            capacity: capacity.max(1),
            notify: Box::new(notify),
        }))
    }

    /// What to register.
    pub fn handler(&self) -> Arc<dyn PageRequestHandler> {
        Arc::clone(&self.0) as _
    }

    /// Hands whole groups to `sink`, oldest first, as long as they have at most `room` requests
    /// together; answers how many groups that were. Groups that have been drained meanwhile are
    /// left out (rule U2). `sink` runs with no lock held: it may block, and may itself cause page
    /// requests of this queue.
    ///
    /// # Errors
    /// There is a group, and it alone has more than `room` requests; nothing was read.
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

    /// Groups that wait to be read, and groups that were read and wait to be answered.
    pub fn len(&self) -> (usize, usize) {
        let groups = self.0.groups.lock();
        (groups.unread.len(), groups.read.len())
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Answers groups that were read, in this order.
    ///
    /// # Errors
    /// The first one that could not be answered, and how many were before it: those are answered,
    /// none after is.
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
        let refused = if groups.closed || groups.len() >= self.capacity {
            Some(group)
        } else {
            groups.unread.push_back(group);
            None
        };
        drop(groups);
        drained.into_iter().for_each(PageRequestGroup::discard);
        match refused {
            // Its drop answers the device: not under the lock.
            Some(group) => drop(group),
            None => (self.notify)(),
        }
    }
}

impl Drop for FaultQueue {
    fn drop(&mut self) {
        let left = {
            let mut groups = self.0.groups.lock();
            groups.closed = true;
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
