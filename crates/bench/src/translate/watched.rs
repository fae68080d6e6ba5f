//! A space that lets its watcher be called without a change.

use std::sync::Arc;

use sva_core::space::{SpaceEnded, WatchToken};
use sva_core::{AddressSpace, SpaceWatcher};
use sva_sync::Mutex;
use sva_testkit::{Forwarding, ForwardingSpace};

pub(super) struct Watched {
    inner: Arc<dyn AddressSpace>,
    watcher: Mutex<Option<Arc<dyn SpaceWatcher>>>,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn AddressSpace>) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(Self { inner, watcher: Mutex::default() }))
    }

    /// Whoever has come to watch last.
    pub(super) fn watcher(&self) -> Option<Arc<dyn SpaceWatcher>> {
        self.watcher.lock().clone()
    }
}

impl ForwardingSpace for Watched {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        *self.watcher.lock() = Some(Arc::clone(&watcher));
        self.inner.watch(watcher)
    }
}
