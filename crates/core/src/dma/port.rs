//! The DMA port: reads and writes of a device, by cached translations or by a walk.

use std::cell::RefCell;
use std::fmt;

use super::buffer::Buffer;
use super::cache::PortCache;
use super::master::BusMaster;
use super::pin_pool::PinPool;
use crate::api::fault::DmaError;
use crate::table::Device;
use crate::types::access::Access;
use crate::types::ids::{Bdf, Pasid, PasidTag};
use crate::types::range::Segment;

impl Device {
    /// Makes a port through which the model of this device issues transactions.
    pub fn port(&self) -> DmaPort {
        DmaPort::new(BusMaster::new(self))
    }
}

/// Issues transactions as one device.
///
/// A port caches translations, so one thread uses it at a time; clone it for each further thread. A
/// clone is cheap and begins with empty caches. A port that accesses memory in place keeps up to 16
/// spaces alive, and up to 16 more for each pin that it has had at one time, until it replaces them
/// by others or is dropped. That keeps their memory, and grants no access to it.
///
/// No method takes the control lock to access memory. A method that misses the caches calls the
/// provider, which may block while it makes a page present.
pub struct DmaPort {
    pub(super) master: BusMaster,
    pub(super) cache: RefCell<Option<Box<PortCache>>>,
    pub(super) pin_pool: PinPool,
}

impl Clone for DmaPort {
    fn clone(&self) -> Self {
        Self::new(self.master.clone())
    }
}

impl DmaPort {
    fn new(master: BusMaster) -> Self {
        Self { master, cache: RefCell::new(None), pin_pool: PinPool::default() }
    }

    /// The device that this port issues transactions as.
    pub fn device(&self) -> Bdf {
        self.master.bdf()
    }

    /// The owner that transactions with its PASID must reach; `None` for a port that reaches any
    /// owner. See [`for_owner`](Self::for_owner).
    pub fn owner(&self) -> Option<PasidTag> {
        self.master.owner
    }

    /// The current owner of a PASID at this device; `None` if the PASID is not bound here.
    pub fn owner_of(&self, pasid: Pasid) -> Option<PasidTag> {
        self.master.owner_of(pasid)
    }

    /// Makes a port whose transactions with `tag`'s PASID reach that owner and no later one. Once
    /// the owner is gone, they are aborted, and counted as
    /// [`Iommu::stale_dropped`](crate::Iommu::stale_dropped).
    pub fn for_owner(&self, tag: PasidTag) -> Self {
        Self::new(self.master.for_owner(tag))
    }

    /// Reads `buf.len()` bytes at `address`, by PASID or, without one, through the domain of the
    /// group. An empty `buf` reads nothing; the PASID must be bound all the same.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes read before the error are in `buf`.
    #[inline(always)]
    pub fn read(&self, pasid: Option<Pasid>, address: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        // In most cases one entry translates all of it.
        if let Some(pasid) = pasid
            && !buf.is_empty()
            && self
                .first_level_slice(pasid, address, buf.len(), Access::READ, |slice| slice.read(buf))
                .is_some()
        {
            return Ok(());
        }
        self.read_miss(pasid, address, buf)
    }

    /// Reads `buf.len()` bytes that the first level does not translate completely.
    // Out of line and in tail position, so that a hit does not save registers for it.
    #[inline(never)]
    pub(super) fn read_miss(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buf: &mut [u8],
    ) -> Result<(), DmaError> {
        let mut done = 0;
        if let Some(pasid) = pasid
            && !buf.is_empty()
            && let Some(moved) =
                self.second_level_slice(pasid, address, buf.len(), Access::READ, |slice| {
                    slice.read(buf)
                })
        {
            done = moved;
            if done == buf.len() {
                return Ok(());
            }
        }
        self.transfer_rest(pasid, address, Buffer::Into(buf), done, Access::READ)
    }

    /// Writes `data` at `address`, by PASID or, without one, through the domain of the group. Empty
    /// `data` writes nothing; the PASID must be bound all the same.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes written before the error stay written.
    #[inline(always)]
    pub fn write(&self, pasid: Option<Pasid>, address: u64, data: &[u8]) -> Result<(), DmaError> {
        if let Some(pasid) = pasid
            && !data.is_empty()
            && self
                .first_level_slice(pasid, address, data.len(), Access::WRITE, |slice| {
                    slice.write(data)
                })
                .is_some()
        {
            return Ok(());
        }
        self.write_miss(pasid, address, data)
    }

    /// Writes `data`, which the first level does not translate completely. The counterpart of
    /// [`read_miss`](Self::read_miss).
    #[inline(never)]
    pub(super) fn write_miss(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        data: &[u8],
    ) -> Result<(), DmaError> {
        let mut done = 0;
        if let Some(pasid) = pasid
            && !data.is_empty()
            && let Some(moved) =
                self.second_level_slice(pasid, address, data.len(), Access::WRITE, |slice| {
                    slice.write(data)
                })
        {
            done = moved;
            if done == data.len() {
                return Ok(());
            }
        }
        self.transfer_rest(pasid, address, Buffer::From(data), done, Access::WRITE)
    }

    /// Reads the pieces one after the other into `buf`, whose length must be the sum of theirs. An
    /// `access` that writes is treated as one that reads.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes read before the error are in `buf`.
    /// [`DmaCause::Length`](crate::api::fault::DmaCause::Length) if the lengths differ.
    pub fn gather(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), DmaError> {
        self.transfer_pieces(pasid, pieces, Buffer::Into(buf), access.reading())
    }

    /// Writes `data` to the pieces one after the other; its length must be the sum of theirs. An
    /// `access` that reads or executes is treated as one that writes.
    ///
    /// # Errors
    /// See [`DmaError`]; the bytes written before the error stay written.
    /// [`DmaCause::Length`](crate::api::fault::DmaCause::Length) if the lengths differ.
    pub fn scatter(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        data: &[u8],
        access: Access,
    ) -> Result<(), DmaError> {
        self.transfer_pieces(pasid, pieces, Buffer::From(data), access.writing())
    }

    /// Transfers the rest of one piece, of which `done` bytes have been transferred. If `done` is
    /// 0, both levels have missed at `address` and are not probed again.
    #[cold]
    fn transfer_rest(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        mut buffer: Buffer<'_>,
        done: usize,
        access: Access,
    ) -> Result<(), DmaError> {
        let len = buffer.len();
        let mut total_done = done;
        if done > 0 {
            let part = &mut buffer.part(done..len);
            let address = address.wrapping_add(done as u64);
            total_done += self.transfer_cached(pasid, address, part, access);
        }
        if total_done == len && len > 0 {
            return Ok(());
        }
        let address = address.wrapping_add(total_done as u64);
        let rest = Segment { address, len: (len - total_done) as u64 };
        self.transfer_by_walk(pasid, &[rest], buffer, total_done, access)
    }

    fn transfer_pieces(
        &self,
        pasid: Option<Pasid>,
        pieces: &[Segment],
        mut buffer: Buffer<'_>,
        access: Access,
    ) -> Result<(), DmaError> {
        buffer.check_length(pieces)?;
        let mut done = 0;
        for (n, piece) in pieces.iter().enumerate() {
            let len = piece.len as usize;
            let moved = self.transfer_cached(
                pasid,
                piece.address,
                &mut buffer.part(done..done + len),
                access,
            );
            done += moved;
            if moved < len {
                let mut rest = pieces[n..].to_vec();
                let address = piece.address.wrapping_add(moved as u64);
                rest[0] = Segment { address, len: (len - moved) as u64 };
                return self.transfer_by_walk(pasid, &rest, buffer, done, access);
            }
        }
        if done > 0 {
            return Ok(());
        }
        // No bytes at all: the walk still checks the device and the PASID.
        self.transfer_by_walk(pasid, pieces, buffer, 0, access)
    }

    /// Transfers the leading bytes that cached translations serve, and returns how many those are.
    #[inline]
    fn transfer_cached(
        &self,
        pasid: Option<Pasid>,
        address: u64,
        buffer: &mut Buffer<'_>,
        access: Access,
    ) -> usize {
        let Some(pasid) = pasid else { return 0 };
        let (mut done, len) = (0, buffer.len());
        while done < len {
            let Some(at) = address.checked_add(done as u64) else { break };
            let Some(moved) =
                self.cached_slice(pasid, at, len - done, access, |slice| slice.copy(buffer, done))
            else {
                break;
            };
            done += moved;
        }
        done
    }

    /// Transfers the rest of a transaction by a walk, after its first `done` bytes. The caller has
    /// probed both levels for the first address of `rest` and missed.
    #[cold]
    fn transfer_by_walk(
        &self,
        pasid: Option<Pasid>,
        rest: &[Segment],
        mut buffer: Buffer<'_>,
        done: usize,
        access: Access,
    ) -> Result<(), DmaError> {
        let part = buffer.part(done..buffer.len());
        let moved = self.master.walk(pasid, rest, part, access, &mut |entry, pieces| {
            PortCache::cache_transfer(&self.cache, &self.master, entry, pieces, access)
        });
        moved.map_err(|error| DmaError { done: done as u64 + error.done, ..error })
    }
}

impl fmt::Debug for DmaPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaPort")
            .field("device", &self.device())
            .field("owner", &self.owner())
            .finish()
    }
}
