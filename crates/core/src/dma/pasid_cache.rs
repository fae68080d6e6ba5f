//! The PASID cache of a port: table entries that it has used, and the critical sections in which it
//! accesses their spaces.

use std::sync::Arc;

use sva_sync::barrier;

use super::master::BusMaster;
use super::tlb::AccessMask;
use crate::api::space::AddressSpace;
use crate::api::topology::Version;
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
    bus: Version,
    /// The context that was given last.
    last_context: u64,
}

/// A table entry of a space that can be accessed in place.
pub(super) struct CachedPasidEntry {
    pub(super) pasid: Pasid,
    /// The number of revocations up to which the entry has been checked_revocations, and the tag of critical
    /// sections that know of them.
    checked_revocations: u64,
    tag: ReaderTag,
    /// Tags translations that were found through this entry; another number whenever what was found
    /// before may be wrong.
    pub(super) context: u64,
    /// What the bond grants at most.
    granted: Permissions,
    permitted: AccessMask,
    /// The sequence number as of which invalidations wait for this port.
    registered_seq: u64,
    pub(super) entry: Arc<PasidEntry>,
    pub(super) iotlb: Arc<SpaceIotlb>,
    pub(super) space: Arc<dyn AddressSpace>,
}

/// A number of revocations that no slot has had.
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
            bus: master.iommu.topology().version().clone(),
            last_context: 0,
        }
    }

    /// Begins a critical section, unless something was revoked. Whatever says that an access may
    /// not counts as a revocation, but for the bus, which tells nobody.
    #[inline(always)]
    pub(super) fn enter(&self, cached: &CachedPasidEntry) -> Option<ReadGuard<'_>> {
        let guard = self.slot.enter(cached.tag, self.barrier);
        (self.slot.revocations() == cached.checked_revocations
            && self.routing.is_current(&self.bus))
        .then_some(guard)
    }

    /// Whether accesses through an entry may go on, also after revocations.
    #[inline]
    pub(super) fn revalidate(&mut self, cached: &mut CachedPasidEntry) -> bool {
        cached.checked_revocations == self.slot.revocations() || self.check(cached)
    }

    /// Looks at all that can have been taken away. Not in a critical section.
    #[cold]
    fn check(&mut self, cached: &mut CachedPasidEntry) -> bool {
        // First: what is revoked from here on shows as another number.
        let revocations = self.slot.revocations();
        if cached.registered_seq != cached.iotlb.users().invalidate_seq() {
            cached.registered_seq = cached.iotlb.users().register(&self.slot);
            cached.context = self.new_context();
        }
        // After the registration: who has taken something away without telling this port has done
        // so before that.
        let holds = !self.device.gate.is_shut() && !cached.entry.gate.is_shut();
        if holds {
            cached.checked_revocations = revocations;
            cached.tag = ReaderTag::new(cached.iotlb.users().owner(), revocations);
        }
        holds
    }

    /// Translations that were found in another context are not used any more.
    fn new_context(&mut self) -> u64 {
        self.last_context += 1;
        self.last_context
    }

    /// Asks what the bus says now, where it has changed. Translations that ended where a peer's
    /// window began are not used any more then.
    pub(super) fn update_routing(&mut self, master: &BusMaster, cached: &mut [CachedPasidEntry]) {
        if !self.routing.is_current(&self.bus) {
            self.routing = self.device.current_routing(master.iommu.topology());
            cached.iter_mut().for_each(|cached| cached.context = self.new_context());
        }
    }

    /// Invalidations of the entry's space do not wait for this port any more.
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
    /// Registers the port with the space. While the transaction that has come through the entry is
    /// inside its gate.
    pub(super) fn new(
        entry: &Arc<PasidEntry>,
        iotlb: &Arc<SpaceIotlb>,
        reader: &mut PortReader,
    ) -> Self {
        let mut cached = Self {
            pasid: entry.record.tag.pasid,
            checked_revocations: NEVER_CHECKED,
            tag: ReaderTag::new(iotlb.users().owner(), NEVER_CHECKED),
            context: reader.new_context(),
            granted: entry.granted(),
            permitted: AccessMask::granted(entry.granted(), entry.features.privileged),
            registered_seq: iotlb.users().register(&reader.slot),
            entry: Arc::clone(entry),
            iotlb: Arc::clone(iotlb),
            space: Arc::clone(&entry.record.space),
        };
        let _ = reader.revalidate(&mut cached);
        cached
    }

    /// The translation that the IOTLB has for an access. In a critical section.
    // Always inline: what it answers is not to go through memory, where it is written in other
    // pieces than it is read.
    #[inline(always)]
    pub(super) fn find(
        &self,
        address: u64,
        access: Access,
        routing: &Routing,
    ) -> Option<IotlbEntry> {
        if !self.permitted.covers(AccessMask::required(access)) {
            return None;
        }
        let mut entry = self.iotlb.find(address, access)?;
        if !routing.windows().is_empty() {
            // As far around the address as no peer decodes it.
            let gap = routing.undecoded_around(address)?;
            let first = entry.first.max(gap.first());
            let last = (entry.first + entry.more).min(gap.last());
            entry.frame += first - entry.first;
            (entry.first, entry.more) = (first, last - first);
        }
        entry.permissions &= self.granted;
        Some(entry)
    }
}
