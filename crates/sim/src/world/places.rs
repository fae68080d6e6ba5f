//! Which device is in which group and domain, what it may be granted, and what it has under way.

use sva_core::{Features, Pasid};

use super::model::{Domain, Ending, PendingEnd, Place};
use super::system::World;

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

    /// Notes an ending that has begun. `users` are the devices that it takes translations from:
    /// each has an invalidation to answer first, and none can have answered yet.
    pub(super) fn begun(&mut self, ending: Ending, spaces: Vec<usize>, users: &[usize]) {
        let under_way = PendingEnd { ending, spaces };
        let owes = |at: &&usize| {
            self.slots[**at].device.is_some()
                && self.slots[**at].ats_on
                && !self.slots[**at].is_halted()
        };
        let owing = users.iter().find(owes).copied();
        if let Some(at) = owing.filter(|_| under_way.is_over()) {
            self.violation.get_or_insert(format!(
                "an unbind is over before device {at} has forgotten its translations"
            ));
        }
        self.unbindings.push(under_way);
    }

    /// The slots among these whose devices can use a PASID.
    pub(super) fn users_of(&self, places: &[usize], pasid: Pasid) -> Vec<usize> {
        places.iter().copied().filter(|at| self.slots[*at].bonds.contains_key(&pasid)).collect()
    }

    /// Whether a page request of the device is being resolved or with an owner: of this PASID or of
    /// none; `None`: any.
    pub(super) fn has_fault(&self, at: usize, of: Option<Option<Pasid>>) -> bool {
        let meant = |pasid: Option<Pasid>| of.is_none_or(|of| of == pasid);
        self.works.iter().any(|working| working.at == at && meant(working.work.requests()[0].pasid))
            || self.owner_has(at, of)
    }
}
