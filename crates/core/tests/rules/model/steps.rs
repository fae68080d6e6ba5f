//! Each step, made on the system and on the model, with what either has to say.

use std::collections::BTreeSet;

use sva_core::{Bind, EndReason, Features, Removal};

use super::{
    History, Owned, Owner, Step, can_issue, capabilities, group_of, has_pasid, members,
    requester_of, space_with_mark,
};
use crate::support::*;

impl History {
    pub(super) fn apply(&mut self, world: &World, step: &Step) {
        match *step {
            Step::Plug(device) => self.plug(world, device),
            Step::Remove(device, surprise) => self.remove(world, device, surprise),
            Step::Bind(device, space) => self.bind(world, device, space),
            Step::BindGroup(group, space) => self.bind_group(world, group, space),
            Step::Unbind(at) => self.unbind(at),
            Step::End(space) => {
                let (memory, alive) = &mut self.spaces[space];
                memory.end(EndReason::Exited);
                *alive = false;
            }
            Step::Renew(space) if self.bonds.iter().all(|(bond, _)| bond.space != space) => {
                self.spaces[space] = (space_with_mark(space), true)
            }
            Step::Renew(_) => {}
            Step::Open(at) => {
                self.containers[at]
                    .get_or_insert_with(|| (world.iommu.create_container(), BTreeSet::new()));
            }
            Step::Close(at) => {
                if let Some((container, _)) = self.containers[at].take() {
                    container.close();
                    self.bonds.retain(|(bond, _)| bond.owner != Owner::Container(at));
                }
            }
            Step::Add(at, group) => self.add(at, group),
            Step::Leave(at, group) => self.leave(at, group),
            Step::ContainerBind(at, space, execute) => self.container_bind(at, space, execute),
            Step::ContainerUnbind(at, space) => {
                let Some((container, _)) = &self.containers[at] else { return };
                let found = self.bonds.iter().position(|(bond, _)| {
                    bond.owner == Owner::Container(at) && bond.space == space
                });
                let outcome = container.unbind(self.spaces[space].0.handle().id());
                assert_eq!(outcome.is_ok(), found.is_some());
                found.map(|at| self.bonds.remove(at));
            }
        }
    }

    fn plug(&mut self, world: &World, device: u8) {
        if self.plugged.contains_key(&device) {
            return;
        }
        let plugged = world.plug_as(device, capabilities(device));
        let group = group_of(device);
        let (mut joined, mut left) = (BTreeSet::new(), 0);
        for at in 0..self.bonds.len() {
            let bond = &self.bonds[at].0;
            let mine = bond.owner == Owner::Group(group)
                || self.holder(group).is_some_and(|holder| bond.owner == Owner::Container(holder));
            let shared = !bond.over && bond.requesters.contains(&requester_of(device));
            if !self.alive(bond.space) || !(mine || shared) {
                continue;
            }
            // The PASID table is that of its siblings with the same requester ID, their own bonds
            // included.
            if shared && can_issue(device, bond.tag.pasid) {
                joined.insert(bond.tag.pasid);
            } else if mine && self.can_join(device, bond.space, bond.execute) {
                joined.insert(bond.tag.pasid);
                self.bonds[at].0.requesters.insert(requester_of(device));
            } else if mine {
                left += 1;
            }
        }
        assert_eq!(plugged.joined.iter().copied().collect::<BTreeSet<_>>(), joined);
        assert_eq!(plugged.not_joined.len(), left);
        self.plugged.insert(device, plugged.device);
    }

    fn remove(&mut self, world: &World, device: u8, surprise: bool) {
        let Some(handle) = self.plugged.remove(&device) else { return };
        let removal = if surprise { Removal::Surprise } else { Removal::Orderly };
        world.iommu.remove(&handle, removal).expect("plugged");
        let requester = requester_of(device);
        let is_last = self.plugged.keys().all(|other| requester_of(*other) != requester);
        for (bond, _) in &mut self.bonds {
            if is_last {
                bond.requesters.remove(&requester);
            }
            bond.over |= bond.owner == Owner::Device(device);
        }
    }

    fn bind(&mut self, world: &World, device: u8, space: usize) {
        let Some(handle) = self.plugged.get(&device) else { return };
        let group = group_of(device);
        let alone = members(group).filter(|member| self.plugged.contains_key(member)).count() == 1;
        let devices = BTreeSet::from([device]);
        let allowed = alone
            && has_pasid(device)
            && self.holder(group).is_none()
            && self.allows(&devices, space, false);
        let outcome =
            world.iommu.bind_device(handle, &self.spaces[space].0.handle(), Bind::new(space));
        let tag = outcome.as_ref().map(|bond| bond.tag());
        self.check_bind(&tag, &devices, space, allowed);
        if let Ok(bond) = outcome {
            self.note(
                Owner::Device(device),
                space,
                bond.tag(),
                false,
                &devices,
                Owned::Device(bond),
            );
        }
    }

    fn bind_group(&mut self, world: &World, group: usize, space: usize) {
        let Some(member) = members(group).find_map(|member| self.plugged.get(&member)) else {
            return;
        };
        let devices = self.capable_members(&BTreeSet::from([group]));
        let allowed = self.holder(group).is_none() && self.allows(&devices, space, false);
        let outcome = world.iommu.bind_group(
            member.group(),
            &self.spaces[space].0.handle(),
            Bind::new(space),
        );
        let tag = outcome.as_ref().map(|bond| bond.tag());
        self.check_bind(&tag, &devices, space, allowed);
        if let Ok(bond) = outcome {
            self.note(Owner::Group(group), space, bond.tag(), false, &devices, Owned::Group(bond));
        }
    }

    fn unbind(&mut self, at: usize) {
        let owned: Vec<usize> = (0..self.bonds.len())
            .filter(|at| !matches!(self.bonds[*at].1, Owned::Container))
            .collect();
        if owned.is_empty() {
            return;
        }
        let (bond, held) = self.bonds.remove(owned[at % owned.len()]);
        let report = match held {
            Owned::Device(held) => held.unbind(),
            Owned::Group(held) => held.unbind(),
            Owned::Container => return,
        };
        assert_eq!((report.already_ended, report.deferred, report.drained), (bond.over, false, 0));
    }

    fn add(&mut self, at: usize, group: usize) {
        let Some(member) = members(group).find_map(|member| self.plugged.get(&member)) else {
            return;
        };
        if self.containers[at].is_none() {
            return;
        }
        let devices = self.capable_members(&BTreeSet::from([group]));
        let free = self.holder(group).is_none();
        let bonds = self.bonds.iter().filter(|(bond, _)| !bond.over);
        let own = bonds.clone().any(|(bond, _)| match bond.owner {
            Owner::Device(device) => group_of(device) == group,
            Owner::Group(owner) => owner == group,
            Owner::Container(_) => false,
        });
        let theirs =
            bonds.filter(|(bond, _)| bond.owner == Owner::Container(at) && self.alive(bond.space));
        let all = theirs.clone().all(|(bond, _)| {
            devices.iter().all(|device| self.can_join(*device, bond.space, bond.execute))
        });
        let allowed = free && !own && all;
        let (container, _) = self.containers[at].as_ref().expect("looked at above");
        let outcome = container.add(member.group());
        assert_eq!(outcome.is_ok(), allowed, "{outcome:?}");
        if allowed {
            let alive: Vec<bool> = self.spaces.iter().map(|(_, alive)| *alive).collect();
            for (bond, _) in &mut self.bonds {
                if bond.owner == Owner::Container(at) && alive[bond.space] {
                    bond.requesters.extend(devices.iter().map(|device| requester_of(*device)));
                }
            }
            self.containers[at].as_mut().expect("looked at above").1.insert(group);
        }
    }

    fn leave(&mut self, at: usize, group: usize) {
        let Some(member) = members(group).find_map(|member| self.plugged.get(&member)) else {
            return;
        };
        let Some((container, groups)) = &mut self.containers[at] else { return };
        assert_eq!(container.remove(member.group()).is_ok(), groups.remove(&group));
        if self.holder(group).is_none() {
            for (bond, _) in
                self.bonds.iter_mut().filter(|(bond, _)| bond.owner == Owner::Container(at))
            {
                bond.requesters.retain(|requester| group_of(*requester) != group);
            }
        }
    }

    fn container_bind(&mut self, at: usize, space: usize, execute: bool) {
        let Some((container, groups)) = &self.containers[at] else { return };
        let devices = self.capable_members(groups);
        let known = self
            .bonds
            .iter()
            .find(|(bond, _)| bond.owner == Owner::Container(at) && bond.space == space)
            .map(|(bond, _)| bond.execute);
        let bind = Bind::new(space).features(Features { execute, ..Features::default() });
        let outcome = container.bind(&self.spaces[space].0.handle(), bind);
        if let Some(before) = known {
            assert_eq!(outcome.is_ok(), before == execute && self.alive(space), "{outcome:?}");
            assert!(
                outcome.is_ok_and(|bound| bound.already_bound)
                    || before != execute
                    || !self.alive(space)
            );
            return;
        }
        let allowed = self.allows(&devices, space, execute);
        let tag = outcome.as_ref().map(|bound| bound.tag);
        self.check_bind(&tag, &devices, space, allowed);
        if let Ok(bound) = outcome {
            assert!(!bound.already_bound);
            self.note(Owner::Container(at), space, bound.tag, execute, &devices, Owned::Container);
        }
    }
}
