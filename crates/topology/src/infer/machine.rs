//! [`Reading::machine`]: the steps of the inference in their order.

use std::collections::HashMap;

use sva_core::Bdf;

use super::identity::{Identity, choose_models};
use super::iommu;
use super::names::{Names, name_of};
use super::{express, services, virtual_functions};
use crate::machine::{
    Anomaly, Bar, Basis, Class, Fact, FunctionReading, Header, Host, IommuKind, IommuUnit,
    ListState, Machine, PciFunction, Reading,
};

impl Reading {
    /// Infers and assumes what was not read. Each value says by its
    /// [`Source`](crate::machine::Source) how it is known.
    pub fn machine(&self) -> Machine {
        let mut names = Names::default();
        let mut known: Vec<Identity> =
            self.functions.iter().map(|reading| Identity::of(reading, &mut names)).collect();
        choose_models(&self.functions, &mut known);
        let known = known;
        let physical = virtual_functions::find(&self.functions, &known);
        let kinds = express::kinds(&self.functions, &known, &physical);
        let prefixes = services::prefix_users(&self.functions);
        let isolating = services::Isolating::find(&self.functions, &known);
        let slots = slots(&self.functions, &physical);
        let undescribed = self.undescribed();
        let functions = self.functions.iter().enumerate().map(|(index, reading)| {
            let known = &known[index];
            let express = kinds[index];
            let (acs, ats, pri, pasid) = services::of(reading, known, express, &isolating);
            PciFunction {
                bdf: reading.bdf,
                ids: known.ids,
                subsystem: reading.subsystem.map(Fact::read),
                class: known.class,
                name: reading.name.clone().or_else(|| name_of(reading.ids?)),
                header: known.header.clone(),
                multifunction: multifunction(
                    reading,
                    physical[index].is_some(),
                    slots.get(&reading.bdf.slot()).copied().unwrap_or_default(),
                ),
                express: services::express(reading, express, &prefixes),
                acs,
                ats,
                pri,
                pasid,
                physical_function: physical[index],
                bars: reading
                    .bars
                    .iter()
                    .map(|bar| Bar {
                        index: bar.index,
                        address: bar.address.0,
                        size: bar.size.map(|size| size.0),
                    })
                    .collect(),
                driver: reading.driver.clone(),
                kernel_group: if self.lists_groups && !undescribed(index) {
                    Some(reading.kernel_group)
                } else {
                    reading.kernel_group.map(Some)
                },
            }
        });
        let mut machine = Machine::new(functions.collect(), self.host(&known));
        if self.truncated
            && let Some(last) = self.functions.last()
        {
            machine.note(Anomaly::Truncated(last.bdf));
        }
        let lost = |(reading, known): &(&FunctionReading, &Identity)| {
            reading.buses.is_none() && !matches!(known.header.value, Header::Endpoint)
        };
        let lost: Vec<Bdf> = self
            .functions
            .iter()
            .zip(&known)
            .filter(lost)
            .map(|(reading, _)| reading.bdf)
            .collect();
        lost.into_iter().for_each(|bridge| machine.note(Anomaly::NoBuses(bridge)));
        machine
    }

    /// Which functions, by index, have no description that could have named a group: where others
    /// are described, those that are only named; and the one in which the text ends.
    fn undescribed(&self) -> impl Fn(usize) -> bool {
        let named = |function: &FunctionReading| function.capabilities == ListState::NotPrinted;
        let described = self.functions.iter().any(|function| !named(function));
        let cut = if self.truncated { self.functions.len().checked_sub(1) } else { None };
        move |index| cut == Some(index) || described && self.functions.get(index).is_some_and(named)
    }

    /// Kernel and IOMMUs; AMD's are PCI functions and known from these alone.
    fn host(&self, known: &[Identity]) -> Host {
        let host = &self.host;
        let mut iommus: Vec<IommuUnit> = host.iommus.iter().map(iommu::decode).collect();
        for (reading, known) in self.functions.iter().zip(known) {
            let iommu = known.class.is_some_and(|class| class.value.code() == Class::IOMMU);
            if iommu && !iommus.iter().any(|unit| unit.function == Some(reading.bdf)) {
                let (name, kind) = match known.ids {
                    Some(ids) if ids.value.vendor == 0x1af4 => ("virtio-iommu", IommuKind::Virtio),
                    Some(ids) if ids.value.vendor == 0x1022 => ("AMD-Vi", IommuKind::AmdVi),
                    _ => ("IOMMU", IommuKind::Other),
                };
                iommus.push(IommuUnit {
                    name: format!("{name} {}", reading.bdf),
                    kind,
                    function: Some(reading.bdf),
                    devices: None,
                    pasid_width: None,
                    page_requests: None,
                    device_tlb: None,
                    first_stage: None,
                });
            }
        }
        let grouped = self.functions.iter().any(|function| function.kernel_group.is_some());
        let iommu_in_use = match host.iommu_in_use {
            Some(said) => Some(Fact::read(said)),
            // Groups exist only where an IOMMU is in use.
            None if grouped => Some(Fact::inferred(true, Basis::KernelGroups)),
            None => None,
        };
        Host {
            kernel: host.kernel.clone(),
            architecture: host.architecture.clone(),
            options: host.options.clone(),
            iommu_in_use,
            iommu_described: host.iommu_described.map(Fact::read),
            iommus,
        }
    }
}

/// How many functions that enumeration finds each slot has; virtual ones are not found by it.
fn slots(functions: &[FunctionReading], physical: &[Option<Fact<Bdf>>]) -> HashMap<Bdf, u32> {
    let mut slots = HashMap::new();
    for (function, _) in functions.iter().zip(physical).filter(|(_, physical)| physical.is_none()) {
        *slots.entry(function.bdf.slot()).or_default() += 1;
    }
    slots
}

/// As Linux takes it: the header's bit in function 0, true in those that were found beside it, the
/// header's bit (clear) in virtual functions.
fn multifunction(reading: &FunctionReading, is_virtual: bool, siblings: u32) -> Fact<bool> {
    match reading.multifunction {
        Some(bit) if is_virtual || reading.bdf.function() == 0 => Fact::read(bit),
        None if is_virtual => Fact::inferred(false, Basis::VirtualFunction),
        _ if reading.bdf.function() > 0 => Fact::inferred(true, Basis::FunctionNumber),
        _ if siblings > 1 => Fact::inferred(true, Basis::Siblings),
        _ => Fact::assumed(false, Basis::NoSiblings),
    }
}
