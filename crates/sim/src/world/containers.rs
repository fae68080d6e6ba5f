//! Containers: groups join and leave them, spaces are bound to them, containers close.

use sva_core::error::{ContainerBindError, JoinError, Refusal};
use sva_core::{Bind, Features, Pasid, PasidTag};

use super::features::{any_features, extras};
use super::model::{ContainerBond, ContainerSlot, Ending, Grant, Place};
use super::system::World;
use crate::choices::Choices;
use crate::races::Race;

impl World {
    /// Something happens to a container.
    pub(super) fn step_container(&mut self, choices: &mut Choices) {
        if self.containers.is_empty() {
            return;
        }
        let container = choices.below(self.containers.len() as u32) as usize;
        if self.is_leaving() && choices.below(4) > 0 {
            return self.bind_used_container(choices);
        }
        // A group that leaves with nothing under way is of less interest.
        let groups: Vec<usize> = self.containers[container].groups.iter().copied().collect();
        let (fault, in_use) = self.under_way_in(&groups);
        let interest = in_use || choices.one_in(if fault { 3 } else { 32 });
        match choices.below(16) {
            0..=3 => self.join(container, choices),
            4..=6 if interest => self.leave(container, choices),
            7..=11 => self.bind_container(container, choices),
            12 => self.unbind_container(container, choices),
            13..=15 if interest => self.close(container),
            _ => {}
        }
    }

    /// Binds a container that has groups, and not every space.
    pub(super) fn bind_used_container(&mut self, choices: &mut Choices) {
        let used =
            |slot: &ContainerSlot| !slot.groups.is_empty() && slot.bonds.len() < self.spaces.len();
        let used: Vec<usize> =
            (0..self.containers.len()).filter(|at| used(&self.containers[*at])).collect();
        if let Some(&container) = choices.pick(&used) {
            self.bind_container(container, choices);
        }
    }

    /// Whether a group has left its container and is not free yet.
    pub(super) fn is_leaving(&self) -> bool {
        self.unbindings.iter().any(|under_way| matches!(under_way.ending, Ending::Leaving(_)))
    }

    /// The places in the groups of a container.
    fn places_in(&self, container: usize) -> Vec<usize> {
        self.containers[container].groups.iter().flat_map(|group| self.places_of(*group)).collect()
    }

    fn join(&mut self, container: usize, choices: &mut Choices) {
        let group = choices.below(self.groups.len() as u32) as usize;
        let Some(id) = self.groups[group].id else { return };
        let bond = self.bound.iter().position(|bound| bound.group == group);
        if let Some(bond) = bond.filter(|_| choices.below(4) == 0) {
            // A group that is to join is unbound first.
            self.unbind_one(bond);
            return;
        }
        let places = self.places_of(group);
        let fault = places.iter().any(|at| self.has_fault(*at, Some(None)));
        let there = places.iter().any(|at| self.slots[*at].device.is_some());
        let live: Vec<&ContainerBond> = self.containers[container]
            .bonds
            .iter()
            .filter(|bond| !self.spaces[bond.grant.space].announced)
            .collect();
        let given: Vec<(Pasid, Grant)> =
            live.iter().map(|bond| (bond.tag.pasid, bond.grant)).collect();
        let own = self.bound.iter().any(|bound| bound.group == group && !bound.inert);
        let free = self.groups[group].container.is_none()
            && self.groups[group].own.mapped.is_empty()
            && !own;
        let can =
            given.iter().all(|(_, grant)| self.can_grant(&places, grant.space, grant.features));
        let outcome = self.containers[container].container.add(id);
        let right = match &outcome {
            Ok(joined) => {
                free && can
                    && joined
                        .pasids
                        .iter()
                        .eq(given.iter().map(|(pasid, _)| pasid).filter(|_| there))
            }
            Err(JoinError::InContainer { .. }) => self.groups[group].container.is_some(),
            Err(JoinError::HasMappings { .. }) => !self.groups[group].own.mapped.is_empty(),
            Err(JoinError::Device(Refusal::DeviceLacks { .. })) => !can,
            Err(JoinError::NoSuchGroup { .. }) => !there,
            // Also where they are being unbound.
            Err(JoinError::HasBonds { .. } | JoinError::HasGroupBonds { .. }) => {
                own || !self.unbindings.is_empty()
            }
            Err(_) => false,
        };
        if !right {
            self.violation.get_or_insert(format!(
                "group {group} joins container {container}: {outcome:?}; free {free}, can {can}"
            ));
        }
        if outcome.is_err() {
            return;
        }
        self.note([
            (Race::JoinWithFaultPending, fault),
            (Race::JoinDuringUnbind, !self.unbindings.is_empty()),
        ]);
        self.groups[group].container = Some(container);
        self.groups[group].switches += 1;
        self.containers[container].groups.insert(group);
        self.void_domain(group);
        self.say(|| {
            format!(
                "group {group} joins container {container}: PASIDs {:?}",
                given.iter().map(|(pasid, _)| pasid.get()).collect::<Vec<_>>()
            )
        });
        for at in
            places.into_iter().filter(|at| self.slots[*at].device.is_some()).collect::<Vec<_>>()
        {
            given.iter().for_each(|(pasid, grant)| self.joined(at, *pasid, *grant));
        }
    }

    /// The places of these groups at which there is a PASID to use.
    fn bound_places(&self, groups: &[usize]) -> Vec<usize> {
        groups
            .iter()
            .flat_map(|group| self.places_of(*group))
            .filter(|at| !self.slots[*at].bonds.is_empty())
            .collect()
    }

    /// Whether devices of these groups have page requests under way, and whether they use
    /// translations.
    fn under_way_in(&self, groups: &[usize]) -> (bool, bool) {
        let places: Vec<usize> = groups.iter().flat_map(|group| self.places_of(*group)).collect();
        let fault = places.iter().any(|at| self.has_fault(*at, None));
        let in_use = places.iter().any(|at| self.is_in_use(*at));
        (fault, in_use)
    }

    /// A group has lost what it had of its container.
    fn left(&mut self, group: usize) {
        self.groups[group].container = None;
        self.groups[group].switches += 1;
        self.void_domain(group);
        for at in self.places_of(group) {
            for pasid in std::mem::take(&mut self.slots[at].bonds).into_keys() {
                self.void(at, Some(Some(pasid)));
            }
        }
    }

    fn leave(&mut self, container: usize, choices: &mut Choices) {
        let groups: Vec<usize> = self.containers[container].groups.iter().copied().collect();
        let in_use = groups.iter().find(|group| self.under_way_in(&[**group]).1).copied();
        let Some(group) = in_use.or_else(|| choices.pick(&groups).copied()) else { return };
        let Some(id) = self.groups[group].id else { return };
        let (fault, in_use) = self.under_way_in(&[group]);
        self.note([(Race::LeaveWithFaultPending, fault), (Race::LeaveWhileInUse, in_use)]);
        let users = self.bound_places(&[group]);
        self.containers[container].groups.remove(&group);
        match self.containers[container].container.begin_remove(id) {
            Ok(leaving) => {
                let spaces =
                    self.containers[container].bonds.iter().map(|bond| bond.grant.space).collect();
                self.begun(Ending::Leaving(leaving), spaces, &users);
            }
            Err(error) => drop(self.violation.get_or_insert(format!(
                "group {group} cannot leave container {container}: {error}"
            ))),
        }
        self.left(group);
        self.say(|| format!("group {group} leaves container {container}"));
    }

    pub(super) fn bind_container(&mut self, container: usize, choices: &mut Choices) {
        let new: Vec<usize> = (0..self.spaces.len())
            .filter(|at| {
                self.containers[container].bonds.iter().all(|bond| bond.grant.space != *at)
            })
            .collect();
        let new = choices.pick(&new).copied().filter(|_| choices.below(4) > 0);
        let space = new.unwrap_or_else(|| self.any_space(choices));
        let (mut features, mut data) = (any_features(choices), choices.below(2));
        let known = self.containers[container].bonds.iter().find(|bond| bond.grant.space == space);
        let known = known.map(|bond| (bond.tag, bond.grant.features, bond.data));
        if let Some((_, as_before, with)) = known.filter(|_| choices.below(2) == 0) {
            (features, data) = (as_before, with);
        }
        let owner = self.any_owner(choices);
        let mut bind = Bind::new(data).features(features);
        let id = owner.as_ref().map(|(id, _)| *id);
        if let Some((_, handler)) = owner {
            bind = bind.on_page_requests(handler);
        }
        let handle = self.spaces[space].space.handle();
        let places = self.places_in(container);
        let outcome = self.containers[container].container.bind(&handle, bind);
        self.judge_bind(container, space, known, (features, data), &outcome);
        let made = outcome.ok().filter(|bound| !bound.already_bound);
        let Some(bound) = made else {
            id.map(|id| self.owners.remove(&id));
            return;
        };
        let tag = bound.tag;
        self.note_bind(space, tag);
        let grant = Grant { space, features, owner: id };
        self.containers[container].bonds.push(ContainerBond { tag, grant, data });
        self.say(|| {
            format!(
                "bind container {container} to space {space}: PASID {}{}",
                tag.pasid,
                extras(features, id)
            )
        });
        for at in
            places.into_iter().filter(|at| self.slots[*at].device.is_some()).collect::<Vec<_>>()
        {
            self.joined(at, tag.pasid, grant);
        }
    }

    /// Checks the outcome of a BIND against the model.
    fn judge_bind(
        &mut self,
        container: usize,
        space: usize,
        known: Option<(PasidTag, Features, u32)>,
        asked: (Features, u32),
        outcome: &Result<sva_core::container::ContainerBound, ContainerBindError>,
    ) {
        let can = self.can_grant(&self.places_in(container), space, asked.0);
        let same = known.is_some_and(|(_, features, data)| (features, data) == asked);
        let right = match outcome {
            Ok(bound) if bound.already_bound => {
                same && known.is_some_and(|(tag, ..)| tag == bound.tag)
            }
            Ok(_) => known.is_none() && can && !self.spaces[space].ended,
            Err(ContainerBindError::Different { .. }) => known.is_some() && !same,
            Err(ContainerBindError::Device(
                Refusal::DeviceLacks { .. } | Refusal::SpaceLacks { .. },
            )) => !can,
            Err(_) => known.is_none() || self.spaces[space].announced,
        };
        if !right {
            self.violation.get_or_insert(format!(
                "bind of container {container} to space {space}: {outcome:?}; can {can}, \
                 known {known:?}"
            ));
        }
    }

    fn unbind_container(&mut self, container: usize, choices: &mut Choices) {
        let all: Vec<usize> = (0..self.containers[container].bonds.len()).collect();
        if let Some(&at) = choices.pick(&all) {
            self.unbind_of_container(container, at);
        }
    }

    fn unbind_of_container(&mut self, container: usize, at: usize) {
        let ContainerBond { tag, grant, .. } = self.containers[container].bonds.remove(at);
        let places = self.places_in(container);
        self.note_unbind(tag, &places);
        let users = self.users_of(&places, tag.pasid);
        let space = self.spaces[grant.space].space.handle().id();
        match self.containers[container].container.begin_unbind(space) {
            Ok(unbinding) => self.begun(Ending::Unbinding(unbinding), vec![grant.space], &users),
            Err(error) => drop(
                self.violation
                    .get_or_insert(format!("container {container} cannot be unbound: {error}")),
            ),
        }
        self.withdraw(&places, tag.pasid);
        self.end_owner(grant.owner);
        self.say(|| {
            format!("unbind container {container} from space {}: PASID {}", grant.space, tag.pasid)
        });
    }

    fn close(&mut self, container: usize) {
        let next = ContainerSlot::new(self.iommu.create_container());
        let ContainerSlot { container: closed, groups, domain, bonds } =
            std::mem::replace(&mut self.containers[container], next);
        let groups: Vec<usize> = groups.into_iter().collect();
        let (fault, in_use) = self.under_way_in(&groups);
        self.note([(Race::CloseWithFaultPending, fault), (Race::CloseWhileInUse, in_use)]);
        let users = self.bound_places(&groups);
        let leaving = closed.begin_close();
        let spaces = bonds.iter().map(|bond| bond.grant.space).collect();
        self.begun(Ending::Leaving(leaving), spaces, &users);
        groups.into_iter().for_each(|group| self.left(group));
        bonds.iter().for_each(|bond| self.end_owner(bond.grant.owner));
        let owner = domain.owner();
        drop(domain);
        self.end_owner(owner);
        self.say(|| format!("container {container} closes"));
    }

    /// At the end: closes them all, and opens no others.
    pub(super) fn close_containers(&mut self) {
        (0..self.containers.len()).for_each(|container| self.close(container));
        // The new ones in their places have never been used.
        self.containers.clear();
    }

    /// The bonds that a device that is plugged into a group must join.
    pub(super) fn to_join(&self, at: usize) -> Vec<(Pasid, Grant)> {
        let group = Self::group_of(at);
        let all: Vec<(Pasid, Grant)> = match self.place_of(at) {
            Place::Container(container) => self.containers[container]
                .bonds
                .iter()
                .map(|bond| (bond.tag.pasid, bond.grant))
                .collect(),
            Place::Group(_) => self
                .bound
                .iter()
                .filter(|bound| bound.group == group && !bound.inert)
                .map(|bound| (bound.tag.pasid, bound.grant))
                .collect(),
        };
        let joins = |grant: &Grant| {
            !self.spaces[grant.space].announced
                && self.can_grant(&[at], grant.space, grant.features)
        };
        all.into_iter().filter(|(_, grant)| joins(grant)).collect()
    }
}
