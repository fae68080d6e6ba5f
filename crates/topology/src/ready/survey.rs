//! What is looked up for every device, made once: which IOMMU translates it, and who in its group
//! can send PASIDs. Without it a dump of one huge group would take time in proportion to its
//! square.

use std::collections::BTreeMap;

use sva_core::Bdf;

use crate::groups::Grouping;
use crate::machine::{Basis, Class, Fact, IommuKind, IommuUnit, Machine, PciFunction, Source};

/// Vendors of host bridges that tell the IOMMU's kind.
const INTEL: u16 = 0x8086;
const AMD: [u16; 2] = [0x1022, 0x1002];

/// What is looked up once for all devices of a machine.
pub(super) struct Survey<'a> {
    pub(super) machine: &'a Machine,
    pub(super) grouping: &'a Grouping,
    /// The unit that is known to translate a function, as an index into the host's list.
    units: BTreeMap<Bdf, usize>,
    /// The kind that all units have, or that the rest of the machine tells.
    kind: Option<Fact<IommuKind>>,
    /// Whether the kernel uses an IOMMU: as the host says, or because it put something in a group.
    pub(super) in_use: Option<Fact<bool>>,
    /// Whether an IOMMU is listed, or has a function.
    pub(super) seen: bool,
    /// Whether firmware describes none, and nothing else shows one.
    pub(super) absent: bool,
    group_pasids: BTreeMap<u32, GroupPasids>,
}

/// The members of a group that can send PASIDs.
#[derive(Debug)]
pub(super) struct GroupPasids {
    /// The number of members.
    pub(super) members: usize,
    /// Those with the PASID capability, virtual functions of such ones included.
    pub(super) capable: usize,
    /// The first five of them.
    pub(super) first: Vec<Bdf>,
    /// How that is known.
    pub(super) source: Source,
}

impl<'a> Survey<'a> {
    pub(super) fn new(machine: &'a Machine, grouping: &'a Grouping) -> Self {
        let mut units = BTreeMap::new();
        for (index, unit) in machine.host().iommus.iter().enumerate() {
            for device in unit.devices.iter().flatten() {
                units.entry(*device).or_insert(index);
            }
        }
        let mut group_pasids: BTreeMap<u32, GroupPasids> = BTreeMap::new();
        for (index, function) in machine.functions().iter().enumerate() {
            let Some(group) = grouping.of(index) else { continue };
            let new =
                || GroupPasids { members: 0, capable: 0, first: Vec::new(), source: Source::Read };
            let entry = group_pasids.entry(group).or_insert_with(new);
            let pasid = physical(machine, function).pasid;
            entry.members += 1;
            entry.source = entry.source.weaker(pasid.source);
            if pasid.value.is_some() {
                entry.capable += 1;
                if entry.first.len() < 5 {
                    entry.first.push(function.bdf);
                }
            }
        }
        let grouped = || {
            machine
                .functions()
                .iter()
                .any(|function| matches!(function.kernel_group, Some(Some(_))))
        };
        let in_use = machine.host().iommu_in_use.or_else(|| grouped().then_some(Fact::read(true)));
        let seen = !machine.host().iommus.is_empty()
            || machine.functions().iter().any(|function| class(function) == Some(Class::IOMMU));
        let described = machine.host().iommu_described.is_none_or(|fact| fact.value);
        let absent = !described && !seen && !in_use.is_some_and(|fact| fact.value);
        // Who made the host bridge tells nothing of an IOMMU that is not there.
        let kind = kind(machine).filter(|_| !absent);
        Self { machine, grouping, units, kind, in_use, seen, absent, group_pasids }
    }

    /// The units that may translate a function: the one that is known to, or all.
    pub(super) fn units_of(&self, function: &PciFunction) -> impl Iterator<Item = &'a IommuUnit> {
        let known = self.units.get(&function.bdf).copied();
        let units = self.machine.host().iommus.iter().enumerate();
        units
            .filter(move |(index, _)| known.is_none_or(|known| known == *index))
            .map(|(_, unit)| unit)
    }

    /// The kind of the IOMMU that translates a function.
    pub(super) fn kind_of(&self, function: &PciFunction) -> Option<Fact<IommuKind>> {
        let unit =
            self.units.get(&function.bdf).and_then(|unit| self.machine.host().iommus.get(*unit));
        unit.map(|unit| Fact::read(unit.kind)).or(self.kind)
    }

    /// A fact of a function's IOMMU; none where it was not read, or where units differ and which
    /// one translates the function was not read.
    pub(super) fn unit_fact<T: Copy + PartialEq>(
        &self,
        function: &PciFunction,
        fact: impl Fn(&IommuUnit) -> Option<Fact<T>>,
    ) -> Option<Fact<T>> {
        let mut units = self.units_of(function);
        let first = fact(units.next()?)?;
        units.try_fold(first, |known, unit| {
            let other = fact(unit)?;
            (other.value == known.value)
                .then(|| Fact { source: known.source.weaker(other.source), ..known })
        })
    }

    /// Who in the group can send PASIDs.
    pub(super) fn group_pasids(&self, group: u32) -> Option<&GroupPasids> {
        self.group_pasids.get(&group)
    }
}

/// The function whose PASID and page request capabilities a function uses: a virtual one has its
/// physical one's (PCIe 6.0, section 9.3.7).
pub(super) fn physical<'a>(machine: &'a Machine, function: &'a PciFunction) -> &'a PciFunction {
    function.physical_function.and_then(|of| machine.get(of.value)).unwrap_or(function)
}

fn class(function: &PciFunction) -> Option<u16> {
    function.class.map(|class| class.value.code())
}

/// What kind of IOMMU the machine has: as its units say, if they agree; otherwise an AMD IOMMU's
/// function, or who made the host bridge.
fn kind(machine: &Machine) -> Option<Fact<IommuKind>> {
    let mut units = machine.host().iommus.iter().map(|unit| unit.kind);
    if let Some(first) = units.next() {
        return units.all(|other| other == first).then_some(Fact::read(first));
    }
    let vendor = |function: &PciFunction| function.ids.map(|ids| ids.value.vendor);
    let amd =
        |function: &&PciFunction| vendor(function).is_some_and(|vendor| AMD.contains(&vendor));
    if machine.functions().iter().filter(amd).any(|function| class(function) == Some(Class::IOMMU))
    {
        return Some(Fact::inferred(IommuKind::AmdVi, Basis::Class));
    }
    let bridge =
        machine.functions().iter().find(|function| class(function) == Some(Class::HOST_BRIDGE))?;
    match vendor(bridge)? {
        INTEL => Some(Fact { value: IommuKind::VtD, source: Source::Inferred(Basis::Position) }),
        vendor if AMD.contains(&vendor) => {
            Some(Fact { value: IommuKind::AmdVi, source: Source::Inferred(Basis::Position) })
        }
        _ => None,
    }
}
