//! Groups leave their container, and containers close (rule U9).

use std::fmt;
use std::sync::Arc;

use super::bind::Candidates;
use super::container::Container;
use super::unbind::Teardown;
use crate::api::error::LeaveError;
use crate::quiesce::callback;
use crate::table::{BondKey, DeferredDrops, DeviceRecord, DomainAttachment, Iommu, State};
use crate::types::ids::{ContainerId, GroupId};

/// What a group that leaves takes along.
struct LeavingGroup {
    members: Vec<Arc<DeviceRecord>>,
    ended: Arc<DomainAttachment>,
    teardown: Teardown,
}

/// Groups that were begun to be taken out of their container and are not waited for. Dropping it
/// changes nothing: what is left to do follows all the same.
pub struct Leaving {
    iommu: Iommu,
    groups: Vec<LeavingGroup>,
    /// The bonds of a container that closes.
    bonds: Vec<BondKey>,
}

impl Leaving {
    /// Whether nothing of the container is left to the groups: no access of theirs through its
    /// mappings or bindings is under way, and the bonds that went with it are gone. Does not
    /// block.
    pub fn is_over(&self) -> bool {
        self.is_over_in(&mut self.iommu.lock())
    }

    fn is_over_in(&self, state: &mut State) -> bool {
        self.bonds.iter().all(|key| state.is_gone(*key))
            && self
                .groups
                .iter()
                .all(|group| group.ended.gate.is_drained() && group.teardown.is_over(state))
    }

    /// Waits until it is over, unless inside a callback.
    fn finish(self) {
        if !callback::inside() {
            self.iommu.wait_until(|state| self.is_over_in(state));
        }
    }
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving")
            .field("groups", &self.groups.len())
            .field("is_over", &self.is_over())
            .finish_non_exhaustive()
    }
}

impl State {
    /// Takes a group out of a container: its entries and its use of the domain are to be closed by
    /// the caller.
    fn leave(&mut self, id: ContainerId, group: GroupId) -> Option<LeavingGroup> {
        let container = self.containers.get_mut(&id)?;
        if !container.groups.remove(&group) {
            return None;
        }
        let found = self.groups.get_mut(&group)?;
        found.container = None;
        found.update_singleton();
        let ended = found.record.domain.attach(Arc::clone(&found.own_domain));
        let members = found.members.clone();
        let mut teardown = Teardown::default();
        for requester in Candidates::of(&members).requesters() {
            for entry in requester.table.read().values() {
                teardown.add(entry);
            }
        }
        self.close_attachment(&ended);
        self.remove_group_if_empty(group);
        Some(LeavingGroup { members, ended, teardown })
    }
}

impl Container {
    /// Takes a group out: its devices lose all bindings and mappings of the container (rule U9).
    /// Blocks until their accesses in flight are over, unless called from inside a callback.
    ///
    /// # Errors
    /// The group is not in this container.
    pub fn remove(&self, group: GroupId) -> Result<(), LeaveError> {
        self.begin_remove(group).map(Leaving::finish)
    }

    /// Begins to take a group out as [`remove`](Self::remove) does, and does not wait. For event
    /// loops and schedulers.
    ///
    /// # Errors
    /// The group is not in this container.
    pub fn begin_remove(&self, group: GroupId) -> Result<Leaving, LeaveError> {
        let mut state = self.iommu.lock();
        let leaving = state.leave(self.id, group);
        self.iommu.unlock(state);
        let leaving = leaving.ok_or(LeaveError::NotIn { group, container: self.id })?;
        Ok(self.iommu.begin_leave(vec![leaving], Vec::new()))
    }

    /// Closes the container, as dropping it does.
    pub fn close(self) {}

    /// Begins to close the container as dropping it does, and does not wait. Its groups are free at
    /// once: what still has entries of its bindings can be bound and can join when those are gone.
    /// For event loops and schedulers.
    pub fn begin_close(self) -> Leaving {
        // The drop that follows finds nothing left.
        self.release(false)
    }

    /// Unbinds, unmaps, frees the groups, in this order; waits for each before the next where it is
    /// asked to.
    fn release(&self, wait: bool) -> Leaving {
        let bonds = {
            let mut state = self.iommu.lock();
            state
                .containers
                .get_mut(&self.id)
                .map(|container| std::mem::take(&mut container.bonds))
                .unwrap_or_default()
        };
        let keys: Vec<BondKey> = bonds.iter().map(|bond| bond.key).collect();
        for key in &keys {
            if wait {
                self.iommu.unbind(*key)
            } else {
                self.iommu.begin_unbind(*key)
            };
        }
        let removed = self
            .iommu
            .lock()
            .containers
            .get(&self.id)
            .map(|container| container.domain.clear())
            .unwrap_or_default();
        if wait {
            self.iommu.finish_unmap(&removed)
        } else {
            Iommu::begin_unmap(&removed)
        };
        let groups: Vec<LeavingGroup> = {
            let mut drops = DeferredDrops::default();
            let mut state = self.iommu.lock();
            let groups = state
                .containers
                .get(&self.id)
                .map(|container| container.groups.clone())
                .unwrap_or_default();
            let leaving =
                groups.into_iter().filter_map(|group| state.leave(self.id, group)).collect();
            state.containers.remove(&self.id);
            drops.container_bonds = bonds;
            self.iommu.unlock(state);
            leaving
        };
        self.iommu.begin_leave(groups, keys)
    }
}

impl Iommu {
    /// Stops what leaves.
    fn begin_leave(&self, groups: Vec<LeavingGroup>, bonds: Vec<BondKey>) -> Leaving {
        for LeavingGroup { members, ended, .. } in &groups {
            self.drain_domain(members, ended);
        }
        for group in &groups {
            self.stop_access(&group.teardown);
        }
        Leaving { iommu: self.clone(), groups, bonds }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.release(true).finish();
    }
}
