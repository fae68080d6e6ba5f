//! Spaces change, end, and make room for others.

use sva_core::{EndReason, ExitWork, Pasid};

use super::{BASE, Change, SpaceSlot, World};
use crate::schedule::choices::Choices;
use crate::schedule::races::Race;
use crate::space::{PAGE, Protection};

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

    pub(super) fn finish_change(&mut self, choices: &mut Choices) {
        let at = self.any_space(choices);
        let over = self.spaces[at].changes.iter().position(Change::is_over);
        if let Some(over) = over {
            self.spaces[at].changes.remove(over).finish();
            self.say(|| format!("a change of space {at} is over"));
        }
    }

    pub(super) fn end_space(&mut self, choices: &mut Choices) {
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

    pub(super) fn announce(&mut self, choices: &mut Choices) {
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
        self.spaces[at].space.announce().into_iter().for_each(ExitWork::run);
        self.say(|| format!("the end of space {at} is announced"));
    }

    /// A space that has ended and that nobody has to do with makes room for another.
    pub(super) fn renew_spaces(&mut self) {
        for at in 0..self.spaces.len() {
            let space = &self.spaces[at];
            let held = self.bound.iter().any(|bound| bound.space == at) || self.unbindings.iter().any(|under_way| under_way.space == at);
            if space.announced && !held && space.changes.is_empty() {
                self.spaces[at] = SpaceSlot::new(self.config.pages);
            }
        }
    }
}
