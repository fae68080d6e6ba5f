//! Page requests: sorting into groups, resolving, answering.
//!
//! Worker threads, a scheduler or an event loop call each step. A group is resolved with no lock
//! held, inside the gates that an access through the same PASID entry or domain attachment would
//! enter. An unbind waits for these gates, so its drain need not wait for a worker.

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
use crate::protocol::pri::queue::PageQueueCounts;
use crate::protocol::pri::records::PageRequestTarget;
use crate::quiesce::callback::InCallback;
use crate::table::{
    BondKey, Domain, GateGuard, Inner, Iommu, OnDrain, PageTarget, PasidEntry, ReadyPageGroup,
};
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid};

impl Iommu {
    /// Takes one request out of the page request queue and sorts it into its group. Returns false
    /// if the queue is empty. Does not block.
    pub fn sort_page_request(&self) -> bool {
        let now = self.now();
        self.with_pages(|pages, actions| pages.sort(now, actions))
    }

    /// Takes the next group that can be resolved; `None` if no group waits. Groups whose PASID
    /// entry or domain attachment is closed are answered as invalid on the way. Does not block.
    pub fn next_page_request_job(&self) -> Option<PageRequestJob> {
        // A drain takes the lock of the page requests after the target's gate was closed. This
        // enters the gate under the same lock, so the drain either finds the group in its resolve
        // queue or the gate waits for the job. If this entered the gate without that lock, a group
        // could still be pending after its unbind has returned.
        let mut refused = Vec::new();
        let mut entered = self.with_pages(|pages, actions| {
            loop {
                let group = match EnteredGroup::enter(self, pages.next_group()?) {
                    Ok(entered) => return Some(entered),
                    Err(group) => group,
                };
                pages.answer(group.cookie, ResponseCode::InvalidRequest, false, actions);
                pages.finish(group.key, actions);
                // The group can hold the last reference to its space, whose drop is foreign code.
                // It is dropped with the lock released.
                refused.push(group);
            }
        })?;
        entered.enter_device();
        Some(PageRequestJob { entered, is_logged: false, is_done: false })
    }

    /// Returns whether the page request queue has overflowed. It takes no request until those that
    /// it holds have been sorted.
    pub fn page_queue_overflowed(&self) -> bool {
        self.with_pages(|pages, _| pages.has_overflowed())
    }

    /// Returns counts of the page requests so far, by their outcome.
    pub fn page_queue_counts(&self) -> PageQueueCounts {
        self.with_pages(|pages, _| pages.counts)
    }

    /// Answers a group. A success becomes an invalid request if the space has ended meanwhile, or
    /// the PASID entry or domain attachment has been closed. A refusal is logged, unless it
    /// `is_logged` already.
    fn answer_group(
        &self,
        cookie: Cookie,
        code: ResponseCode,
        is_logged: bool,
    ) -> Result<(), AnswerError> {
        let is_pending = self.with_pages(|pages, actions| {
            let is_gone =
                pages.target_of(cookie).is_some_and(|target| !target.accepts_page_requests());
            let (code, is_logged) = match code {
                ResponseCode::Success if is_gone => (ResponseCode::InvalidRequest, false),
                code => (code, is_logged),
            };
            pages.answer(cookie, code, is_logged, actions)
        });
        if is_pending { Ok(()) } else { Err(AnswerError::NotPending { cookie }) }
    }

    /// Returns the handler that a bond has for its page requests.
    fn page_handler_of(&self, bond: BondKey) -> Option<Arc<dyn PageRequestHandler>> {
        self.lock().bond(bond).and_then(|bond| bond.page_handler.clone())
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

/// A group that is inside the gate of its target, and perhaps of its device, until it is dropped.
///
/// It has no [`GateGuard`]: a guard borrows its gate, so it would need a reference of its own to
/// the entry or the device.
struct EnteredGroup {
    iommu: Iommu,
    group: ReadyPageGroup,
    /// False if the device is removed or halted: the group is invalid.
    is_in_device: bool,
}

impl EnteredGroup {
    /// Enters the gate of the target; returns the group if it is shut.
    fn enter(iommu: &Iommu, group: ReadyPageGroup) -> Result<Self, ReadyPageGroup> {
        if group.target.gate().enter() {
            Ok(Self { iommu: iommu.clone(), group, is_in_device: false })
        } else {
            Err(group)
        }
    }

    /// Enters the gate of the device as well, unless it is shut.
    fn enter_device(&mut self) {
        self.is_in_device = self.group.device.gate.enter();
    }
}

impl Drop for EnteredGroup {
    fn drop(&mut self) {
        // The last access that leaves a gate may drop foreign values, which must find this thread
        // inside a callback.
        let _callback = InCallback::enter();
        let on_drain = match &self.group.target {
            PageTarget::Entry(entry) => OnDrain::StepEntry(entry),
            PageTarget::Domain(_) => OnDrain::WakeThreads,
        };
        drop(GateGuard::from_entered(self.group.target.gate(), &self.iommu, on_drain));
        if self.is_in_device {
            let gate = &self.group.device.gate;
            drop(GateGuard::from_entered(gate, &self.iommu, OnDrain::WakeThreads));
        }
    }
}

/// A page request group that is to be resolved. As long as it lives it is inside the gates that an
/// unbind, a removal or a reset waits for.
///
/// Its drop answers the group as invalid if it has not [run](PageRequestJob::run).
#[must_use = "run it"]
pub struct PageRequestJob {
    entered: EnteredGroup,
    /// The reason of the refusal is in the event log.
    is_logged: bool,
    is_done: bool,
}

/// Why a page could not be resolved.
enum ResolveError {
    Refused(FaultReason),
    /// The call of the host that failed, and its `errno`.
    Host(&'static str, Option<i32>),
}

impl PageRequestJob {
    /// The device that sent the requests.
    pub fn device(&self) -> Bdf {
        self.entered.group.device.bdf()
    }

    /// The requests of the group, at least one, in the order in which they were sent.
    pub fn requests(&self) -> &[PageRequest] {
        &self.entered.group.requests
    }

    /// Resolves the group and answers it, or hands it to its handler. Blocks while the
    /// provider or the handler runs.
    pub fn run(mut self) {
        let _callback = InCallback::enter();
        let begun = self.entered.iommu.now();
        let code = self.resolve();
        self.record_times(begun, self.entered.iommu.now());
        match code {
            Some(code) => self.answer(code),
            None => self.is_done = true,
        }
    }

    /// Resolves the group or hands it to its handler. Returns the response; `None`
    /// if the handler has the group and answers it.
    fn resolve(&mut self) -> Option<ResponseCode> {
        if !self.entered.is_in_device {
            return Some(ResponseCode::InvalidRequest);
        }
        let handler = match &self.entered.group.target {
            PageTarget::Entry(entry) if entry.abort_reason().is_some() => {
                self.log_refused(self.entered.group.requests[0], FaultReason::SpaceEnded);
                return Some(ResponseCode::InvalidRequest);
            }
            PageTarget::Entry(entry) => self.entered.iommu.page_handler_of(entry.bond),
            PageTarget::Domain(attachment) => attachment.domain.handler(),
        };
        match handler {
            Some(handler) => self.hand_out(&*handler),
            None => Some(self.resolve_pages()),
        }
    }

    /// Hands the group to its handler. Returns the response if it must not be handed out: it is not
    /// pending any more, or its target has been closed.
    fn hand_out(&self, handler: &dyn PageRequestHandler) -> Option<ResponseCode> {
        let cookie = self.entered.group.cookie;
        if !self.entered.iommu.with_pages(|pages, _| pages.hand_out(cookie)) {
            return Some(ResponseCode::InvalidRequest);
        }
        let group = PageRequestGroup::new(
            self.entered.iommu.responder(),
            cookie,
            self.device(),
            self.entered.group.requests.to_vec(),
        );
        // A handler that panics drops the group, which answers it.
        let _ = catch_unwind(AssertUnwindSafe(|| handler.page_requests(group)));
        None
    }

    /// Has the provider resolve the requests in their order, up to the first that it refuses.
    /// Returns the response.
    fn resolve_pages(&mut self) -> ResponseCode {
        for index in 0..self.entered.group.requests.len() {
            let request = self.entered.group.requests[index];
            for access in request.accesses() {
                let resolved = match &self.entered.group.target {
                    PageTarget::Entry(entry) => resolve_bound(entry, request.address, access),
                    PageTarget::Domain(attachment) => {
                        self.resolve_mapped(&attachment.domain, request.address, access)
                    }
                };
                match resolved {
                    Ok(()) => {}
                    Err(ResolveError::Refused(reason)) => {
                        self.log_refused(request, reason);
                        return ResponseCode::InvalidRequest;
                    }
                    Err(ResolveError::Host(call, errno)) => {
                        // Rejected: a response failure. It would end the page requests of the
                        // device for all its spaces because one provider failed.
                        self.entered.iommu.log(Event::HostFailure {
                            device: self.device(),
                            call,
                            errno,
                        });
                        self.is_logged = true;
                        return ResponseCode::InvalidRequest;
                    }
                }
            }
        }
        ResponseCode::Success
    }

    /// Resolves an IOVA through the mapping that holds it, inside the mapping's gate.
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
        let Some(_inside) =
            GateGuard::enter(&mapping.gate, &self.entered.iommu, OnDrain::WakeThreads)
        else {
            return refused(FaultReason::NoDomainMapping);
        };
        if !mapping.permits(access) {
            return refused(FaultReason::Denied);
        }
        let address = mapping.address + (iova - mapping.range.first());
        resolve_in_space(&*mapping.space, address, access.unprivileged())
    }

    /// Logs why a page could not be resolved.
    fn log_refused(&mut self, request: PageRequest, reason: FaultReason) {
        self.entered.iommu.log_refused(&self.entered.group.device, &request, reason);
        self.is_logged = true;
    }

    /// Answers the group, once.
    fn answer(&mut self, code: ResponseCode) {
        self.is_done = true;
        let first = self.requests().first();
        tracing::debug!(
            device = %self.device(),
            pasid = first.and_then(|request| request.pasid).map(Pasid::get),
            address = first.map(|request| request.address), pages = self.requests().len(),
            %code, "page requests answered",
        );
        // A group that is not pending any more was drained, or its device was reset or removed.
        // That step has counted it.
        let _ = self.entered.iommu.answer_group(self.entered.group.cookie, code, self.is_logged);
    }

    /// Records how long the group waited and how long it was resolved.
    fn record_times(&self, begun: Option<Duration>, done: Option<Duration>) {
        let (PageTarget::Entry(entry), Some(begun), Some(done)) =
            (&self.entered.group.target, begun, done)
        else {
            return;
        };
        let mut times = entry.times.lock();
        let times = times.get_or_insert_default();
        if let Some(complete) = self.entered.group.complete_at {
            times.request.record(begun.saturating_sub(complete));
        }
        times.resolve.record(done.saturating_sub(begun));
    }
}

impl Drop for PageRequestJob {
    fn drop(&mut self) {
        let _callback = InCallback::enter();
        if !self.is_done {
            self.answer(ResponseCode::InvalidRequest);
        }
        let key = self.entered.group.key;
        self.entered.iommu.with_pages(|pages, actions| pages.finish(key, actions));
        // The gates are left last, as the field is dropped: the group has been answered by then.
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

/// Resolves an address of a bound space, if the bond grants the access.
fn resolve_bound(entry: &PasidEntry, address: u64, access: Access) -> Result<(), ResolveError> {
    if entry.grants(access) {
        resolve_in_space(&*entry.record.space, address, access)
    } else {
        Err(ResolveError::Refused(FaultReason::NotGranted))
    }
}

fn resolve_in_space(
    space: &dyn AddressSpace,
    address: u64,
    access: Access,
) -> Result<(), ResolveError> {
    space.resolve(address, access).map_err(|cause| match cause {
        StopCause::NotMapped => ResolveError::Refused(FaultReason::NotMapped),
        StopCause::NotPresent => ResolveError::Refused(FaultReason::NotPresent),
        StopCause::Denied => ResolveError::Refused(FaultReason::Denied),
        StopCause::Ended => ResolveError::Refused(FaultReason::SpaceEnded),
        StopCause::Host(failure) => ResolveError::Host(failure.call, failure.source.raw_os_error()),
    })
}
