//! The model's state: which device may reach what, after the calls that were made.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use sva_core::bond::{GroupBond, Unbinding};
use sva_core::container::Leaving;
use sva_core::device::Reset;
use sva_core::pri::{HandlerRegistration, PageRequestJob};
use sva_core::{
    AddressSpace, AtsPort, Bdf, Bond, Capabilities, Container, Device, DeviceOps, Features,
    GroupId, Pasid, PasidTag, Permissions as DomainProtection,
};
use sva_sync::Mutex;
use sva_testkit::{Change, MemorySpace, PAGE, Protection};

use super::config::BASE;
use super::owner::OwnerId;
use crate::device::DeviceModel;
use crate::link::ScheduledLink;

pub(super) type SharedModel = Arc<Mutex<Box<dyn DeviceModel>>>;

/// Has the device stop on the thread that unbinds.
pub(super) struct Stopper {
    pub(super) model: SharedModel,
    pub(super) port: Mutex<Option<AtsPort>>,
}

impl DeviceOps for Stopper {
    fn stop_pasid(&self, tag: PasidTag) {
        let port = self.port.lock().clone();
        if let Some(port) = port {
            self.model.lock().stop(tag.pasid, &port);
        }
    }
}

/// What a device may do with a PASID.
#[derive(Clone, Copy)]
pub(super) struct Grant {
    pub(super) space: usize,
    pub(super) features: Features,
    /// Who answers its page requests, where that is not the provider.
    pub(super) owner: Option<OwnerId>,
}

/// A slot for a device.
pub(super) struct Slot {
    pub(super) bdf: Bdf,
    pub(super) capabilities: Capabilities,
    pub(super) device: Option<Device>,
    /// How often a device was plugged in here.
    pub(super) plugged: u64,
    pub(super) model: SharedModel,
    pub(super) link: Arc<ScheduledLink>,
    /// PASIDs that it can use.
    pub(super) bonds: BTreeMap<Pasid, Grant>,
    pub(super) resets: Vec<Reset>,
    pub(super) ats_on: bool,
    /// Responses that were lost or corrupted since the device last forgot its groups.
    pub(super) lost_responses: u64,
}

impl Slot {
    pub(super) fn is_halted(&self) -> bool {
        !self.resets.is_empty() || self.device.as_ref().is_some_and(Device::is_cut_off)
    }
}

/// What is to happen, once, while a page is being resolved.
pub(super) type Script = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A change of a space that is under way.
pub(super) struct Changing {
    pub(super) change: Change,
    /// It moves pages to other addresses.
    pub(super) moves: bool,
}

pub(super) struct SpaceSlot {
    pub(super) space: MemorySpace,
    pub(super) changes: Vec<Changing>,
    pub(super) ended: bool,
    pub(super) announced: bool,
    pub(super) while_resolving: Script,
}

impl SpaceSlot {
    /// Finishes one change that is over; false if none is.
    pub(super) fn finish_one(&mut self) -> bool {
        let over = self.changes.iter().position(|changing| changing.change.is_over());
        if let Some(over) = over {
            self.changes.remove(over).change.finish();
        }
        over.is_some()
    }

    /// The last two of its pages are to execute, and for privileged accesses. One space in four
    /// provides neither kind of access.
    pub(super) fn new(pages: u64, number: u64) -> Self {
        let mut capabilities = MemorySpace::new().handle().capabilities();
        if number % 4 == 3 {
            (capabilities.execute, capabilities.privileged) = (false, false);
        }
        let space = MemorySpace::with_capabilities(capabilities);
        space.largest_translation(14);
        space.map(
            BASE,
            (pages - 2) * PAGE,
            Protection { execute: number.is_multiple_of(2), ..Protection::READ_WRITE },
        );
        space.map(BASE + (pages - 2) * PAGE, PAGE, Protection::READ_EXECUTE);
        space.map(BASE + (pages - 1) * PAGE, PAGE, Protection::READ_WRITE.privileged());
        let while_resolving = Script::default();
        let script = Arc::clone(&while_resolving);
        space.on_resolve(move |_| {
            let action = script.lock().take();
            if let Some(action) = action {
                action();
            }
            true
        });
        Self { space, changes: Vec::new(), ended: false, announced: false, while_resolving }
    }
}

/// A mapping of a domain.
pub(super) struct Mapping {
    pub(super) len: u64,
    pub(super) space: Arc<dyn AddressSpace>,
    pub(super) address: u64,
    pub(super) permissions: DomainProtection,
}

/// A domain: that of a group, or of a container.
#[derive(Default)]
pub(super) struct Domain {
    /// By first IOVA.
    pub(super) mapped: BTreeMap<u64, Mapping>,
    /// Pages that were mapped once and are not now.
    pub(super) unmapped: BTreeSet<u64>,
    pub(super) registration: Option<(OwnerId, HandlerRegistration)>,
}

impl Domain {
    /// The mapping that holds `iova`, and where it leads.
    pub(super) fn find(&self, iova: u64) -> Option<(&Mapping, u64)> {
        let (first, mapping) = self.mapped.range(..=iova).next_back()?;
        (iova - first < mapping.len).then(|| (mapping, mapping.address + (iova - first)))
    }

    /// The ranges of the mappings that overlap a range.
    pub(super) fn meeting(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let all = self.mapped.iter().map(|(first, mapping)| *first..first + mapping.len);
        all.filter(|mapped| mapped.start < range.end && range.start < mapped.end).collect()
    }

    pub(super) fn owner(&self) -> Option<OwnerId> {
        self.registration.as_ref().map(|(owner, _)| *owner)
    }
}

/// A group of devices that the bus cannot keep apart.
#[derive(Default)]
pub(super) struct Group {
    /// As of the last time that a device was plugged in.
    pub(super) id: Option<GroupId>,
    pub(super) container: Option<usize>,
    /// How often it has changed its domain.
    pub(super) switches: u64,
    pub(super) own: Domain,
}

/// Where the transactions without PASID of a device lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Group(usize),
    Container(usize),
}

pub(super) enum Bonded {
    Device(Bond<()>),
    Group(GroupBond<()>),
}

pub(super) struct Bound {
    pub(super) bond: Bonded,
    pub(super) tag: PasidTag,
    pub(super) group: usize,
    pub(super) grant: Grant,
    /// Its device has been removed.
    pub(super) inert: bool,
}

/// An unbind, a leave or a close that has begun.
pub(super) enum Ending {
    Unbinding(Unbinding),
    Leaving(Leaving),
}

pub(super) struct PendingEnd {
    pub(super) ending: Ending,
    /// The spaces that it concerns.
    pub(super) spaces: Vec<usize>,
}

impl PendingEnd {
    pub(super) fn is_over(&self) -> bool {
        match &self.ending {
            Ending::Unbinding(unbinding) => unbinding.is_over(),
            Ending::Leaving(leaving) => leaving.is_over(),
        }
    }
}

/// A group of page requests that is being resolved.
pub(super) struct StartedWork {
    pub(super) work: PageRequestJob,
    pub(super) at: usize,
    /// Counts of the device and of its group when the work was begun.
    pub(super) plugged: u64,
    pub(super) switches: u64,
}

pub(super) struct ContainerSlot {
    pub(super) container: Container,
    pub(super) groups: BTreeSet<usize>,
    pub(super) domain: Domain,
    /// In the order of their BINDs.
    pub(super) bonds: Vec<ContainerBond>,
}

pub(super) struct ContainerBond {
    pub(super) tag: PasidTag,
    pub(super) grant: Grant,
    /// The binder's data, which is compared when the space is bound again.
    pub(super) data: u32,
}

impl ContainerSlot {
    pub(super) fn new(container: Container) -> Self {
        Self { container, groups: BTreeSet::new(), domain: Domain::default(), bonds: Vec::new() }
    }
}
