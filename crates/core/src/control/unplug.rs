//! Removal of a device: its requests are refused, its own bonds end, and it leaves the bonds of its
//! group and container.

use std::fmt;
use std::sync::Arc;

use sva_sync::atomic::Ordering;

use super::unbind::Teardown;
use crate::api::error::RemoveError;
use crate::api::event::Event;
use crate::quiesce::callback;
use crate::table::{BondKind, DeferredDrops, Device, DeviceRecord, Iommu, State};
use crate::types::ids::{Bdf, Pasid};

/// How a device is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The device model is asked to stop issuing each PASID first.
    Orderly,
    /// The device has been pulled. Its model is not called.
    Surprise,
}

impl State {
    /// Removes a device from its group and begins the end of its own bonds. Returns the entries to
    /// close, and the device and PASID of each bond that ended; `None` if the device is not plugged
    /// in.
    fn unplug(
        &mut self,
        device: &Arc<DeviceRecord>,
        drops: &mut DeferredDrops,
    ) -> Option<(Teardown, Vec<(Bdf, Pasid)>)> {
        if !self.is_plugged_in(device) {
            return None;
        }
        let bdf = device.bdf();
        self.devices.remove(&bdf);
        device.is_unplugged.store(true, Ordering::Relaxed);
        if let Some(group) = self.groups.get_mut(&device.group_id) {
            group.members.retain(|member| !Arc::ptr_eq(member, device));
            group.update_singleton();
        }
        let requester = &device.requester;
        let is_last = !self.devices.values().any(|other| Arc::ptr_eq(&other.requester, requester));
        let mut teardown = Teardown::default();
        let mut ended = Vec::new();
        let entries: Vec<_> = requester.table.read().values().cloned().collect();
        for entry in entries {
            let is_own =
                self.bond(entry.bond).is_some_and(|bond| bond.kind == BondKind::Device(bdf));
            if is_own && self.begin_closing(entry.bond, drops) {
                ended.push((bdf, entry.record.tag.pasid));
            }
            if is_own || is_last {
                teardown.add(&entry);
            } else {
                // The entry stays open for the other devices that have this requester ID.
                teardown.add_stop_of(bdf, &entry);
            }
        }
        if is_last {
            self.requesters.remove(&requester.id);
        }
        drops.models.extend(requester.remove_model(bdf));
        self.remove_group_if_empty(device.group_id);
        Some((teardown, ended))
    }
}

impl Iommu {
    /// Removes a device. Page requests of it are refused, its own bonds end, and it leaves the
    /// bonds of its group and container.
    ///
    /// Blocks until its transactions in flight are over. Inside a callback it does not wait, and
    /// they can end after it returns.
    ///
    /// # Errors
    /// The device has been removed before.
    pub fn remove(&self, device: &Device, removal: Removal) -> Result<(), RemoveError> {
        let removing = self.begin_remove(device, removal)?;
        if !callback::inside() {
            self.wait_until(|state| removing.is_over_in(state));
        }
        Ok(())
    }

    /// Begins to remove a device as [`remove`](Self::remove) does, and does not wait. For event
    /// loops and schedulers.
    ///
    /// # Errors
    /// The device has been removed before.
    pub fn begin_remove(&self, device: &Device, removal: Removal) -> Result<Removing, RemoveError> {
        let device = device.record();
        let gone = RemoveError::Gone { device: device.bdf() };
        let (mut teardown, ended) =
            self.with_state(|state, drops| state.unplug(device, drops)).ok_or(gone)?;
        match removal {
            Removal::Orderly => self.ask_to_stop(&teardown),
            Removal::Surprise => teardown.clear_stops(),
        }
        self.end_services(device, removal == Removal::Orderly);
        // The last transaction that leaves the gate wakes the thread that waits for it. If no
        // transaction is inside, no thread waits yet, so the result needs no action.
        let _accesses = device.gate.close();
        device.await_readers_and_count_pins();
        // Before the entries are closed: the last step of a closed entry ends its bond, and no page
        // request group of a bond that is gone may be pending.
        self.forget_pages(device);
        self.close_all(&teardown);
        for (device, pasid) in ended {
            self.log(Event::BondEnded { device, pasid });
        }
        Ok(Removing { iommu: self.clone(), device: Arc::clone(device), teardown })
    }
}

/// A removal that has begun and that no thread waits for. Its drop neither cancels the removal nor
/// waits for it.
pub struct Removing {
    iommu: Iommu,
    device: Arc<DeviceRecord>,
    teardown: Teardown,
}

impl Removing {
    /// Returns whether the removal is over: no transaction of the device is in flight, and its
    /// PASID entries have been removed. Does not block.
    pub fn is_over(&self) -> bool {
        self.is_over_in(&mut self.iommu.lock())
    }

    fn is_over_in(&self, state: &mut State) -> bool {
        self.device.gate.is_drained() && self.teardown.is_over(state)
    }
}

impl fmt::Debug for Removing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removing")
            .field("device", &self.device.bdf())
            .field("is_over", &self.is_over())
            .finish()
    }
}
