//! Page requests: sorting, resolving, answering.
//!
//! Each is a step that somebody calls: worker threads, a scheduler, an event loop. Resolving runs
//! with no lock held, inside the gates that an access through the same bond would be inside of: that
//! is what an unbind waits for, and why its drain never waits for a worker.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::api::event::Event;
use crate::api::fault::FaultReason;
use crate::api::pri::{
    AnswerError, Cookie, PageRequest, PageRequestGroup, PageRequestHandler, PageResponder,
    ResponseCode,
};
use crate::api::space::{AddressSpace, StopCause};
use crate::protocol::pri::group::FaultTarget as _;
use crate::protocol::pri::queue::PageCounts;
use crate::quiesce::callback::InCallback;
use crate::table::{
    BondKey, Domain, FaultTarget, GateGuard, Inner, Iommu, OnDrain, PasidEntry, ReadyPages,
};
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid};

impl Iommu {
    /// Takes one request out of the queue and sorts it into its group. False where there was none.
    /// Does not block.
    pub fn sort_page_request(&self) -> bool {
        let now = self.now();
        self.with_pages(|pages, actions| pages.sort(now, actions))
    }

    /// Takes the group that is next to be resolved; `None` where none waits. Groups whose bond or
    /// domain is gone are answered as invalid on the way. Does not block.
    pub fn next_page_request_job(&self) -> Option<PageRequestJob> {
        // The target's gate is entered under the lock with which a drain follows its closing: a
        // drain finds a group in its queue, or waits for whoever has it. Otherwise a group could be
        // pending when its unbind has returned.
        let mut refused = Vec::new();
        let group = self.with_pages(|pages, actions| {
            loop {
                let group = pages.next_group()?;
                if group.target.enter() {
                    return Some(group);
                }
                pages.answer(group.cookie, ResponseCode::InvalidRequest, false, actions);
                pages.finish(group.key, actions);
                // It may hold the last reference to its space, whose drop is foreign code: not
                // under the lock.
                refused.push(group);
            }
        })?;
        Some(PageRequestJob::new(self.clone(), group))
    }

    /// Whether the page request queue has overflowed and takes nothing before it has been sorted
    /// out.
    pub fn page_queue_overflowed(&self) -> bool {
        self.with_pages(|pages, _| pages.has_overflowed())
    }

    /// What happened to page requests so far.
    pub fn page_counts(&self) -> PageCounts {
        self.with_pages(|pages, _| pages.counts)
    }

    /// Answers a group. Where the space has ended meanwhile, or its entry is gone, the device
    /// learns that whatever the answer is. A refusal is logged unless it `is_logged` already.
    fn answer_group(
        &self,
        cookie: Cookie,
        code: ResponseCode,
        is_logged: bool,
    ) -> Result<(), AnswerError> {
        let is_pending = self.with_pages(|pages, actions| {
            let is_gone = pages.target_of(cookie).is_some_and(|target| !target.accepts_faults());
            let (code, is_logged) = match code {
                ResponseCode::Success if is_gone => (ResponseCode::InvalidRequest, false),
                code => (code, is_logged),
            };
            pages.answer(cookie, code, is_logged, actions)
        });
        if is_pending { Ok(()) } else { Err(AnswerError::NotPending { cookie }) }
    }

    /// Who gets the page requests of a bond, where somebody wants them.
    fn handler_of(&self, bond: BondKey) -> Option<Arc<dyn PageRequestHandler>> {
        self.lock().bond(bond).and_then(|bond| bond.handler.clone())
    }
}

impl PageResponder for Inner {
    fn answer(self: Arc<Self>, cookie: Cookie, code: ResponseCode) -> Result<(), AnswerError> {
        Iommu::from_inner(self).answer_group(cookie, code, false)
    }

    fn is_pending(self: Arc<Self>, cookie: Cookie) -> bool {
        Iommu::from_inner(self).with_pages(|pages, _| pages.target_of(cookie).is_some())
    }
}

/// A group of page requests that is being resolved: between [`Iommu::next_page_request_job`] and
/// [`run`](PageRequestJob::run) it is inside the gates that an unbind waits for.
///
/// Dropping it without running it answers that the request is invalid.
#[must_use = "run it"]
pub struct PageRequestJob {
    iommu: Iommu,
    group: ReadyPages,
    /// Inside the device's gate too; where not, the device is gone or halted, and the group is
    /// invalid.
    in_device: bool,
    /// The event log says why the group is refused.
    is_logged: bool,
    is_answered: bool,
}

/// Why a page cannot be had.
enum ResolveError {
    Refused(FaultReason),
    Host(&'static str, Option<i32>),
}

impl PageRequestJob {
    /// For a group whose target has been entered.
    fn new(iommu: Iommu, group: ReadyPages) -> Self {
        let in_device = group.device.gate.enter();
        Self { iommu, group, in_device, is_logged: false, is_answered: false }
    }

    /// The device that asks.
    pub fn device(&self) -> Bdf {
        self.group.device.bdf()
    }

    /// The requests, in the order in which they were sent; at least one.
    pub fn requests(&self) -> &[PageRequest] {
        &self.group.requests
    }

    /// Resolves the group and answers it, or hands it to its owner. Blocks as long as the provider
    /// takes; runs its resolvers, or the owner's handler.
    pub fn run(mut self) {
        let _callback = InCallback::enter();
        let begun = self.iommu.now();
        let code = self.resolve();
        self.record(begun, self.iommu.now());
        match code {
            Some(code) => self.answer(code),
            None => self.is_answered = true,
        }
    }

    /// The response; `None` where the owner has the group.
    fn resolve(&mut self) -> Option<ResponseCode> {
        if !self.in_device {
            return Some(ResponseCode::InvalidRequest);
        }
        let handler = match &self.group.target {
            FaultTarget::Entry(entry) if entry.refusal().is_some() => {
                self.refuse(self.group.requests[0], FaultReason::SpaceEnded);
                return Some(ResponseCode::InvalidRequest);
            }
            FaultTarget::Entry(entry) => self.iommu.handler_of(entry.bond),
            FaultTarget::Domain(attachment) => attachment.domain.handler(),
        };
        match handler {
            Some(handler) => self.hand_out(&*handler),
            None => Some(self.resolve_pages()),
        }
    }

    /// As [`resolve`](Self::resolve), by the owner.
    fn hand_out(&self, handler: &dyn PageRequestHandler) -> Option<ResponseCode> {
        let cookie = self.group.cookie;
        if !self.iommu.with_pages(|pages, _| pages.hand_out(cookie)) {
            return Some(ResponseCode::InvalidRequest);
        }
        let group = PageRequestGroup::new(
            self.iommu.responder(),
            cookie,
            self.device(),
            self.group.requests.to_vec(),
        );
        // A handler that panics drops the group, which answers it.
        let _ = catch_unwind(AssertUnwindSafe(|| handler.page_requests(group)));
        None
    }

    /// By the provider: all requests, in their order, up to the first that cannot be had.
    fn resolve_pages(&mut self) -> ResponseCode {
        for index in 0..self.group.requests.len() {
            let request = self.group.requests[index];
            for access in request.accesses() {
                let resolved = match &self.group.target {
                    FaultTarget::Entry(entry) => resolve_bound(entry, request.address, access),
                    FaultTarget::Domain(attachment) => {
                        self.resolve_mapped(&attachment.domain, request.address, access)
                    }
                };
                match resolved {
                    Ok(()) => {}
                    Err(ResolveError::Refused(reason)) => {
                        self.refuse(request, reason);
                        return ResponseCode::InvalidRequest;
                    }
                    Err(ResolveError::Host(call, errno)) => {
                        // Not a response failure: that would stop the device's requests for all its
                        // spaces, at the wish of one.
                        self.iommu.log(Event::HostFailure { device: self.device(), call, errno });
                        self.is_logged = true;
                        return ResponseCode::InvalidRequest;
                    }
                }
            }
        }
        ResponseCode::Success
    }

    fn resolve_mapped(
        &self,
        domain: &Domain,
        iova: u64,
        access: Access,
    ) -> Result<(), ResolveError> {
        let refused = |reason| Err(ResolveError::Refused(reason));
        let Some(mapping) = domain.find(iova) else {
            return refused(FaultReason::NoDomainMapping);
        };
        let Some(_inside) = GateGuard::enter(&mapping.gate, &self.iommu, OnDrain::WakeWaiters)
        else {
            return refused(FaultReason::NoDomainMapping);
        };
        if !mapping.permits(access) {
            return refused(FaultReason::Denied);
        }
        let address = mapping.address + (iova - mapping.range.first());
        resolve(&*mapping.space, address, access.unprivileged())
    }

    /// Logs why a page cannot be had.
    fn refuse(&mut self, request: PageRequest, reason: FaultReason) {
        self.iommu.log_refused(&self.group.device, &request, reason);
        self.is_logged = true;
    }

    fn answer(&mut self, code: ResponseCode) {
        self.is_answered = true;
        let first = self.group.requests.first();
        tracing::debug!(
            device = %self.device(),
            pasid = first.and_then(|request| request.pasid).map(Pasid::get),
            address = first.map(|request| request.address), pages = self.group.requests.len(),
            %code, "page requests answered",
        );
        // Where it is not pending any more it has been drained, or its device was reset or is gone:
        // counted there.
        let _ = self.iommu.answer_group(self.group.cookie, code, self.is_logged);
    }

    fn record(&self, begun: Option<Duration>, done: Option<Duration>) {
        let (FaultTarget::Entry(entry), Some(begun), Some(done)) =
            (&self.group.target, begun, done)
        else {
            return;
        };
        let mut times = entry.times.lock();
        let times = times.get_or_insert_default();
        if let Some(complete) = self.group.complete_at {
            times.request.record(begun.saturating_sub(complete));
        }
        times.resolve.record(done.saturating_sub(begun));
    }
}

impl Drop for PageRequestJob {
    fn drop(&mut self) {
        let _callback = InCallback::enter();
        if !self.is_answered {
            self.answer(ResponseCode::InvalidRequest);
        }
        let key = self.group.key;
        self.iommu.with_pages(|pages, actions| pages.finish(key, actions));
        self.group.target.leave(&self.iommu);
        if self.in_device && self.group.device.gate.leave() {
            OnDrain::WakeWaiters.run(&self.iommu);
        }
    }
}

impl fmt::Debug for PageRequestJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRequestJob")
            .field("device", &self.device())
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}

fn resolve_bound(entry: &PasidEntry, address: u64, access: Access) -> Result<(), ResolveError> {
    if entry.grants(access) {
        resolve(&*entry.record.space, address, access)
    } else {
        Err(ResolveError::Refused(FaultReason::NotGranted))
    }
}

fn resolve(space: &dyn AddressSpace, address: u64, access: Access) -> Result<(), ResolveError> {
    space.resolve(address, access).map_err(|cause| match cause {
        StopCause::NotMapped => ResolveError::Refused(FaultReason::NotMapped),
        StopCause::NotPresent => ResolveError::Refused(FaultReason::NotPresent),
        StopCause::Denied => ResolveError::Refused(FaultReason::Denied),
        StopCause::Ended => ResolveError::Refused(FaultReason::SpaceEnded),
        StopCause::Host(failure) => ResolveError::Host(failure.call, failure.source.raw_os_error()),
    })
}
