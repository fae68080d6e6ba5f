//! A watcher for the tests of both spaces: it counts ends, and notes what changes invalidate.

use std::sync::Arc;

use sva_core::space::{ExitWork, Invalidation};
use sva_core::{AddrRange, EndReason, SpaceId, SpaceWatcher};
use sva_sync::Mutex;
use sva_sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) told: AtomicU64,
    pub(crate) ran: Arc<AtomicU64>,
    pub(crate) invalidated: Mutex<Vec<AddrRange>>,
}

impl SpaceWatcher for Watcher {
    fn space_ended(&self, _: SpaceId, _: EndReason) -> ExitWork {
        self.told.fetch_add(1, Ordering::Relaxed);
        let ran = self.ran.clone();
        ExitWork::new(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn invalidate(&self, _: SpaceId, range: AddrRange) -> Invalidation {
        self.invalidated.lock().push(range);
        Invalidation::none()
    }
}
