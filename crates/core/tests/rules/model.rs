//! Random histories of a small system against a slow model of who may reach what (rules B3, B5, B8,
//! G2 to G6, U2 to U5).
//!
//! The model is a list of bonds, each with its owner and the devices in it. It knows nothing of
//! tables, gates or attachments: a device reaches a space exactly if a bond of that space lists it
//! and the space is alive. After each step every device is tried with every PASID that was ever
//! given out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sva_core::bond::GroupBond;
use sva_core::event::ObjectCounts;
use sva_core::{Bind, Bond, Container, Device, EndReason, Features, Pasid, PasidTag, Removal};
use sva_testkit::MemorySpace;

use crate::support::*;

/// Devices 1..=6: 1 and 2 alone, 3 and 4 share a group, 5 (without PASID) and 6 (narrow) another.
const DEVICES: u8 = 6;
const SPACES: usize = 3;
const CONTAINERS: usize = 2;

fn group_of(device: u8) -> usize {
    [0, 1, 2, 2, 3, 3][usize::from(device) - 1]
}

fn members(group: usize) -> impl Iterator<Item = u8> {
    (1..=DEVICES).filter(move |device| group_of(*device) == group)
}

fn capabilities(device: u8) -> sva_core::Capabilities {
    match device {
        5 => plain(),
        6 => capable(2),
        _ => everything(),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Plug(u8),
    Remove(u8, bool),
    Bind(u8, usize),
    BindGroup(usize, usize),
    Unbind(usize),
    End(usize),
    Renew(usize),
    Open(usize),
    Close(usize),
    Add(usize, usize),
    Leave(usize, usize),
    ContainerBind(usize, usize, bool),
    ContainerUnbind(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (device, space, group, container) =
        (|| 1..=DEVICES, || 0..SPACES, || 0..4usize, || 0..CONTAINERS);
    prop_oneof![
        5 => device().prop_map(Step::Plug),
        1 => (device(), any::<bool>())
            .prop_map(|(device, surprise)| Step::Remove(device, surprise)),
        5 => (device(), space()).prop_map(|(device, space)| Step::Bind(device, space)),
        3 => (group(), space()).prop_map(|(group, space)| Step::BindGroup(group, space)),
        4 => any::<usize>().prop_map(Step::Unbind),
        1 => space().prop_map(Step::End),
        1 => space().prop_map(Step::Renew),
        2 => container().prop_map(Step::Open),
        1 => container().prop_map(Step::Close),
        4 => (container(), group()).prop_map(|(container, group)| Step::Add(container, group)),
        1 => (container(), group()).prop_map(|(container, group)| Step::Leave(container, group)),
        4 => (container(), space(), any::<bool>())
            .prop_map(|(container, space, execute)| Step::ContainerBind(container, space, execute)),
        1 => (container(), space())
            .prop_map(|(container, space)| Step::ContainerUnbind(container, space)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Device(u8),
    Group(usize),
    Container(usize),
}

/// What the model knows of a bond.
#[derive(Debug, Clone)]
struct Modelled {
    owner: Owner,
    space: usize,
    tag: PasidTag,
    execute: bool,
    devices: BTreeSet<u8>,
    /// Its device was removed: it holds nothing any more.
    over: bool,
}

enum Owned {
    Device(Bond<usize>),
    Group(GroupBond<usize>),
    Container,
}

#[derive(Default)]
struct History {
    plugged: BTreeMap<u8, Device>,
    spaces: Vec<(MemorySpace, bool)>,
    bonds: Vec<(Modelled, Owned)>,
    containers: Vec<Option<(Container, BTreeSet<usize>)>>,
    seen: BTreeSet<Pasid>,
}

impl History {
    fn holder(&self, group: usize) -> Option<usize> {
        self.containers.iter().position(|container| {
            container.as_ref().is_some_and(|(_, groups)| groups.contains(&group))
        })
    }

    fn alive(&self, space: usize) -> bool {
        self.spaces[space].1
    }

    fn tag(&self, space: usize) -> Option<PasidTag> {
        self.bonds
            .iter()
            .find(|(bond, _)| bond.space == space && !bond.over)
            .map(|(bond, _)| bond.tag)
    }

    fn reaches(&self, device: u8, space: usize) -> bool {
        self.bonds
            .iter()
            .any(|(bond, _)| bond.space == space && !bond.over && bond.devices.contains(&device))
    }

    /// Whether `device`, which is plugged in and capable, can be given `space`; `None` for a new
    /// PASID stands for one that fits, which is checked by what happens.
    fn can_join(&self, device: u8, space: usize, execute: bool) -> bool {
        let fits = self.tag(space).is_none_or(|tag| device != 6 || tag.pasid.fits(width(2)));
        fits && !(execute && device == 6) && !self.reaches(device, space)
    }

    fn capable_members(&self, groups: &BTreeSet<usize>) -> BTreeSet<u8> {
        let all = groups.iter().flat_map(|group| members(*group));
        all.filter(|device| *device != 5 && self.plugged.contains_key(device)).collect()
    }

    /// Whether a bind of `devices` to `space` is to succeed, but for PASIDs of a narrow device
    /// running out.
    fn allows(&self, devices: &BTreeSet<u8>, space: usize, execute: bool) -> bool {
        !devices.is_empty()
            && self.alive(space)
            && devices.iter().all(|device| self.can_join(*device, space, execute))
    }

    /// Numbers that a narrow device can issue are all taken.
    fn narrow_exhausted(&self) -> bool {
        let taken: BTreeSet<Pasid> = self
            .bonds
            .iter()
            .filter(|(bond, _)| !bond.over)
            .map(|(bond, _)| bond.tag.pasid)
            .collect();
        (1..=3).all(|number| taken.contains(&Pasid::new(number).expect("small")))
    }

    fn note(
        &mut self,
        owner: Owner,
        space: usize,
        tag: PasidTag,
        execute: bool,
        devices: BTreeSet<u8>,
        held: Owned,
    ) {
        if let Some(known) = self.tag(space) {
            assert_eq!(known, tag, "one PASID a space");
        }
        self.seen.insert(tag.pasid);
        self.bonds.push((Modelled { owner, space, tag, execute, devices, over: false }, held));
    }

    fn check_bind<E: std::fmt::Display>(
        &self,
        outcome: &Result<PasidTag, E>,
        devices: &BTreeSet<u8>,
        space: usize,
        allowed: bool,
    ) {
        match outcome {
            Ok(_) => assert!(allowed, "bound {devices:?} to space {space}"),
            Err(error) => {
                let exhausted =
                    self.tag(space).is_none() && devices.contains(&6) && self.narrow_exhausted();
                assert!(!allowed || exhausted, "refused {devices:?} for space {space}: {error}");
            }
        }
    }

    fn apply(&mut self, world: &World, step: &Step) {
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
            if !mine || !self.alive(bond.space) {
                continue;
            }
            if device != 5 && self.can_join(device, bond.space, bond.execute) {
                joined.insert(bond.tag.pasid);
                self.bonds[at].0.devices.insert(device);
            } else {
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
        for (bond, _) in &mut self.bonds {
            bond.devices.remove(&device);
            bond.over |= bond.owner == Owner::Device(device);
        }
    }

    fn bind(&mut self, world: &World, device: u8, space: usize) {
        let Some(handle) = self.plugged.get(&device) else { return };
        let group = group_of(device);
        let alone = members(group).filter(|member| self.plugged.contains_key(member)).count() == 1;
        let devices = BTreeSet::from([device]);
        let allowed = alone
            && device != 5
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
                devices,
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
            self.note(Owner::Group(group), space, bond.tag(), false, devices, Owned::Group(bond));
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
                    bond.devices.extend(&devices);
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
                bond.devices.retain(|device| group_of(*device) != group);
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
            self.note(Owner::Container(at), space, bound.tag, execute, devices, Owned::Container);
        }
    }

    /// Tries every device with every number, and compares the counts.
    fn compare(&self, world: &World) {
        let owners: BTreeMap<Pasid, usize> = self
            .bonds
            .iter()
            .filter(|(bond, _)| !bond.over)
            .map(|(bond, _)| (bond.tag.pasid, bond.space))
            .collect();
        for (device, handle) in &self.plugged {
            for pasid in &self.seen {
                let reached = owners
                    .get(pasid)
                    .filter(|space| self.alive(**space) && self.reaches(*device, **space));
                let mut mark = [0];
                let read = handle.port().read(Some(*pasid), BASE, &mut mark);
                assert_eq!(
                    read.is_ok(),
                    reached.is_some(),
                    "device {device} with {pasid:?}: {read:?}"
                );
                assert!(
                    reached.is_none_or(|space| mark[0] == *space as u8 + 1),
                    "device {device} reached another space"
                );
            }
        }
        let counts = world.iommu.object_counts();
        let spaces: BTreeSet<usize> =
            self.bonds.iter().filter(|(bond, _)| !bond.over).map(|(bond, _)| bond.space).collect();
        let bonds = self.bonds.iter().filter(|(bond, _)| !bond.over).count();
        assert_eq!(
            (counts.devices, counts.bonds, counts.spaces, counts.pasids as usize),
            (self.plugged.len(), bonds, spaces.len(), spaces.len())
        );
        for (at, (space, alive)) in self.spaces.iter().enumerate() {
            assert_eq!(space.watches(), usize::from(*alive && spaces.contains(&at)));
        }
    }
}

fn space_with_mark(at: usize) -> MemorySpace {
    let space = space();
    space.poke(BASE, &[at as u8 + 1]);
    space
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    // shows B2, B3, B5, B8, G2, G3, G4, G6, U2, U4, U5, U9
    #[test]
    fn any_history_gives_access_to_whom_the_model_gives_it_and_leaves_nothing(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        watched(move || {
            let world = World::new();
            world.share(&[3, 4]);
            world.share(&[5, 6]);
            let spaces = (0..SPACES).map(|at| (space_with_mark(at), true)).collect();
            let mut history = History { spaces, ..History::default() };
            history.containers.resize_with(CONTAINERS, || None);
            for step in &steps {
                history.apply(&world, step);
                history.compare(&world);
            }
            history.bonds.clear();
            history.containers.clear();
            for device in history.plugged.values() {
                world.iommu.remove(device, Removal::Orderly).expect("plugged");
            }
            assert_eq!(world.iommu.object_counts(), ObjectCounts::default());
            assert!(history.spaces.iter().all(|(space, _)| space.watches() == 0));
        });
    }
}
