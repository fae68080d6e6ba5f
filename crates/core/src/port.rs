//! Devices and their DMA ports: the data path.
//!
//! A transaction goes through the device's gate, then by its address: to the peer whose window decodes it, or to the IOMMU. There a PASID leads to the requester's table entry
//! and through its gate to the space; without one the group's domain leads to a mapping and through its gate to the mapped space. No lock is held while the space or a peer
//! is accessed; the gates are what unbind, unmap and removal wait for.
//!
//! A gather or scatter goes to the provider in one call as long as its pieces take one way.

mod translated;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::callback::InCallback;
use crate::device::Capabilities;
use crate::domain::{DomainUse, Mapping};
use crate::event::Event;
use crate::fault::{Access, AccessMode, DmaCause, DmaError, Fault, FaultReason, OnAbsent};
use crate::ids::{Bdf, GroupId, Pasid, PasidTag, RequesterId};
use crate::iommu::Iommu;
use crate::iommu::inside::{Inside, Last};
use crate::iommu::parts::{Attachment, DeviceInner, Isolation};
use crate::mutation;
use crate::range::{AddrRange, Segment};
use crate::space::{AddressSpace, StopCause, Stopped};
use crate::sync::atomic::Ordering;
use crate::topology::PeerWindow;

/// A handle of a device that has been plugged in. It keeps working, with errors, after the device was removed.
#[derive(Clone)]
pub struct Device {
    iommu: Iommu,
    inner: Arc<DeviceInner>,
}

impl Device {
    pub(crate) fn new(iommu: Iommu, inner: Arc<DeviceInner>) -> Self {
        Self { iommu, inner }
    }

    pub(crate) fn inner(&self) -> &Arc<DeviceInner> {
        &self.inner
    }

    pub(crate) fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// Whether it was plugged into this IOMMU.
    pub(crate) fn is_of(&self, iommu: &Iommu) -> bool {
        self.iommu.same(iommu)
    }

    /// Where it sits.
    pub fn bdf(&self) -> Bdf {
        self.inner.bdf()
    }

    /// What the IOMMU sees of it.
    pub fn requester(&self) -> RequesterId {
        self.inner.requester.id
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.inner.spec.capabilities
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.inner.group
    }

    /// Whether it has been removed.
    pub fn is_removed(&self) -> bool {
        self.inner.gate.is_closed()
    }

    /// A port through which a model of this device issues transactions.
    pub fn port(&self) -> DmaPort {
        DmaPort { iommu: self.iommu.clone(), device: Arc::clone(&self.inner), owner: None }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("bdf", &self.bdf()).field("group", &self.group()).finish()
    }
}

/// Issues transactions as one device. Cheap to clone; for any number of threads.
#[derive(Clone)]
pub struct DmaPort {
    iommu: Iommu,
    device: Arc<DeviceInner>,
    owner: Option<PasidTag>,
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
    /// Which way the first bytes of `range` take, and how many of them (at least 1).
    fn route(&self, range: AddrRange) -> (Way, u64) {
        let at = self.windows().partition_point(|window| window.range.last() < range.first());
        match self.windows().get(at) {
            Some(window) if window.range.contains(range.first()) => {
                (Way::Peer(*window), window.range.last().min(range.last()) - range.first() + 1)
            }
            Some(window) if window.range.overlaps(range) => (Way::Upstream, window.range.first() - range.first()),
            _ => (Way::Upstream, range.len()),
        }
    }
}

impl DmaPort {
    /// The device that it issues as.
    pub fn device(&self) -> Bdf {
        self.device.bdf()
    }

    /// The owner that a PASID has at this device now.
    pub fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        let table = self.device.requester.table.read();
        table.get(&pasid).filter(|attachment| !attachment.gate.is_closed()).map(|attachment| attachment.record.tag)
    }

    /// A port whose transactions with `tag`'s PASID reach that owner and no later one: they are dropped and counted once the owner is gone (rule U6).
    pub fn for_owner(&self, tag: PasidTag) -> Self {
        Self { owner: Some(tag), ..self.clone() }
    }

    /// Reads `buf.len()` bytes at `address`.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        self.gather(pasid, &[Segment { address, len: buf.len() as u64 }], buf, AccessMode::READ)
    }

    /// Writes `data` at `address`.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.scatter(pasid, &[Segment { address, len: data.len() as u64 }], data, AccessMode::WRITE)
    }

    /// Reads the pieces one after the other into `buf`, whose length is the sum of theirs. `mode.access` is to be read or execute; a write is taken for a read.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn gather(&self, pasid: Option<Pasid>, pieces: &[Segment], buf: &mut [u8], mode: AccessMode) -> Result<(), DmaError> {
        let access = if mode.access == Access::Write { Access::Read } else { mode.access };
        self.transfer(pasid, pieces, Buffer::Into(buf), AccessMode { access, ..mode })
    }

    /// Writes `data` to the pieces one after the other; its length is the sum of theirs. `mode.access` is taken for a write.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn scatter(&self, pasid: Option<Pasid>, pieces: &[Segment], data: &[u8], mode: AccessMode) -> Result<(), DmaError> {
        self.transfer(pasid, pieces, Buffer::From(data), AccessMode { access: Access::Write, ..mode })
    }

    fn transfer(&self, pasid: Option<Pasid>, pieces: &[Segment], mut buffer: Buffer<'_>, mode: AccessMode) -> Result<(), DmaError> {
        let total = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.len));
        if total != buffer.len() as u64 {
            return Err(DmaError { done: 0, cause: DmaCause::Length { pieces: total, buffer: buffer.len() as u64 } });
        }
        let start = pieces.first().map_or(0, |piece| piece.address);
        // From here to the end, since more than the provider and the peers is foreign code: so is what the last access out of a bond drops. An unbind or a removal from
        // there does not wait (rule U3): this transaction would be what it waits for.
        let _callback = InCallback::enter();
        let Some(_inside) = Inside::enter(&self.device.gate, &self.iommu, Last::Wake) else {
            return Err(self.fault(0, pasid, start, mode.access, self.device.why_shut()));
        };
        let isolation = self.device.isolation(self.iommu.topology());
        // Without a byte there is nothing that a peer could decode.
        if total == 0 || isolation.windows().is_empty() && !pieces.iter().any(|piece| piece.wraps()) {
            return self.upstream(pasid, pieces, buffer, mode);
        }
        let mut done = 0;
        let mut batch = Vec::new();
        for piece in pieces {
            done += self.routed(pasid, *piece, &isolation, &mut batch, &mut buffer, mode, done)?;
        }
        self.flush(pasid, &mut batch, &mut buffer, mode, done).map(drop)
    }

    /// Sends one piece its ways: what goes upstream is put into `batch`, which is flushed before a peer is accessed. `done` counts what came before, the batch not
    /// included; answers by how much that grows.
    #[expect(clippy::too_many_arguments, reason = "the state of one loop, which would be no clearer in a struct of its own")]
    fn routed(
        &self,
        pasid: Option<Pasid>,
        piece: Segment,
        isolation: &Isolation,
        batch: &mut Vec<Segment>,
        buffer: &mut Buffer<'_>,
        mode: AccessMode,
        done: u64,
    ) -> Result<u64, DmaError> {
        let mut grown = 0;
        if piece.wraps() {
            grown += self.flush(pasid, batch, buffer, mode, done)?;
            return Err(self.fault(done + grown, pasid, piece.address, mode.access, FaultReason::Wraps));
        }
        let mut rest = piece.range();
        while let Some(range) = rest {
            let (way, len) = isolation.route(range);
            match way {
                Way::Upstream => batch.push(Segment { address: range.first(), len }),
                Way::Peer(window) => {
                    grown += self.flush(pasid, batch, buffer, mode, done + grown)?;
                    let at = (done + grown) as usize;
                    self.to_peer(pasid, &window, range.first(), buffer.part(at..at + len as usize), mode.access, done + grown)?;
                    grown += len;
                }
            }
            rest = range.first().checked_add(len).and_then(|next| AddrRange::inclusive(next, range.last()));
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
        done: u64,
    ) -> Result<u64, DmaError> {
        if batch.is_empty() {
            // The IOMMU is not to judge what it never sees.
            return Ok(0);
        }
        let len: u64 = batch.iter().map(|piece| piece.len).sum();
        let at = done as usize;
        let sent = self.upstream(pasid, batch, buffer.part(at..at + len as usize), mode);
        batch.clear();
        sent.map(|()| len).map_err(|error| DmaError { done: done + error.done, ..error })
    }

    /// A peer decodes the address: the IOMMU never sees the transaction (rule B7).
    fn to_peer(
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
            self.iommu.log(Event::Misrouted { device, pasid, range, decoder: window.decoder, claimed: window.claimed });
        }
        let topology = self.iommu.topology();
        match buffer {
            Buffer::Into(buf) => topology.read_peer(device, window, address, buf, access),
            Buffer::From(data) => topology.write_peer(device, window, address, data),
        }
        .map_err(|aborted| self.fault(done, pasid, address, access, FaultReason::PeerAbort(aborted.0)))
    }

    /// The IOMMU: pieces that no peer decodes and that do not wrap.
    fn upstream(&self, pasid: Option<Pasid>, pieces: &[Segment], buffer: Buffer<'_>, mode: AccessMode) -> Result<(), DmaError> {
        match pasid {
            Some(pasid) => self.by_pasid(pasid, pieces, buffer, mode),
            None => self.by_domain(pieces, buffer, mode),
        }
    }

    fn by_pasid(&self, pasid: Pasid, pieces: &[Segment], buffer: Buffer<'_>, mode: AccessMode) -> Result<(), DmaError> {
        let start = pieces.first().map_or(0, |piece| piece.address);
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
        let Some(_inside) = Inside::enter(&entry.gate, &self.iommu, Last::Attachment(&entry)) else { return abort(self.not_bound(pasid)) };
        if !entry.published.load(Ordering::Acquire) {
            return abort(FaultReason::NotBound);
        }
        if entry.record.ended() {
            return abort(FaultReason::SpaceEnded);
        }
        if mode.privileged && !entry.features.privileged || mode.access == Access::Execute && !entry.features.execute {
            return abort(FaultReason::NotGranted);
        }
        let on_absent = if entry.features.page_faults { mode.on_absent } else { OnAbsent::Stop };
        access(&*entry.record.space, pieces, buffer, AccessMode { on_absent, ..mode })
            .map_err(|stopped| self.stopped(stopped, Some(pasid), pieces, mode.access))
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
    fn not_bound(&self, pasid: Pasid) -> FaultReason {
        if let Some(tag) = self.owner.filter(|owner| owner.pasid == pasid) {
            self.iommu.count_stale(&self.device, tag);
        }
        FaultReason::NotBound
    }

    fn by_domain(&self, pieces: &[Segment], mut buffer: Buffer<'_>, mode: AccessMode) -> Result<(), DmaError> {
        let domain = loop {
            let domain = self.device.face.translation.current();
            // A closed use has been replaced before it was closed: the next look finds its successor.
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
                rest = range.first().checked_add(len).and_then(|next| AddrRange::inclusive(next, range.last()));
            }
        }
        Ok(())
    }

    /// Accesses the first bytes of `range` through the mapping that holds them, and answers how many.
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

    /// What a provider's stop is to the device: a fault at the address where it stopped, or a host failure.
    fn stopped(&self, stopped: Stopped, pasid: Option<Pasid>, pieces: &[Segment], access: Access) -> DmaError {
        let Stopped { done, cause } = stopped;
        let reason = match cause {
            StopCause::NotMapped => FaultReason::NotMapped,
            StopCause::NotPresent => FaultReason::NotPresent,
            StopCause::Denied => FaultReason::Denied,
            StopCause::Ended => FaultReason::SpaceEnded,
            StopCause::Host(failure) => {
                let errno = failure.source.raw_os_error();
                self.iommu.log(Event::HostFailure { device: self.device.bdf(), call: failure.call, errno });
                return DmaError { done, cause: DmaCause::Host(failure) };
            }
        };
        self.fault(done, pasid, address_after(pieces, done), access, reason)
    }

    /// Makes a fault and logs it (rule F6).
    pub(crate) fn fault(&self, done: u64, pasid: Option<Pasid>, address: u64, access: Access, reason: FaultReason) -> DmaError {
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

/// Calls the provider, which may run a resolver.
fn access(space: &dyn AddressSpace, pieces: &[Segment], buffer: Buffer<'_>, mode: AccessMode) -> Result<(), Stopped> {
    match buffer {
        Buffer::Into(buf) => space.read(pieces, buf, mode),
        Buffer::From(data) => space.write(pieces, data, mode),
    }
}

impl fmt::Debug for DmaPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaPort").field("device", &self.device.bdf()).field("owner", &self.owner).finish()
    }
}
