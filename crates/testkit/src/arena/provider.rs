//! The space as the core sees it.

use std::sync::Arc;

use sva_core::Extent;
use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Frame, Segment, SpaceCapabilities, SpaceId,
    SpaceWatcher, StopCause, Stopped,
};
use vm_memory::VolatileSlice;

use super::arena_space::Shared;
use crate::table::{Cursor, resolving};

/// The largest translation that is answered, as a power of two: 1 GiB.
const LARGEST: u8 = 30;

impl Shared {
    fn bring_in(&self, page: AddrRange) -> Result<(), StopCause> {
        self.lifecycle.resolve(page, || self.state.write().table.set_present(page))
    }

    /// Copies all pieces, an extent at a time. `copy` gets the offset in the buffer and the memory.
    /// The lock is released only to resolve an absent page.
    fn transfer(
        &self,
        pieces: &[Segment],
        access: Access,
        mut copy: impl FnMut(usize, VolatileSlice<'_>),
    ) -> Result<(), Stopped> {
        let mut cursor = Cursor::new(pieces);
        let pass = || {
            let state = self.state.read();
            while let Some((address, rest)) = cursor.rest() {
                let (extent, mapping) = state.table.check(address, access)?;
                let len = (rest - 1).min(extent.last() - address) + 1;
                let here = AddrRange::new(address, len).expect("a part of an extent");
                copy(cursor.done as usize, self.arena.own(mapping.frames(here)));
                cursor.advance(len as usize);
            }
            Ok(())
        };
        let outcome = resolving(pass, |page| self.bring_in(page));
        outcome.map_err(|cause| Stopped { done: cursor.done, cause })
    }

    /// The memory of frames that are the space's, while the lock is held.
    fn taken(
        &self,
        frame: Frame,
        len: usize,
        access: impl FnOnce(VolatileSlice<'_>),
    ) -> Result<(), NoSuchFrame> {
        let state = self.state.read();
        let frames = AddrRange::new(frame.0, len as u64);
        if state.table.ended || !frames.is_none_or(|frames| state.free.are_taken(frames)) {
            return Err(NoSuchFrame(frame));
        }
        if let Some(frames) = frames {
            access(self.arena.own(frames));
        }
        Ok(())
    }
}

impl AddressSpace for Shared {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities {
            synchronous: true,
            atomics: true,
            in_place: true,
            execute: true,
            privileged: true,
            page_faults: true,
        }
    }

    fn ended(&self) -> Option<EndReason> {
        self.lifecycle.ended()
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        self.lifecycle.watch(watcher)
    }

    fn unwatch(&self, token: WatchToken) {
        self.lifecycle.unwatch(token);
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
        self.state.read().table.translate(address, privileged, LARGEST)
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        let (range, mapping) = self.state.read().table.extent(address)?;
        let permissions = mapping.protection.permissions(privileged);
        Ok(Some(Extent { range, frame: Frame(mapping.frame(range.first())), permissions }))
    }

    #[inline]
    fn memory(&self, frame: Frame, len: usize, _write: bool) -> Option<VolatileSlice<'_>> {
        self.arena.slice(frame, len)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        let access = access.resolving();
        let mut found = None;
        resolving(
            || {
                found = Some(self.state.read().table.check(address, access)?);
                Ok(())
            },
            |page| self.bring_in(page),
        )?;
        // The caller wants to keep a translation of it, so the page stays.
        if found.is_some_and(|(_, mapping)| mapping.moving.is_some()) {
            self.state.write().table.settle(address);
        }
        Ok(())
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.taken(frame, buf.len(), |memory| {
            memory.copy_to(buf);
        })
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.taken(frame, data.len(), |memory| memory.copy_from(data))
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(self.state.read().table.mapped_within(windows))
    }
}
