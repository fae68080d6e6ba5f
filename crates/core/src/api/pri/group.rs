//! Owners of page tables: handlers that get whole groups of page requests and answer them by
//! cookie, now or later.

use std::fmt;
use std::sync::Arc;

use super::message::{PageRequest, ResponseCode};
use crate::types::ids::{Bdf, Pasid};

/// Names a pending group; never used again, so that a late answer meets no other group.
pub type Cookie = u64;

/// The IOMMU, as a group needs it to be answered.
pub(crate) trait PageResponder: Send + Sync {
    /// Answers a group. Does not block.
    fn answer(self: Arc<Self>, cookie: Cookie, code: ResponseCode) -> Result<(), AnswerError>;

    /// Whether a group can still be answered.
    fn is_pending(self: Arc<Self>, cookie: Cookie) -> bool;
}

/// Gets the page requests of a domain or a bond, instead of the provider of the memory.
///
/// Called with no lock of the core held, on the thread that resolves; while it runs the bond cannot
/// be unbound nor the domain be left (rule U2), so it is to hand the group on rather than wait. A
/// group that it drops is answered as invalid.
pub trait PageRequestHandler: Send + Sync {
    /// Here is a whole group.
    fn page_requests(&self, group: PageRequestGroup);
}

impl<F: Fn(PageRequestGroup) + Send + Sync> PageRequestHandler for F {
    fn page_requests(&self, group: PageRequestGroup) {
        self(group);
    }
}

/// Why an answer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The group is not pending: it was answered before, or its bond, domain or device is gone.
    #[error("page request group {cookie} is not pending any more; drop it")]
    NotPending {
        /// Which.
        cookie: Cookie,
    },
    /// This queue never gave that group out.
    #[error("page request group {cookie} was not read from this queue")]
    Unknown {
        /// Which.
        cookie: Cookie,
    },
}

/// A group of page requests that waits for its answer. Dropping it answers that the request is
/// invalid.
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

    /// Its name, never used again.
    pub fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Who asks.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// For which PASID.
    pub fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    /// The requests, in the order in which they were sent; at least one.
    pub fn requests(&self) -> &[PageRequest] {
        &self.requests
    }

    /// Whether it can still be answered: its bond, its domain and its device are there, and no
    /// reset has made the device forget it.
    pub fn is_pending(&self) -> bool {
        Arc::clone(&self.responder).is_pending(self.cookie)
    }

    /// Drops a group that is not pending any more: there is nobody to answer.
    pub(super) fn discard(mut self) {
        self.answered = true;
    }

    /// Answers it. Does not block.
    ///
    /// # Errors
    /// It is not pending any more; the device has its answer, or can have none.
    pub fn answer(mut self, code: ResponseCode) -> Result<(), AnswerError> {
        self.answered = true;
        Arc::clone(&self.responder).answer(self.cookie, code)
    }
}

impl Drop for PageRequestGroup {
    fn drop(&mut self) {
        if !self.answered {
            // Where it is not pending any more, somebody else has answered it.
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
