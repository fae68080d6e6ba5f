//! Binds and unbinds.

use sva_core::{Bind, Pasid, PasidTag, ToDevice};

use super::{Bonded, Bound, Slot, UnderWay, World};
use crate::schedule::choices::Choices;
use crate::schedule::link::Message;
use crate::schedule::races::Race;

impl World {
    pub(super) fn bind(&mut self, choices: &mut Choices) {
        let (at, space) = (self.any_slot(choices), self.any_space(choices));
        let Some(device) = self.slots[at].device.clone() else { return };
        let handle = self.spaces[space].space.handle();
        let bonded = if at < 2 {
            self.iommu.bind_group(device.group(), &handle, Bind::new(())).map(|bond| (bond.tag(), Bonded::Group(bond))).ok()
        } else {
            self.iommu.bind_device(&device, &handle, Bind::new(())).map(|bond| (bond.tag(), Bonded::Device(bond))).ok()
        };
        let Some((tag, bond)) = bonded else { return };
        self.say(|| format!("bind device {at} to space {space}: PASID {}", tag.pasid));
        self.note_bind(space, tag);
        let members: Vec<usize> = match &bond {
            Bonded::Device(_) => vec![at],
            Bonded::Group(bond) => {
                let members = bond.members();
                (0..self.slots.len()).filter(|at| members.contains(&self.slots[*at].bdf)).collect()
            }
        };
        for member in members {
            self.joined(member, tag.pasid, space);
        }
        self.bound.push(Bound { bond, tag, space, inert: false });
    }

    pub(super) fn joined(&mut self, at: usize, pasid: Pasid, space: usize) {
        let pages = self.pages();
        self.slots[at].bonds.insert(pasid, space);
        self.slots[at].driver.lock().bound(pasid, &pages);
    }

    /// Counts the races that a bind is part of.
    fn note_bind(&mut self, space: usize, tag: PasidTag) {
        if !self.spaces[space].changes.is_empty() {
            self.races.reached(Race::BindDuringChange);
        }
        if self.unbindings.iter().any(|under_way| under_way.space == space) {
            self.races.reached(Race::BindDuringUnbind);
        }
        let of_another = |message: &Message| match message {
            Message::Down(ToDevice::Translated(completion)) => {
                completion.owner.is_some_and(|owner| owner.pasid == tag.pasid && owner != tag)
            }
            Message::Down(ToDevice::Response(response)) => response.pasid == Some(tag.pasid),
            _ => false,
        };
        let first_use = !self.bound.iter().any(|bound| bound.tag == tag);
        if first_use && self.slots.iter().any(|slot| slot.link.messages().iter().any(of_another)) {
            self.races.reached(Race::ReuseWithLateMessage);
        }
    }

    pub(super) fn unbind(&mut self, choices: &mut Choices) {
        // An owner who has heard of the end unbinds soon.
        let ended: Vec<usize> = (0..self.bound.len()).filter(|at| self.spaces[self.bound[*at].space].announced).collect();
        let all: Vec<usize> = (0..self.bound.len()).collect();
        let from = if ended.is_empty() { &all } else { &ended };
        if let Some(&at) = choices.pick(from) {
            self.unbind_one(at);
        }
    }

    pub(super) fn unbind_one(&mut self, at: usize) {
        let Bound { bond, tag, space, inert } = self.bound.swap_remove(at);
        self.note_unbind(tag, space);
        let of_group = matches!(bond, Bonded::Group(_));
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let member = match &bond {
                Bonded::Device(bond) => slot.bdf == bond.device(),
                Bonded::Group(_) => number < 2,
            };
            if member && !inert && slot.bonds.get(&tag.pasid) == Some(&space) {
                slot.bonds.remove(&tag.pasid);
            }
        }
        let unbinding = match bond {
            Bonded::Device(bond) => bond.begin_unbind(),
            Bonded::Group(bond) => bond.begin_unbind(),
        };
        self.say(|| {
            format!("unbind PASID {} of space {space} (group: {of_group}); over at once: {}", tag.pasid, !unbinding.report().deferred)
        });
        self.unbindings.push(UnderWay { unbinding, tag, space });
    }

    fn note_unbind(&mut self, tag: PasidTag, space: usize) {
        let users: Vec<&Slot> = self.slots.iter().filter(|slot| slot.bonds.get(&tag.pasid) == Some(&space)).collect();
        let response =
            |message: &Message| matches!(message, Message::Down(ToDevice::Response(response)) if response.pasid == Some(tag.pasid));
        let on_its_way = users.iter().any(|slot| slot.link.messages().iter().any(response));
        let in_use = users.iter().any(|slot| slot.device.as_ref().is_some_and(|device| device.atc_in_use() > 0));
        let bdfs: Vec<_> = users.iter().map(|slot| slot.bdf).collect();
        let resolving = self.works.iter().any(|work| bdfs.contains(&work.device()) && work.requests()[0].pasid == Some(tag.pasid));
        for (race, reached) in [
            (Race::UnbindWithResponseOnItsWay, on_its_way),
            (Race::UnbindWhileInUse, in_use),
            (Race::UnbindWhileResolving, resolving),
            (Race::UnbindDuringOverflow, self.iommu.page_queue_overflowed()),
        ] {
            if reached {
                self.races.reached(race);
            }
        }
    }
}
