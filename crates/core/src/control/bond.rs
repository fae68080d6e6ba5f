//! Bonds: owned values whose drop unbinds.

use std::sync::Arc;

use crate::api::bond::UnbindReport;
use crate::api::error::Refusal;
use crate::api::event::Overlap;
use crate::api::pri::FaultTimes;
use crate::table::{BondKey, Iommu};
use crate::types::ids::{Bdf, GroupId, Pasid, PasidTag, SpaceId};

/// The common part of device bonds and group bonds. Its drop unbinds.
pub(super) struct OwnedBond<T> {
    iommu: Iommu,
    /// `None` once the unbind has begun.
    key: Option<BondKey>,
    tag: PasidTag,
    space: SpaceId,
    data: Arc<T>,
}

impl<T> OwnedBond<T> {
    pub(super) fn new(
        iommu: Iommu,
        key: BondKey,
        tag: PasidTag,
        space: SpaceId,
        data: Arc<T>,
    ) -> Self {
        Self { iommu, key: Some(key), tag, space, data }
    }

    fn unbind(&mut self) -> UnbindReport {
        self.key.take().map_or_else(UnbindReport::default, |key| self.iommu.unbind(key))
    }

    fn begin_unbind(&mut self) -> Unbinding {
        Unbinding::begin(self.iommu.clone(), self.key.take())
    }

    fn fault_times(&self) -> FaultTimes {
        self.key.map(|key| self.iommu.fault_times(key)).unwrap_or_default()
    }

    fn is_live(&self) -> bool {
        self.key.is_some_and(|key| self.iommu.bond_is_live(key))
    }
}

impl<T> Drop for OwnedBond<T> {
    fn drop(&mut self) {
        self.unbind();
    }
}

/// An unbind that has begun and that no thread waits for. Its drop neither cancels the unbind nor
/// waits for it.
#[derive(Debug)]
pub struct Unbinding {
    iommu: Iommu,
    key: Option<BondKey>,
    report: UnbindReport,
}

impl Unbinding {
    pub(crate) fn begin(iommu: Iommu, key: Option<BondKey>) -> Self {
        let report = key.map_or_else(UnbindReport::default, |key| iommu.begin_unbind(key));
        Self { iommu, key, report }
    }

    /// Returns what the unbind found when it began. `deferred` is true if it was not over then.
    pub fn report(&self) -> UnbindReport {
        self.report
    }

    /// Returns whether the unbind is over: no access through the bond is in flight, no page request
    /// of it is pending and no handler of it is queued or running. Does not block.
    pub fn is_over(&self) -> bool {
        self.key.is_none_or(|key| self.iommu.bond_is_gone(key))
    }
}

/// A device bound to an address space. Its drop unbinds and blocks until the accesses in flight and
/// the handlers of the bond are over. Inside a callback the drop does not wait.
#[must_use = "dropping a bond unbinds it"]
pub struct Bond<T> {
    owned: OwnedBond<T>,
    device: Bdf,
    overlaps: Vec<Overlap>,
}

impl<T: Send + Sync + 'static> Bond<T> {
    pub(super) fn new(owned: OwnedBond<T>, device: Bdf, overlaps: Vec<Overlap>) -> Self {
        Self { owned, device, overlaps }
    }

    /// The PASID with which the device reaches the space.
    pub fn pasid(&self) -> Pasid {
        self.owned.tag.pasid
    }

    /// The PASID with its generation.
    pub fn tag(&self) -> PasidTag {
        self.owned.tag
    }

    /// The bound space.
    pub fn space(&self) -> SpaceId {
        self.owned.space
    }

    /// The bound device.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// The drvdata that the bind was given.
    pub fn drvdata(&self) -> &T {
        &self.owned.data
    }

    /// Memory of the space that the device cannot reach, because a peer decodes its addresses. The
    /// list is as the bind found it.
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Returns whether the device can use the PASID: the space has not ended and the device has not
    /// been removed.
    pub fn is_live(&self) -> bool {
        self.owned.is_live()
    }

    /// Returns how long the faults of this bond took so far; empty if the IOMMU has no clock.
    pub fn fault_times(&self) -> FaultTimes {
        self.owned.fault_times()
    }

    /// Unbinds and returns what the unbind drained. Blocks as a drop does.
    pub fn unbind(mut self) -> UnbindReport {
        self.owned.unbind()
    }

    /// Begins the unbind and does not wait. No new access starts from here on; the unbind is over
    /// when the accesses in flight, the handlers and the devices' invalidations are. For event
    /// loops and schedulers.
    pub fn begin_unbind(mut self) -> Unbinding {
        self.owned.begin_unbind()
    }
}

/// All capable members of a group, bound to an address space. Its drop unbinds as that of a
/// [`Bond`] does.
#[must_use = "dropping a bond unbinds it"]
pub struct GroupBond<T> {
    owned: OwnedBond<T>,
    group: GroupId,
    left_out: Vec<Refusal>,
    overlaps: Vec<Overlap>,
}

impl<T: Send + Sync + 'static> GroupBond<T> {
    pub(super) fn new(
        owned: OwnedBond<T>,
        group: GroupId,
        left_out: Vec<Refusal>,
        overlaps: Vec<Overlap>,
    ) -> Self {
        Self { owned, group, left_out, overlaps }
    }

    /// The PASID with which the members reach the space.
    pub fn pasid(&self) -> Pasid {
        self.owned.tag.pasid
    }

    /// The PASID with its generation.
    pub fn tag(&self) -> PasidTag {
        self.owned.tag
    }

    /// The bound space.
    pub fn space(&self) -> SpaceId {
        self.owned.space
    }

    /// The bound group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Returns the members that are bound now, ascending by address. They include members that were
    /// hotplugged after the bind and joined it.
    pub fn members(&self) -> Vec<Bdf> {
        self.owned.key.map(|key| self.owned.iommu.bound_devices(key)).unwrap_or_default()
    }

    /// The members that the bind left out, each with the reason.
    pub fn left_out(&self) -> &[Refusal] {
        &self.left_out
    }

    /// The drvdata that the bind was given.
    pub fn drvdata(&self) -> &T {
        &self.owned.data
    }

    /// Memory of the space that a member cannot reach, because a peer decodes its addresses. The
    /// list is as the bind found it.
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Returns whether the members can use the PASID: the space has not ended.
    pub fn is_live(&self) -> bool {
        self.owned.is_live()
    }

    /// Returns how long the faults of this bond took so far; empty if the IOMMU has no clock.
    pub fn fault_times(&self) -> FaultTimes {
        self.owned.fault_times()
    }

    /// Begins the unbind and does not wait, as [`Bond::begin_unbind`] does.
    pub fn begin_unbind(mut self) -> Unbinding {
        self.owned.begin_unbind()
    }

    /// Unbinds and returns what the unbind drained. Blocks as a drop does.
    pub fn unbind(mut self) -> UnbindReport {
        self.owned.unbind()
    }
}
