//! The PASID cache of a port: the PASID entries that it has used, and the critical sections in
//! which it accesses their spaces.

use std::sync::Arc;

use sva_sync::barrier;

use super::master::BusMaster;
use super::tlb::AccessMask;
use crate::api::space::AddressSpace;
use crate::api::topology::ChangeCounter;
use crate::iotlb::{IotlbEntry, SpaceIotlb};
use crate::quiesce::{ReadGuard, ReaderSlot, ReaderTag};
use crate::table::{DeviceRecord, PasidEntry, Routing};
use crate::types::access::{Access, Permissions};
use crate::types::ids::Pasid;

/// The port as a reader of cached translations.
pub(super) struct PortReader {
    device: Arc<DeviceRecord>,
    slot: Arc<ReaderSlot>,
    barrier: barrier::Light,
    pub(super) routing: Routing,
    bus_changes: ChangeCounter,
    /// The epoch that was assigned last.
    last_epoch: u64,
}

/// A cached PASID entry, whose space can be accessed in place.
pub(super) struct CachedPasidEntry {
    pub(super) pasid: Pasid,
    /// The count of revocations at which this entry was last checked. `tag` is the tag of the
    /// critical sections of that count.
    checked_revocations: u64,
    tag: ReaderTag,
    /// The epoch of the entry in this port: translations that were found in an earlier epoch are
    /// not used any more. A port assigns no epoch twice, also not to another entry.
    pub(super) epoch: u64,
    /// The permissions that the bond grants at most.
    granted: Permissions,
    /// `granted`, and the modes that the bond grants, as a mask.
    granted_mask: AccessMask,
    /// The sequence number of the space at which the port registered as its reader. Invalidations
    /// wait for the port as long as it is registered.
    registered_seq: u64,
    pub(super) entry: Arc<PasidEntry>,
    pub(super) iotlb: Arc<SpaceIotlb>,
    pub(super) space: Arc<dyn AddressSpace>,
}

/// A count of revocations that no slot reaches: the entry fails every comparison until a check
/// succeeds.
const NEVER_CHECKED: u64 = u64::MAX;

impl PortReader {
    pub(super) fn new(master: &BusMaster) -> Self {
        let slot = Arc::default();
        master.device.readers.register(&slot, 0);
        Self {
            device: Arc::clone(&master.device),
            slot,
            barrier: barrier::Light::new(),
            routing: master.device.cached_routing(),
            bus_changes: master.iommu.topology().changes().clone(),
            last_epoch: 0,
        }
    }

    /// Begins a critical section; returns `None` if something was revoked since the last check.
    /// Everything that can end an access counts as a revocation, except a change of the bus: the
    /// bus does not know the ports, so its count of changes is compared here as well. Nobody waits
    /// for an access that began before such a change.
    #[inline(always)]
    pub(super) fn enter(&self, cached: &CachedPasidEntry) -> Option<ReadGuard<'_>> {
        let guard = self.slot.enter(cached.tag, self.barrier);
        (self.slot.revocations() == cached.checked_revocations
            && self.routing.is_current(&self.bus_changes))
        .then_some(guard)
    }

    /// Whether accesses through an entry may go on. Checks the entry again if something was revoked
    /// since the last check.
    #[inline]
    pub(super) fn is_valid_or_recheck(&mut self, cached: &mut CachedPasidEntry) -> bool {
        cached.checked_revocations == self.slot.revocations() || self.recheck(cached)
    }

    /// Checks everything that may have been revoked. The end of the space needs no check: it has
    /// invalidated all translations, and the provider of a space that has ended returns none. The
    /// caller is in no critical section, since registering takes a lock.
    #[cold]
    fn recheck(&mut self, cached: &mut CachedPasidEntry) -> bool {
        // Read first: a revocation from here on changes the count, and the next access checks
        // again.
        let revocations = self.slot.revocations();
        if cached.registered_seq != cached.iotlb.users().invalidate_seq() {
            cached.registered_seq = cached.iotlb.users().register(&self.slot);
            cached.epoch = self.new_epoch();
        }
        // Read after the registration: a revocation that did not find this port registered has shut
        // its gate before, and is seen here.
        let holds = !self.device.gate.is_shut() && !cached.entry.gate.is_shut();
        if holds {
            cached.checked_revocations = revocations;
            cached.tag = ReaderTag::new(cached.iotlb.users().owner(), revocations);
        }
        holds
    }

    /// Assigns a new epoch.
    fn new_epoch(&mut self) -> u64 {
        self.last_epoch += 1;
        self.last_epoch
    }

    /// Reads the routing again if the bus has changed. Every cached entry then gets a new epoch,
    /// since translations are cut where the window of a peer begins.
    pub(super) fn update_routing(&mut self, master: &BusMaster, cached: &mut [CachedPasidEntry]) {
        if !self.routing.is_current(&self.bus_changes) {
            self.routing = self.device.current_routing(master.iommu.topology());
            cached.iter_mut().for_each(|cached| cached.epoch = self.new_epoch());
        }
    }

    /// Unregisters the port from the space of the entry: invalidations of the space do not wait for
    /// it any more.
    pub(super) fn unregister(&self, cached: &CachedPasidEntry) {
        cached.iotlb.users().readers.unregister(&self.slot);
    }
}

impl Drop for PortReader {
    fn drop(&mut self) {
        self.device.readers.unregister(&self.slot);
    }
}

impl CachedPasidEntry {
    /// Caches an entry and registers the port with its space. The caller is inside the gate of the
    /// entry, or has pinned memory through it.
    pub(super) fn new(
        entry: &Arc<PasidEntry>,
        iotlb: &Arc<SpaceIotlb>,
        reader: &mut PortReader,
    ) -> Self {
        let mut cached = Self {
            pasid: entry.record.tag.pasid,
            checked_revocations: NEVER_CHECKED,
            tag: ReaderTag::new(iotlb.users().owner(), NEVER_CHECKED),
            epoch: reader.new_epoch(),
            granted: entry.granted(),
            granted_mask: AccessMask::granted(entry.granted(), entry.features.privileged),
            registered_seq: iotlb.users().register(&reader.slot),
            entry: Arc::clone(entry),
            iotlb: Arc::clone(iotlb),
            space: Arc::clone(&entry.record.space),
        };
        // The result is not needed: after a failed check the entry keeps `NEVER_CHECKED`, so the
        // next access through it checks again.
        let _ = reader.is_valid_or_recheck(&mut cached);
        cached
    }

    /// Probes the IOTLB for an access, and cuts the translation to the permissions of the bond and
    /// to addresses that no peer decodes. The caller is in a critical section.
    // Always inline: the returned value must stay in registers. Through memory it would be read in
    // other sizes than it was written, which prevents store forwarding.
    #[inline(always)]
    pub(super) fn find(
        &self,
        address: u64,
        access: Access,
        routing: &Routing,
    ) -> Option<IotlbEntry> {
        if !self.granted_mask.covers(AccessMask::required(access)) {
            return None;
        }
        let mut entry = self.iotlb.find(address, access)?;
        if !routing.windows().is_empty() {
            // Keep the part around the address that no peer decodes.
            let gap = routing.undecoded_around(address)?;
            let first = entry.first.max(gap.first());
            let last = (entry.first + entry.last_offset).min(gap.last());
            entry.frame += first - entry.first;
            (entry.first, entry.last_offset) = (first, last - first);
        }
        entry.permissions &= self.granted;
        Some(entry)
    }
}
