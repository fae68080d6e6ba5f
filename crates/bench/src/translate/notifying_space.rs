//! A space whose watcher can be called although nothing has changed.

use std::sync::Arc;

use sva_core::space::{SpaceEnded, WatchToken};
use sva_core::{AddressSpace, SpaceWatcher};
use sva_sync::Mutex;
use sva_testkit::{Forwarding, ForwardingSpace};

pub(super) struct NotifyingSpace {
    inner: Arc<dyn AddressSpace>,
    watcher: Mutex<Option<Arc<dyn SpaceWatcher>>>,
}

impl NotifyingSpace {
    pub(super) fn new(inner: Arc<dyn AddressSpace>) -> Arc<Forwarding<Self>> {
        Arc::new(Forwarding(Self { inner, watcher: Mutex::default() }))
    }

    /// The watcher that was registered last.
    pub(super) fn watcher(&self) -> Option<Arc<dyn SpaceWatcher>> {
        self.watcher.lock().clone()
    }
}

impl ForwardingSpace for NotifyingSpace {
    fn inner(&self) -> &dyn AddressSpace {
        &*self.inner
    }

    fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        *self.watcher.lock() = Some(Arc::clone(&watcher));
        self.inner.watch(watcher)
    }
}
