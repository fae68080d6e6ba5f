//! A walk: a transaction that no cached translation serves. It enters the gates, passes the windows
//! of peers, and calls the provider.
//!
//! A gather or scatter calls the provider once for consecutive pieces that take the same route.

use std::sync::Arc;

use super::buffer::Buffer;
use super::master::BusMaster;
use crate::api::fault::{DmaError, FaultReason};
use crate::api::space::{AddressSpace, Stopped};
use crate::quiesce::callback::InCallback;
use crate::table::{DomainAttachment, GateGuard, OnDrain, PasidEntry, Route, Routing};
use crate::types::access::Access;
use crate::types::ids::Pasid;
use crate::types::range::{AddrRange, Segment};

/// Called inside the gates with the PASID entry and the pieces of a transfer that succeeded through
/// it. A port fills its caches there.
pub(super) type OnTranslated<'a> = &'a mut dyn FnMut(&Arc<PasidEntry>, &[Segment]);

/// A transaction in progress.
struct Walk<'a> {
    master: &'a BusMaster,
    pasid: Option<Pasid>,
    access: Access,
    buffer: Buffer<'a>,
    /// The number of bytes transferred.
    done: u64,
    /// Pieces that are sent to the IOMMU next.
    batch: Vec<Segment>,
    on_translated: OnTranslated<'a>,
}

impl BusMaster {
    /// Performs one transaction: checks that the lengths agree, enters the gate of the device, and
    /// routes the pieces.
    pub(super) fn walk(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buffer: Buffer<'_>,
        access: Access,
        on_translated: OnTranslated<'_>,
    ) -> Result<(), DmaError> {
        let total = buffer.check_length(pieces)?;
        let start = pieces.first().map_or(0, |piece| piece.address);
        // Held to the end of the walk. Foreign code runs in the provider, in peers, and in the
        // destructors of what the last access through a bond drops. An unbind or removal that is
        // called from there must not wait for this transaction.
        let _callback = InCallback::enter();
        let Some(_inside) = self.enter_device() else {
            return Err(self.fault(0, pasid, start, access, self.device.shut_reason()));
        };
        let routing = self.device.current_routing(self.iommu.topology());
        let mut walk =
            Walk { master: self, pasid, access, buffer, done: 0, batch: Vec::new(), on_translated };
        // A transaction of no bytes has no address that a peer could decode.
        if total == 0 || routing.windows().is_empty() && !pieces.iter().any(|piece| piece.wraps()) {
            return walk.issue(pieces);
        }
        for piece in pieces {
            walk.route(*piece, &routing)?;
        }
        walk.flush()
    }
}

impl Walk<'_> {
    fn fault(&self, address: u64, reason: FaultReason) -> DmaError {
        self.master.fault(self.done, self.pasid, address, self.access, reason)
    }

    /// The next `len` bytes of the buffer.
    fn next_bytes(&mut self, len: u64) -> Buffer<'_> {
        let at = self.done as usize;
        self.buffer.part(at..at + len as usize)
    }

    /// Routes one piece. The parts for the IOMMU are added to the batch, which is flushed before a
    /// peer is accessed, so that bytes are transferred in order.
    fn route(&mut self, piece: Segment, routing: &Routing) -> Result<(), DmaError> {
        if piece.wraps() {
            self.flush()?;
            return Err(self.fault(piece.address, FaultReason::Wraps));
        }
        let mut rest = piece.range();
        while let Some(range) = rest {
            let (route, len) = routing.route(range);
            match route {
                Route::ToIommu => self.batch.push(Segment { address: range.first(), len }),
                Route::ToPeer(window) => {
                    self.flush()?;
                    let (master, pasid) = (self.master, self.pasid);
                    let (access, done) = (self.access, self.done);
                    let buffer = self.next_bytes(len);
                    master.access_peer(pasid, &window, range.first(), buffer, access, done)?;
                    self.done += len;
                }
            }
            rest = range.after(len);
        }
        Ok(())
    }

    /// Sends the batch to the IOMMU. An empty batch is not sent: the IOMMU must not fault a
    /// transaction of which no part reaches it.
    fn flush(&mut self) -> Result<(), DmaError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.issue(&batch)
    }

    /// Sends pieces to the IOMMU. No peer decodes them, and they do not wrap.
    fn issue(&mut self, pieces: &[Segment]) -> Result<(), DmaError> {
        match self.pasid {
            Some(pasid) => self.issue_with_pasid(pasid, pieces),
            None => self.issue_without_pasid(pieces),
        }
    }

    fn issue_with_pasid(&mut self, pasid: Pasid, pieces: &[Segment]) -> Result<(), DmaError> {
        let (master, access, before) = (self.master, self.access, self.done);
        let start = pieces.first().map_or(0, |piece| piece.address);
        let after = |error: DmaError| DmaError { done: before + error.done, ..error };
        let len: u64 = pieces.iter().map(|piece| piece.len).sum();
        let moved = master.with_entry(pasid, start, access, |entry| {
            let effective = entry.effective_access(access);
            access_space(&*entry.record.space, pieces, self.next_bytes(len), effective)
                .map_err(|stopped| master.stop_error(stopped, Some(pasid), pieces, access))?;
            (self.on_translated)(entry, pieces);
            Ok(())
        });
        moved.map_err(after)?;
        self.done += len;
        Ok(())
    }

    fn issue_without_pasid(&mut self, pieces: &[Segment]) -> Result<(), DmaError> {
        let attachment = loop {
            let attachment = self.master.device.group.domain.current();
            // A closed attachment was replaced before it was closed, so the next iteration finds
            // its successor.
            if attachment.gate.enter() {
                break attachment;
            }
        };
        let _inside =
            GateGuard::from_entered(&attachment.gate, &self.master.iommu, OnDrain::WakeThreads);
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest {
                let len = self.access_mapping(&attachment, range)?;
                self.done += len;
                rest = range.after(len);
            }
        }
        Ok(())
    }

    /// Accesses the leading bytes of `range` through the mapping that contains its first address,
    /// and returns how many those are.
    fn access_mapping(
        &mut self,
        attachment: &DomainAttachment,
        range: AddrRange,
    ) -> Result<u64, DmaError> {
        let (master, iova) = (self.master, range.first());
        let Some(mapping) = attachment.domain.find(iova) else {
            return Err(self.fault(iova, FaultReason::NoDomainMapping));
        };
        let Some(_inside) = GateGuard::enter(&mapping.gate, &master.iommu, OnDrain::WakeThreads)
        else {
            return Err(self.fault(iova, FaultReason::NoDomainMapping));
        };
        if !mapping.permits(self.access) {
            return Err(self.fault(iova, FaultReason::Denied));
        }
        let len = mapping.range.last().min(range.last()) - iova + 1;
        let target = Segment { address: mapping.address + (iova - mapping.range.first()), len };
        // A mapping leads to user memory of its space, also for a privileged transaction.
        let (access, done) = (self.access.unprivileged(), self.done);
        access_space(&*mapping.space, &[target], self.next_bytes(len), access).map_err(
            |stopped| {
                let piece = [Segment { address: iova, len }];
                let error = master.stop_error(stopped, None, &piece, access);
                DmaError { done: done + error.done, ..error }
            },
        )?;
        Ok(len)
    }
}

/// Calls the provider, which may run a resolver.
fn access_space(
    space: &dyn AddressSpace,
    pieces: &[Segment],
    buffer: Buffer<'_>,
    access: Access,
) -> Result<(), Stopped> {
    match buffer {
        Buffer::Into(buf) => space.read(pieces, buf, access),
        Buffer::From(data) => space.write(pieces, data, access),
    }
}
