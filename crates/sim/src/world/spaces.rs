//! Spaces change and end, and others take their place.

use sva_core::space::ExitWork;
use sva_core::{EndReason, Pasid};
use sva_testkit::{PAGE, Protection};

use super::config::BASE;
use super::model::{Changing, SpaceSlot};
use super::system::World;
use crate::choices::Choices;
use crate::races::Race;

impl World {
    /// A space changes.
    pub(super) fn change(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        if self.spaces[at].changes.len() >= 3 || self.spaces[at].ended {
            return;
        }
        let half = self.config.pages / 2;
        let len = 1 + u64::from(choices.below(half as u32));
        let page = u64::from(choices.below((self.config.pages - len + 1) as u32));
        let (address, bytes) = (BASE + page * PAGE, len * PAGE);
        let space = &self.spaces[at].space;
        let (name, change) = match choices.below(12) {
            0 => ("unmap", space.begin_unmap(address, bytes)),
            1 => ("map", space.begin_map(address, bytes, Protection::READ_WRITE)),
            2 => ("protect for reading", space.begin_protect(address, bytes, Protection::READ)),
            3 => (
                "protect for reading and writing",
                space.begin_protect(address, bytes, Protection::READ_WRITE),
            ),
            4 => ("replace", space.begin_replace(address, bytes)),
            5..=7 => ("make absent", space.begin_absent(address, bytes)),
            8 => (
                "protect for executing",
                space.begin_protect(
                    address,
                    bytes,
                    Protection { execute: true, ..Protection::READ_WRITE },
                ),
            ),
            9 => (
                "protect for privileged",
                space.begin_protect(address, bytes, Protection::READ_WRITE.privileged()),
            ),
            10 => ("map for executing", space.begin_map(address, bytes, Protection::READ_EXECUTE)),
            _ => {
                let to = if page + len <= half { BASE + half * PAGE } else { BASE };
                let fits =
                    to.abs_diff(address) >= bytes && to + bytes <= BASE + self.config.pages * PAGE;
                if !fits {
                    return;
                }
                ("move", space.begin_remap(address, bytes, to))
            }
        };
        self.spaces[at].changes.push(Changing { change, moves: name == "move" });
        self.say(|| format!("{name} {len} pages at {address:#x} of space {at}"));
    }

    pub(super) fn finish_change(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        if self.spaces[at].finish_one() {
            self.say(|| format!("a change of space {at} is over"));
        }
    }

    pub(super) fn end_space(&mut self, choices: &mut Choices) {
        let at = self.busy_space(choices);
        let fault = self.space_has_fault(at);
        if !self.config.exits || self.spaces[at].ended || !fault && choices.below(3) > 0 {
            return;
        }
        let space = &mut self.spaces[at];
        space.ended = true;
        space.space.end_unannounced(EndReason::Exited);
        self.say(|| format!("space {at} ends, unannounced"));
        if fault || choices.below(2) == 1 {
            self.announce_one(at);
        }
    }

    /// A space, mostly one with a page request group that is being resolved or with an owner.
    fn busy_space(&self, choices: &mut Choices) -> usize {
        let busy: Vec<usize> =
            (0..self.spaces.len()).filter(|at| self.space_has_fault(*at)).collect();
        match choices.below(4) {
            0 => self.any_space(choices),
            _ => choices.pick(&busy).copied().unwrap_or_else(|| self.any_space(choices)),
        }
    }

    fn space_has_fault(&self, at: usize) -> bool {
        self.slots.iter().enumerate().any(|(number, slot)| {
            slot.bonds.iter().any(|(pasid, grant)| {
                grant.space == at && self.has_fault(number, Some(Some(*pasid)))
            })
        })
    }

    pub(super) fn announce(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        if self.spaces[at].ended && !self.spaces[at].announced {
            self.announce_one(at);
        }
    }

    pub(super) fn announce_one(&mut self, at: usize) {
        let ending = self.unbindings.iter().any(|under_way| under_way.spaces.contains(&at));
        let mut users: Vec<(usize, Pasid)> = Vec::new();
        for (number, slot) in self.slots.iter().enumerate() {
            users.extend(
                slot.bonds
                    .iter()
                    .filter(|(_, grant)| grant.space == at)
                    .map(|(pasid, _)| (number, *pasid)),
            );
        }
        let resolving = |(number, pasid): &(usize, Pasid)| {
            self.works.iter().any(|working| {
                working.at == *number && working.work.requests()[0].pasid == Some(*pasid)
            })
        };
        self.note([
            (Race::EndDuringUnbind, ending),
            (Race::EndWithFaultPending, users.iter().any(resolving)),
            (
                Race::EndWithOwner,
                users.iter().any(|(number, pasid)| self.owner_has(*number, Some(Some(*pasid)))),
            ),
            (
                Race::EndInContainer,
                self.containers
                    .iter()
                    .any(|slot| slot.bonds.iter().any(|bond| bond.grant.space == at)),
            ),
        ]);
        self.spaces[at].announced = true;
        self.spaces[at].space.announce().into_iter().for_each(ExitWork::run);
        self.say(|| format!("the end of space {at} is announced"));
    }

    /// Replaces spaces that have ended, once nothing is bound to them or waits for them.
    pub(super) fn renew_spaces(&mut self) {
        for at in 0..self.spaces.len() {
            let space = &self.spaces[at];
            if !space.announced || !space.changes.is_empty() {
                continue;
            }
            let contained = self
                .containers
                .iter()
                .any(|slot| slot.bonds.iter().any(|bond| bond.grant.space == at));
            let bound = self.bound.iter().any(|bound| bound.grant.space == at);
            if !bound
                && !contained
                && !self.unbindings.iter().any(|under_way| under_way.spaces.contains(&at))
            {
                self.spaces_made += 1;
                self.spaces[at] = SpaceSlot::new(self.config.pages, self.spaces_made);
            }
        }
    }
}
