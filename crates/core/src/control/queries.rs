//! Queries: the groups and their members; the devices, the phase and the fault times of a bond.

use std::sync::Arc;

use crate::api::pri::FaultTimes;
use crate::table::{BondKey, DeviceRecord, Iommu, Phase, Requester};
use crate::types::ids::{Bdf, ContainerId, GroupId};

/// The state of a group at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// The group's number.
    pub id: GroupId,
    /// Its devices, ascending by address.
    pub members: Vec<Bdf>,
    /// The container that the group is in.
    pub container: Option<ContainerId>,
}

impl Iommu {
    /// Returns the group with its current members; `None` if there is no such group.
    pub fn group(&self, group: GroupId) -> Option<GroupInfo> {
        let state = self.lock();
        let found = state.groups.get(&group)?;
        Some(GroupInfo {
            id: group,
            members: found.members.iter().map(|member| member.bdf()).collect(),
            container: found.container,
        })
    }

    /// Returns all groups, ascending by number.
    pub fn groups(&self) -> Vec<GroupInfo> {
        let mut ids: Vec<GroupId> = self.lock().groups.keys().copied().collect();
        ids.sort();
        ids.into_iter().filter_map(|id| self.group(id)).collect()
    }

    /// Returns the devices that a bond binds now, ascending by address.
    pub(super) fn bound_devices(&self, key: BondKey) -> Vec<Bdf> {
        let mut state = self.lock();
        let Some(bond) = state.bond(key) else { return Vec::new() };
        let requesters: Vec<Arc<Requester>> =
            bond.entries.iter().map(|entry| Arc::clone(&entry.requester)).collect();
        let is_bound = |device: &&Arc<DeviceRecord>| {
            device.spec.capabilities.pasid.is_some()
                && requesters.iter().any(|requester| Arc::ptr_eq(requester, &device.requester))
        };
        let mut devices: Vec<Bdf> =
            state.devices.values().filter(is_bound).map(|device| device.bdf()).collect();
        devices.sort();
        devices
    }

    /// Returns whether a bond is gone: it has no PASID entry, no handler and no PASID.
    pub(super) fn bond_is_gone(&self, key: BondKey) -> bool {
        self.lock().is_gone(key)
    }

    /// Returns whether a bond is live and its space has not ended.
    pub(super) fn bond_is_live(&self, key: BondKey) -> bool {
        self.lock()
            .bond(key)
            .is_some_and(|bond| bond.phase == Phase::Live && !bond.record.has_ended())
    }

    /// Returns the times of a bond's faults, merged over all its devices.
    pub(super) fn fault_times(&self, key: BondKey) -> FaultTimes {
        let mut state = self.lock();
        let Some(bond) = state.bond(key) else { return FaultTimes::default() };
        let mut times = bond.times.as_deref().cloned().unwrap_or_default();
        for entry in &bond.entries {
            if let Some(more) = &*entry.times.lock() {
                times.merge(more);
            }
        }
        times
    }
}
