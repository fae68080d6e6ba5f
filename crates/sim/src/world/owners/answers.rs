//! What owners answer: of the groups that they retain and of those that they have read.

use std::sync::Arc;

use sva_core::pri::ResponseCode;
use sva_core::pri::{AnswerError, GroupAnswer, PageRequest};
use sva_core::{Access, AddressSpace};

use crate::choices::Choices;
use crate::races::Race;
use crate::world::owner::{At, OwnedGroup, OwnerId};
use crate::world::system::World;

impl World {
    /// Brings the pages of a group in, and says what to answer.
    fn serve(&self, group: &OwnedGroup, choices: &mut Choices) -> ResponseCode {
        if choices.one_in(40) {
            return ResponseCode::ResponseFailure;
        }
        let slot = &self.slots[group.device];
        let brought = |request: &PageRequest| -> Option<()> {
            let (space, address): (Arc<dyn AddressSpace>, u64) = match group.pasid {
                Some(pasid) => {
                    (self.spaces[slot.bonds.get(&pasid)?.space].space.handle(), request.address)
                }
                None => self
                    .domain(self.place_of(group.device))
                    .find(request.address)
                    .map(|(of, address)| (Arc::clone(&of.space), address))?,
            };
            let kind = match (request.write, request.execute) {
                (true, _) => Access::WRITE,
                (_, true) => Access::EXECUTE,
                _ => Access::READ,
            };
            let mode = if request.privileged { Access::PRIVILEGED } else { Access::empty() };
            space.resolve(address, kind | mode).ok()
        };
        let all = group.requests.iter().all(|request| brought(request).is_some());
        if all { ResponseCode::Success } else { ResponseCode::InvalidRequest }
    }

    /// Whether an answer for this group comes before that for an earlier one.
    fn note_answer(&mut self, id: OwnerId, at: usize) {
        let owner = &self.owners[&id];
        let group = &owner.groups[at];
        let out_of_order =
            owner.groups[..at].iter().any(|other| !other.void && other.device == group.device);
        let late = group.void;
        self.note([(Race::AnswerOutOfOrder, out_of_order && !late), (Race::LateAnswer, late)]);
    }

    /// Answers a group that the handler has retained, or drops it.
    pub(super) fn answer_retained(&mut self, id: OwnerId, choices: &mut Choices) {
        let retained: Vec<usize> = self.owners[&id]
            .answerable()
            .into_iter()
            .filter(|at| self.owners[&id].groups[*at].at == At::Retained)
            .collect();
        let Some(&at) = choices.pick(&retained) else { return };
        self.note_answer(id, at);
        let code = self.serve(&self.owners[&id].groups[at], choices);
        let Some(owner) = self.owners.get_mut(&id) else { return };
        let group = owner.groups.remove(at);
        let retained = owner.inbox.lock().retained.remove(&group.cookie);
        let Some(retained) = retained else { return };
        if retained.is_pending() == group.void {
            self.violation.get_or_insert(format!(
                "owner {id}: a group of device {} is pending: {}",
                group.device, !group.void
            ));
        }
        let taken = if choices.one_in(8) {
            drop(retained);
            None
        } else {
            Some(retained.answer(code))
        };
        let expected =
            if group.void { Err(AnswerError::NotPending { cookie: group.cookie }) } else { Ok(()) };
        if taken.is_some_and(|taken| taken != expected) {
            self.violation.get_or_insert(format!(
                "owner {id} answered a group of device {}: {taken:?}, and not {expected:?}",
                group.device
            ));
        }
        self.say(|| {
            format!(
                "owner {id} answers group {} of device {}: {code}, {taken:?}",
                group.requests[0].index, group.device
            )
        });
    }

    /// Answers groups by their cookies, among them perhaps one that was answered before.
    pub(super) fn answer_read(&mut self, id: OwnerId, choices: &mut Choices) {
        let owner = &self.owners[&id];
        let read: Vec<usize> =
            owner.answerable().into_iter().filter(|at| owner.groups[*at].at == At::Read).collect();
        let mut answers = Vec::new();
        for _ in 0..=choices.below(2) {
            let owner = &self.owners[&id];
            let again = choices.one_in(6);
            let old = choices.pick(&owner.answered).copied().filter(|_| again);
            match (old, choices.pick(&read)) {
                (Some(cookie), _) => {
                    answers.push(GroupAnswer { cookie, code: ResponseCode::Success })
                }
                (None, Some(&at)) => {
                    let code = self.serve(&owner.groups[at], choices);
                    answers.push(GroupAnswer { cookie: owner.groups[at].cookie, code });
                    self.note_answer(id, at);
                }
                (None, None) => {}
            }
        }
        let Some(owner) = self.owners.get_mut(&id) else { return };
        let Some(queue) = owner.queue.as_ref().filter(|_| !answers.is_empty()) else { return };
        let taken = queue.answer(&answers).map_err(|error| (error.done, error.cause));
        let mut expected = Ok(());
        let mut again = false;
        for (done, GroupAnswer { cookie, .. }) in answers.iter().enumerate() {
            let Some(at) = owner.find(*cookie) else {
                again = true;
                expected = Err((done, AnswerError::Unknown { cookie: *cookie }));
                break;
            };
            let group = owner.groups.remove(at);
            owner.answered.push(*cookie);
            if group.void {
                expected = Err((done, AnswerError::NotPending { cookie: *cookie }));
                break;
            }
        }
        let too_many = owner.answered.len().saturating_sub(8);
        owner.answered.drain(..too_many);
        if taken != expected {
            self.violation.get_or_insert(format!(
                "owner {id} gave {} answers: {taken:?}, and not {expected:?}",
                answers.len()
            ));
        }
        self.note([(Race::SecondAnswer, again)]);
        self.say(|| {
            let codes: Vec<String> = answers.iter().map(|answer| answer.code.to_string()).collect();
            format!(
                "owner {id} gives {} answers by cookie: {}; taken: {}",
                answers.len(),
                codes.join(", "),
                taken.is_ok()
            )
        });
    }
}
