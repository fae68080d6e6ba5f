//! The end of a run: everything comes to rest, everything is taken down, nothing is left.

use std::time::Duration;

use sva_core::Removal;
use sva_core::event::ObjectCounts;

use super::config::LIMIT;
use super::model::Slot;
use super::system::World;
use crate::choices::Choices;

/// Rounds in which a system has to come to rest; each delivers all that there is.
const ROUNDS: usize = 100;

impl World {
    pub(super) fn take_down(&mut self) -> Result<(), String> {
        self.say(|| "--- the end".to_owned());
        self.slots.iter().for_each(|slot| slot.model.lock().wind_down());
        for at in 0..self.slots.len() {
            self.slots[at].link.push_posted();
            if !self.slots[at].resets.is_empty() {
                self.slots[at].resets.clear();
                self.void(at, None);
            }
        }
        for at in 0..self.spaces.len() {
            if self.spaces[at].ended && !self.spaces[at].announced {
                self.announce_one(at);
            }
        }
        self.quiesce("with its bonds")?;
        self.check_waiting()?;
        while !self.bound.is_empty() {
            self.unbind_one(0);
        }
        self.close_containers();
        self.unmap_all();
        self.close_owners();
        self.quiesce("without bonds")?;
        self.check_waiting()?;
        for at in 0..self.slots.len() {
            self.remove(at, Removal::Orderly);
        }
        self.quiesce("without devices")?;
        self.check_empty()
    }

    /// Delivers, sorts and resolves until nothing moves any more.
    fn quiesce(&mut self, when: &str) -> Result<(), String> {
        // Any seed: each job of a device is to get its turn.
        let mut quiet = Choices::seeded(0);
        for round in 0..ROUNDS {
            for link in self.slots.iter().map(|slot| &slot.link).chain(&self.old_links) {
                link.settle(10_000);
            }
            while self.iommu.sort_page_request() {}
            while self.begin_one_work() {}
            while !self.works.is_empty() {
                self.run_one_work(0);
            }
            self.serve_all(&mut quiet);
            for at in 0..self.slots.len() {
                (0..8).for_each(|_| self.step_device_at(at, &mut quiet));
            }
            for space in &mut self.spaces {
                while space.finish_one() {}
            }
            self.unbindings.retain(|under_way| !under_way.is_over());
            self.verdict()?;
            if self.is_quiescent() {
                return Ok(());
            }
            // Completions that were lost are missed.
            self.advance(if round % 4 == 3 { LIMIT } else { Duration::from_millis(1) });
        }
        Err(format!("does not come to rest {when}: {}", self.what_is_left()))
    }

    fn is_quiescent(&self) -> bool {
        let links = self.slots.iter().map(|slot| &slot.link).chain(&self.old_links);
        let census = self.iommu.object_counts();
        links.into_iter().all(|link| link.is_empty())
            // A device whose credit was lost with responses, or is with a silent owner, cannot
            // complete a group before it stops.
            && (census.page_requests == 0 || !self.bound.is_empty() || self.may_be_stuck())
            && census.page_groups == self.pending_with_owners().count()
            && census.invalidations == 0
            && self.slots.iter().all(|slot| slot.device.is_none() || slot.model.lock().is_idle())
            && self.unbindings.is_empty()
            && self.spaces.iter().all(|space| space.changes.is_empty())
    }

    /// Whether a device may have a group without PASID that it cannot complete, for want of credit
    /// or after a response failure: no stop marker gives that up.
    fn may_be_stuck(&self) -> bool {
        let failed = |slot: &Slot| {
            slot.device.as_ref().is_some_and(|device| device.page_request_counts().failures > 0)
        };
        !self.containers.is_empty()
            || self
                .slots
                .iter()
                .any(|slot| slot.device.is_some() && (slot.lost_responses > 0 || failed(slot)))
    }

    fn what_is_left(&self) -> String {
        let changes: usize = self.spaces.iter().map(|space| space.changes.len()).sum();
        let ending: Vec<&Vec<usize>> =
            self.unbindings.iter().map(|under_way| &under_way.spaces).collect();
        let busy = |slot: &&Slot| slot.device.is_some() && !slot.model.lock().is_idle();
        let busy: Vec<String> =
            self.slots.iter().filter(busy).map(|slot| slot.bdf.to_string()).collect();
        let (census, counts) = (self.iommu.object_counts(), self.iommu.page_queue_counts());
        format!(
            "{changes} changes, unbinding from spaces {ending:?}, with owners {}, devices at work \
             {busy:?}, {census:?}, {counts:?}",
            self.pending_with_owners().count()
        )
    }

    /// Groups without an answer are those whose answers the links have lost or silent owners
    /// withhold, and a device that winds down holds no translation.
    fn check_waiting(&mut self) -> Result<(), String> {
        let with_owners: Vec<usize> =
            self.pending_with_owners().map(|group| group.device).collect();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let withheld = with_owners.iter().filter(|device| **device == at).count() as u64;
            slot.lost_responses += slot.link.take_lost_responses();
            let held = slot.device.as_ref().map_or(0, sva_core::Device::atc_in_use);
            if held > 0 {
                return Err(format!(
                    "device {at} holds {held} translations with nothing left to do: changes of its \
                     spaces wait for them"
                ));
            }
            let waiting = slot.device.as_ref().map_or(0, sva_core::Device::groups_waiting) as u64;
            if waiting > slot.lost_responses + withheld {
                let counts = slot.device.as_ref().map(sva_core::Device::page_request_counts);
                return Err(format!(
                    "device {at} waits for {waiting} groups, {} responses were lost, owners \
                     withhold {withheld}: {counts:?}",
                    slot.lost_responses
                ));
            }
        }
        Ok(())
    }

    fn check_empty(&mut self) -> Result<(), String> {
        let census = self.iommu.object_counts();
        if census != ObjectCounts::default() {
            return Err(format!("something is left: {census:?}"));
        }
        for (at, space) in self.spaces.iter().enumerate() {
            let (watches, changes) = (space.space.watches(), space.space.changes_under_way());
            if watches + changes > 0 {
                return Err(format!(
                    "space {at} has {watches} watches and {changes} changes under way"
                ));
            }
        }
        Ok(())
    }
}
