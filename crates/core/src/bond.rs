//! Bonds: owned values that undo themselves.

use std::any::Any;
use std::sync::Arc;

use crate::device::Features;
use crate::error::Refusal;
use crate::event::Overlap;
use crate::ids::{Bdf, GroupId, Pasid, PasidTag, SpaceId};
use crate::iommu::Iommu;
use crate::iommu::state::{BondKey, ExitHandler, IsolationHandler};
use crate::pri::owner::PageRequestHandler;
use crate::pri::times::FaultTimes;
use crate::space::EndReason;

/// What an exit handler learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BondEnd {
    /// The space that has ended.
    pub space: SpaceId,
    /// Its PASID, held until its last bond is gone.
    pub pasid: Pasid,
    /// How it ended.
    pub reason: EndReason,
}

/// What the owner of a device bond learns when its group grows (rule G4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolationChange {
    /// The bound device.
    pub device: Bdf,
    /// The device that it is not isolated from any more. It is not bound and cannot reach the
    /// space.
    pub newcomer: Bdf,
}

type OnExit<T> = Box<dyn FnOnce(&BondEnd, &T) + Send>;
type OnIsolation<T> = Box<dyn Fn(&IsolationChange, &T) + Send + Sync>;

/// What a bind asks for beside device and space.
///
/// Handlers run with no lock of the core held, on a thread of the provider or on the one that
/// unbinds. They may unbind any bond, their own included; such an unbind does not wait (rule U3).
pub struct Bind<T> {
    pub(crate) features: Features,
    pub(crate) data: Arc<T>,
    on_exit: Option<OnExit<T>>,
    on_isolation: Option<OnIsolation<T>>,
    on_pages: Option<Arc<dyn PageRequestHandler>>,
}

impl<T: Send + Sync + 'static> Bind<T> {
    /// The default features, no handlers. `drvdata` belongs to the bond and is passed to its
    /// handlers (rule B6).
    pub fn new(drvdata: T) -> Self {
        Self {
            features: Features::default(),
            data: Arc::new(drvdata),
            on_exit: None,
            on_isolation: None,
            on_pages: None,
        }
    }

    /// Grants these features instead of the default ones.
    pub fn features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// Has `handler` run once when the space ends, unless the bond is unbound before (rule U4).
    pub fn on_exit(mut self, handler: impl FnOnce(&BondEnd, &T) + Send + 'static) -> Self {
        self.on_exit = Some(Box::new(handler));
        self
    }

    /// Has `handler` run when a device bond's device, alone in its group until then, gets a sibling
    /// (rule G4).
    pub fn on_isolation_change(
        mut self,
        handler: impl Fn(&IsolationChange, &T) + Send + Sync + 'static,
    ) -> Self {
        self.on_isolation = Some(Box::new(handler));
        self
    }

    /// Has `handler` get the page requests of this bond, by whole groups, instead of the provider
    /// of the space: for page tables that the owner manages, such as a guest's.
    pub fn on_page_requests(mut self, handler: Arc<dyn PageRequestHandler>) -> Self {
        self.on_pages = Some(handler);
        self
    }

    pub(crate) fn take_pages(&mut self) -> Option<Arc<dyn PageRequestHandler>> {
        self.on_pages.take()
    }

    pub(crate) fn take_exit(&mut self) -> Option<ExitHandler> {
        let handler = self.on_exit.take()?;
        let data = Arc::clone(&self.data);
        Some(Box::new(move |end| handler(end, &data)))
    }

    pub(crate) fn take_isolation(&mut self) -> Option<IsolationHandler> {
        let handler = self.on_isolation.take()?;
        let data = Arc::clone(&self.data);
        Some(Arc::new(move |change| handler(change, &data)))
    }
}

/// drvdata that a container compares when a space is bound a second time (rule B5).
pub(crate) trait AnyData: Any + Send + Sync {
    fn same(&self, other: &dyn AnyData) -> bool;
}

impl<T: PartialEq + Send + Sync + 'static> AnyData for T {
    fn same(&self, other: &dyn AnyData) -> bool {
        (other as &dyn Any).downcast_ref::<T>().is_some_and(|other| self == other)
    }
}

/// What an unbind found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnbindReport {
    /// It was asked from inside a callback: access has stopped, and the rest follows when those
    /// callbacks have returned (rule U3).
    pub deferred: bool,
    /// Accesses that were in flight when access was stopped, and ranges in hand
    /// ([`DmaPort::pin`](crate::DmaPort::pin)), each once; all are over, unless deferred.
    pub drained: usize,
    /// Groups of page requests that waited and were answered as invalid (rule U1).
    pub page_groups: usize,
    /// The space had ended before the unbind began.
    pub space_ended: bool,
    /// The exit handler has run, or is running where deferred.
    pub handler_ran: bool,
    /// The system had ended the bond before: its device was removed, or its container closed.
    pub already_ended: bool,
}

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
