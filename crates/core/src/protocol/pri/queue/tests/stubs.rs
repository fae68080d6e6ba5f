//! A device, a bus and spaces, as far as the queue looks at them.

use super::*;
use crate::api::device::{Capabilities, DeviceSpec};
use crate::api::fault::{AccessMode, HostFailure};
use crate::api::link::{DirectLink, LinkEnds};
use crate::api::space::{
    AddressSpace, EndReason, SpaceCapabilities, SpaceEnded, SpaceWatcher, StopCause, Stopped,
    WatchToken,
};
use crate::api::topology::{
    GroupKey, PathDefect, PathPolicy, PeerAborted, PeerWindow, SharedBecause, Topology, Version,
};
use crate::iotlb::{Pins, Readers};
use crate::quiesce::Gate;
use crate::table::domain::Translation;
use crate::table::iommu::IommuConfig;
use crate::table::records::{GroupRecord, Requester, Routing, SpaceRecord};
use crate::table::services::Services;
use crate::types::ids::{Bdf, GroupId, PasidTag, PasidWidth, RequesterId, SpaceId};
use crate::types::range::{AddrRange, Segment};
use sva_sync::RwLock;
use sva_sync::atomic::AtomicBool;

/// A device that nobody has plugged in: the state machine looks at its entries, its domain and its
/// gate.
pub(super) fn device(key: u64) -> Arc<DeviceRecord> {
    let bdf = Bdf::new(0, 1, key as u8 + 1, 0).expect("small");
    let spec =
        DeviceSpec { bdf, capabilities: Capabilities::translating(PasidWidth::MAX, ALLOCATION) };
    let face = GroupRecord { translation: Translation::blocking(), alone: AtomicBool::new(true) };
    Arc::new_cyclic(|me| DeviceRecord {
        spec,
        group: GroupId(key as u32),
        requester: Requester::new(RequesterId(bdf)),
        face: Arc::new(face),
        gate: Gate::new(),
        unplugged: AtomicBool::new(false),
        isolation: RwLock::new(Routing::ask(&NoBus::default(), bdf)),
        readers: Readers::default(),
        pins: Pins::default(),
        services: Services::new(
            key,
            LinkEnds::new(bdf, std::sync::Weak::new(), me.clone()),
            Arc::new(DirectLink),
            &IommuConfig::default(),
            &spec,
        ),
    })
}

/// A space of its own for a PASID.
pub(super) fn space(number: u32) -> Arc<SpaceRecord> {
    let space: Arc<dyn AddressSpace> = Arc::new(NoMemory(SpaceId::unique()));
    // The identity of the space does for a generation: neither comes again.
    let generation = crate::types::ids::Generation(space.id().get());
    Arc::new(SpaceRecord::new(&space, PasidTag { pasid: pasid(number), generation }, || {
        unreachable!("it has no memory")
    }))
}

/// A bus on which nothing is in the way.
#[derive(Default)]
struct NoBus(Version);

impl Topology for NoBus {
    fn version(&self) -> &Version {
        &self.0
    }

    fn policy(&self) -> PathPolicy {
        PathPolicy::Permissive
    }

    fn requester(&self, device: Bdf) -> RequesterId {
        RequesterId(device)
    }

    fn group(&self, device: Bdf) -> GroupKey {
        GroupKey(device)
    }

    fn why_shared(&self, _: Bdf, _: Bdf) -> SharedBecause {
        unreachable!("nothing is shared")
    }

    fn path_defect(&self, _: Bdf) -> Option<PathDefect> {
        None
    }

    fn windows(&self, _: Bdf) -> Vec<PeerWindow> {
        Vec::new()
    }

    fn read_peer(
        &self,
        from: Bdf,
        _: &PeerWindow,
        _: u64,
        _: &mut [u8],
        _: crate::api::fault::Access,
    ) -> Result<(), PeerAborted> {
        Err(PeerAborted(from))
    }

    fn write_peer(&self, from: Bdf, _: &PeerWindow, _: u64, _: &[u8]) -> Result<(), PeerAborted> {
        Err(PeerAborted(from))
    }

    fn reserved(&self, _: Bdf) -> Vec<AddrRange> {
        Vec::new()
    }
}

/// A space that has an identity and nothing else.
struct NoMemory(SpaceId);

impl AddressSpace for NoMemory {
    fn id(&self) -> SpaceId {
        self.0
    }

    fn capabilities(&self) -> SpaceCapabilities {
        SpaceCapabilities::default()
    }

    fn ended(&self) -> Option<EndReason> {
        None
    }

    fn watch(&self, _: Arc<dyn SpaceWatcher>) -> Result<WatchToken, SpaceEnded> {
        Ok(WatchToken(0))
    }

    fn unwatch(&self, _: WatchToken) {}

    fn read(&self, _: &[Segment], _: &mut [u8], _: AccessMode) -> Result<(), Stopped> {
        Err(Stopped { done: 0, cause: StopCause::NotMapped })
    }

    fn write(&self, _: &[Segment], _: &[u8], _: AccessMode) -> Result<(), Stopped> {
        Err(Stopped { done: 0, cause: StopCause::NotMapped })
    }

    fn translate(
        &self,
        _: u64,
        _: bool,
    ) -> Result<crate::api::ats::message::Translation, StopCause> {
        Err(StopCause::NotMapped)
    }

    fn resolve(&self, _: u64, _: AccessMode) -> Result<(), StopCause> {
        Err(StopCause::NotMapped)
    }

    fn mapped_within(&self, _: &[AddrRange]) -> Result<Vec<AddrRange>, HostFailure> {
        Ok(Vec::new())
    }
}
