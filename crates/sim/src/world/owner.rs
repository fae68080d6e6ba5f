//! One owner of page tables: its queue, and the groups that it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::pri::{Cookie, PageRequest};
use sva_core::pri::{FaultQueue, PageRequestGroup, PageRequestHandler};
use sva_core::{Bdf, Pasid};
use sva_sync::Mutex;

/// Never used again.
pub(super) type OwnerId = u64;

/// Groups that an owner's queue holds: more than there can be.
const CAPACITY: usize = 1000;

/// A group as its handler got it.
pub(super) struct Arrived {
    pub(super) cookie: Cookie,
    pub(super) device: Bdf,
    pub(super) requests: Vec<PageRequest>,
}

/// What the handler fills. It is called where groups are resolved.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) arrived: Vec<Arrived>,
    /// Groups that the handler keeps and does not put into the queue.
    pub(super) retained: BTreeMap<Cookie, PageRequestGroup>,
    pub(super) closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Unread,
    Read,
    Retained,
}

/// A group that an owner has.
pub(super) struct OwnedGroup {
    pub(super) cookie: Cookie,
    pub(super) device: usize,
    pub(super) pasid: Option<Pasid>,
    pub(super) requests: Vec<PageRequest>,
    pub(super) at: At,
    /// It cannot be answered any more.
    pub(super) void: bool,
}

pub(super) struct Owner {
    pub(super) queue: Option<FaultQueue>,
    pub(super) inbox: Arc<Mutex<Inbox>>,
    /// In the order in which they arrived.
    pub(super) groups: Vec<OwnedGroup>,
    /// Read from the queue and answered.
    pub(super) answered: Vec<Cookie>,
    /// It answers nothing as long as what it answers for is there.
    pub(super) silent: bool,
    pub(super) ended: bool,
}

impl Owner {
    /// One group in three is retained by the handler itself.
    pub(super) fn open(silent: bool) -> (Self, Arc<dyn PageRequestHandler>) {
        let (queue, inbox) =
            (FaultQueue::new(CAPACITY, || ()), Arc::new(Mutex::new(Inbox::default())));
        let (into_queue, shared) = (queue.handler(), Arc::clone(&inbox));
        let handler = move |group: PageRequestGroup| {
            let mut inbox = shared.lock();
            inbox.arrived.push(Arrived {
                cookie: group.cookie(),
                device: group.device(),
                requests: group.requests().to_vec(),
            });
            match (inbox.closed, is_retained(group.cookie())) {
                (false, true) => drop(inbox.retained.insert(group.cookie(), group)),
                (true, true) => {
                    // Its drop answers.
                    drop(inbox);
                    drop(group);
                }
                (_, false) => {
                    drop(inbox);
                    into_queue.page_requests(group);
                }
            }
        };
        (
            Self {
                queue: Some(queue),
                inbox,
                groups: Vec::new(),
                answered: Vec::new(),
                silent,
                ended: false,
            },
            Arc::new(handler),
        )
    }

    pub(super) fn find(&self, cookie: Cookie) -> Option<usize> {
        self.groups.iter().position(|group| group.cookie == cookie)
    }

    /// The groups that the owner can answer now: those that were read or retained.
    pub(super) fn answerable(&self) -> Vec<usize> {
        (0..self.groups.len()).filter(|at| self.groups[*at].at != At::Unread).collect()
    }
}

pub(super) fn is_retained(cookie: Cookie) -> bool {
    cookie % 3 == 2
}
