//! Owners of page tables: they get whole groups of page requests, and answer late, in any order,
//! twice, or not at all.
//!
//! The model knows of each group whether it can still be answered: an unbind, a removal, a reset, a
//! domain that is left take that away at once, and nothing else does.

mod answers;

use std::sync::Arc;

use sva_core::Pasid;
use sva_core::pri::{Cookie, PageRequest};
use sva_core::pri::{PageRequestGroup, PageRequestHandler};

use super::model::Place;
use super::owner::{Arrived, At, OwnedGroup, Owner, OwnerId, is_retained};
use super::system::World;
use crate::choices::Choices;
use crate::races::Race;

/// Owners that are retained after what they answered for has ended, with their late answers.
const LATE: usize = 3;

impl World {
    /// One bind in three has an owner, of which one in four is silent.
    pub(super) fn any_owner(
        &mut self,
        choices: &mut Choices,
    ) -> Option<(OwnerId, Arc<dyn PageRequestHandler>)> {
        (self.config.owners && choices.one_in(3)).then(|| self.open_owner(choices.one_in(4)))
    }

    pub(super) fn open_owner(&mut self, silent: bool) -> (OwnerId, Arc<dyn PageRequestHandler>) {
        let (owner, handler) = Owner::open(silent);
        self.next_owner += 1;
        self.owners.insert(self.next_owner, owner);
        (self.next_owner, handler)
    }

    /// What an owner answers for has ended. The owner stays for a while, with its late answers.
    pub(super) fn end_owner(&mut self, owner: Option<OwnerId>) {
        if let Some(owner) = owner.and_then(|id| self.owners.get_mut(&id)) {
            owner.ended = true;
        }
        let ended: Vec<OwnerId> =
            self.owners.iter().filter(|(_, owner)| owner.ended).map(|(id, _)| *id).collect();
        if ended.len() > LATE {
            self.close_owner(ended[0]);
            self.owners.remove(&ended[0]);
        }
    }

    pub(super) fn owner_has(&self, at: usize, of: Option<Option<Pasid>>) -> bool {
        self.pending_with_owners()
            .any(|group| group.device == at && of.is_none_or(|of| group.pasid == of))
    }

    /// The groups that owners can answer.
    pub(super) fn pending_with_owners(&self) -> impl Iterator<Item = &OwnedGroup> {
        self.owners.values().flat_map(|owner| &owner.groups).filter(|group| !group.void)
    }

    /// Whether one of them asks for a page at one of these addresses without a PASID.
    pub(super) fn owner_has_iova(&self, at: usize, range: &std::ops::Range<u64>) -> bool {
        let meets = |group: &OwnedGroup| {
            group.requests.iter().any(|request| range.contains(&request.address))
        };
        self.pending_with_owners()
            .any(|group| group.device == at && group.pasid.is_none() && meets(group))
    }

    /// Groups of a device cannot be answered any more: of this PASID or of none, or `None`: all of
    /// them.
    pub(super) fn void(&mut self, at: usize, of: Option<Option<Pasid>>) {
        for owner in self.owners.values_mut() {
            let inbox = owner.inbox.lock();
            let mut still = None;
            owner.groups.retain_mut(|group| {
                if group.void || group.device != at || of.is_some_and(|of| group.pasid != of) {
                    return true;
                }
                group.void = true;
                if inbox.retained.get(&group.cookie).is_some_and(PageRequestGroup::is_pending) {
                    still = Some(group.pasid);
                }
                // A queue leaves it out when it is read.
                group.at != At::Unread
            });
            if let Some(pasid) = still {
                let of =
                    pasid.map_or_else(|| "no PASID".to_owned(), |pasid| format!("PASID {pasid}"));
                self.violation.get_or_insert(format!(
                    "a group of device {at} ({of}) can be answered when it has been drained"
                ));
            }
        }
    }

    /// Checks what the handlers got when a group was resolved.
    pub(super) fn check_inboxes(&mut self, at: usize, plugged: u64, requests: &[PageRequest]) {
        let slot = &self.slots[at];
        let pasid = requests[0].pasid;
        let meant = match pasid {
            Some(pasid) => slot.bonds.get(&pasid).and_then(|grant| grant.owner),
            None => self.domain(self.place_of(at)).owner(),
        };
        let there = slot.device.is_some() && slot.plugged == plugged;
        let mut lines = Vec::new();
        for (&id, owner) in &mut self.owners {
            let mut inbox = owner.inbox.lock();
            for Arrived { cookie, device, requests: got } in std::mem::take(&mut inbox.arrived) {
                lines.push(format!("  group {} of {device} goes to owner {id}", got[0].index));
                let violation = match () {
                    () if !there => Some("of a device whose removal had begun"),
                    () if device != slot.bdf || got != requests => {
                        Some("that is not the whole group")
                    }
                    () if meant != Some(id) => Some("of another"),
                    () if owner.find(cookie).is_some() || owner.answered.contains(&cookie) => {
                        Some("a second time")
                    }
                    () => None,
                };
                if let Some(violation) = violation {
                    self.violation
                        .get_or_insert(format!("owner {id} got a group of {device} {violation}"));
                }
                if !inbox.closed {
                    let at_where = if is_retained(cookie) { At::Retained } else { At::Unread };
                    owner.groups.push(OwnedGroup {
                        cookie,
                        device: at,
                        pasid,
                        requests: got,
                        at: at_where,
                        void: false,
                    });
                }
            }
        }
        lines.into_iter().for_each(|line| self.say(|| line));
    }

    /// An owner does something.
    pub(super) fn step_owner(&mut self, choices: &mut Choices) {
        let ids: Vec<OwnerId> = self.owners.keys().copied().collect();
        let Some(&id) = choices.pick(&ids) else { return };
        let owner = &self.owners[&id];
        let speaks = !owner.silent || owner.ended;
        match choices.below(24) {
            0..=8 => self.read(id, 1 + choices.below(4) as usize),
            23 => self.close_owner(id),
            9..=15 if speaks => self.answer_retained(id, choices),
            _ if speaks => self.answer_read(id, choices),
            _ => {}
        }
    }

    /// Owners that are not silent read and answer all that they have.
    pub(super) fn serve_all(&mut self, choices: &mut Choices) {
        let ids: Vec<OwnerId> =
            self.owners.iter().filter(|(_, owner)| !owner.silent).map(|(id, _)| *id).collect();
        for id in ids {
            self.read(id, 64);
            while self.owners[&id].groups.iter().any(|group| group.at == At::Retained) {
                self.answer_retained(id, choices);
            }
            while self.owners[&id].groups.iter().any(|group| group.at == At::Read) {
                self.answer_read(id, choices);
            }
        }
    }

    /// Reads whole groups for at most `room` requests.
    fn read(&mut self, id: OwnerId, room: usize) {
        let Some(owner) = self.owners.get_mut(&id) else { return };
        let Some(queue) = &owner.queue else { return };
        let mut got: Vec<(Cookie, Vec<PageRequest>)> = Vec::new();
        let outcome = queue.read(room, |cookie, _, requests| got.push((cookie, requests.to_vec())));
        let mut unread = owner.groups.iter_mut().filter(|group| group.at == At::Unread);
        let mut left = room;
        let mut read = 0;
        let expected = loop {
            let Some(next) = unread.next() else { break Ok(read) };
            if next.requests.len() > left {
                break if read == 0 { Err(next.requests.len()) } else { Ok(read) };
            }
            if got.get(read).is_none_or(|(cookie, requests)| {
                (*cookie, requests) != (next.cookie, &next.requests)
            }) {
                break Ok(read + 1);
            }
            next.at = At::Read;
            (left, read) = (left - next.requests.len(), read + 1);
            if left == 0 {
                break Ok(read);
            }
        };
        if outcome.map_err(|error| error.requests) != expected || got.len() != read {
            self.violation.get_or_insert(format!(
                "owner {id} read {outcome:?} with room for {room}, and not {expected:?}"
            ));
        }
        self.say(|| format!("owner {id} reads {read} groups"));
    }

    /// The owner ends: the groups that it has are answered as invalid.
    fn close_owner(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.get_mut(&id) else { return };
        let had = owner.groups.iter().any(|group| !group.void);
        let retained = {
            let mut inbox = owner.inbox.lock();
            inbox.closed = true;
            std::mem::take(&mut inbox.retained)
        };
        drop((retained, owner.queue.take()));
        owner.groups.clear();
        self.note([(Race::OwnerGone, had)]);
        self.say(|| format!("owner {id} closes its queue"));
    }

    /// Somebody takes the page requests of a domain, or gives them back.
    pub(super) fn register(&mut self, choices: &mut Choices) {
        let Some(place) = self.any_domain(choices) else { return };
        let held = self.domain(place).owner();
        if let Some(held) = held.filter(|_| choices.below(3) > 0) {
            self.domain_mut(place).registration = None;
            self.end_owner(Some(held));
            self.say(|| format!("owner {held} gives the page requests of {place:?} back"));
            return;
        }
        let silent = choices.one_in(4);
        let (id, handler) = self.open_owner(silent);
        let made = match place {
            Place::Group(group) => match self.groups[group].id {
                Some(group) => self.iommu.handle_page_requests(group, handler),
                None => return,
            },
            Place::Container(container) => {
                self.containers[container].container.handle_page_requests(handler)
            }
        };
        if made.is_ok() == held.is_some() {
            self.violation.get_or_insert(format!(
                "the page requests of {place:?} were taken: {made:?}, with an owner before: \
                 {held:?}"
            ));
        }
        match made {
            Ok(registration) => {
                self.domain_mut(place).registration = Some((id, registration));
                self.say(|| {
                    format!("owner {id} takes the page requests of {place:?} (silent: {silent})")
                });
            }
            Err(_) => drop(self.owners.remove(&id)),
        }
    }

    /// At the end: nobody withholds an answer any longer.
    pub(super) fn close_owners(&mut self) {
        let ids: Vec<OwnerId> = self.owners.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close_owner(id));
    }
}
