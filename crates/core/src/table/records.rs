//! The records that a transaction passes: the device, its requester ID, the PASID entry.
//!
//! A requester finds the device to which its invalidations go, a device has its requester, and an
//! entry is in the table of one: they refer to one another, so they are in one file.

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
    Completion, Countdown, Gate, GracePeriod, InvalidationHost, PinSlots, Readers, Waiter,
};
use crate::types::access::{Access, Permissions};
use crate::types::ids::{Bdf, GroupId, Pasid, RequesterId};

/// The IOMMU, as its records see it.
pub(crate) trait RecordHost: InvalidationHost {
    /// Takes out an entry whose gate is closed and whose steps are all made.
    fn remove_entry(self: Arc<Self>, entry: &Arc<PasidEntry>);
}

/// A device that has been plugged in, as its handles and ports share it.
pub(crate) struct DeviceRecord {
    pub(crate) spec: DeviceSpec,
    pub(crate) group_id: GroupId,
    pub(crate) requester: Arc<Requester>,
    pub(crate) group: Arc<GroupRecord>,
    /// Every transaction goes through it; a removal closes it, a reset pauses it.
    pub(crate) gate: Gate,
    /// It has been taken out, and its gate is about to close. Written and read under the control
    /// lock: a bind then need not look the device up.
    pub(crate) is_unplugged: AtomicBool,
    pub(crate) routing: RwLock<Routing>,
    pub(crate) services: Services,
    /// The ports that cache translations.
    pub(crate) readers: Readers,
    /// The slots in which its ports may have pinned memory.
    pub(crate) pins: PinSlots,
    pub(crate) host: Weak<dyn RecordHost>,
}

impl DeviceRecord {
    pub(crate) fn bdf(&self) -> Bdf {
        self.spec.bdf
    }

    /// Whether its transactions can carry this PASID.
    pub(crate) fn can_issue(&self, pasid: Pasid) -> bool {
        self.spec.capabilities.pasid.is_some_and(|capability| pasid.fits(capability.width))
    }

    /// Why its gate is shut.
    pub(crate) fn shut_reason(&self) -> FaultReason {
        if self.gate.is_closed() { FaultReason::DeviceRemoved } else { FaultReason::DeviceBlocked }
    }

    /// What the bus says now. Asks it again where it has changed; not to be called under the
    /// control lock.
    pub(crate) fn current_routing(&self, topology: &dyn Topology) -> Routing {
        let known = self.cached_routing();
        if known.is_current(topology.version()) {
            return known;
        }
        let fresh = Routing::query(topology, self.bdf());
        let mut last = self.routing.write();
        // Versions count up: an answer that took long does not replace a newer one.
        if last.version() < fresh.version() {
            *last = fresh.clone();
        }
        fresh
    }

    /// What the bus said last.
    pub(crate) fn cached_routing(&self) -> Routing {
        self.routing.read().clone()
    }

    /// Waits for accesses through cached translations; the gate, which has been shut, keeps new
    /// ones out. Each pin counts in the gate from here on.
    pub(crate) fn await_cached_accesses(self: &Arc<Self>) {
        GracePeriod::of_device(&self.readers).wait();
        self.pins.add_waiters(
            |_| true,
            || {
                self.gate.add();
                let this: Waiter = Arc::downgrade(self) as _;
                this
            },
        );
    }
}

impl Completion for DeviceRecord {
    /// A pin that counts in the gate is over.
    fn step(self: Arc<Self>) {
        if self.gate.leave()
            && let Some(host) = self.host.upgrade()
        {
            host.wake();
        }
    }
}

/// The models behind one requester ID, each with its device.
pub(crate) type Models = SmallVec<[(Bdf, Arc<dyn DeviceOps>); 1]>;

/// A requester ID. Devices that share one are bound and unbound as one.
pub(crate) struct Requester {
    pub(crate) id: RequesterId,
    /// The PASID table. A slot stays taken, by an entry whose gate is closed, until the accesses in
    /// flight have left: that keeps a new bond of the same device and space out until then.
    pub(crate) table: RwLock<FxHashMap<Pasid, Arc<PasidEntry>>>,
    /// The models of the devices that issue requests as this requester, where they want to be
    /// told.
    pub(crate) models: RwLock<Models>,
    /// The one device that issues requests as this requester, from the first time that its ATS is
    /// enabled until it has been removed and no translated request of it is in flight: invalidations
    /// go to a requester ID. Weak: the device has its requester, and one that is never removed is to
    /// go with the system all the same.
    pub(crate) ats_device: RwLock<Option<Weak<DeviceRecord>>>,
}

impl Requester {
    pub(crate) fn new(id: RequesterId) -> Arc<Self> {
        Arc::new(Self {
            id,
            table: RwLock::default(),
            models: RwLock::default(),
            ats_device: RwLock::default(),
        })
    }

    /// The table entry of a PASID.
    pub(crate) fn entry(&self, pasid: Pasid) -> Option<Arc<PasidEntry>> {
        self.table.read().get(&pasid).cloned()
    }

    /// The device whose ATS is, or was, enabled. There is one as long as a translated request of it
    /// may be in flight.
    pub(crate) fn ats_device(&self) -> Option<Arc<DeviceRecord>> {
        self.ats_device.read().as_ref().and_then(Weak::upgrade)
    }

    /// Takes out the model of a device that is unplugged.
    pub(crate) fn remove_model(&self, device: Bdf) -> Option<(Bdf, Arc<dyn DeviceOps>)> {
        let mut models = self.models.write();
        let at = models.iter().position(|(of, _)| *of == device)?;
        Some(models.remove(at))
    }
}

/// Lets one requester reach one space. Present while its gate is open and it has been published.
pub(crate) struct PasidEntry {
    pub(crate) gate: Gate,
    pub(crate) is_published: AtomicBool,
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) features: Features,
    pub(crate) bond: BondKey,
    pub(crate) requester: Arc<Requester>,
    /// What is left to do before it can be taken out, once its gate has been closed:
    /// [`Self::STEPS`] steps.
    remaining_steps: Countdown,
    /// Of its faults; made with the first one.
    pub(crate) times: Mutex<Option<Box<FaultTimes>>>,
    host: Weak<dyn RecordHost>,
}

impl PasidEntry {
    /// The last access leaves the gate; the device has invalidated its translations; its page
    /// requests are drained.
    const STEPS: u32 = 3;

    /// An entry that is not published.
    pub(super) fn new(
        record: &Arc<SpaceRecord>,
        features: Features,
        bond: BondKey,
        requester: &Arc<Requester>,
        host: &Weak<dyn RecordHost>,
    ) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            is_published: AtomicBool::new(false),
            record: Arc::clone(record),
            features,
            bond,
            requester: Arc::clone(requester),
            remaining_steps: Countdown::new(Self::STEPS),
            times: Mutex::default(),
            host: Weak::clone(host),
        })
    }

    /// Why the entry serves no access now; `None` where it serves accesses. Only what is read inside
    /// its gate stays true until the gate is left.
    pub(crate) fn refusal(&self) -> Option<FaultReason> {
        if !self.is_published.load(Ordering::Acquire) {
            Some(FaultReason::NotBound)
        } else if self.record.has_ended() {
            Some(FaultReason::SpaceEnded)
        } else {
            None
        }
    }

    /// Whether the bond grants what `access` asks for beyond reading and writing as a user.
    pub(crate) fn grants(&self, access: Access) -> bool {
        (self.features.privileged || !access.is_privileged())
            && (self.features.execute || !access.is_execute())
    }

    /// What the bond grants at most.
    pub(crate) fn granted(&self) -> Permissions {
        let mut granted = Permissions::READ_WRITE;
        granted.set(Permissions::EXECUTE, self.features.execute);
        granted
    }

    /// How an access is made by the terms of the bond.
    pub(crate) fn effective_access(&self, access: Access) -> Access {
        if self.features.page_faults { access } else { access.present_only() }
    }

    /// Waits for the accesses through cached translations; the gate, which has been closed, keeps
    /// new ones out. Each pin that was made through this entry is one more step to its end. Answers
    /// how many pins those are.
    pub(crate) fn await_cached_accesses(self: &Arc<Self>) -> usize {
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

    /// This entry as what waits for a part: the part makes one of its steps.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter {
        let this: Waiter = Arc::downgrade(self) as _;
        this
    }
}

impl Completion for PasidEntry {
    /// Makes one of the steps to the end of the entry; the last one takes it out.
    fn step(self: Arc<Self>) {
        if self.remaining_steps.step()
            && let Some(host) = self.host.upgrade()
        {
            host.remove_entry(&self);
        }
    }
}
