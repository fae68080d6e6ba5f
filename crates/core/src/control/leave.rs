//! Groups that leave their container, and containers that close.
//!
//! A group that leaves gets its own domain back and loses the PASID entries of the container's
//! bonds. A container that closes unbinds its spaces, removes its mappings and frees its groups, in
//! this order.

use std::fmt;
use std::sync::Arc;

use super::candidates::requesters_of;
use super::container::Container;
use super::unbind::Teardown;
use crate::api::error::LeaveError;
use crate::quiesce::callback;
use crate::table::{BondKey, DeviceRecord, DomainAttachment, Iommu, State};
use crate::types::ids::{ContainerId, GroupId};

/// A group that leaves: its devices, and the attachment and PASID entries that they lose.
struct LeavingGroup {
    members: Vec<Arc<DeviceRecord>>,
    attachment: Arc<DomainAttachment>,
    teardown: Teardown,
}

/// The removal of groups from their container, which has begun and which no thread waits for. Its
/// drop neither cancels the removal nor waits for it.
pub struct Leaving {
    iommu: Iommu,
    groups: Vec<LeavingGroup>,
    /// The bonds of a container that closes.
    bonds: Vec<BondKey>,
}

impl Leaving {
    /// Returns whether the removal is over: no access of the groups through the container's
    /// mappings or bonds is in flight, and the bonds of a container that closes are gone. Does not
    /// block.
    pub fn is_over(&self) -> bool {
        self.is_over_in(&mut self.iommu.lock())
    }

    fn is_over_in(&self, state: &mut State) -> bool {
        self.bonds.iter().all(|key| state.is_gone(*key))
            && self
                .groups
                .iter()
                .all(|group| group.attachment.gate.is_drained() && group.teardown.is_over(state))
    }

    /// Waits until the removal is over, unless inside a callback.
    fn wait(self) {
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
    /// Removes a group from a container and attaches its own domain to it again. Closes the gate of
    /// the attachment that this replaces; the caller drains its page requests and closes the PASID
    /// entries.
    fn leave(&mut self, id: ContainerId, group: GroupId) -> Option<LeavingGroup> {
        let container = self.containers.get_mut(&id)?;
        if !container.groups.remove(&group) {
            return None;
        }
        let found = self.groups.get_mut(&group)?;
        found.container = None;
        found.update_singleton();
        let attachment = found.record.domain.attach(Arc::clone(&found.own_domain));
        let members = found.members.clone();
        let mut teardown = Teardown::default();
        // Of all members, and not only of those that can issue a PASID: an entry stays for the
        // requester ID of a device that has been removed, as long as another member shares that ID.
        for requester in requesters_of(&members) {
            for entry in requester.table.read().values() {
                teardown.add(entry);
            }
        }
        self.close_attachment(&attachment);
        self.remove_group_if_empty(group);
        Some(LeavingGroup { members, attachment, teardown })
    }
}

impl Container {
    /// Removes a group: its devices lose all bonds and mappings of the container. Blocks until
    /// their accesses in flight are over, unless called from inside a callback.
    ///
    /// # Errors
    /// The group is not in this container.
    pub fn remove(&self, group: GroupId) -> Result<(), LeaveError> {
        self.begin_remove(group).map(Leaving::wait)
    }

    /// Begins to remove a group as [`remove`](Self::remove) does, and does not wait. For event
    /// loops and schedulers.
    ///
    /// # Errors
    /// The group is not in this container.
    pub fn begin_remove(&self, group: GroupId) -> Result<Leaving, LeaveError> {
        let mut state = self.iommu.lock();
        let leaving = state.leave(self.id, group);
        self.iommu.unlock(state);
        let leaving = leaving.ok_or(LeaveError::NotIn { group, container: self.id })?;
        Ok(self.iommu.begin_leaving(vec![leaving], Vec::new()))
    }

    /// Closes the container, as dropping it does.
    pub fn close(self) {}

    /// Begins to close the container as its drop does, and does not wait. Its groups are free when
    /// this returns. A group whose requesters still have PASID entries of the container's bonds can
    /// join another container when those entries are gone. For event loops and schedulers.
    pub fn begin_close(self) -> Leaving {
        // The drop that follows finds no bond, mapping or group.
        self.unbind_unmap_and_free(false)
    }

    /// Unbinds the spaces, removes the mappings and frees the groups. With `wait` it waits for the
    /// unbinds before it unmaps, and for the unmap before it frees the groups.
    fn unbind_unmap_and_free(&self, wait: bool) -> Leaving {
        let mut state = self.iommu.lock();
        let container = state.containers.get_mut(&self.id);
        let bonds =
            container.map(|container| std::mem::take(&mut container.bonds)).unwrap_or_default();
        self.iommu.unlock(state);
        let keys: Vec<BondKey> = bonds.iter().map(|bond| bond.key).collect();
        for key in &keys {
            if wait {
                self.iommu.unbind(*key)
            } else {
                self.iommu.begin_unbind(*key)
            };
        }
        let state = self.iommu.lock();
        let container = state.containers.get(&self.id);
        let removed = container.map(|container| container.domain.clear()).unwrap_or_default();
        self.iommu.unlock(state);
        if wait {
            self.iommu.close_mappings_and_wait(&removed)
        } else {
            Iommu::close_mappings(&removed)
        };
        let leaving = self.iommu.with_state(|state, drops| {
            let container = state.containers.get(&self.id);
            let groups = container.map(|container| container.groups.clone()).unwrap_or_default();
            let leaving =
                groups.into_iter().filter_map(|group| state.leave(self.id, group)).collect();
            state.containers.remove(&self.id);
            // Their drvdata belongs to the caller, whose code its drop runs.
            drops.container_bonds = bonds;
            leaving
        });
        self.iommu.begin_leaving(leaving, keys)
    }
}

impl Iommu {
    /// Drains the page requests without PASID of groups that leave, has their models stop, and
    /// closes their PASID entries.
    fn begin_leaving(&self, groups: Vec<LeavingGroup>, bonds: Vec<BondKey>) -> Leaving {
        for LeavingGroup { members, attachment, .. } in &groups {
            self.drain_domain(members, attachment);
        }
        for group in &groups {
            self.stop_and_close(&group.teardown);
        }
        Leaving { iommu: self.clone(), groups, bonds }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.unbind_unmap_and_free(true).wait();
    }
}
