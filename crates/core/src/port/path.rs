//! The long way of a transaction: through the gates, past the windows of peers, to the provider.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::lane::Learner;
use super::memo::Need;
use crate::ats::Permissions;
use crate::callback::InCallback;
use crate::domain::{DomainUse, Mapping};
use crate::event::Event;
use crate::fault::{Access, AccessMode, DmaCause, DmaError, Fault, FaultReason, OnAbsent};
use crate::ids::{Pasid, PasidTag};
use crate::iommu::Iommu;
use crate::iommu::inside::{Inside, Last};
use crate::iommu::parts::{Attachment, DeviceInner, Isolation};
use crate::mutation;
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, StopCause, Stopped};
use crate::sync::atomic::Ordering;
use crate::topology::PeerWindow;

/// One device's way to memory; for any number of threads.
#[derive(Clone)]
pub(crate) struct Path {
    pub(crate) iommu: Iommu,
    pub(crate) device: Arc<DeviceInner>,
    pub(super) owner: Option<PasidTag>,
}

/// Inside the gate of a table entry as long as this lives.
pub(super) struct Entered<'a> {
    pub(super) iommu: &'a Iommu,
    pub(super) entry: Arc<Attachment>,
}

impl<'a> Entered<'a> {
    /// `None` where the gate is shut.
    pub(super) fn enter(iommu: &'a Iommu, entry: Arc<Attachment>) -> Option<Self> {
        // Lazily: a guard that was never inside must not leave.
        entry.gate.enter().then(|| Self { iommu, entry })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.entry.gate.leave() {
            self.iommu.last_left(Last::Attachment(&self.entry));
        }
    }
}

/// The device's side of a transfer.
pub(crate) enum Buffer<'a> {
    Into(&'a mut [u8]),
    From(&'a [u8]),
}

impl Buffer<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Buffer::Into(buf) => buf.len(),
            Buffer::From(data) => data.len(),
        }
    }

    /// Checks that it is as long as the pieces together.
    pub(crate) fn fits(&self, pieces: &[Segment]) -> Result<u64, DmaError> {
        let total = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.len));
        if total == self.len() as u64 {
            return Ok(total);
        }
        Err(DmaError {
            done: 0,
            cause: DmaCause::Length { pieces: total, buffer: self.len() as u64 },
        })
    }

    /// Copies between its bytes from `at` on and all of `memory`; answers how many.
    #[inline]
    pub(super) fn copy(&mut self, at: usize, memory: &VolatileSlice<'_>) -> usize {
        match self {
            Buffer::Into(buf) => memory.copy_to(&mut buf[at..]),
            Buffer::From(data) => {
                memory.copy_from(&data[at..]);
                memory.len()
            }
        }
    }

    pub(crate) fn part(&mut self, range: Range<usize>) -> Buffer<'_> {
        match self {
            Buffer::Into(buf) => Buffer::Into(&mut buf[range]),
            Buffer::From(data) => Buffer::From(&data[range]),
        }
    }
}

/// One way that a transaction can take.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Upstream,
    Peer(PeerWindow),
}

impl Isolation {
    /// The addresses around one that no peer decodes; `None` where one decodes it.
    #[inline]
    pub(super) fn upstream(&self, address: u64) -> Option<AddrRange> {
        if self.windows().is_empty() { Some(AddrRange::ALL) } else { self.between_windows(address) }
    }

    #[cold]
    fn between_windows(&self, address: u64) -> Option<AddrRange> {
        let at = self.windows().partition_point(|window| window.range.last() < address);
        let first = at.checked_sub(1).map_or(0, |before| self.windows()[before].range.last() + 1);
        let last = self
            .windows()
            .get(at)
            .map_or(Some(u64::MAX), |window| window.range.first().checked_sub(1))?;
        AddrRange::inclusive(first, last).filter(|gap| gap.contains(address))
    }

    /// Which way the first bytes of `range` take, and how many of them (at least 1).
    fn route(&self, range: AddrRange) -> (Way, u64) {
        let at = self.windows().partition_point(|window| window.range.last() < range.first());
        match self.windows().get(at) {
            Some(window) if window.range.contains(range.first()) => {
                (Way::Peer(*window), window.range.last().min(range.last()) - range.first() + 1)
            }
            Some(window) if window.range.overlaps(range) => {
                (Way::Upstream, window.range.first() - range.first())
            }
            _ => (Way::Upstream, range.len()),
        }
    }
}

impl Path {
    /// One transaction: checks that the lengths agree, then goes through the device's gate.
    pub(crate) fn transfer(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        mode: AccessMode,
        learner: Learner<'_>,
    ) -> Result<(), DmaError> {
        let total = buffer.fits(pieces)?;
        let start = pieces.first().map_or(0, |piece| piece.address);
        // From here to the end, since more than the provider and the peers is foreign code: so is
        // what the last access out of a bond drops. An unbind or a removal from there does
        // not wait (rule U3): this transaction would be what it waits for.
        let _callback = InCallback::enter();
        let Some(_inside) = Inside::enter(&self.device.gate, &self.iommu, Last::Wake) else {
            return Err(self.fault(0, pasid, start, mode.access, self.device.why_shut()));
        };
        let isolation = self.device.isolation(self.iommu.topology());
        // Without a byte there is nothing that a peer could decode.
        if total == 0 || isolation.windows().is_empty() && !pieces.iter().any(|piece| piece.wraps())
        {
            return self.upstream(pasid, pieces, buffer, mode, learner);
        }
        let mut done = 0;
        let mut batch = Vec::new();
        for piece in pieces {
            done += self.routed(
                pasid,
                *piece,
                &isolation,
                &mut batch,
                &mut buffer,
                mode,
                learner,
                done,
            )?;
        }
        self.flush(pasid, &mut batch, &mut buffer, mode, learner, done).map(drop)
    }

    /// Sends one piece its ways: what goes upstream is put into `batch`, which is flushed before a
    /// peer is accessed. `done` counts what came before, the batch not included; answers by how
    /// much that grows.
    #[expect(
        clippy::too_many_arguments,
        reason = "the state of one loop, which would be no clearer in a struct of its own"
    )]
    fn routed(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        isolation: &Isolation,
        batch: &mut Vec<Segment>,
        buffer: &mut Buffer<'_>,
        mode: AccessMode,
        learner: Learner<'_>,
        done: u64,
    ) -> Result<u64, DmaError> {
        let mut grown = 0;
        if piece.wraps() {
            grown += self.flush(pasid, batch, buffer, mode, learner, done)?;
            return Err(self.fault(
                done + grown,
                pasid,
                piece.address,
                mode.access,
                FaultReason::Wraps,
            ));
        }
        let mut rest = piece.range();
        while let Some(range) = rest {
            let (way, len) = isolation.route(range);
            match way {
                Way::Upstream => batch.push(Segment { address: range.first(), len }),
                Way::Peer(window) => {
                    grown += self.flush(pasid, batch, buffer, mode, learner, done + grown)?;
                    let at = (done + grown) as usize;
                    self.to_peer(
                        pasid,
                        &window,
                        range.first(),
                        buffer.part(at..at + len as usize),
                        mode.access,
                        done + grown,
                    )?;
                    grown += len;
                }
            }
            rest = range
                .first()
                .checked_add(len)
                .and_then(|next| AddrRange::inclusive(next, range.last()));
        }
        Ok(grown)
    }

    /// Sends the batch to the IOMMU, answers its bytes and leaves it empty.
    fn flush(
        &self,
        pasid: Option<Pasid>,
        batch: &mut Vec<Segment>,
        buffer: &mut Buffer<'_>,
        mode: AccessMode,
        learner: Learner<'_>,
        done: u64,
    ) -> Result<u64, DmaError> {
        if batch.is_empty() {
            // The IOMMU is not to judge what it never sees.
            return Ok(0);
        }
        let len: u64 = batch.iter().map(|piece| piece.len).sum();
        let at = done as usize;
        let sent = self.upstream(pasid, batch, buffer.part(at..at + len as usize), mode, learner);
        batch.clear();
        sent.map(|()| len).map_err(|error| DmaError { done: done + error.done, ..error })
    }

    /// A peer decodes the address: the IOMMU never sees the transaction (rule B7).
    pub(super) fn to_peer(
        &self,
        pasid: Option<Pasid>,
        window: &PeerWindow,
        address: u64,
        buffer: Buffer<'_>,
        access: Access,
        done: u64,
    ) -> Result<(), DmaError> {
        let device = self.device.bdf();
        if let Some(range) = AddrRange::new(address, buffer.len() as u64) {
            self.iommu.log(Event::Misrouted {
                device,
                pasid,
                range,
                decoder: window.decoder,
                claimed: window.claimed,
            });
        }
        let topology = self.iommu.topology();
        match buffer {
            Buffer::Into(buf) => topology.read_peer(device, window, address, buf, access),
            Buffer::From(data) => topology.write_peer(device, window, address, data),
        }
        .map_err(|aborted| {
            self.fault(done, pasid, address, access, FaultReason::PeerAbort(aborted.0))
        })
    }

    /// The IOMMU: pieces that no peer decodes and that do not wrap.
    fn upstream(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buffer: Buffer<'_>,
        mode: AccessMode,
        learner: Learner<'_>,
    ) -> Result<(), DmaError> {
        match pasid {
            Some(pasid) => self.by_pasid(pasid, pieces, buffer, mode, learner),
            None => self.by_domain(pieces, buffer, mode),
        }
    }

    fn by_pasid(
        &self,
        pasid: Pasid,
        pieces: &[Segment],
        buffer: Buffer<'_>,
        mode: AccessMode,
        learner: Learner<'_>,
    ) -> Result<(), DmaError> {
        let start = pieces.first().map_or(0, |piece| piece.address);
        self.by_entry(pasid, start, mode, |entry| {
            access(&*entry.record.space, pieces, buffer, mode_of(entry, mode))
                .map_err(|stopped| self.stopped(stopped, Some(pasid), pieces, mode.access))?;
            learner.learn(self, entry, pieces, Need::of(mode));
            Ok(())
        })
    }

    /// Does something through the table entry of a PASID, inside its gate.
    pub(super) fn by_entry<R>(
        &self,
        pasid: Pasid,
        start: u64,
        mode: AccessMode,
        then: impl FnOnce(&Arc<Attachment>) -> Result<R, DmaError>,
    ) -> Result<R, DmaError> {
        let entered = self.enter_entry(pasid, start, mode)?;
        then(&entered.entry)
    }

    /// Goes into the gate of the table entry of a PASID, where that permits such a transaction.
    pub(super) fn enter_entry(
        &self,
        pasid: Pasid,
        start: u64,
        mode: AccessMode,
    ) -> Result<Entered<'_>, DmaError> {
        let abort = |reason| Err(self.fault(0, Some(pasid), start, mode.access, reason));
        if !self.device.can_issue(pasid) {
            return abort(FaultReason::CannotIssuePasid);
        }
        let Some(mut entry) = self.look_up(pasid) else { return abort(self.not_bound(pasid)) };
        if self.owner.is_some_and(|owner| owner.pasid == pasid && owner != entry.record.tag) {
            return abort(self.not_bound(pasid));
        }
        if mutation::is_on(7) {
            // The owner from one reading of the entry, the rest from another.
            entry = self.look_up(pasid).unwrap_or(entry);
        }
        let Some(entered) = Entered::enter(&self.iommu, entry) else {
            return abort(self.not_bound(pasid));
        };
        let entry = &entered.entry;
        if !entry.published.load(Ordering::Acquire) {
            return abort(FaultReason::NotBound);
        }
        if entry.record.ended() {
            return abort(FaultReason::SpaceEnded);
        }
        if mode.privileged && !entry.features.privileged
            || mode.access == Access::Execute && !entry.features.execute
        {
            return abort(FaultReason::NotGranted);
        }
        Ok(entered)
    }

    /// Brings in what an atomic operation of `len` bytes needs, and has a port learn it; it can be
    /// tried again then.
    pub(super) fn prepare_atomic(
        &self,
        pasid: Pasid,
        address: u64,
        len: u64,
        learner: Learner<'_>,
    ) -> Result<(), DmaError> {
        let mode = AccessMode::WRITE;
        let abort = |reason| Err(self.fault(0, Some(pasid), address, mode.access, reason));
        let _callback = InCallback::enter();
        let Some(_inside) = Inside::enter(&self.device.gate, &self.iommu, Last::Wake) else {
            return abort(self.device.why_shut());
        };
        let isolation = self.device.isolation(self.iommu.topology());
        let piece = [Segment { address, len }];
        if isolation.upstream(address).is_none() {
            // It would have to be routed to the peer, which has no way to answer it.
            return abort(FaultReason::NoAtomics);
        }
        self.by_entry(pasid, address, mode, |entry| {
            if entry.record.kept.is_none() {
                return abort(FaultReason::NoAtomics);
            }
            let stopped =
                |cause| self.stopped(Stopped { done: 0, cause }, Some(pasid), &piece, mode.access);
            let space = &*entry.record.space;
            match space.run(address, false) {
                Ok(Some(run)) if run.permits.covers(Permissions::READ_WRITE) => {
                    let frame = address
                        .checked_sub(run.range.first())
                        .and_then(|offset| run.frame.offset(offset));
                    if frame.and_then(|frame| space.memory(frame, len as usize, true)).is_none() {
                        return abort(FaultReason::NoAtomics);
                    }
                    learner.learn(self, entry, &piece, Need::ATOMIC);
                    Ok(())
                }
                Ok(None) => abort(FaultReason::NoAtomics),
                Ok(Some(run)) if !run.permits.read => abort(FaultReason::Denied),
                Err(
                    cause @ (StopCause::NotMapped
                    | StopCause::Denied
                    | StopCause::Ended
                    | StopCause::Host(_)),
                ) => Err(stopped(cause)),
                Ok(Some(_)) if mode_of(entry, mode).on_absent == OnAbsent::Stop => {
                    abort(FaultReason::Denied)
                }
                Err(cause @ StopCause::NotPresent)
                    if mode_of(entry, mode).on_absent == OnAbsent::Stop =>
                {
                    Err(stopped(cause))
                }
                // Absent, or to be copied before it is written to.
                Ok(Some(_)) | Err(StopCause::NotPresent) => {
                    space.resolve(address, mode).map_err(stopped)
                }
            }
        })
    }

    /// The table entry that the PASID has at this device now.
    fn look_up(&self, pasid: Pasid) -> Option<Arc<Attachment>> {
        let table = self.device.requester.table.read();
        if mutation::is_on(24) {
            // Takes the control lock, which comes first.
            self.iommu.census();
        }
        table.get(&pasid).cloned()
    }

    /// Nobody owns the PASID here; counts where the port is for an owner that had it before.
    pub(super) fn not_bound(&self, pasid: Pasid) -> FaultReason {
        if let Some(tag) = self.owner.filter(|owner| owner.pasid == pasid) {
            self.iommu.count_stale(&self.device, tag);
        }
        FaultReason::NotBound
    }

    fn by_domain(
        &self,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        let domain = loop {
            let domain = self.device.face.translation.current();
            // A closed use has been replaced before it was closed: the next look finds its
            // successor.
            if domain.gate.enter() {
                break domain;
            }
        };
        let _inside = Inside::entered(&domain.gate, &self.iommu, Last::Wake);
        let mut done = 0;
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest {
                let len = self.by_mapping(&domain, range, &mut buffer, done, mode)?;
                done += len;
                rest = range
                    .first()
                    .checked_add(len)
                    .and_then(|next| AddrRange::inclusive(next, range.last()));
            }
        }
        Ok(())
    }

    /// Accesses the first bytes of `range` through the mapping that holds them, and answers how
    /// many.
    fn by_mapping(
        &self,
        domain: &DomainUse,
        range: AddrRange,
        buffer: &mut Buffer<'_>,
        done: u64,
        mode: AccessMode,
    ) -> Result<u64, DmaError> {
        let iova = range.first();
        let abort = |done, address, reason| self.fault(done, None, address, mode.access, reason);
        let found: Option<Arc<Mapping>> = domain.domain.find(iova);
        let mapping = found.ok_or_else(|| abort(done, iova, FaultReason::NoDomainMapping))?;
        let Some(_inside) = Inside::enter(&mapping.gate, &self.iommu, Last::Wake) else {
            return Err(abort(done, iova, FaultReason::NoDomainMapping));
        };
        if !mapping.protection.permits(mode.access) {
            return Err(abort(done, iova, FaultReason::Denied));
        }
        let len = mapping.range.last().min(range.last()) - iova + 1;
        let target = Segment { address: mapping.address + (iova - mapping.range.first()), len };
        let part = buffer.part(done as usize..(done + len) as usize);
        // The mapping is user memory of its space, whatever the transaction says.
        let mode = AccessMode { privileged: false, ..mode };
        access(&*mapping.space, &[target], part, mode).map_err(|stopped| {
            let error = self.stopped(stopped, None, &[Segment { address: iova, len }], mode.access);
            DmaError { done: done + error.done, ..error }
        })?;
        Ok(len)
    }

    /// What a provider's stop is to the device: a fault at the address where it stopped, or a host
    /// failure.
    pub(super) fn stopped(
        &self,
        stopped: Stopped,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        access: Access,
    ) -> DmaError {
        let Stopped { done, cause } = stopped;
        let reason = match cause {
            StopCause::NotMapped => FaultReason::NotMapped,
            StopCause::NotPresent => FaultReason::NotPresent,
            StopCause::Denied => FaultReason::Denied,
            StopCause::Ended => FaultReason::SpaceEnded,
            StopCause::Host(failure) => {
                let errno = failure.source.raw_os_error();
                self.iommu.log(Event::HostFailure {
                    device: self.device.bdf(),
                    call: failure.call,
                    errno,
                });
                return DmaError { done, cause: DmaCause::Host(failure) };
            }
        };
        self.fault(done, pasid, address_after(pieces, done), access, reason)
    }

    /// Makes a fault and logs it (rule F6).
    pub(crate) fn fault(
        &self,
        done: u64,
        pasid: Option<Pasid>,
        address: u64,
        access: Access,
        reason: FaultReason,
    ) -> DmaError {
        let fault = Fault { device: self.device.bdf(), pasid, address, access, reason };
        self.iommu.log(Event::Fault(fault));
        DmaError { done, cause: DmaCause::Fault(fault) }
    }
}

/// The address of the byte after the first `done` bytes of the pieces.
fn address_after(pieces: &[Segment], done: u64) -> u64 {
    let mut left = done;
    let mut last = 0;
    for piece in pieces {
        if left < piece.len {
            return piece.address + left;
        }
        left -= piece.len;
        last = piece.address.wrapping_add(piece.len);
    }
    last
}

/// How an access is made by the bond's terms.
pub(super) fn mode_of(entry: &Attachment, mode: AccessMode) -> AccessMode {
    let on_absent = if entry.features.page_faults { mode.on_absent } else { OnAbsent::Stop };
    AccessMode { on_absent, ..mode }
}

/// Calls the provider, which may run a resolver.
fn access(
    space: &dyn AddressSpace,
    pieces: &[Segment],
    buffer: Buffer<'_>,
    mode: AccessMode,
) -> Result<(), Stopped> {
    match buffer {
        Buffer::Into(buf) => space.read(pieces, buf, mode),
        Buffer::From(data) => space.write(pieces, data, mode),
    }
}
