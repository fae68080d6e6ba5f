//! What the control state and the data path share: devices, requesters, table entries, records of
//! spaces.
//!
//! A port goes from its device through these to the space without the control lock; each part that
//! changes has a lock, a gate or an atomic of its own. Who writes holds the control lock as well.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::services::Services;
use super::state::{Aftermath, BondKey};
use crate::device::{DeviceOps, DeviceSpec, Features};
use crate::domain::Translation;
use crate::fault::FaultReason;
use crate::gate::Gate;
use crate::ids::{Bdf, GroupId, Pasid, PasidTag, RequesterId, SpaceId};
use crate::invalidation::Countdown;
use crate::iotlb::{Kept, Pins, Readers, Table};
use crate::pri::times::FaultTimes;
use crate::range::AddrRange;
use crate::space::AddressSpace;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::topology::{PathDefect, PathPolicy, PeerWindow, Topology, Version};

/// What the bus says about a device, as of one version of the bus. The lists are shared, and absent
/// where they are empty: a copy of what most devices have is a few words and touches no other
/// memory.
#[derive(Clone)]
pub(crate) struct Isolation {
    version: u64,
    pub(crate) policy: PathPolicy,
    pub(crate) defect: Option<PathDefect>,
    windows: Option<Arc<[PeerWindow]>>,
    /// Of translated requests, where they are others.
    translated: Option<Arc<[PeerWindow]>>,
    pub(crate) translation_blocked: Option<Bdf>,
    reserved: Option<Arc<[AddrRange]>>,
}

impl Isolation {
    pub(crate) fn ask(topology: &dyn Topology, device: Bdf) -> Self {
        // The version first: a change in between makes the answer be asked again, never be taken
        // for newer than it is.
        Self {
            version: topology.version().now(),
            policy: topology.policy(),
            defect: topology.path_defect(device),
            windows: shared(topology.windows(device)),
            translated: shared(topology.translated_windows(device)),
            translation_blocked: topology.translation_blocked(device),
            reserved: shared(topology.reserved(device)),
        }
    }

    /// Whether the bus is still as it was.
    #[inline]
    pub(crate) fn is_of(&self, bus: &Version) -> bool {
        self.version == bus.now()
    }

    pub(crate) fn translated_windows(&self) -> &[PeerWindow] {
        self.translated.as_deref().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn windows(&self) -> &[PeerWindow] {
        self.windows.as_deref().unwrap_or_default()
    }

    pub(crate) fn reserved(&self) -> &[AddrRange] {
        self.reserved.as_deref().unwrap_or_default()
    }
}

fn shared<T>(list: Vec<T>) -> Option<Arc<[T]>> {
    (!list.is_empty()).then(|| list.into())
}

/// A device, as its handles and ports share it.
pub(crate) struct DeviceInner {
    pub(crate) spec: DeviceSpec,
    pub(crate) group: GroupId,
    pub(crate) requester: Arc<Requester>,
    pub(crate) face: Arc<GroupFace>,
    /// Every transaction goes through it; removal closes it.
    pub(crate) gate: Gate,
    /// It has been taken out, and its gate is about to close. Written and read under the control
    /// lock: a bind need not look the device up.
    pub(crate) unplugged: AtomicBool,
    pub(crate) isolation: RwLock<Isolation>,
    pub(crate) services: Services,
    /// The ports that remember something.
    pub(crate) readers: Readers,
    /// The slots of its ports that may have memory in hand.
    pub(crate) pins: Pins,
}

impl DeviceInner {
    pub(crate) fn bdf(&self) -> Bdf {
        self.spec.bdf
    }

    /// Whether its transactions can carry this PASID.
    pub(crate) fn can_issue(&self, pasid: Pasid) -> bool {
        self.spec.capabilities.pasid.is_some_and(|capability| pasid.fits(capability.width))
    }

    /// Why its gate is shut.
    pub(crate) fn why_shut(&self) -> FaultReason {
        if self.gate.is_closed() { FaultReason::DeviceRemoved } else { FaultReason::DeviceBlocked }
    }

    /// What the bus says now. Asks it again where it has changed; not to be called under the
    /// control lock.
    pub(crate) fn isolation(&self, topology: &dyn Topology) -> Isolation {
        let version = topology.version().now();
        let known = self.known_isolation();
        if known.version == version {
            return known;
        }
        let fresh = Isolation::ask(topology, self.bdf());
        let mut held = self.isolation.write();
        // Versions count up: an answer that took long does not replace a newer one.
        if held.version < fresh.version {
            *held = fresh.clone();
        }
        fresh
    }

    /// What the bus said last.
    pub(crate) fn known_isolation(&self) -> Isolation {
        self.isolation.read().clone()
    }
}

/// The models behind one requester ID, each with its device.
pub(crate) type Models = SmallVec<[(Bdf, Arc<dyn DeviceOps>); 1]>;

/// One requester ID as the IOMMU sees it, with its PASID table.
pub(crate) struct Requester {
    pub(crate) id: RequesterId,
    /// A slot stays taken, by an attachment whose gate is closed, until the accesses in flight
    /// have left: that keeps a new bond of the same device and space out until then.
    pub(crate) table: RwLock<FxHashMap<Pasid, Arc<Attachment>>>,
    /// The models of the devices that issue requests as this requester, where they want to be
    /// told.
    pub(crate) ops: RwLock<Models>,
    /// The one device that issues requests as this requester, from the first time that its ATS is
    /// switched on until it has been removed and is quiet: invalidations go to a requester ID.
    /// Weak: the device has its requester, and one that is never removed is to go with the system
    /// all the same.
    pub(crate) translating: RwLock<Option<Weak<DeviceInner>>>,
}

impl Requester {
    pub(crate) fn new(id: RequesterId) -> Arc<Self> {
        Arc::new(Self {
            id,
            table: RwLock::default(),
            ops: RwLock::default(),
            translating: RwLock::default(),
        })
    }

    /// The device whose ATS is, or was, on. There is one as long as a translated request of it may
    /// be under way.
    pub(crate) fn translating(&self) -> Option<Arc<DeviceInner>> {
        self.translating.read().as_ref().and_then(Weak::upgrade)
    }

    /// Lets go of the model of a device that is unplugged.
    pub(crate) fn forget_model(&self, device: Bdf, after: &mut Aftermath) {
        let mut ops = self.ops.write();
        if let Some(at) = ops.iter().position(|(of, _)| *of == device) {
            after.models.push(ops.remove(at));
        }
    }
}

/// A PASID table entry: lets one requester reach one space. Present while its gate is open.
pub(crate) struct Attachment {
    pub(crate) gate: Gate,
    pub(crate) published: AtomicBool,
    pub(crate) record: Arc<SpaceRecord>,
    pub(crate) features: Features,
    pub(crate) bond: BondKey,
    pub(crate) requester: Arc<Requester>,
    /// What is left to do before it can be taken out, once its gate has been closed:
    /// [`Self::STEPS`] steps.
    pub(crate) left: Countdown,
    /// Of its faults; made with the first one.
    pub(crate) times: Mutex<Option<Box<FaultTimes>>>,
}

impl Attachment {
    /// The last access leaves the gate; the device forgets its translations; its page requests are
    /// drained.
    pub(crate) const STEPS: u32 = 3;
}

/// What the data path knows of a bound space.
pub(crate) struct SpaceRecord {
    pub(crate) space: Arc<dyn AddressSpace>,
    pub(crate) id: SpaceId,
    pub(crate) tag: PasidTag,
    /// Written under the control lock, read by every access that goes the long way.
    ended: AtomicBool,
    /// What is kept of it, where its memory can be accessed in place.
    pub(crate) kept: Option<Arc<Kept>>,
}

impl SpaceRecord {
    /// `table` is asked for where the space says that what is kept of it can be accessed in place,
    /// and that it tells of every change.
    pub(crate) fn new(
        space: &Arc<dyn AddressSpace>,
        tag: PasidTag,
        table: impl FnOnce() -> Arc<Table>,
    ) -> Self {
        let can = space.capabilities();
        let kept = (can.in_place && can.synchronous)
            .then(|| Arc::new(Kept::new(&table(), tag.generation)));
        Self { space: Arc::clone(space), id: space.id(), tag, ended: AtomicBool::new(false), kept }
    }

    /// From here on every access aborts. Under the control lock.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// What a device sees of its group without looking into the control state.
pub(crate) struct GroupFace {
    pub(crate) translation: Translation,
    /// The group has one member and is in no container: that device can be bound by itself.
    /// Written under the control lock, with what it follows from, and read under it: a bind
    /// need not look the group up, which counts where there are thousands.
    pub(crate) alone: AtomicBool,
}
