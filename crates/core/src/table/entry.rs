//! PASID table entries.

use std::sync::{Arc, Weak};

use sva_sync::Mutex;
use sva_sync::atomic::{AtomicBool, Ordering};

use super::bonds::BondKey;
use super::iommu::{Inner, Iommu};
use super::requester::Requester;
use super::space::SpaceRecord;
use crate::api::device::Features;
use crate::api::fault::FaultReason;
use crate::api::pri::FaultTimes;
use crate::quiesce::{Completion, Countdown, Gate, GracePeriod, Waiter};
use crate::types::access::{Access, Permissions};

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
    left: Countdown,
    /// Of its faults; made with the first one.
    pub(crate) times: Mutex<Option<Box<FaultTimes>>>,
    iommu: Weak<Inner>,
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
        iommu: &Weak<Inner>,
    ) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            is_published: AtomicBool::new(false),
            record: Arc::clone(record),
            features,
            bond,
            requester: Arc::clone(requester),
            left: Countdown::new(Self::STEPS),
            times: Mutex::default(),
            iommu: Weak::clone(iommu),
        })
    }

    /// Why it lets no access pass now; `None` where it lets accesses pass. To be asked from inside
    /// its gate.
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
    pub(crate) fn by_terms(&self, access: Access) -> Access {
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
                self.left.extend(1);
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
        if self.left.step()
            && let Some(iommu) = Iommu::upgrade(&self.iommu)
        {
            iommu.retire(&self);
        }
    }
}
