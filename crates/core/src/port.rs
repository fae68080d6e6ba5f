//! Devices and their DMA ports: the data path.
//!
//! A transaction goes through the device's gate, then by its address: to the peer whose window
//! decodes it, or to the IOMMU. There a PASID leads to the requester's table entry and through its
//! gate to the space; without one the group's domain leads to a mapping and through its gate to the
//! mapped space. No lock is held while the space or a peer is accessed; the gates are what unbind,
//! unmap and removal wait for. That is the [long way](path); what a port remembers of it makes the
//! [short one](lane).
//!
//! A gather or scatter goes to the provider in one call as long as its pieces take one way.

mod atomic;
mod holder;
mod known;
mod lane;
mod memo;
mod path;
mod pin;
mod place;
mod translated;
mod value;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::device::Capabilities;
use crate::fault::{Access, AccessMode, DmaError};
use crate::ids::{Bdf, GroupId, Pasid, PasidTag, RequesterId};
use crate::iommu::Iommu;
use crate::iommu::parts::DeviceInner;
use crate::range::Segment;
pub use atomic::AtomicWord;
use holder::Idle;
use lane::Lane;
pub(crate) use lane::Learner;
use memo::Need;
pub(crate) use path::{Buffer, Path};
pub use pin::Pin;

/// A handle of a device that has been plugged in. It keeps working, with errors, after the device
/// was removed.
#[derive(Clone)]
pub struct Device {
    path: Path,
}

impl Device {
    pub(crate) fn new(iommu: Iommu, inner: Arc<DeviceInner>) -> Self {
        Self { path: Path { iommu, device: inner, owner: None } }
    }

    pub(crate) fn inner(&self) -> &Arc<DeviceInner> {
        &self.path.device
    }

    pub(crate) fn iommu(&self) -> &Iommu {
        &self.path.iommu
    }

    /// Whether it was plugged into this IOMMU.
    pub(crate) fn is_of(&self, iommu: &Iommu) -> bool {
        self.path.iommu.same(iommu)
    }

    /// Where it sits.
    pub fn bdf(&self) -> Bdf {
        self.path.device.bdf()
    }

    /// What the IOMMU sees of it.
    pub fn requester(&self) -> RequesterId {
        self.path.device.requester.id
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.path.device.spec.capabilities
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.path.device.group
    }

    /// Whether it has been removed.
    pub fn is_removed(&self) -> bool {
        self.path.device.gate.is_closed()
    }

    pub(crate) fn path(&self) -> Path {
        self.path.clone()
    }

    /// A port through which a model of this device issues transactions.
    pub fn port(&self) -> DmaPort {
        DmaPort::new(self.path())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("bdf", &self.bdf()).field("group", &self.group()).finish()
    }
}

/// Issues transactions as one device.
///
/// It remembers what it has accessed, and so is for one thread at a time; clone it for each thread.
/// A clone is cheap and remembers nothing yet. It holds on to up to 16 spaces that it has used and
/// that can be accessed in place, until it forgets them for others or is dropped: to their memory,
/// not to any permission.
pub struct DmaPort {
    path: Path,
    lane: RefCell<Option<Box<Lane>>>,
    idle: Idle,
}

impl Clone for DmaPort {
    fn clone(&self) -> Self {
        Self::new(self.path.clone())
    }
}

impl DmaPort {
    fn new(path: Path) -> Self {
        Self { path, lane: RefCell::new(None), idle: Idle::default() }
    }

    /// The device that it issues as.
    pub fn device(&self) -> Bdf {
        self.path.device.bdf()
    }

    /// The owner that its transactions reach, where they are to reach no other; see
    /// [`for_owner`](Self::for_owner).
    pub fn owner(&self) -> Option<PasidTag> {
        self.path.owner
    }

    /// The owner that a PASID has at this device now.
    pub fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        let table = self.path.device.requester.table.read();
        table
            .get(&pasid)
            .filter(|attachment| !attachment.gate.is_closed())
            .map(|attachment| attachment.record.tag)
    }

    /// A port whose transactions with `tag`'s PASID reach that owner and no later one: they are
    /// dropped and counted once the owner is gone (rule U6).
    pub fn for_owner(&self, tag: PasidTag) -> Self {
        Self::new(Path { owner: Some(tag), ..self.path.clone() })
    }

    /// Reads `buf.len()` bytes at `address`. Where that is none nothing is accessed, and a PASID
    /// has to be bound all the same, as for any other transaction.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    #[inline(always)]
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        // All of it in one run, as it mostly is.
        if let Some(pasid) = pasid
            && !buf.is_empty()
            && self
                .remembered(pasid, address, buf.len(), Need::of(AccessMode::READ), |place| {
                    place.read(buf)
                })
                .is_some()
        {
            return Ok(());
        }
        self.read_elsewhere(pasid, address, buf)
    }

    /// Reads what the port does not remember all of.
    // Out of line, as the last thing that is done: those that need it not have nothing to save for
    // afterwards.
    #[inline(never)]
    fn read_elsewhere(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buf: &mut [u8],
    ) -> Result<(), DmaError> {
        if let Some(pasid) = pasid
            && !buf.is_empty()
            && self
                .recalled(pasid, address, buf.len(), Need::of(AccessMode::READ), |place| {
                    place.read(buf)
                })
                .is_some()
        {
            return Ok(());
        }
        self.one(pasid, address, Buffer::Into(buf), AccessMode::READ)
    }

    /// Writes `data` at `address`. Where that is none nothing is accessed, as for
    /// [`read`](Self::read).
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    #[inline(always)]
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        if let Some(pasid) = pasid
            && !data.is_empty()
            && self
                .remembered(pasid, address, data.len(), Need::of(AccessMode::WRITE), |place| {
                    place.write(data)
                })
                .is_some()
        {
            return Ok(());
        }
        self.write_elsewhere(pasid, address, data)
    }

    /// Writes where the port does not remember all of it, as
    /// [`read_elsewhere`](Self::read_elsewhere) reads.
    #[inline(never)]
    fn write_elsewhere(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        data: &[u8],
    ) -> Result<(), DmaError> {
        if let Some(pasid) = pasid
            && !data.is_empty()
            && self
                .recalled(pasid, address, data.len(), Need::of(AccessMode::WRITE), |place| {
                    place.write(data)
                })
                .is_some()
        {
            return Ok(());
        }
        self.one(pasid, address, Buffer::From(data), AccessMode::WRITE)
    }

    /// Reads the pieces one after the other into `buf`, whose length is the sum of theirs.
    /// `mode.access` is to be read or execute; a write is taken for a read.
    ///
    /// # Errors
    /// What was read before is in `buf`; see [`DmaError`].
    pub fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        self.pieces(pasid, pieces, Buffer::Into(buf), mode.reading())
    }

    /// Writes `data` to the pieces one after the other; its length is the sum of theirs.
    /// `mode.access` is taken for a write.
    ///
    /// # Errors
    /// What was written before stays; see [`DmaError`].
    pub fn scatter(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        data: &[u8],
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        self.pieces(pasid, pieces, Buffer::From(data), AccessMode { access: Access::Write, ..mode })
    }

    /// One piece, as long as the buffer.
    #[cold]
    fn one(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        let len = buffer.len();
        let done = self.short_way(pasid, address, &mut buffer, mode);
        if done == len && len > 0 {
            return Ok(());
        }
        let rest =
            [Segment { address: address.wrapping_add(done as u64), len: (len - done) as u64 }];
        self.long_way(pasid, &rest, buffer, done, mode)
    }

    fn pieces(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        buffer.fits(pieces)?;
        let mut done = 0;
        for (n, piece) in pieces.iter().enumerate() {
            let len = piece.len as usize;
            let short =
                self.short_way(pasid, piece.address, &mut buffer.part(done..done + len), mode);
            done += short;
            if short < len {
                let mut rest = pieces[n..].to_vec();
                rest[0] = Segment {
                    address: piece.address.wrapping_add(short as u64),
                    len: (len - short) as u64,
                };
                return self.long_way(pasid, &rest, buffer, done, mode);
            }
        }
        if done > 0 { Ok(()) } else { self.long_way(pasid, pieces, buffer, 0, mode) }
    }

    /// How many bytes, from the first on, went by what is kept.
    #[inline]
    fn short_way(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buffer: &mut Buffer<'_>,
        mode: AccessMode,
    ) -> usize {
        let Some(pasid) = pasid else { return 0 };
        let (mut done, len) = (0, buffer.len());
        while done < len {
            let Some(at) = address.checked_add(done as u64) else { break };
            let Some(more) =
                self.hit(pasid, at, len - done, Need::of(mode), |place| place.copy(buffer, done))
            else {
                break;
            };
            done += more;
        }
        done
    }

    /// All that is left of a transaction of which `done` bytes are done.
    #[cold]
    fn long_way(
        &self,
        pasid: Option<Pasid>,
        rest: &[Segment],
        mut buffer: Buffer<'_>,
        done: usize,
        mode: AccessMode,
    ) -> Result<(), DmaError> {
        let all = done..buffer.len();
        let sent = self.path.transfer(pasid, rest, buffer.part(all), mode, Learner::of(self));
        sent.map_err(|error| DmaError { done: done as u64 + error.done, ..error })
    }
}

impl fmt::Debug for DmaPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaPort")
            .field("device", &self.path.device.bdf())
            .field("owner", &self.path.owner)
            .finish()
    }
}
