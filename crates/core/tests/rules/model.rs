//! Random histories of a small system against a slow model of who may reach what (rules B3, B5, B8,
//! G2 to G6, U2 to U5).
//!
//! The model is a list of bonds, each with its owner and the requester IDs in it. It knows nothing
//! of tables, gates or attachments: a device reaches a space exactly if a bond of that space lists
//! its requester ID, it can issue the PASID, and the space is alive. After each step every device
//! is tried with every PASID that was ever given out.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use proptest::prelude::*;
use sva_core::bond::GroupBond;
use sva_core::event::ObjectCounts;
use sva_core::topology::RequesterId;
use sva_core::{Bond, Container, Device, Pasid, PasidTag, Removal};
use sva_testkit::MemorySpace;

use crate::support::*;

/// Devices 1 and 2 are alone, 3 and 4 share a group, 5 and 6 another, and 7 to 9 a group and a
/// requester ID.
const DEVICES: u8 = 9;
const ALIASED: RangeInclusive<u8> = 7..=9;
const SPACES: usize = 3;
const CONTAINERS: usize = 2;

fn group_of(device: u8) -> usize {
    [0, 1, 2, 2, 3, 3, 4, 4, 4][usize::from(device) - 1]
}

fn members(group: usize) -> impl Iterator<Item = u8> {
    (1..=DEVICES).filter(move |device| group_of(*device) == group)
}

/// The requester ID of a device, by the number of the first device that has it.
fn requester_of(device: u8) -> u8 {
    if ALIASED.contains(&device) { *ALIASED.start() } else { device }
}

fn has_pasid(device: u8) -> bool {
    ![5, 7].contains(&device)
}

/// Whether a device has PASIDs of 2 bits, and cannot execute.
fn is_narrow(device: u8) -> bool {
    [6, 9].contains(&device)
}

/// Whether transactions of a device can carry a PASID.
fn can_issue(device: u8, pasid: Pasid) -> bool {
    has_pasid(device) && (!is_narrow(device) || pasid.fits(width(2)))
}

fn capabilities(device: u8) -> sva_core::Capabilities {
    match device {
        _ if !has_pasid(device) => plain(),
        _ if is_narrow(device) => capable(2),
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

/// A part of the system to which a history keeps, so that rare sequences become likely.
#[derive(Clone)]
struct Scope {
    devices: RangeInclusive<u8>,
    spaces: usize,
    containers: usize,
    /// The weight of the steps that take a device or a group away.
    removals: u32,
}

fn step(scope: &Scope) -> impl Strategy<Value = Step> + use<> {
    let Scope { devices, spaces, containers, removals } = scope.clone();
    let groups = group_of(*devices.start())..=group_of(*devices.end());
    let (device, space, group, container) =
        (|| devices.clone(), || 0..spaces, || groups.clone(), || 0..containers);
    prop_oneof![
        5 => device().prop_map(Step::Plug),
        removals => (device(), any::<bool>())
            .prop_map(|(device, surprise)| Step::Remove(device, surprise)),
        5 => (device(), space()).prop_map(|(device, space)| Step::Bind(device, space)),
        3 => (group(), space()).prop_map(|(group, space)| Step::BindGroup(group, space)),
        4 => any::<usize>().prop_map(Step::Unbind),
        1 => space().prop_map(Step::End),
        1 => space().prop_map(Step::Renew),
        2 => container().prop_map(Step::Open),
        1 => container().prop_map(Step::Close),
        4 => (container(), group()).prop_map(|(container, group)| Step::Add(container, group)),
        removals => (container(), group())
            .prop_map(|(container, group)| Step::Leave(container, group)),
        4 => (container(), space(), any::<bool>())
            .prop_map(|(container, space, execute)| Step::ContainerBind(container, space, execute)),
        1 => (container(), space())
            .prop_map(|(container, space)| Step::ContainerUnbind(container, space)),
    ]
}

/// Histories of the whole system, and of the devices that share a requester ID alone.
fn history() -> impl Strategy<Value = Vec<Step>> {
    let whole = Scope { devices: 1..=DEVICES, spaces: SPACES, containers: CONTAINERS, removals: 1 };
    let aliased = Scope { devices: ALIASED, spaces: 2, containers: 1, removals: 5 };
    let steps = |scope| prop::collection::vec(step(&scope), 1..80);
    prop_oneof![steps(whole), steps(aliased)]
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
    requesters: BTreeSet<u8>,
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
        self.bonds.iter().any(|(bond, _)| {
            bond.space == space
                && !bond.over
                && bond.requesters.contains(&requester_of(device))
                && can_issue(device, bond.tag.pasid)
        })
    }

    /// Whether the PASID table of a device has an entry of a space.
    fn has_entry(&self, device: u8, space: usize) -> bool {
        self.bonds.iter().any(|(bond, _)| {
            bond.space == space && !bond.over && bond.requesters.contains(&requester_of(device))
        })
    }

    /// Whether `device`, which is plugged in and capable, can be given `space`; `None` for a new
    /// PASID stands for one that fits, which is checked by what happens.
    fn can_join(&self, device: u8, space: usize, execute: bool) -> bool {
        has_pasid(device)
            && self.tag(space).is_none_or(|tag| can_issue(device, tag.pasid))
            && !(execute && is_narrow(device))
            && !self.has_entry(device, space)
    }

    fn capable_members(&self, groups: &BTreeSet<usize>) -> BTreeSet<u8> {
        let all = groups.iter().flat_map(|group| members(*group));
        all.filter(|device| has_pasid(*device) && self.plugged.contains_key(device)).collect()
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
        devices: &BTreeSet<u8>,
        held: Owned,
    ) {
        if let Some(known) = self.tag(space) {
            assert_eq!(known, tag, "one PASID a space");
        }
        self.seen.insert(tag.pasid);
        let requesters = devices.iter().map(|device| requester_of(*device)).collect();
        self.bonds.push((Modelled { owner, space, tag, execute, requesters, over: false }, held));
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
                let exhausted = self.tag(space).is_none()
                    && devices.iter().any(|device| is_narrow(*device))
                    && self.narrow_exhausted();
                assert!(!allowed || exhausted, "refused {devices:?} for space {space}: {error}");
            }
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
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    // shows B2, B3, B5, B8, G2, G3, G4, G6, U2, U4, U5, U9
    #[test]
    fn any_history_gives_access_to_whom_the_model_gives_it_and_leaves_nothing(
        steps in history()
    ) {
        watched(move || {
            let world = World::new();
            world.share(&[3, 4]);
            world.share(&[5, 6]);
            let aliased: Vec<u8> = ALIASED.collect();
            world.share(&aliased);
            for device in aliased {
                world.bus.alias(bdf(device), RequesterId(bdf(20)));
            }
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
