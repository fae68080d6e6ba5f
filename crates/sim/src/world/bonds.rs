//! Binds and unbinds of devices and groups.

use sva_core::link::ToDevice;
use sva_core::{Bind, Pasid, PasidTag};

use super::features::{any_features, extras};
use super::model::{Bonded, Bound, Ending, Grant};
use super::system::World;
use crate::choices::Choices;
use crate::link::Message;
use crate::races::Race;

impl World {
    pub(super) fn bind(&mut self, choices: &mut Choices) {
        let (at, space) = (self.any_slot(choices), self.any_space(choices));
        let Some(device) = self.slots[at].device.clone() else { return };
        if self.is_leaving() && choices.below(2) == 1 {
            return self.bind_used_container(choices);
        }
        if let Some(container) = self.groups[Self::group_of(at)].container
            && choices.below(4) > 0
        {
            return self.bind_container(container, choices);
        }
        let (handle, features) = (self.spaces[space].space.handle(), any_features(choices));
        let mut bind = Bind::new(()).features(features);
        let owner = self.any_owner(choices);
        let id = owner.as_ref().map(|(id, _)| *id);
        if let Some((_, handler)) = owner {
            bind = bind.on_page_requests(handler);
        }
        let group = Self::group_of(at);
        let places = self.places_of(group);
        let bonded = if places.len() > 1 {
            self.iommu
                .bind_group(device.group(), &handle, bind)
                .map(|bond| (bond.tag(), Bonded::Group(bond)))
                .ok()
        } else {
            self.iommu
                .bind_device(&device, &handle, bind)
                .map(|bond| (bond.tag(), Bonded::Device(bond)))
                .ok()
        };
        let Some((tag, bond)) = bonded else {
            id.map(|id| self.owners.remove(&id));
            return;
        };
        let can = self.can_grant(&places, space, features);
        let contained = self.groups[group].container.is_some();
        if !can || contained || self.spaces[space].ended {
            self.violation.get_or_insert(format!(
                "device {at} was bound to space {space}: it can be granted {can}, in a container \
                 {contained}"
            ));
        }
        self.say(|| {
            format!(
                "bind device {at} to space {space}: PASID {}{}",
                tag.pasid,
                extras(features, id)
            )
        });
        self.note_bind(space, tag);
        let grant = Grant { space, features, owner: id };
        let members: Vec<usize> = match &bond {
            Bonded::Device(_) => vec![at],
            Bonded::Group(bond) => {
                let members = bond.members();
                places.into_iter().filter(|at| members.contains(&self.slots[*at].bdf)).collect()
            }
        };
        for member in members {
            self.joined(member, tag.pasid, grant);
        }
        self.bound.push(Bound { bond, tag, group, grant, inert: false });
    }

    pub(super) fn joined(&mut self, at: usize, pasid: Pasid, grant: Grant) {
        let pages = self.pages();
        self.slots[at].bonds.insert(pasid, grant);
        self.slots[at].model.lock().bound(pasid, &pages);
    }

    /// Devices in these slots cannot use a PASID any more.
    pub(super) fn withdraw(&mut self, places: &[usize], pasid: Pasid) {
        for &at in places {
            if self.slots[at].bonds.remove(&pasid).is_some() {
                self.void(at, Some(Some(pasid)));
            }
        }
    }

    /// Counts the races that a bind is part of.
    pub(super) fn note_bind(&mut self, space: usize, tag: PasidTag) {
        let of_another = |message: &Message| match message {
            Message::Down(ToDevice::Translated(completion)) => {
                completion.owner.is_some_and(|owner| owner.pasid == tag.pasid && owner != tag)
            }
            Message::Down(ToDevice::Response(response)) => response.pasid == Some(tag.pasid),
            _ => false,
        };
        let tags = self.bound.iter().map(|bound| bound.tag);
        let contained =
            self.containers.iter().flat_map(|container| &container.bonds).map(|bond| bond.tag);
        let first_use = !tags.chain(contained).any(|other| other == tag);
        let late =
            first_use && self.slots.iter().any(|slot| slot.link.messages().iter().any(of_another));
        self.note([
            (Race::BindDuringChange, !self.spaces[space].changes.is_empty()),
            (
                Race::BindDuringUnbind,
                self.unbindings.iter().any(|under_way| under_way.spaces.contains(&space)),
            ),
            (Race::BindDuringLeave, self.is_leaving()),
            (Race::ReuseWithLateMessage, late),
        ]);
    }

    pub(super) fn unbind(&mut self, choices: &mut Choices) {
        // A bond whose space has ended is unbound soon.
        let ended: Vec<usize> = (0..self.bound.len())
            .filter(|at| self.spaces[self.bound[*at].grant.space].announced)
            .collect();
        let all: Vec<usize> = (0..self.bound.len()).collect();
        let from = if ended.is_empty() { &all } else { &ended };
        if let Some(&at) = choices.pick(from) {
            self.unbind_one(at);
        }
    }

    pub(super) fn unbind_one(&mut self, at: usize) {
        let Bound { bond, tag, group, grant, inert } = self.bound.swap_remove(at);
        let places = if inert { Vec::new() } else { self.places_of(group) };
        self.note_unbind(tag, &places);
        let users = self.users_of(&places, tag.pasid);
        let unbinding = match bond {
            Bonded::Device(bond) => bond.begin_unbind(),
            Bonded::Group(bond) => bond.begin_unbind(),
        };
        self.withdraw(&places, tag.pasid);
        self.end_owner(grant.owner);
        self.say(|| {
            let (space, over) = (grant.space, !unbinding.report().deferred);
            format!(
                "unbind PASID {} of space {space} from group {group}; over at once: {over}",
                tag.pasid
            )
        });
        self.begun(Ending::Unbinding(unbinding), vec![grant.space], &users);
    }

    /// Counts the races that an unbind at these places is part of.
    pub(super) fn note_unbind(&mut self, tag: PasidTag, places: &[usize]) {
        let users = self.users_of(places, tag.pasid);
        let response = |message: &Message| match message {
            Message::Down(ToDevice::Response(response)) => response.pasid == Some(tag.pasid),
            _ => false,
        };
        let on_its_way =
            users.iter().any(|at| self.slots[*at].link.messages().iter().any(response));
        let in_use = users.iter().any(|at| self.is_in_use(*at));
        let mut works = self.works.iter();
        let resolving = works.any(|working| {
            users.contains(&working.at) && working.work.requests()[0].pasid == Some(tag.pasid)
        });
        let with_owner = users.iter().any(|at| self.owner_has(*at, Some(Some(tag.pasid))));
        self.note([
            (Race::UnbindWithResponseOnItsWay, on_its_way),
            (Race::UnbindWhileInUse, in_use),
            (Race::UnbindWhileResolving, resolving),
            (Race::UnbindWithOwner, with_owner),
            (Race::UnbindDuringOverflow, self.iommu.page_queue_overflowed()),
        ]);
    }
}
