//! The spaces of this program, sorted so that the one of a task is found.
//!
//! The kernel orders address spaces (`kcmp`). The registry keeps its list in that order and
//! searches it by bisection. Only weak handles are kept; those of spaces that are gone are removed
//! when the list is used.

use std::cmp::Ordering;
use std::io;
use std::sync::{Arc, Weak};

use sva_core::SpaceId;
use sva_sync::Mutex;

use crate::linux::space::HostSpace;
use crate::linux::sys::Tid;

/// The spaces of this program: those that can be found, and those whose end is to be announced.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    /// Spaces that can be found, in the kernel's order.
    ordered: Vec<(SpaceId, Weak<HostSpace>)>,
    /// Spaces whose end has not been announced.
    watched: Vec<(SpaceId, Weak<HostSpace>)>,
    /// The space of our own process.
    own: Weak<HostSpace>,
}

impl Lists {
    fn ordered(&self) -> Vec<Arc<HostSpace>> {
        self.ordered.iter().filter_map(|(_, space)| space.upgrade()).collect()
    }
}

enum Search {
    Found(Arc<HostSpace>),
    /// It is not there; the index at which to insert it.
    Missing(usize),
    /// An anchor died meanwhile, and comparisons with it mean nothing.
    DeadAnchor,
}

/// Searches spaces in the kernel's order for that of task `tid`.
///
/// Dead address spaces compare equal to each other, so a comparison counts only if the anchor was
/// alive after it.
fn search(ordered: &[Arc<HostSpace>], tid: Tid) -> io::Result<Search> {
    let (mut low, mut high) = (0, ordered.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(space) = ordered.get(middle) else { break };
        match space.order(tid)? {
            Some(Ordering::Equal) => return Ok(Search::Found(Arc::clone(space))),
            Some(Ordering::Less) => low = middle + 1,
            Some(Ordering::Greater) => high = middle,
            None => return Ok(Search::DeadAnchor),
        }
    }
    Ok(Search::Missing(low))
}

impl Registry {
    /// Finds the space of task `tid`. No lock is held over the search: a comparison waits while the
    /// task is in `exec`, for as long as the kernel takes to free its old memory.
    pub(super) fn find(&self, tid: Tid) -> io::Result<Option<Arc<HostSpace>>> {
        let mut ordered = self.0.lock().ordered();
        loop {
            match search(&ordered, tid)? {
                Search::Found(space) => return Ok(Some(space)),
                Search::Missing(_) => return Ok(None),
                Search::DeadAnchor => ordered.retain(|space| space.is_comparable()),
            }
        }
    }

    /// Adds a space, unless there is one of the same memory already, which is returned then.
    ///
    /// The lock is held over the search and the insertion, so the order stays right. Nothing is
    /// waited for under it: `anchor`, the task of the new space, is never in `exec`.
    pub(super) fn insert(
        &self,
        space: &Arc<HostSpace>,
        anchor: Tid,
    ) -> io::Result<Option<Arc<HostSpace>>> {
        // Declared before the guard, so that the handles are dropped after the lock is released.
        let all;
        let mut lists = self.0.lock();
        all = lists.ordered();
        let mut ordered = all.clone();
        loop {
            match search(&ordered, anchor)? {
                Search::Found(earlier) => return Ok(Some(earlier)),
                Search::DeadAnchor => ordered.retain(|space| space.is_comparable()),
                Search::Missing(index) => {
                    ordered.insert(index, Arc::clone(space));
                    lists.ordered = ordered
                        .iter()
                        .map(|space| (space.id_number(), Arc::downgrade(space)))
                        .collect();
                    lists.watched.push((space.id_number(), Arc::downgrade(space)));
                    return Ok(None);
                }
            }
        }
    }

    /// The space of our own process; `make` makes it if there is none.
    pub(super) fn own(&self, make: impl FnOnce() -> HostSpace) -> Arc<HostSpace> {
        let mut lists = self.0.lock();
        lists.own.upgrade().unwrap_or_else(|| {
            let own = Arc::new(make());
            lists.own = Arc::downgrade(&own);
            own
        })
    }

    /// The spaces whose end has not been announced and of which a handle exists.
    pub(super) fn watched(&self) -> Vec<Arc<HostSpace>> {
        let mut lists = self.0.lock();
        lists.ordered.retain(|(_, space)| space.strong_count() > 0);
        let mut alive = Vec::with_capacity(lists.watched.len());
        lists.watched.retain(|(_, space)| space.upgrade().map(|space| alive.push(space)).is_some());
        alive
    }

    /// Removes a space from those that can be found.
    pub(super) fn hide(&self, id: SpaceId) {
        self.0.lock().ordered.retain(|(known, _)| *known != id);
    }

    /// Removes a space whose end has been announced from those that are watched.
    pub(super) fn unwatch(&self, id: SpaceId) {
        self.0.lock().watched.retain(|(known, _)| *known != id);
    }
}
