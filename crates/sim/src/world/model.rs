//! What the model knows: who may reach what, as the calls that were made have left it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use sva_core::sync::Mutex;
use sva_core::{
    AddressSpace, AtsPort, Bdf, Bond, Capabilities, Device, DeviceOps, Features, GroupBond,
    GroupId, HandlerRegistration, Leaving, PageWork, Pasid, PasidTag,
    Protection as DomainProtection, Reset, Unbinding,
};

use super::owners::OwnerId;
use super::{BASE, World};
use crate::driver::Driver;
use crate::link::HeldLink;
use sva_testkit::{Change, MemorySpace, PAGE, Protection};

pub(super) type SharedDriver = Arc<Mutex<Box<dyn Driver>>>;

/// Has the driver stop on the thread that unbinds.
pub(super) struct Stopper {
    pub(super) driver: SharedDriver,
    pub(super) port: Mutex<Option<AtsPort>>,
}

impl DeviceOps for Stopper {
    fn stop_pasid(&self, tag: PasidTag) {
        let port = self.port.lock().clone();
        if let Some(port) = port {
            self.driver.lock().stop(tag.pasid, &port);
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

/// A place for a device.
pub(super) struct Slot {
    pub(super) bdf: Bdf,
    pub(super) capabilities: Capabilities,
    pub(super) device: Option<Device>,
    /// How often a device was plugged in here.
    pub(super) plugged: u64,
    pub(super) driver: SharedDriver,
    pub(super) link: Arc<HeldLink>,
    /// PASIDs that it can use.
    pub(super) bonds: BTreeMap<Pasid, Grant>,
    pub(super) resets: Vec<Reset>,
    pub(super) ats_on: bool,
    /// Responses that did not come as they were sent, since the device last forgot its groups.
    pub(super) lost_responses: u64,
}

impl Slot {
    pub(super) fn is_blocked(&self) -> bool {
        !self.resets.is_empty() || self.device.as_ref().is_some_and(Device::is_cut_off)
    }
}

/// Something that is to happen while a page is being resolved, and happens once.
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
    /// Finishes a change that no device waits for any more, where there is one.
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
    pub(super) protection: DomainProtection,
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

    /// The mappings that meet a range, each with its own.
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
    /// As of the last time that a device came.
    pub(super) id: Option<GroupId>,
    pub(super) container: Option<usize>,
    /// How often it has gone over to another domain.
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

/// What was begun and is not over.
pub(super) enum Ending {
    Unbinding(Unbinding),
    Leaving(Leaving),
}

pub(super) struct UnderWay {
    pub(super) ending: Ending,
    /// The spaces that it has to do with.
    pub(super) spaces: Vec<usize>,
}

impl UnderWay {
    pub(super) fn is_over(&self) -> bool {
        match &self.ending {
            Ending::Unbinding(unbinding) => unbinding.is_over(),
            Ending::Leaving(leaving) => leaving.is_over(),
        }
    }
}

/// A group of page requests that is being resolved.
pub(super) struct Working {
    pub(super) work: PageWork,
    pub(super) at: usize,
    /// Of the device that it is for, and of its group, when it was begun.
    pub(super) plugged: u64,
    pub(super) switches: u64,
}

impl World {
    /// The group of a place for a device: the first two share one.
    pub(super) fn group_of(at: usize) -> usize {
        at.saturating_sub(1)
    }

    /// The places of a group.
    pub(super) fn places_of(&self, group: usize) -> Vec<usize> {
        (0..self.slots.len()).filter(|at| Self::group_of(*at) == group).collect()
    }

    /// The domain in use at a place for a device.
    pub(super) fn place_of(&self, at: usize) -> Place {
        let group = Self::group_of(at);
        self.groups[group].container.map_or(Place::Group(group), Place::Container)
    }

    pub(super) fn domain(&self, place: Place) -> &Domain {
        match place {
            Place::Group(group) => &self.groups[group].own,
            Place::Container(container) => &self.containers[container].domain,
        }
    }

    pub(super) fn domain_mut(&mut self, place: Place) -> &mut Domain {
        match place {
            Place::Group(group) => &mut self.groups[group].own,
            Place::Container(container) => &mut self.containers[container].domain,
        }
    }

    /// Whether the devices of these places and the space can do what a bond is to grant.
    pub(super) fn can_grant(&self, places: &[usize], space: usize, features: Features) -> bool {
        let provided = self.spaces[space].space.handle().capabilities();
        let devices = places
            .iter()
            .filter(|at| self.slots[**at].device.is_some())
            .filter_map(|at| self.slots[*at].capabilities.pasid);
        let mut both = devices.map(|device| {
            (device.execute && provided.execute, device.privileged && provided.privileged)
        });
        both.all(|(execute, privileged)| {
            (execute || !features.execute) && (privileged || !features.privileged)
        })
    }

    /// Whether a device uses a translation that it keeps.
    pub(super) fn is_in_use(&self, at: usize) -> bool {
        self.slots[at].device.as_ref().is_some_and(|device| device.atc_in_use() > 0)
    }

    /// What was begun for devices at these places, to which it mattered. Each of them has an
    /// invalidation to answer first, and nobody can have answered yet (rule U1).
    pub(super) fn begun(&mut self, ending: Ending, spaces: Vec<usize>, users: &[usize]) {
        let under_way = UnderWay { ending, spaces };
        let owes = |at: &&usize| {
            self.slots[**at].device.is_some()
                && self.slots[**at].ats_on
                && !self.slots[**at].is_blocked()
        };
        let owing = users.iter().find(owes).copied();
        if let Some(at) = owing.filter(|_| under_way.is_over()) {
            self.wrong.get_or_insert(format!(
                "an unbind is over before device {at} has forgotten its translations"
            ));
        }
        self.unbindings.push(under_way);
    }

    /// The places among these at which a PASID can be used.
    pub(super) fn users_of(&self, places: &[usize], pasid: Pasid) -> Vec<usize> {
        places.iter().copied().filter(|at| self.slots[*at].bonds.contains_key(&pasid)).collect()
    }

    /// Whether a page request of the place is being resolved or with an owner: of this PASID or of
    /// none, or `None`: of any.
    pub(super) fn has_fault(&self, at: usize, of: Option<Option<Pasid>>) -> bool {
        let meant = |pasid: Option<Pasid>| of.is_none_or(|of| of == pasid);
        self.works.iter().any(|working| working.at == at && meant(working.work.requests()[0].pasid))
            || self.owner_has(at, of)
    }
}
