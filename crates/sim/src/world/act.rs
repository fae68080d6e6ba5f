//! The steps of a world, and how often each of them is chosen.

use std::sync::Arc;
use std::time::Duration;

use sva_core::Device;

use super::model::{Place, Slot, StartedWork};
use super::oracle::Oracle;
use super::system::World;
use crate::choices::Choices;
use crate::device::CheckedPort;
use crate::link::{Fate, ScheduledLink};
use crate::races::Race;

/// One of the things that a step can do.
type Action = fn(&mut World, &mut Choices);

/// The actions, each with its weight.
const WEIGHTS: [(u32, Action); 20] = [
    (70, World::step_device),
    (80, World::deliver),
    (7, World::sort),
    (8, World::begin_work),
    (8, World::run_work),
    (10, World::bind),
    (4, World::unbind),
    (5, World::change),
    (7, World::finish_change),
    (2, World::end_space),
    (2, World::announce),
    (2, World::reset),
    (2, World::end_reset),
    (3, World::remove_or_plug),
    (2, World::switch),
    (3, World::pass_time),
    (8, World::change_mappings),
    (6, World::step_owner),
    (1, World::change_owner),
    (18, World::step_container),
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
        self.unbindings.retain(|under_way| !under_way.is_over());
        self.renew_spaces();
    }

    pub(super) fn any_slot(&self, choices: &mut Choices) -> usize {
        choices.below(self.slots.len() as u32) as usize
    }

    /// A slot, mostly one whose device has a page request, an access or an invalidation under way:
    /// few races are found at an idle device.
    pub(super) fn busy_slot(&self, choices: &mut Choices) -> usize {
        let invalidating = |slot: &Slot| {
            slot.device.as_ref().is_some_and(|device| device.outstanding_invalidations() > 0)
        };
        let busy = |at: usize| {
            self.has_fault(at, None) || self.is_in_use(at) || invalidating(&self.slots[at])
        };
        let busy: Vec<usize> = (0..self.slots.len()).filter(|at| busy(*at)).collect();
        match choices.below(2) {
            1 if !busy.is_empty() => *choices.pick(&busy).unwrap_or(&0),
            _ => self.any_slot(choices),
        }
    }

    pub(super) fn any_space(&self, choices: &mut Choices) -> usize {
        choices.below(self.spaces.len() as u32) as usize
    }

    /// A device makes a step.
    fn step_device(&mut self, choices: &mut Choices) {
        let at = self.any_slot(choices);
        self.step_device_at(at, choices);
    }

    pub(super) fn step_device_at(&mut self, at: usize, choices: &mut Choices) {
        let slot = &self.slots[at];
        let Some(device) = &slot.device else { return };
        let port = device.ats_port();
        let model = Arc::clone(&slot.model);
        // The fields are borrowed one by one, since the oracle writes to some of them.
        let domain = match self.place_of(at) {
            Place::Group(group) => &self.groups[group].own,
            Place::Container(container) => &self.containers[container].domain,
        };
        let mut oracle = Oracle {
            slot,
            domain,
            spaces: &self.spaces,
            races: &mut self.races,
            violation: &mut self.violation,
            accesses: &mut self.accesses,
            lines: self.lines.as_mut(),
        };
        model.lock().step(&mut CheckedPort { port: &port, checker: &mut oracle }, choices);
    }

    /// A message is delivered, lost, doubled or corrupted.
    fn deliver(&mut self, choices: &mut Choices) {
        let links: Vec<Arc<ScheduledLink>> =
            self.slots.iter().map(|slot| &slot.link).chain(&self.old_links).cloned().collect();
        let busy: Vec<Arc<ScheduledLink>> =
            links.into_iter().filter(|link| !link.is_empty()).collect();
        let Some(link) = choices.pick(&busy) else { return };
        let deliverable = link.deliverable();
        let Some(&at) = choices.pick(&deliverable) else { return };
        let fate = match self.config.message_faults {
            0 => Fate::Deliver,
            often if choices.one_in(often) => {
                *choices.pick(&[Fate::Double, Fate::Lose, Fate::Corrupt]).unwrap_or(&Fate::Deliver)
            }
            _ => Fate::Deliver,
        };
        let whose = self.slots.iter().position(|slot| Arc::ptr_eq(&slot.link, link));
        let Some(message) = link.release(at, fate, choices) else { return };
        self.say(|| {
            let whose = whose
                .map_or_else(|| "a device that is gone".to_owned(), |at| format!("device {at}"));
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
        if self.works.len() < 4 {
            self.begin_one_work();
        }
    }

    /// Takes the page request group that is next to be resolved; false if none waits.
    pub(super) fn begin_one_work(&mut self) -> bool {
        let Some(work) = self.iommu.next_page_request_job() else { return false };
        self.say(|| {
            format!("begin to resolve group {} of {}", work.requests()[0].index, work.device())
        });
        let of =
            self.slots.iter().position(|slot| slot.bdf == work.device() && slot.device.is_some());
        match of {
            Some(at) => {
                let (plugged, switches) =
                    (self.slots[at].plugged, self.groups[Self::group_of(at)].switches);
                self.works.push(StartedWork { work, at, plugged, switches });
            }
            None => drop(self.violation.get_or_insert(format!(
                "a group of {} is to be resolved, which is gone",
                work.device()
            ))),
        }
        true
    }

    fn run_work(&mut self, choices: &mut Choices) {
        if !self.works.is_empty() {
            self.run_one_work(choices.below(self.works.len() as u32) as usize);
        }
    }

    pub(super) fn run_one_work(&mut self, number: usize) {
        let working = self.works.swap_remove(number);
        let inside = self.unmap_inside(&working);
        let StartedWork { work, at, plugged, .. } = working;
        let requests = work.requests().to_vec();
        self.say(|| format!("resolve group {} of {}", requests[0].index, work.device()));
        work.run();
        self.check_inboxes(at, plugged, &requests);
        self.unmapped_inside(inside);
    }

    fn change_mappings(&mut self, choices: &mut Choices) {
        if self.config.mappings {
            self.map_or_unmap(choices);
        }
    }

    fn change_owner(&mut self, choices: &mut Choices) {
        if self.config.owners {
            self.register(choices);
        }
    }

    fn pass_time(&mut self, choices: &mut Choices) {
        self.advance(Duration::from_millis(u64::from(1 + choices.below(6))));
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        let cut = |slots: &[Slot]| {
            slots.iter().filter(|slot| slot.device.as_ref().is_some_and(Device::is_cut_off)).count()
        };
        let before = cut(&self.slots);
        self.iommu.tick();
        let newly = cut(&self.slots).saturating_sub(before);
        self.races.add(Race::CutOff, newly as u64);
        self.say(|| format!("{by:?} pass"));
    }
}
