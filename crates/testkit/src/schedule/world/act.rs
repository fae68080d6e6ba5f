//! What happens in a step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sva_core::sync::Mutex;
use sva_core::sync::atomic::Ordering;
use sva_core::{Bind, DeviceSpec, EndReason, Pasid, PasidTag, Plug, Removal, ToDevice};

use super::oracle::Oracle;
use super::{BASE, Bonded, Bound, Slot, SpaceSlot, Stopper, UnderWay, World};
use crate::schedule::choices::Choices;
use crate::schedule::driver::View;
use crate::schedule::link::{Fate, HeldLink, Message};
use crate::schedule::races::Race;
use crate::space::{PAGE, Protection};

/// One of the things that a step can do.
type Action = fn(&mut World, &mut Choices);

/// What a step does, with how often among the others.
const WEIGHTS: [(u32, Action); 16] = [
    (60, World::drive),
    (50, World::deliver),
    (7, World::sort),
    (8, World::begin_work),
    (8, World::run_work),
    (6, World::bind),
    (4, World::unbind),
    (5, World::change),
    (7, World::finish_change),
    (1, World::end_space),
    (2, World::announce),
    (2, World::reset),
    (4, World::end_reset),
    (3, World::remove_or_plug),
    (2, World::switch),
    (3, World::pass_time),
];

impl World {
    pub(super) fn act(&mut self, choices: &mut Choices) {
        let mut left = choices.below(WEIGHTS.iter().map(|(weight, _)| weight).sum());
        for (weight, action) in WEIGHTS {
            if left < weight {
                action(self, choices);
                break;
            }
            left -= weight;
        }
        self.unbindings.retain(|under_way| !under_way.unbinding.is_over());
        self.renew_spaces();
    }

    fn any_slot(&self, choices: &mut Choices) -> usize {
        choices.below(self.slots.len() as u32) as usize
    }

    /// Mostly one that a group is being resolved for, or that has an invalidation to complete: what happens to a device that has nothing under way is of less interest.
    fn busy_slot(&self, choices: &mut Choices) -> usize {
        let resolving = |slot: &Slot| self.works.iter().any(|work| work.device() == slot.bdf);
        let invalidating = |slot: &Slot| slot.device.as_ref().is_some_and(|device| device.invalidations_under_way() > 0);
        let busy: Vec<usize> = (0..self.slots.len()).filter(|at| resolving(&self.slots[*at]) || invalidating(&self.slots[*at])).collect();
        match choices.below(2) {
            1 if !busy.is_empty() => *choices.pick(&busy).unwrap_or(&0),
            _ => self.any_slot(choices),
        }
    }

    fn any_space(&self, choices: &mut Choices) -> usize {
        choices.below(self.spaces.len() as u32) as usize
    }

    /// A device does something.
    fn drive(&mut self, choices: &mut Choices) {
        let at = self.any_slot(choices);
        self.drive_one(at, choices);
    }

    pub(super) fn drive_one(&mut self, at: usize, choices: &mut Choices) {
        let slot = &self.slots[at];
        let Some(device) = &slot.device else { return };
        let port = device.ats_port();
        let driver = Arc::clone(&slot.driver);
        let mut oracle = Oracle {
            slot,
            spaces: &self.spaces,
            races: &mut self.races,
            wrong: &mut self.wrong,
            accesses: &mut self.accesses,
            lines: self.lines.as_mut(),
        };
        driver.lock().step(&mut View { port: &port, eyes: &mut oracle }, choices);
    }

    /// A message comes to its receiver, or not.
    fn deliver(&mut self, choices: &mut Choices) {
        let links: Vec<Arc<HeldLink>> = self.slots.iter().map(|slot| &slot.link).chain(&self.old_links).cloned().collect();
        let busy: Vec<Arc<HeldLink>> = links.into_iter().filter(|link| !link.is_empty()).collect();
        let Some(link) = choices.pick(&busy) else { return };
        let deliverable = link.deliverable();
        let Some(&at) = choices.pick(&deliverable) else { return };
        let fate = match self.config.message_faults {
            0 => Fate::Deliver,
            often if choices.one_in(often) => *choices.pick(&[Fate::Double, Fate::Lose, Fate::Corrupt]).unwrap_or(&Fate::Deliver),
            _ => Fate::Deliver,
        };
        let whose = self.slots.iter().position(|slot| Arc::ptr_eq(&slot.link, link));
        let Some(message) = link.release(at, fate, choices) else { return };
        self.say(|| {
            let whose = whose.map_or_else(|| "a device that is gone".to_owned(), |at| format!("device {at}"));
            let fate = match fate {
                _ if !message.can_fail() => "is delivered",
                Fate::Deliver => "is delivered",
                Fate::Double => "is delivered, and will be once more",
                Fate::Lose => "is lost",
                Fate::Corrupt => "is delivered corrupted",
            };
            format!("{whose}: {message} {fate}")
        });
    }

    fn sort(&mut self, _: &mut Choices) {
        let overflowed = self.iommu.page_queue_overflowed();
        self.iommu.sort_page_request();
        if overflowed && !self.iommu.page_queue_overflowed() {
            self.races.reached(Race::Overflow);
        }
    }

    fn begin_work(&mut self, _: &mut Choices) {
        if self.works.len() < 4
            && let Some(work) = self.iommu.next_page_work()
        {
            self.say(|| format!("begin to resolve group {} of {}", work.requests()[0].index, work.device()));
            self.works.push(work);
        }
    }

    fn run_work(&mut self, choices: &mut Choices) {
        if !self.works.is_empty() {
            let work = self.works.swap_remove(choices.below(self.works.len() as u32) as usize);
            self.say(|| format!("resolve group {} of {}", work.requests()[0].index, work.device()));
            work.run();
        }
    }

    fn bind(&mut self, choices: &mut Choices) {
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

    fn joined(&mut self, at: usize, pasid: Pasid, space: usize) {
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

    fn unbind(&mut self, choices: &mut Choices) {
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

    /// A space changes.
    fn change(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        if self.spaces[at].changes.len() >= 3 || self.spaces[at].ended {
            return;
        }
        let half = self.config.pages / 2;
        let len = 1 + u64::from(choices.below(half as u32));
        let page = u64::from(choices.below((self.config.pages - len + 1) as u32));
        let (address, bytes) = (BASE + page * PAGE, len * PAGE);
        let space = &self.spaces[at].space;
        let (name, change) = match choices.below(9) {
            0 => ("unmap", space.begin_unmap(address, bytes)),
            1 => ("map", space.begin_map(address, bytes, Protection::READ_WRITE)),
            2 => ("protect for reading", space.begin_protect(address, bytes, Protection::READ)),
            3 => ("protect for reading and writing", space.begin_protect(address, bytes, Protection::READ_WRITE)),
            4 => ("replace", space.begin_replace(address, bytes)),
            5..=7 => ("make absent", space.begin_absent(address, bytes)),
            _ => {
                let to = if page + len <= half { BASE + half * PAGE } else { BASE };
                let fits = to.abs_diff(address) >= bytes && to + bytes <= BASE + self.config.pages * PAGE;
                if !fits {
                    return;
                }
                ("move", space.begin_remap(address, bytes, to))
            }
        };
        self.spaces[at].changes.push(change);
        self.say(|| format!("{name} {len} pages at {address:#x} of space {at}"));
    }

    fn finish_change(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        let over = self.spaces[at].changes.iter().position(super::Change::is_over);
        if let Some(over) = over {
            self.spaces[at].changes.remove(over).finish();
            self.say(|| format!("a change of space {at} is over"));
        }
    }

    fn end_space(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        if !self.config.exits || self.spaces[at].ended || choices.below(3) > 0 {
            return;
        }
        let space = &mut self.spaces[at];
        space.ended = true;
        space.space.end_unannounced(EndReason::Exited);
        self.say(|| format!("space {at} ends, unannounced"));
        if choices.below(2) == 1 {
            self.announce_one(at);
        }
    }

    fn announce(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        if self.spaces[at].ended && !self.spaces[at].announced {
            self.announce_one(at);
        }
    }

    pub(super) fn announce_one(&mut self, at: usize) {
        if self.unbindings.iter().any(|under_way| under_way.space == at) {
            self.races.reached(Race::EndDuringUnbind);
        }
        let pasids: Vec<Pasid> = self.bound.iter().filter(|bound| bound.space == at).map(|bound| bound.tag.pasid).collect();
        let resolving = self.works.iter().any(|work| work.requests()[0].pasid.is_some_and(|pasid| pasids.contains(&pasid)));
        if resolving || !pasids.is_empty() && self.iommu.census().page_groups > 0 {
            self.races.reached(Race::EndWithFaultPending);
        }
        self.spaces[at].announced = true;
        self.spaces[at].space.announce().into_iter().for_each(sva_core::ExitWork::run);
        self.say(|| format!("the end of space {at} is announced"));
    }

    /// A space that has ended and that nobody has to do with makes room for another.
    fn renew_spaces(&mut self) {
        for at in 0..self.spaces.len() {
            let space = &self.spaces[at];
            let held = self.bound.iter().any(|bound| bound.space == at) || self.unbindings.iter().any(|under_way| under_way.space == at);
            if space.announced && !held && space.changes.is_empty() {
                self.spaces[at] = SpaceSlot::new(self.config.pages);
            }
        }
    }

    fn reset(&mut self, choices: &mut Choices) {
        let at = self.busy_slot(choices);
        let Some(device) = self.slots[at].device.clone().filter(|_| self.config.device_faults) else { return };
        if self.slots[at].resets.len() >= 2 || choices.below(4) > 0 && !device.is_cut_off() {
            return;
        }
        let resolving = self.works.iter().any(|work| work.device() == self.slots[at].bdf);
        let invalidating = device.invalidations_under_way() > 0;
        let nested = !self.slots[at].resets.is_empty();
        for (race, reached) in
            [(Race::NestedReset, nested), (Race::ResetWhileResolving, resolving), (Race::ResetDuringInvalidation, invalidating)]
        {
            if reached {
                self.races.reached(race);
            }
        }
        let Ok(reset) = device.begin_reset() else { return };
        let slot = &mut self.slots[at];
        slot.resets.push(reset);
        slot.driver.lock().reset();
        slot.link.take_lost_responses();
        slot.lost_responses = 0;
        self.say(|| format!("begin to reset device {at}"));
    }

    fn end_reset(&mut self, choices: &mut Choices) {
        let at = self.any_slot(choices);
        if let Some(reset) = self.slots[at].resets.pop() {
            reset.done();
            self.say(|| format!("a reset of device {at} is done"));
        }
    }

    fn remove_or_plug(&mut self, choices: &mut Choices) {
        let at = self.busy_slot(choices);
        if !self.config.device_faults {
            return;
        }
        if self.slots[at].device.is_some() {
            if choices.below(4) > 0 {
                return;
            }
            let removal = if choices.below(2) == 0 { Removal::Orderly } else { Removal::Surprise };
            self.remove(at, removal);
        } else {
            self.plug(at);
        }
    }

    pub(super) fn remove(&mut self, at: usize, removal: Removal) {
        let Some(device) = self.slots[at].device.take() else { return };
        let resolving = self.works.iter().any(|work| work.device() == self.slots[at].bdf);
        for (race, reached) in [
            (Race::RemovalWhileResolving, resolving),
            (Race::RemovalDuringInvalidation, device.invalidations_under_way() > 0),
            (Race::RemovalWhileInUse, device.atc_in_use() > 0),
        ] {
            if reached {
                self.races.reached(race);
            }
        }
        self.count_device(&device);
        if self.iommu.begin_remove(&device, removal).is_err() {
            self.wrong = Some(format!("device {at} cannot be removed"));
        }
        let own = |bound: &&mut Bound| matches!(&bound.bond, Bonded::Device(bond) if bond.device() == device.bdf());
        self.bound.iter_mut().filter(own).for_each(|bound| bound.inert = true);
        let slot = &mut self.slots[at];
        slot.resets.clear();
        slot.bonds.clear();
        slot.ats_on = false;
        slot.lost_responses = 0;
        // Its own bonds are inert now; they stay until they are unbound.
        let late = std::mem::take(&mut slot.link);
        if self.old_links.len() == 3 {
            self.old_links.remove(0);
        }
        self.old_links.push(late);
        self.say(|| format!("device {at} is removed ({removal:?})"));
    }

    pub(super) fn plug(&mut self, at: usize) {
        if !self.unbindings.is_empty() {
            self.races.reached(Race::HotplugDuringUnbind);
        }
        let (capabilities, driver) = (self.capabilities(), Arc::new(Mutex::new((self.make_driver)(at))));
        let slot = &mut self.slots[at];
        slot.driver = Arc::clone(&driver);
        slot.link = HeldLink::new();
        slot.bonds = BTreeMap::new();
        let stopper = Arc::new(Stopper { driver, port: Mutex::new(None) });
        let spec = DeviceSpec { bdf: slot.bdf, capabilities };
        let plugged = self.iommu.plug_in(Plug::new(spec).model(stopper.clone()).link(slot.link.clone()));
        let Ok(plugged) = plugged else {
            self.wrong = Some(format!("device {at} cannot be plugged in"));
            return;
        };
        *stopper.port.lock() = Some(plugged.device.ats_port());
        slot.ats_on = plugged.device.enable_ats().and_then(|()| plugged.device.enable_pri()).is_ok();
        slot.device = Some(plugged.device);
        for pasid in plugged.joined {
            if let Some(space) = self.bound.iter().find(|bound| bound.tag.pasid == pasid && !bound.inert).map(|bound| bound.space) {
                self.joined(at, pasid, space);
            }
        }
        self.say(|| format!("device {at} is plugged in"));
    }

    /// ATS and page requests are switched off, or on.
    fn switch(&mut self, choices: &mut Choices) {
        let at = self.any_slot(choices);
        let slot = &mut self.slots[at];
        let Some(device) = slot.device.as_ref().filter(|_| slot.resets.is_empty()) else { return };
        if slot.ats_on {
            if choices.below(4) > 0 {
                return;
            }
            if device.invalidations_under_way() > 0 {
                self.races.reached(Race::DisableDuringInvalidation);
            }
            let off = device.disable_pri().and_then(|()| device.disable_ats());
            slot.ats_on = off.is_err();
        } else {
            slot.ats_on = device.enable_ats().and_then(|()| device.enable_pri()).is_ok();
        }
        let on = slot.ats_on;
        self.say(|| format!("the services of device {at}: on is {on}"));
    }

    fn pass_time(&mut self, choices: &mut Choices) {
        self.advance(Duration::from_millis(u64::from(1 + choices.below(6))));
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.clock.0.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
        let cut = |slots: &[Slot]| slots.iter().filter(|slot| slot.device.as_ref().is_some_and(sva_core::Device::is_cut_off)).count();
        let before = cut(&self.slots);
        self.iommu.tick();
        let newly = cut(&self.slots).saturating_sub(before);
        self.races.add(Race::CutOff, newly as u64);
        self.say(|| format!("{by:?} pass"));
    }

    /// Counts what a device has seen, when it goes.
    pub(super) fn count_device(&mut self, device: &sva_core::Device) {
        let (atc, invalidations, pages) = (device.atc_counts(), device.invalidation_counts(), device.page_request_counts());
        self.races.add(Race::FillOvertaken, atc.outdated);
        self.races.add(Race::StrangeCompletion, invalidations.unexpected);
        self.races.add(Race::InvalidationRepeated, invalidations.timed_out);
        self.races.add(Race::StrangeResponse, pages.unexpected);
        self.races.add(Race::ResponseFailure, pages.failures);
    }
}
