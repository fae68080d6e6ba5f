//! The space as the core sees it.

use std::sync::Arc;

use sva_core::ats::Translation;
use sva_core::port::HostFailure;
use sva_core::space::{NoSuchFrame, SpaceEnded, WatchToken};
use sva_core::{
    Access, AddrRange, AddressSpace, EndReason, Frame, Segment, SpaceCapabilities, SpaceId,
    SpaceWatcher, StopCause, Stopped,
};

use super::memory_space::Shared;
use crate::table::{Cursor, Halt, resolving};

impl Shared {
    /// Brings in the page, or says why not.
    fn bring_in(&self, page: AddrRange) -> Result<(), StopCause> {
        if !self.capabilities.page_faults {
            return Err(StopCause::NotPresent);
        }
        self.lifecycle.resolve(page, || self.memory.write().table.set_present(page))
    }

    fn transfer(
        &self,
        pieces: &[Segment],
        mut pass: impl FnMut(&mut Cursor<'_>) -> Result<(), Halt>,
    ) -> Result<(), Stopped> {
        let mut cursor = Cursor::new(pieces);
        resolving(|| pass(&mut cursor), |page| self.bring_in(page))
            .map_err(|cause| Stopped { done: cursor.done, cause })
    }
}

impl AddressSpace for Shared {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        self.capabilities
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
        self.transfer(pieces, |cursor| self.memory.read().read(cursor, buf, access))
    }

    fn write(&self, pieces: &[Segment], data: &[u8], access: Access) -> Result<(), Stopped> {
        self.transfer(pieces, |cursor| self.memory.write().write(cursor, data, access))
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        let translation = self.memory.read().translate(address, privileged)?;
        let frame = translation.frame.filter(|_| self.capabilities.synchronous);
        Ok(Translation { frame, ..translation })
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        let access = access.resolving();
        resolving(
            || self.memory.read().check(address, access).map(drop),
            |page| self.bring_in(page),
        )
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.memory.read().read_frame(frame, buf)
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.memory.write().write_frame(frame, data)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(self.memory.read().table.mapped_within(windows))
    }
}
