//! The records that a transaction passes: the device, its requester ID and the PASID entry.
//!
//! They are in one file because they refer to one another: a requester finds the device that
//! invalidations are sent to, a device has its requester, and an entry is in the table of a
//! requester.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use sva_sync::atomic::{AtomicBool, Ordering};
use sva_sync::{Mutex, RwLock};

use super::bond_key::BondKey;
use super::group::GroupRecord;
use super::routing::Routing;
use super::services::Services;
use super::space::SpaceRecord;
use crate::api::device::{DeviceOps, DeviceSpec, Features};
use crate::api::fault::FaultReason;
use crate::api::pri::FaultTimes;
use crate::api::topology::Topology;
use crate::quiesce::{
    Countdown, Gate, GracePeriod, PinSlots, Readers, WaitQueue, Waiter, WeakWaiter,
};
use crate::types::access::{Access, Permissions};
use crate::types::ids::{Bdf, GroupId, Pasid, RequesterId};

/// The IOMMU as the records see it.
pub(crate) trait IommuHandle: WaitQueue {
    /// Removes an entry whose gate is closed and all of whose steps have been made.
    fn remove_entry(self: Arc<Self>, entry: &Arc<PasidEntry>);
}

/// A device that has been plugged in, shared by its handles and ports.
pub(crate) struct DeviceRecord {
    pub(crate) spec: DeviceSpec,
    pub(crate) group_id: GroupId,
    pub(crate) requester: Arc<Requester>,
    pub(crate) group: Arc<GroupRecord>,
    /// Entered by each walk, translated request, translation request and page request job. An
    /// access through a cached translation does not enter it: its port tests it after a revocation.
    /// A removal closes it; a reset or a cut-off pauses it.
    pub(crate) gate: Gate,
    /// The device has been unplugged, and its gate is closed next. Written and read under the
    /// control lock. It saves a bind the look-up of the device.
    pub(crate) is_unplugged: AtomicBool,
    pub(crate) routing: RwLock<Routing>,
    pub(crate) services: Services,
    /// The ports that access memory through cached translations.
    pub(crate) readers: Readers,
    /// The slots in which ports of the device may have pinned memory.
    pub(crate) pins: PinSlots,
    pub(crate) iommu: Weak<dyn IommuHandle>,
}

impl DeviceRecord {
    pub(crate) fn bdf(&self) -> Bdf {
        self.spec.bdf
    }

    /// Whether transactions of the device can carry this PASID.
    pub(crate) fn can_issue(&self, pasid: Pasid) -> bool {
        self.spec.capabilities.pasid.is_some_and(|capability| pasid.fits(capability.width))
    }

    /// The fault of a transaction that finds the gate of the device shut.
    pub(crate) fn shut_reason(&self) -> FaultReason {
        if self.gate.is_closed() { FaultReason::DeviceRemoved } else { FaultReason::DeviceHalted }
    }

    /// The current routing of the device. Queries the bus if it has changed, so the caller must not
    /// hold the control lock.
    pub(crate) fn current_routing(&self, topology: &dyn Topology) -> Routing {
        let known = self.cached_routing();
        if known.is_current(topology.changes()) {
            return known;
        }
        let fresh = Routing::query(topology, self.bdf());
        let mut last = self.routing.write();
        // Changes count up: the result of a slow query does not replace a newer one.
        if last.changes() < fresh.changes() {
            *last = fresh.clone();
        }
        fresh
    }

    /// The routing that was queried last.
    pub(crate) fn cached_routing(&self) -> Routing {
        self.routing.read().clone()
    }

    /// Waits for the accesses through cached translations. The caller has shut the gate, which
    /// keeps new ones out. Pins are not waited for here: each is counted as an access inside the
    /// gate.
    pub(crate) fn await_readers_and_count_pins(self: &Arc<Self>) {
        GracePeriod::of_device(&self.readers).wait();
        self.pins.add_waiters(
            |_| true,
            || {
                self.gate.enter_unchecked();
                let this: WeakWaiter = Arc::downgrade(self) as _;
                this
            },
        );
    }
}

impl Waiter for DeviceRecord {
    /// A pin that counts as an access inside the gate has ended.
    fn step(self: Arc<Self>) {
        if self.gate.leave()
            && let Some(iommu) = self.iommu.upgrade()
        {
            iommu.wake();
        }
    }
}

/// The models of the devices of one requester ID, each with its device.
pub(crate) type Models = SmallVec<[(Bdf, Arc<dyn DeviceOps>); 1]>;

/// A requester ID with its PASID table. Devices that share a requester ID are bound and unbound
/// together.
pub(crate) struct Requester {
    pub(crate) id: RequesterId,
    /// The PASID table. An entry stays in it, with a closed gate, until the accesses in flight have
    /// ended. Until then the PASID of the space cannot be bound again for this requester.
    pub(crate) table: RwLock<FxHashMap<Pasid, Arc<PasidEntry>>>,
    /// The models that want callbacks, of the devices that issue requests with this requester ID.
    pub(crate) models: RwLock<Models>,
    /// The device that invalidations for this requester ID are sent to: the only one that issues
    /// requests with it. Set when its ATS is first enabled, and until the device has been removed
    /// and its translated requests have ended. Weak, since the device refers to its requester, and
    /// a device that is never removed must still be dropped with the IOMMU.
    pub(crate) ats_device: RwLock<Option<Weak<DeviceRecord>>>,
    iommu: Weak<dyn IommuHandle>,
}

impl Requester {
    pub(crate) fn new(id: RequesterId, iommu: Weak<dyn IommuHandle>) -> Arc<Self> {
        Arc::new(Self {
            id,
            table: RwLock::default(),
            models: RwLock::default(),
            ats_device: RwLock::default(),
            iommu,
        })
    }

    /// The PASID entry of a PASID.
    pub(crate) fn entry(&self, pasid: Pasid) -> Option<Arc<PasidEntry>> {
        self.table.read().get(&pasid).cloned()
    }

    /// The device whose ATS is enabled or has been. It is found as long as a translated request of
    /// it may be in flight.
    pub(crate) fn ats_device(&self) -> Option<Arc<DeviceRecord>> {
        self.ats_device.read().as_ref().and_then(Weak::upgrade)
    }

    /// Removes and returns the model of a device that is being unplugged.
    pub(crate) fn remove_model(&self, device: Bdf) -> Option<(Bdf, Arc<dyn DeviceOps>)> {
        let mut models = self.models.write();
        let at = models.iter().position(|(of, _)| *of == device)?;
        Some(models.remove(at))
    }
}

/// A PASID entry, through which one requester accesses one space. It is present while it is
/// published and its gate is open.
pub(crate) struct PasidEntry {
    pub(crate) gate: Gate,
    pub(crate) is_published: AtomicBool,
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) features: Features,
    pub(crate) bond: BondKey,
    pub(crate) requester: Arc<Requester>,
    /// The steps that remain until the entry is removed:
    /// [`Self::CLOSE_STEPS`], and one for each pin that was found when it was closed.
    remaining_steps: Countdown,
    /// The times of faults through the entry; allocated with the first one.
    pub(crate) times: Mutex<Option<Box<FaultTimes>>>,
}

impl PasidEntry {
    /// The steps of a close: the last access leaves the gate, the device completes its
    /// invalidation, the page requests are drained.
    const CLOSE_STEPS: u32 = 3;

    /// Makes an entry that is not published.
    pub(super) fn new(
        record: &Arc<SpaceRecord>,
        features: Features,
        bond: BondKey,
        requester: &Arc<Requester>,
    ) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            is_published: AtomicBool::new(false),
            record: Arc::clone(record),
            features,
            bond,
            requester: Arc::clone(requester),
            remaining_steps: Countdown::new(Self::CLOSE_STEPS),
            times: Mutex::default(),
        })
    }

    /// The fault of an access through the entry; `None` if the entry serves accesses now. Inside
    /// the gate, `None` also means that the entry is not removed before the gate is left. The space
    /// may still end meanwhile; its provider then refuses the access (see
    /// [`AddressSpace::read`](crate::api::space::AddressSpace::read)).
    pub(crate) fn abort_reason(&self) -> Option<FaultReason> {
        if !self.is_published.load(Ordering::Acquire) {
            Some(FaultReason::NotBound)
        } else if self.record.has_ended() {
            Some(FaultReason::SpaceEnded)
        } else {
            None
        }
    }

    /// Whether the bond grants the privileged mode and execution that `access` asks for.
    pub(crate) fn grants(&self, access: Access) -> bool {
        (self.features.privileged || !access.is_privileged())
            && (self.features.execute || !access.is_execute())
    }

    /// The permissions that the bond grants at most.
    pub(crate) fn granted(&self) -> Permissions {
        let mut granted = Permissions::READ_WRITE;
        granted.set(Permissions::EXECUTE, self.features.execute);
        granted
    }

    /// The access as the bond permits it: without page faults, it uses only pages that are present.
    pub(crate) fn effective_access(&self, access: Access) -> Access {
        if self.features.page_faults { access } else { access.present_only() }
    }

    /// Waits for the accesses through cached translations of the space. The caller has closed the
    /// gate, which keeps new ones out. Pins are not waited for here: each pin through this entry is
    /// counted as a step. Returns the number of those pins.
    pub(crate) fn await_readers_and_count_pins(self: &Arc<Self>) -> usize {
        let Some(iotlb) = &self.record.iotlb else { return 0 };
        GracePeriod::of_space(iotlb.users(), None).wait();
        iotlb.users().pins.add_waiters(
            |pinned| {
                pinned.is_of(self.record.tag.generation) && pinned.requester == self.requester.id
            },
            || {
                self.remaining_steps.extend(1);
                self.waiter()
            },
        )
    }

    /// Makes one step of a close; the last one removes the entry.
    pub(crate) fn make_step(self: &Arc<Self>) {
        if self.remaining_steps.step()
            && let Some(iommu) = self.requester.iommu.upgrade()
        {
            iommu.remove_entry(self);
        }
    }

    /// A waiter that makes one step of the entry.
    pub(crate) fn waiter(self: &Arc<Self>) -> WeakWaiter {
        let this: WeakWaiter = Arc::downgrade(self) as _;
        this
    }
}

impl Waiter for PasidEntry {
    fn step(self: Arc<Self>) {
        self.make_step();
    }
}
