//! Page request groups, and the handlers that receive and answer them.

use std::fmt;
use std::sync::Arc;

use super::message::{PageRequest, ResponseCode};
use crate::types::ids::{Bdf, Pasid};

/// Identifies a pending group. It is not reused, so that a late answer matches no other group.
pub type Cookie = u64;

/// The IOMMU, as a group uses it.
pub(crate) trait PageResponder: Send + Sync {
    /// Answers a group. Does not block.
    fn answer(self: Arc<Self>, cookie: Cookie, code: ResponseCode) -> Result<(), AnswerError>;

    /// Whether a group can still be answered.
    fn is_pending(self: Arc<Self>, cookie: Cookie) -> bool;
}

/// Receives the page requests of a domain or a bond, in place of the provider of the memory. Its
/// implementer manages the page tables itself.
///
/// It is called with no lock of the core held, on the thread that resolves. An unbind of the bond,
/// or the end of the domain's attachment, waits until it returns. It should therefore pass the
/// group on rather than block. A group that it drops is answered as invalid.
pub trait PageRequestHandler: Send + Sync {
    /// Receives a complete group, to be answered now or later.
    fn page_requests(&self, group: PageRequestGroup);
}

impl<F: Fn(PageRequestGroup) + Send + Sync> PageRequestHandler for F {
    fn page_requests(&self, group: PageRequestGroup) {
        self(group);
    }
}

/// Why a group was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The group is not pending any more: it was answered before, its bond or domain attachment has
    /// ended, or its device has been reset or removed.
    #[error("page request group {cookie} is not pending any more; drop it")]
    NotPending {
        /// The group.
        cookie: Cookie,
    },
    /// The group was not read from this queue, or was answered before.
    #[error("page request group {cookie} was not read from this queue")]
    Unknown {
        /// The group.
        cookie: Cookie,
    },
}

/// A pending group of page requests. Dropping it answers it with
/// [`InvalidRequest`](ResponseCode::InvalidRequest).
#[must_use = "dropping it answers the device that its request is invalid"]
pub struct PageRequestGroup {
    responder: Arc<dyn PageResponder>,
    cookie: Cookie,
    device: Bdf,
    pasid: Option<Pasid>,
    requests: Vec<PageRequest>,
    answered: bool,
}

impl PageRequestGroup {
    pub(crate) fn new(
        responder: Arc<dyn PageResponder>,
        cookie: Cookie,
        device: Bdf,
        requests: Vec<PageRequest>,
    ) -> Self {
        let pasid = requests.first().and_then(|request| request.pasid);
        Self { responder, cookie, device, pasid, requests, answered: false }
    }

    /// The identity of the group.
    pub fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// The device that requests the pages.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// The PASID; `None` for the domain of the device's group.
    pub fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    /// The requests, in the order in which they were sent; at least one.
    pub fn requests(&self) -> &[PageRequest] {
        &self.requests
    }

    /// Whether the group can still be answered: its bond or domain attachment has not ended, and
    /// its device has been neither reset nor removed.
    pub fn is_pending(&self) -> bool {
        Arc::clone(&self.responder).is_pending(self.cookie)
    }

    /// Drops a group that is not pending any more, without an answer.
    pub(super) fn discard(mut self) {
        self.answered = true;
    }

    /// Answers the group. Does not block.
    ///
    /// # Errors
    /// The group is not pending any more: it has been answered, or cannot be.
    pub fn answer(mut self, code: ResponseCode) -> Result<(), AnswerError> {
        self.answered = true;
        Arc::clone(&self.responder).answer(self.cookie, code)
    }
}

impl Drop for PageRequestGroup {
    fn drop(&mut self) {
        if !self.answered {
            // An error says that the group is not pending any more, so that it needs no answer.
            let _ = Arc::clone(&self.responder).answer(self.cookie, ResponseCode::InvalidRequest);
        }
    }
}

impl fmt::Debug for PageRequestGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRequestGroup")
            .field("cookie", &self.cookie)
            .field("device", &self.device)
            .field("pasid", &self.pasid)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
