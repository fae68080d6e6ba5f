//! A guest's memory as the core sees it.

use std::io;
use std::sync::Arc;

use sva_core::ats::AlignedRange;
use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Extent, Frame, Segment, SpaceCapabilities, SpaceId,
    SpaceWatcher, StopCause, Stopped,
};
use sva_sync::atomic::Ordering;
use vm_memory::bitmap::MS;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileSlice};

use crate::space::Shared;

/// The largest translation that is answered, as a power of two: 1 GiB.
const LARGEST: u32 = 30;
/// Times that a page is brought in before it is given up.
const ROUNDS: u32 = 1000;

impl<M: GuestMemoryBackend + Send + Sync> Shared<M> {
    /// What the monitor says now, as far as one region of the guest's memory goes.
    fn look_up(&self, address: u64, privileged: bool) -> Result<Extent, StopCause> {
        if self.over.load(Ordering::Acquire) {
            return Err(StopCause::Ended);
        }
        let run = (self.translate)(address, privileged)?;
        self.within_a_region(run, address).ok_or(StopCause::NotMapped)
    }

    fn within_a_region(&self, run: Extent, address: u64) -> Option<Extent> {
        let before = address.checked_sub(run.range.first())?;
        let after = run.range.last().checked_sub(address)?;
        let at = run.frame.offset(before)?.0;
        let region = self.memory.find_region(GuestAddress(at))?;
        let before = before.min(at - region.start_addr().0);
        let after = after.min(region.last_addr().0 - at);
        let range = AddrRange::inclusive(address - before, address + after)?;
        Some(Extent { range, frame: Frame(at - before), ..run })
    }

    /// A run that permits the access, once pages have been brought in for it.
    fn permitted(&self, address: u64, access: Access) -> Result<Extent, StopCause> {
        let resolve = self.resolve.as_ref().filter(|_| !access.is_present_only());
        for _ in 0..ROUNDS {
            let refused = match self.look_up(address, access.is_privileged()) {
                Ok(run) if run.permissions.permit(access) => return Ok(run),
                Ok(_) => StopCause::Denied,
                Err(StopCause::NotPresent) => StopCause::NotPresent,
                Err(cause) => return Err(cause),
            };
            let Some(resolve) = resolve else { return Err(refused) };
            resolve(address, access)?;
        }
        Err(StopCause::NotPresent)
    }

    /// Copies the first bytes of `range`, and answers how many: through a translation that still
    /// holds while they are copied (rule T2).
    fn copy_some(
        &self,
        range: AddrRange,
        access: Access,
        copy: impl FnOnce(GuestAddress, usize) -> Result<(), StopCause>,
    ) -> Result<u64, StopCause> {
        loop {
            let changes = *self.copying.read();
            // With no lock held: it is foreign.
            let run = self.permitted(range.first(), access)?;
            let now = self.copying.read();
            if self.over.load(Ordering::Acquire) {
                return Err(StopCause::Ended);
            }
            if *now != changes {
                continue;
            }
            let after = (run.range.last() - range.first()).min(range.last() - range.first());
            let len = usize::try_from(after).unwrap_or(usize::MAX).saturating_add(1);
            let frame = run.frame.0 + (range.first() - run.range.first());
            return copy(GuestAddress(frame), len).map(|()| len as u64);
        }
    }

    fn transfer(
        &self,
        pieces: &[Segment],
        access: Access,
        mut copy: impl FnMut(usize, VolatileSlice<'_, MS<'_, M>>),
    ) -> Result<(), Stopped> {
        let mut done = 0;
        for piece in pieces {
            let mut rest = piece.range();
            while let Some(range) = rest {
                let copied = self.copy_some(range, access, |at, len| {
                    copy(done as usize, self.memory.get_slice(at, len).map_err(no_slice)?);
                    Ok(())
                });
                let len = copied.map_err(|cause| Stopped { done, cause })?;
                done += len;
                rest = range
                    .first()
                    .checked_add(len)
                    .and_then(|next| AddrRange::inclusive(next, range.last()));
            }
        }
        Ok(())
    }

    /// The memory of a frame that somebody was told of.
    fn slice_of(
        &self,
        frame: Frame,
        len: usize,
    ) -> Result<VolatileSlice<'_, MS<'_, M>>, NoSuchFrame> {
        let alive = !self.over.load(Ordering::Acquire);
        let slice = alive.then(|| self.memory.get_slice(GuestAddress(frame.0), len).ok()).flatten();
        slice.ok_or(NoSuchFrame(frame))
    }

    /// Which part of a window is mapped around an address, or how far nothing is.
    fn extent(&self, address: u64) -> (AddrRange, bool) {
        let page = AlignedRange::page(address).range();
        match (self.translate)(address, false) {
            Ok(run) if run.range.contains(address) => (run.range, !run.permissions.is_empty()),
            Ok(_) | Err(StopCause::NotMapped | StopCause::Ended) => (page, false),
            // It is there, though not for now, or not for this.
            Err(_) => (page, true),
        }
    }
}

/// A region of guest memory that this process cannot reach.
fn no_slice(error: vm_memory::GuestMemoryError) -> StopCause {
    StopCause::Host(HostFailure {
        call: "GuestMemoryBackend::get_slice",
        source: io::Error::other(error),
    })
}

impl<M: GuestMemoryBackend + Send + Sync + 'static> AddressSpace for Shared<M> {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities {
            synchronous: true,
            atomics: self.plain,
            in_place: true,
            execute: true,
            privileged: true,
            page_faults: self.resolve.is_some(),
        }
    }

    fn ended(&self) -> Option<EndReason> {
        self.life.lock().ended
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut life = self.life.lock();
        if let Some(reason) = life.ended {
            return Err(SpaceEnded(reason));
        }
        let token = life.next_token;
        life.next_token += 1;
        life.watchers.insert(token, watcher);
        Ok(WatchToken(token))
    }

    fn unwatch(&self, token: WatchToken) {
        // The watcher may be dropped here, and with it what it owns: not under the lock.
        let watcher = self.life.lock().watchers.remove(&token.0);
        drop(watcher);
    }

    fn read(&self, pieces: &[Segment], buf: &mut [u8], access: Access) -> Result<(), Stopped> {
        self.transfer(pieces, access, |at, memory| {
            memory.copy_to(&mut buf[at..at + memory.len()]);
        })
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.transfer(pieces, access, |at, memory| memory.copy_from(&data[at..at + memory.len()]))
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        let run = self.look_up(address, privileged)?;
        // Where the difference is a multiple of the size, the frame is as aligned as the address.
        let largest =
            LARGEST.min(run.frame.0.wrapping_sub(run.range.first()).trailing_zeros()) as u8;
        let around = |bits: u8| {
            AlignedRange::new(address >> bits << bits, bits)
                .filter(|range| run.range.covers(range.range()))
        };
        let Some(range) = (12..=largest).rev().find_map(around) else {
            // Less than a page, or askew: nothing that a translation could name.
            return Ok(Translation { permissions: run.permissions, ..Translation::none(address) });
        };
        let frame = run
            .frame
            .offset(range.first() - run.range.first())
            .filter(|_| !run.permissions.is_empty());
        Ok(Translation { range, frame, permissions: run.permissions, global: false })
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        self.look_up(address, privileged).map(Some)
    }

    #[inline]
    fn memory(&self, frame: Frame, len: usize, _write: bool) -> Option<VolatileSlice<'_>> {
        (self.slice)(&self.memory, GuestAddress(frame.0), len)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        self.permitted(address, access.resolving()).map(drop)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.slice_of(frame, buf.len())?.copy_to(buf);
        Ok(())
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.slice_of(frame, data.len())?.copy_from(data);
        Ok(())
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        let mut found: Vec<AddrRange> = Vec::new();
        let windows = if self.over.load(Ordering::Acquire) { &[] } else { windows };
        for window in windows {
            let mut rest = Some(*window);
            let mut open: Option<AddrRange> = None;
            while let Some(range) = rest {
                let (extent, mapped) = self.extent(range.first());
                let here = extent.intersection(range).unwrap_or(range);
                open = match (open, mapped) {
                    (Some(before), true) => AddrRange::inclusive(before.first(), here.last()),
                    (None, true) => Some(here),
                    (before, false) => {
                        found.extend(before);
                        None
                    }
                };
                rest = here
                    .last()
                    .checked_add(1)
                    .and_then(|next| AddrRange::inclusive(next, range.last()));
            }
            found.extend(open);
        }
        found.sort_unstable();
        Ok(found)
    }
}
