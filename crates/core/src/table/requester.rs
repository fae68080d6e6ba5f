//! One requester ID as the IOMMU sees it, with its PASID table.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use sva_sync::RwLock;

use super::device::DeviceRecord;
use super::entry::PasidEntry;
use crate::api::device::DeviceOps;
use crate::types::ids::{Bdf, Pasid, RequesterId};

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
    pub(crate) ops: RwLock<Models>,
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
            ops: RwLock::default(),
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
    pub(crate) fn take_model(&self, device: Bdf) -> Option<(Bdf, Arc<dyn DeviceOps>)> {
        let mut ops = self.ops.write();
        let at = ops.iter().position(|(of, _)| *of == device)?;
        Some(ops.remove(at))
    }
}
