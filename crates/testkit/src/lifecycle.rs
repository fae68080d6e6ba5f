//! The lifecycle of a space: its watchers, its resolver of absent pages, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use sva_core::space::{ExitWork, Invalidation, SpaceEnded, WatchToken};
use sva_core::{AddrRange, EndReason, SpaceId, SpaceWatcher, StopCause};
use sva_sync::Mutex;

/// Decides whether an absent page can be brought in; gets the page's first address.
type Resolver = dyn Fn(u64) -> bool + Send + Sync;

/// Calls watchers and the resolver with no lock held.
#[derive(Default)]
pub(crate) struct Lifecycle(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    ended: Option<EndReason>,
    next_token: u64,
    watchers: BTreeMap<u64, Arc<dyn SpaceWatcher>>,
    resolver: Option<Arc<Resolver>>,
    resolved: u64,
}

impl Lifecycle {
    pub(crate) fn ended(&self) -> Option<EndReason> {
        self.0.lock().ended
    }

    pub(crate) fn watch(&self, watcher: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        let mut life = self.0.lock();
        if let Some(reason) = life.ended {
            return Err(SpaceEnded(reason));
        }
        let token = life.next_token;
        life.next_token += 1;
        life.watchers.insert(token, watcher);
        Ok(WatchToken(token))
    }

    pub(crate) fn unwatch(&self, token: WatchToken) {
        // The last reference may be dropped here, and what the watcher owns with it. The lock must
        // not be held then.
        let watcher = self.0.lock().watchers.remove(&token.0);
        drop(watcher);
    }

    pub(crate) fn watches(&self) -> usize {
        self.0.lock().watchers.len()
    }

    /// Has every watcher invalidate `range`, which has changed. The caller waits for the results.
    pub(crate) fn invalidate(&self, space: SpaceId, range: AddrRange) -> Vec<Invalidation> {
        // A watcher that is added after this translates by the new table.
        let watchers: Vec<_> = self.0.lock().watchers.values().cloned().collect();
        watchers.iter().map(|watcher| watcher.invalidate(space, range)).collect()
    }

    pub(crate) fn on_resolve(&self, resolver: impl Fn(u64) -> bool + Send + Sync + 'static) {
        let former = self.0.lock().resolver.replace(Arc::new(resolver));
        drop(former);
    }

    /// Lets the resolver decide about a page; `bring_in` makes it present.
    pub(crate) fn resolve(
        &self,
        page: AddrRange,
        bring_in: impl FnOnce(),
    ) -> Result<(), StopCause> {
        let resolver = self.0.lock().resolver.clone();
        if resolver.is_some_and(|resolver| !resolver(page.first())) {
            return Err(StopCause::NotPresent);
        }
        bring_in();
        self.0.lock().resolved += 1;
        Ok(())
    }

    pub(crate) fn resolved(&self) -> u64 {
        self.0.lock().resolved
    }

    /// Only the first end counts.
    pub(crate) fn end(&self, reason: EndReason) {
        self.0.lock().ended.get_or_insert(reason);
    }

    /// Tells the watchers of the end, each once.
    pub(crate) fn announce(&self, space: SpaceId) -> Vec<ExitWork> {
        let (reason, watchers) = {
            let mut life = self.0.lock();
            let reason = life.ended.expect("announce() comes after the end");
            (reason, std::mem::take(&mut life.watchers))
        };
        watchers.into_values().map(|watcher| watcher.space_ended(space, reason)).collect()
    }
}
