//! The space as the core sees it.

use std::sync::Arc;

use sva_core::{
    AccessMode, AddrRange, AddressSpace, EndReason, Frame, HostFailure, NoSuchFrame, OnAbsent, Segment, SpaceCapabilities, SpaceEnded,
    SpaceId, SpaceWatcher, StopCause, Stopped, Translation, WatchToken,
};

use super::Shared;
use crate::memory::{Cursor, Halt};

impl Shared {
    /// Brings in the page, or says why not.
    fn bring_in(&self, page: AddrRange) -> Result<(), StopCause> {
        if !self.capabilities.page_faults {
            return Err(StopCause::NotPresent);
        }
        let resolver = self.life.lock().resolver.clone();
        if resolver.is_some_and(|resolver| !resolver(page.first())) {
            return Err(StopCause::NotPresent);
        }
        self.memory.write().set_present(page);
        self.life.lock().resolved += 1;
        Ok(())
    }

    /// Repeats `pass`, which goes on where it halted, until it is through or has stopped for good.
    fn through(&self, mut pass: impl FnMut() -> Result<(), Halt>) -> Result<(), StopCause> {
        loop {
            match pass() {
                Ok(()) => return Ok(()),
                Err(Halt::Absent(page)) => self.bring_in(page)?,
                Err(Halt::Stop(cause)) => return Err(cause),
            }
        }
    }

    fn transfer(&self, pieces: &[Segment], mut pass: impl FnMut(&mut Cursor<'_>) -> Result<(), Halt>) -> Result<(), Stopped> {
        let mut cursor = Cursor::new(pieces);
        self.through(|| pass(&mut cursor)).map_err(|cause| Stopped { done: cursor.done, cause })
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

    fn read(&self, pieces: &[Segment], buf: &mut [u8], mode: AccessMode) -> Result<(), Stopped> {
        self.transfer(pieces, |cursor| self.memory.read().read(cursor, buf, mode))
    }

    fn write(&self, pieces: &[Segment], data: &[u8], mode: AccessMode) -> Result<(), Stopped> {
        self.transfer(pieces, |cursor| self.memory.write().write(cursor, data, mode))
    }

    fn translate(&self, address: u64, privileged: bool) -> Result<Translation, StopCause> {
        let translation = self.memory.read().translate(address, privileged)?;
        let frame = translation.frame.filter(|_| self.capabilities.synchronous);
        Ok(Translation { frame, ..translation })
    }

    fn resolve(&self, address: u64, mode: AccessMode) -> Result<(), StopCause> {
        let mode = AccessMode { on_absent: OnAbsent::Resolve, ..mode };
        self.through(|| self.memory.read().check(address, mode).map(drop))
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.memory.read().read_frame(frame, buf)
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.memory.write().write_frame(frame, data)
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        let mapped = self.memory.read().mapped();
        let mut found: Vec<_> = mapped.iter().flat_map(|region| windows.iter().filter_map(|window| region.intersection(*window))).collect();
        found.sort_unstable();
        Ok(found)
    }
}
