//! Look-up of an access in both levels of the translation cache (docs/design/translation.md).

use super::cache::{PortCache, hint_index};
use super::frame_slice::FrameSlice;
use super::port::DmaPort;
use super::tlb::TlbEntry;
use crate::api::ats::Frame;
use crate::api::space::AddressSpace;
use crate::types::access::Access;
use crate::types::ids::Pasid;

impl DmaPort {
    /// Returns the frame that a cached translation of `address` leads to, if that translation
    /// permits `access`. It is looked up as an access looks it up, and may be invalidated as soon
    /// as this returns.
    ///
    /// For device models that estimate the cost of an access, and for measurements. The provider is
    /// not called. Returns `None` if no access has cached a translation of the address, or if it
    /// has been invalidated or evicted.
    #[inline]
    pub fn cached_translation(&self, pasid: Pasid, address: u64, access: Access) -> Option<Frame> {
        let frame = |_: &dyn AddressSpace, frame: Frame, _: &TlbEntry| Some(frame);
        match self.first_level(pasid, address, 1, access, frame) {
            // In tail position, so that the hit above does not save registers for it.
            None => self.second_level(pasid, address, access, frame),
            found => found,
        }
    }

    /// Calls `op` on `len` bytes that the first-level TLB translates. Returns `None`, with no byte
    /// accessed, if it does not translate all of them, or if `op` does: the caller then looks
    /// further.
    ///
    /// `op` runs in a critical section: it must be short, must not block and must not call foreign
    /// code.
    #[inline(always)]
    pub(super) fn first_level_slice<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        op: impl FnOnce(FrameSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.first_level(pasid, address, len, access, |space, frame, _| {
            op(FrameSlice { space, frame, len, is_write: access.is_write() })
        })
    }

    /// Calls `op` on the leading bytes, at most `len`, that one entry of the IOTLB translates, and
    /// inserts that entry into the first level. Returns `None`, with no byte accessed, if the IOTLB
    /// has no entry, or if `op` does. `op` runs in a critical section.
    #[inline]
    pub(super) fn second_level_slice<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        op: impl FnOnce(FrameSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.second_level(pasid, address, access, |space, frame, entry| {
            let (len, is_write) = (entry.len_from(address, len), access.is_write());
            op(FrameSlice { space, frame, len, is_write })
        })
    }

    /// Calls `op` on the leading bytes, at most `len`, that one entry of either level translates.
    /// Each level is probed once. `op` runs in a critical section.
    #[inline]
    pub(super) fn cached_slice<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        mut op: impl FnMut(FrameSlice<'_>) -> Option<R>,
    ) -> Option<R> {
        self.first_level(pasid, address, 1, access, |space, frame, entry| {
            let (len, is_write) = (entry.len_from(address, len), access.is_write());
            op(FrameSlice { space, frame, len, is_write })
        })
        .or_else(|| self.second_level_slice(pasid, address, len, access, op))
    }

    /// Probes the first level for a translation of `len` bytes, and calls `then` in a critical
    /// section with the space, the frame of the address, and the entry.
    #[inline(always)]
    fn first_level<R>(
        &self,
        pasid: Pasid,
        address: u64,
        len: usize,
        access: Access,
        then: impl FnOnce(&dyn AddressSpace, Frame, &TlbEntry) -> Option<R>,
    ) -> Option<R> {
        // The borrow fails if this thread is inside an access of the same port further up the
        // stack.
        if let Ok(cache) = self.cache.try_borrow_mut()
            && let Some(cache) = cache.as_deref()
            && let Some(entry) = cache.tlb.at(pasid, address)
            && let Some(cached) = cache.hinted_entry(pasid)
            && cached.pasid == pasid
            && entry.epoch() == cached.epoch
            && entry.serves(address, len, access)
            && let Some(_guard) = cache.reader.enter(cached)
        {
            return then(&*cached.space, entry.frame(address), entry);
        }
        None
    }

    /// Probes the IOTLB for a translation of one byte, inserts it into the first level, and calls
    /// `then` in a critical section with the space, the frame of the address, and the new entry.
    #[inline(never)]
    fn second_level<R>(
        &self,
        pasid: Pasid,
        address: u64,
        access: Access,
        then: impl FnOnce(&dyn AddressSpace, Frame, &TlbEntry) -> Option<R>,
    ) -> Option<R> {
        let mut cache = self.cache.try_borrow_mut().ok()?;
        let PortCache { reader, tlb, entries, hints } = &mut **cache.as_mut()?;
        if tlb.should_grow() {
            tlb.grow();
        }
        let mut at = usize::from(hints[hint_index(pasid)]);
        if entries.get(at).is_none_or(|cached| cached.pasid != pasid) {
            at = entries.iter().position(|cached| cached.pasid == pasid)?;
            hints[hint_index(pasid)] = at as u8;
        }
        let cached = &mut entries[at];
        if !reader.is_valid_or_recheck(cached) {
            return None;
        }
        let _guard = reader.enter(cached)?;
        let found = cached.find(address, access, &reader.routing)?;
        let entry = tlb.replace(pasid, address, found.last_offset)?;
        entry.set(found, access, cached.epoch);
        then(&*cached.space, entry.frame(address), entry)
    }
}
