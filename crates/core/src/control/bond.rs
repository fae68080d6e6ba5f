//! Bonds: owned values that undo themselves.

use std::sync::Arc;

use crate::api::bond::UnbindReport;
use crate::api::error::Refusal;
use crate::api::event::Overlap;
use crate::api::pri::FaultTimes;
use crate::table::{BondKey, Iommu};
use crate::types::ids::{Bdf, GroupId, Pasid, PasidTag, SpaceId};

/// The part that all bonds have in common: unbinds when dropped.
struct Owned<T> {
    iommu: Iommu,
    key: Option<BondKey>,
    tag: PasidTag,
    space: SpaceId,
    data: Arc<T>,
}

impl<T> Owned<T> {
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

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.unbind();
    }
}

/// An unbind that was begun and is not waited for. Dropping it changes nothing: what is left to do
/// follows all the same.
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

    /// What was found when it was begun. `deferred` says that it was not over then.
    pub fn report(&self) -> UnbindReport {
        self.report
    }

    /// Whether rule U2 holds: no access, no fault, no handler of the bond is left. Does not block.
    pub fn is_over(&self) -> bool {
        self.key.is_none_or(|key| self.iommu.bond_is_gone(key))
    }
}

/// A device bound to an address space. Dropping it unbinds, which may block until accesses in
/// flight and handlers are over (rules U1 to U3).
#[must_use = "dropping a bond unbinds it"]
pub struct Bond<T> {
    owned: Owned<T>,
    device: Bdf,
    overlaps: Vec<Overlap>,
}

impl<T: Send + Sync + 'static> Bond<T> {
    pub(crate) fn new(
        iommu: Iommu,
        key: BondKey,
        tag: PasidTag,
        space: SpaceId,
        data: Arc<T>,
        device: Bdf,
        overlaps: Vec<Overlap>,
    ) -> Self {
        Self { owned: Owned { iommu, key: Some(key), tag, space, data }, device, overlaps }
    }

    /// The PASID that the device is to use.
    pub fn pasid(&self) -> Pasid {
        self.owned.tag.pasid
    }

    /// The PASID with its generation.
    pub fn tag(&self) -> PasidTag {
        self.owned.tag
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.owned.space
    }

    /// The device.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// What the owner gave to the bond.
    pub fn drvdata(&self) -> &T {
        &self.owned.data
    }

    /// Memory of the space that the device cannot reach, because a peer decodes its addresses: as
    /// found at the bind (rule B7).
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Whether the device can use the PASID: the space has not ended and the device has not been
    /// removed.
    pub fn is_live(&self) -> bool {
        self.owned.is_live()
    }

    /// How long the faults of this bond took so far; empty where the system has no clock.
    pub fn fault_times(&self) -> FaultTimes {
        self.owned.fault_times()
    }

    /// Unbinds and tells what was drained. Blocks as a drop does.
    pub fn unbind(mut self) -> UnbindReport {
        self.owned.unbind()
    }

    /// Begins to unbind and does not wait: access stops at once, and the rest follows when accesses
    /// in flight, handlers and devices are done. For event loops and schedulers.
    pub fn begin_unbind(mut self) -> Unbinding {
        self.owned.begin_unbind()
    }
}

/// All capable members of a group bound to an address space. Dropping it unbinds, as for [`Bond`].
#[must_use = "dropping a bond unbinds it"]
pub struct GroupBond<T> {
    owned: Owned<T>,
    group: GroupId,
    left_out: Vec<Refusal>,
    overlaps: Vec<Overlap>,
}

impl<T: Send + Sync + 'static> GroupBond<T> {
    #[expect(clippy::too_many_arguments, reason = "one call, in bind.rs")]
    pub(crate) fn new(
        iommu: Iommu,
        key: BondKey,
        tag: PasidTag,
        space: SpaceId,
        data: Arc<T>,
        group: GroupId,
        left_out: Vec<Refusal>,
        overlaps: Vec<Overlap>,
    ) -> Self {
        Self { owned: Owned { iommu, key: Some(key), tag, space, data }, group, left_out, overlaps }
    }

    /// The PASID that the members are to use.
    pub fn pasid(&self) -> Pasid {
        self.owned.tag.pasid
    }

    /// The PASID with its generation.
    pub fn tag(&self) -> PasidTag {
        self.owned.tag
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.owned.space
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The members that are bound now, by address. Members that were hotplugged since and could
    /// join are among them.
    pub fn members(&self) -> Vec<Bdf> {
        self.owned.key.map(|key| self.owned.iommu.bond_members(key)).unwrap_or_default()
    }

    /// The members that were left out at the bind, with the reason (rule B2).
    pub fn left_out(&self) -> &[Refusal] {
        &self.left_out
    }

    /// What the owner gave to the bond.
    pub fn drvdata(&self) -> &T {
        &self.owned.data
    }

    /// Memory of the space that a member cannot reach, because a peer decodes its addresses: as
    /// found at the bind (rule B7).
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Whether the PASID can be used: the space has not ended.
    pub fn is_live(&self) -> bool {
        self.owned.is_live()
    }

    /// How long the faults of this bond took so far; empty where the system has no clock.
    pub fn fault_times(&self) -> FaultTimes {
        self.owned.fault_times()
    }

    /// Begins to unbind and does not wait, as [`Bond::begin_unbind`].
    pub fn begin_unbind(mut self) -> Unbinding {
        self.owned.begin_unbind()
    }

    /// Unbinds and tells what was drained. Blocks as a drop does.
    pub fn unbind(mut self) -> UnbindReport {
        self.owned.unbind()
    }
}
