//! The provider as the core sees it.

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
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::provider::Provider;

/// The largest translation that is answered, as a power of two: 1 GiB.
const MAX_TRANSLATION_BITS: u32 = 30;

impl<M: GuestMemoryBackend + Send + Sync + 'static> AddressSpace for Provider<M> {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities {
            synchronous: true,
            atomics: self.has_slices,
            in_place: true,
            execute: true,
            privileged: true,
            page_faults: self.resolve.is_some(),
        }
    }

    fn ended(&self) -> Option<EndReason> {
        self.watch.lock().ended
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut watch = self.watch.lock();
        if let Some(reason) = watch.ended {
            return Err(SpaceEnded(reason));
        }
        let token = watch.next_token;
        watch.next_token += 1;
        watch.watchers.insert(token, watcher);
        Ok(WatchToken(token))
    }

    fn unwatch(&self, token: WatchToken) {
        // The drop of the watcher is foreign code: not under the lock.
        let watcher = self.watch.lock().watchers.remove(&token.0);
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
        let extent = self.extent_at(address, privileged)?;
        // A frame is as aligned as its address if their difference is a multiple of the size.
        let difference = extent.frame.0.wrapping_sub(extent.range.first());
        let largest = MAX_TRANSLATION_BITS.min(difference.trailing_zeros()) as u8;
        let around = |bits: u8| {
            AlignedRange::new(address >> bits << bits, bits)
                .filter(|range| extent.range.covers(range.range()))
        };
        let Some(range) = (12..=largest).rev().find_map(around) else {
            // Less than a page, or a frame that is not page-aligned: a translation cannot name it.
            return Ok(Translation {
                permissions: extent.permissions,
                ..Translation::none(address)
            });
        };
        let frame = extent
            .frame
            .offset(range.first() - extent.range.first())
            .filter(|_| !extent.permissions.is_empty());
        Ok(Translation { range, frame, permissions: extent.permissions, global: false })
    }

    fn extent(&self, address: u64, privileged: bool) -> Result<Option<Extent>, StopCause> {
        self.extent_at(address, privileged).map(Some)
    }

    #[inline]
    fn memory(&self, frame: Frame, len: usize, _write: bool) -> Option<VolatileSlice<'_>> {
        (self.slice)(&self.memory, GuestAddress(frame.0), len)
    }

    fn resolve(&self, address: u64, access: Access) -> Result<(), StopCause> {
        self.permitted_extent(address, access.resolving()).map(drop)
    }

    fn read_frame(&self, frame: Frame, buf: &mut [u8]) -> Result<(), NoSuchFrame> {
        self.frame_slice(frame, buf.len())?.copy_to(buf);
        Ok(())
    }

    fn write_frame(&self, frame: Frame, data: &[u8]) -> Result<(), NoSuchFrame> {
        self.frame_slice(frame, data.len())?.copy_from(data);
        Ok(())
    }

    fn mapped_within(&self, windows: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        let mut found: Vec<AddrRange> = Vec::new();
        let windows = if self.has_ended.load(Ordering::Acquire) { &[] } else { windows };
        for window in windows {
            let mut rest = Some(*window);
            let mut open: Option<AddrRange> = None;
            while let Some(range) = rest {
                let (around, mapped) = self.mapped_around(range.first());
                let here = around.intersection(range).unwrap_or(range);
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
