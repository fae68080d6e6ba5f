//! Devices: the record that all handles and ports of one share, and the handle.

use std::fmt;
use std::sync::{Arc, Weak};

use sva_sync::RwLock;
use sva_sync::atomic::AtomicBool;

use super::group::GroupRecord;
use super::iommu::{Inner, Iommu};
use super::requester::Requester;
use super::routing::Routing;
use super::services::Services;
use crate::api::device::{Capabilities, DeviceSpec};
use crate::api::fault::FaultReason;
use crate::api::topology::Topology;
use crate::quiesce::{Completion, Gate, GracePeriod, PinSlots, Readers, Waiter};
use crate::types::ids::{Bdf, GroupId, Pasid, RequesterId};

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
    pub(crate) iommu: Weak<Inner>,
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
        let known = self.known_routing();
        if known.is_current(topology.version()) {
            return known;
        }
        let fresh = Routing::ask(topology, self.bdf());
        let mut last = self.routing.write();
        // Versions count up: an answer that took long does not replace a newer one.
        if last.version() < fresh.version() {
            *last = fresh.clone();
        }
        fresh
    }

    /// What the bus said last.
    pub(crate) fn known_routing(&self) -> Routing {
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
            && let Some(iommu) = Iommu::upgrade(&self.iommu)
        {
            iommu.wake_waiters();
        }
    }
}

/// A handle of a device that has been plugged in. It keeps working, with errors, after the device
/// was removed.
#[derive(Clone)]
pub struct Device {
    iommu: Iommu,
    record: Arc<DeviceRecord>,
}

impl Device {
    pub(crate) fn new(iommu: Iommu, record: Arc<DeviceRecord>) -> Self {
        Self { iommu, record }
    }

    pub(crate) fn record(&self) -> &Arc<DeviceRecord> {
        &self.record
    }

    pub(crate) fn iommu(&self) -> &Iommu {
        &self.iommu
    }

    /// Where it sits.
    pub fn bdf(&self) -> Bdf {
        self.record.bdf()
    }

    /// The requester ID that its transactions carry when they reach the IOMMU.
    pub fn requester(&self) -> RequesterId {
        self.record.requester.id
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.record.spec.capabilities
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.record.group_id
    }

    /// Whether it has been removed.
    pub fn is_removed(&self) -> bool {
        self.record.gate.is_closed()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("bdf", &self.bdf()).field("group", &self.group()).finish()
    }
}
