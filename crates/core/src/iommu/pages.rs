//! Page requests: sorting, resolving, answering.
//!
//! Each is a step that somebody calls: the threads of [`Workers`](crate::workers::Workers), a
//! scheduler, an event loop. Resolving runs with no lock held, inside the gates that an access
//! through the same bond would be inside of: that is what an unbind waits for, and why its drain
//! never waits for a worker.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Iommu;
use super::inside::Last;
use super::parts::DeviceInner;
use super::state::BondKey;
use crate::callback::InCallback;
use crate::domain::{Domain, DomainUse};
use crate::event::Event;
use crate::fault::{Access, AccessMode, Fault, FaultReason, OnAbsent};
use crate::ids::{Bdf, Pasid};
use crate::link::ToDevice;
use crate::mutation;
use crate::pri::message::{PageRequest, ResponseCode};
use crate::pri::owner::{AnswerError, PageRequestGroup, PageRequestHandler};
use crate::pri::queue::{Cookie, Drained, Outbox, PageCounts, Target, Work};
use crate::pri::times::FaultTimes;
use crate::space::{AddressSpace, StopCause};
use crate::sync::atomic::Ordering;

impl Iommu {
    /// Sends what a step left to send, and wakes who works. With no lock held.
    pub(super) fn send_answers(&self, out: Outbox) {
        for outgoing in out.answers {
            let response = outgoing.response;
            tracing::trace!(device = %outgoing.device.bdf(), pasid = outgoing.pasid.map(Pasid::get), group = %response.index, code = %response.code, "page response");
            outgoing.device.services.to_device(ToDevice::Response(response));
        }
        #[cfg(not(loom))]
        if out.work {
            self.0.attendance.call();
        }
    }

    /// Takes one request out of the queue and sorts it into its group. False where there was none.
    /// Does not block.
    pub fn sort_page_request(&self) -> bool {
        let now = self.now();
        self.with_pages(|pages, out| pages.sort(now, out))
    }

    /// Takes the group that is next to be resolved; `None` where none waits. Groups whose bond or
    /// domain is gone are answered as invalid on the way. Does not block.
    pub fn next_page_work(&self) -> Option<PageWork> {
        // Into the target's gate under the lock with which a drain follows its closing: who drains
        // finds a group in its line, or waits for the one that has it. In between a
        // group would be pending when its unbind has returned.
        let mut refused = Vec::new();
        let work = self.with_pages(|pages, out| {
            loop {
                let work = pages.next_work()?;
                if work.target.enter() {
                    return Some(work);
                }
                pages.answer(work.cookie, ResponseCode::InvalidRequest, out);
                pages.line_free(work.line, out);
                // It may be the last that holds its space, whose drop is foreign code: not under
                // the lock.
                refused.push(work);
            }
        })?;
        Some(PageWork::begin(self.clone(), work))
    }

    /// Whether the page request queue has overflowed and takes nothing before it has been sorted
    /// out.
    pub fn page_queue_overflowed(&self) -> bool {
        self.0.pages.lock().has_overflowed()
    }

    /// What happened to page requests so far.
    pub fn page_counts(&self) -> PageCounts {
        self.0.pages.lock().counts
    }

    /// Answers a group. Where the space has ended meanwhile, or its entry is gone, the device
    /// learns that whatever the answer is.
    pub(crate) fn answer_group(
        &self,
        cookie: Cookie,
        code: ResponseCode,
    ) -> Result<(), AnswerError> {
        let pending = self.with_pages(|pages, out| {
            let gone = pages.target_of(cookie).is_some_and(|target| !target.is_open());
            let code = if gone && code == ResponseCode::Success {
                ResponseCode::InvalidRequest
            } else {
                code
            };
            pages.answer(cookie, code, out)
        });
        if pending { Ok(()) } else { Err(AnswerError::NotPending { cookie }) }
    }

    /// Who gets the page requests of a bond, where somebody wants them.
    fn handler_of(&self, bond: BondKey) -> Option<Arc<dyn PageRequestHandler>> {
        self.lock().bond(bond).and_then(|bond| bond.handler.clone())
    }

    /// Whether a group can still be answered.
    pub(crate) fn is_pending(&self, cookie: Cookie) -> bool {
        self.0.pages.lock().target_of(cookie).is_some()
    }

    /// Records times of a fault of a device, where it has a bond of that PASID.
    pub(crate) fn with_times(
        &self,
        device: &DeviceInner,
        pasid: Option<Pasid>,
        record: impl FnOnce(&mut FaultTimes),
    ) {
        let Some(pasid) = pasid else { return };
        let entry = device.requester.table.read().get(&pasid).cloned();
        if let Some(entry) = entry {
            record(entry.times.lock().get_or_insert_default());
        }
    }

    /// A use of a domain has ended: what its devices have pending for it is answered as invalid
    /// (rule U1, without a PASID).
    pub(super) fn drain_domain(&self, members: &[Arc<DeviceInner>], ended: &Arc<DomainUse>) {
        for device in members.iter().filter(|device| device.spec.capabilities.pri.is_some()) {
            self.drain_pages(device, Drained::Domain(ended));
        }
    }
}

/// A group that is being resolved: between [`Iommu::next_page_work`] and [`run`](PageWork::run) it
/// is inside the gates that an unbind waits for.
///
/// Dropping it without running it answers that the request is invalid.
#[must_use = "run it"]
pub struct PageWork {
    iommu: Iommu,
    work: Work,
    /// Inside the device's gate too; where not, the device is gone or stands still, and the group
    /// is invalid.
    in_device: bool,
    answered: bool,
}

impl PageWork {
    /// For a group whose target has been entered.
    fn begin(iommu: Iommu, work: Work) -> Self {
        let in_device = work.device.gate.enter();
        Self { iommu, work, in_device, answered: false }
    }

    /// The device that asks.
    pub fn device(&self) -> Bdf {
        self.work.device.bdf()
    }

    /// The requests, in the order in which they were sent; at least one.
    pub fn requests(&self) -> &[PageRequest] {
        &self.work.pages
    }

    /// Resolves the group and answers it, or hands it to its owner. Blocks as long as the provider
    /// takes; runs its resolvers, or the owner's handler.
    pub fn run(mut self) {
        let _callback = InCallback::enter();
        let begun = self.iommu.now();
        if let Some(code) = self.resolve() {
            let done = self.iommu.now();
            self.record(begun, done);
            self.answer(code);
        } else {
            self.record(begun, self.iommu.now());
            self.answered = true;
        }
    }

    /// The answer; `None` where the owner has the group.
    fn resolve(&mut self) -> Option<ResponseCode> {
        if !self.in_device && !mutation::is_on(6) {
            return Some(ResponseCode::InvalidRequest);
        }
        let handler = match &self.work.target {
            Target::Space(entry)
                if !entry.published.load(Ordering::Acquire) || entry.record.ended() =>
            {
                self.refuse(&self.work.pages[0], FaultReason::SpaceEnded);
                return Some(ResponseCode::InvalidRequest);
            }
            Target::Space(entry) => self.iommu.handler_of(entry.bond),
            Target::Domain(used) => used.domain.handler(),
        };
        match handler {
            Some(handler) => self.hand_out(&*handler),
            None => Some(self.resolve_pages()),
        }
    }

    /// As [`resolve`](Self::resolve), by the owner.
    fn hand_out(&self, handler: &dyn PageRequestHandler) -> Option<ResponseCode> {
        if !self.iommu.0.pages.lock().hand_out(self.work.cookie) {
            return Some(ResponseCode::InvalidRequest);
        }
        let group = PageRequestGroup::new(
            self.iommu.clone(),
            self.work.cookie,
            self.device(),
            self.work.pages.to_vec(),
        );
        // A handler that panics drops the group, which answers it.
        let _ = catch_unwind(AssertUnwindSafe(|| handler.page_requests(group)));
        None
    }

    /// By the provider: all requests, in their order, up to the first that cannot be had.
    fn resolve_pages(&self) -> ResponseCode {
        for request in &self.work.pages {
            for mode in modes(request) {
                let resolved = match &self.work.target {
                    Target::Space(entry) => {
                        let features = entry.features;
                        let granted = (features.privileged || !mode.privileged)
                            && (features.execute || mode.access != Access::Execute);
                        if granted {
                            resolve_in(&*entry.record.space, request.address, mode)
                        } else {
                            Err(Failure::Refused(FaultReason::NotGranted))
                        }
                    }
                    Target::Domain(used) => self.resolve_mapped(&used.domain, request, mode),
                };
                match resolved {
                    Ok(()) => {}
                    Err(Failure::Refused(reason)) => {
                        self.refuse(request, reason);
                        return ResponseCode::InvalidRequest;
                    }
                    Err(Failure::Host(call, errno)) => {
                        // Not a response failure: that would stop the device's requests for all its
                        // spaces, at the wish of one (rule S3).
                        self.iommu.log(Event::HostFailure { device: self.device(), call, errno });
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
        request: &PageRequest,
        mode: AccessMode,
    ) -> Result<(), Failure> {
        let refused = |reason| Err(Failure::Refused(reason));
        let Some(mapping) = domain.find(request.address) else {
            return refused(FaultReason::NoDomainMapping);
        };
        let Some(_inside) = super::inside::Inside::enter(&mapping.gate, &self.iommu, Last::Wake)
        else {
            return refused(FaultReason::NoDomainMapping);
        };
        if !mapping.protection.permits(mode.access) {
            return refused(FaultReason::Denied);
        }
        let address = mapping.address + (request.address - mapping.range.first());
        resolve_in(&*mapping.space, address, AccessMode { privileged: false, ..mode })
    }

    /// Logs why a page cannot be had (rule F6).
    fn refuse(&self, request: &PageRequest, reason: FaultReason) {
        let access = modes(request).next().map_or(Access::Read, |mode| mode.access);
        let fault = Fault {
            device: self.device(),
            pasid: request.pasid,
            address: request.address,
            access,
            reason,
        };
        tracing::debug!(device = %fault.device, pasid = fault.pasid.map(Pasid::get), address = fault.address, %reason, "page request refused");
        self.iommu.log(Event::Fault(fault));
    }

    fn answer(&mut self, code: ResponseCode) {
        self.answered = true;
        let first = self.work.pages.first();
        tracing::debug!(
            device = %self.device(), pasid = first.and_then(|request| request.pasid).map(Pasid::get), address = first.map(|request| request.address),
            pages = self.work.pages.len(), %code, "page requests answered",
        );
        // Where it is not pending any more it has been drained, or its device was reset or is gone:
        // counted there.
        let _ = self.iommu.answer_group(self.work.cookie, code);
    }

    fn record(&self, begun: Option<Duration>, done: Option<Duration>) {
        let (Target::Space(entry), Some(begun), Some(done)) = (&self.work.target, begun, done)
        else {
            return;
        };
        let mut times = entry.times.lock();
        let times = times.get_or_insert_default();
        if let Some(complete) = self.work.complete_at {
            times.request.record(begun.saturating_sub(complete));
        }
        times.resolve.record(done.saturating_sub(begun));
    }
}

impl Drop for PageWork {
    fn drop(&mut self) {
        let _callback = InCallback::enter();
        if !self.answered {
            self.answer(ResponseCode::InvalidRequest);
        }
        self.iommu.with_pages(|pages, out| pages.line_free(self.work.line, out));
        self.work.target.leave(&self.iommu);
        if self.in_device && self.work.device.gate.leave() {
            self.iommu.last_left(Last::Wake);
        }
    }
}

impl fmt::Debug for PageWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageWork")
            .field("device", &self.device())
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}

impl Target {
    fn enter(&self) -> bool {
        match self {
            Self::Space(entry) => entry.gate.enter(),
            Self::Domain(used) => used.gate.enter(),
        }
    }

    fn leave(&self, iommu: &Iommu) {
        match self {
            Self::Space(entry) if entry.gate.leave() => iommu.last_left(Last::Attachment(entry)),
            Self::Domain(used) if used.gate.leave() => iommu.last_left(Last::Wake),
            _ => {}
        }
    }
}

enum Failure {
    Refused(FaultReason),
    Host(&'static str, Option<i32>),
}

/// The accesses that a request asks for.
fn modes(request: &PageRequest) -> impl Iterator<Item = AccessMode> {
    let wanted = [
        (request.read, Access::Read),
        (request.write, Access::Write),
        (request.execute, Access::Execute),
    ];
    let privileged = request.privileged;
    wanted.into_iter().filter(|(wanted, _)| *wanted).map(move |(_, access)| AccessMode {
        access,
        privileged,
        on_absent: OnAbsent::Resolve,
    })
}

fn resolve_in(space: &dyn AddressSpace, address: u64, mode: AccessMode) -> Result<(), Failure> {
    space.resolve(address, mode).map_err(|cause| match cause {
        StopCause::NotMapped => Failure::Refused(FaultReason::NotMapped),
        StopCause::NotPresent => Failure::Refused(FaultReason::NotPresent),
        StopCause::Denied => Failure::Refused(FaultReason::Denied),
        StopCause::Ended => Failure::Refused(FaultReason::SpaceEnded),
        StopCause::Host(failure) => Failure::Host(failure.call, failure.source.raw_os_error()),
    })
}
