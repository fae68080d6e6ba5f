//! From what was read to a [`Machine`]: what can be inferred, and what is best assumed, with the
//! reason for each.
//!
//! Order matters: numbers and classes first, then bridges, then virtual functions, then what each
//! function is in PCI Express (which follows from the bridges above it, so functions are taken bus
//! by bus from the top), then capabilities. Where text cannot decide, the likeliest value is taken
//! and marked [`Source::Assumed`](super::Source::Assumed); a person then sees on which guess an
//! answer rests.

mod express;
mod services;
mod virtual_functions;

use std::collections::HashMap;

use sva_core::Bdf;

use super::{
    Bar, Basis, Bridge, Class, Fact, FunctionReading, Header, HeaderReading, Host, Ids, IommuKind,
    IommuUnit, ListState, Machine, Oddity, PciFunction, Reading,
};
use crate::read::{Named, Names, decode_iommu, name_of};

impl Reading {
    /// Infers and assumes what was not read. See [`Source`](super::Source) for how the values are
    /// marked.
    pub fn machine(&self) -> Machine {
        let mut names = Names::default();
        let mut known: Vec<Known> =
            self.functions.iter().map(|reading| Known::of(reading, &mut names)).collect();
        choose_models(&self.functions, &mut known);
        let known = known;
        let physical = virtual_functions::find(&self.functions, &known);
        let kinds = express::kinds(&self.functions, &known, &physical);
        let prefixes = services::prefix_users(&self.functions);
        let isolating = services::Isolating::find(&self.functions, &known);
        let slots = slots(&self.functions, &physical);
        let silent = self.silent();
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
                kernel_group: if self.lists_groups && !silent(index) {
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
            machine.note(Oddity::Truncated(last.bdf));
        }
        let lost = |(reading, known): &(&FunctionReading, &Known)| {
            reading.buses.is_none() && !matches!(known.header.value, Header::Endpoint)
        };
        let lost: Vec<Bdf> = self
            .functions
            .iter()
            .zip(&known)
            .filter(lost)
            .map(|(reading, _)| reading.bdf)
            .collect();
        lost.into_iter().for_each(|bridge| machine.note(Oddity::NoBuses(bridge)));
        machine
    }

    /// Which functions, by index, have no description that could have named a group: where others
    /// are described, those that are only named; and the one in which the text ends.
    fn silent(&self) -> impl Fn(usize) -> bool {
        let named = |function: &FunctionReading| function.capabilities == ListState::NotPrinted;
        let described = self.functions.iter().any(|function| !named(function));
        let cut = if self.truncated { self.functions.len().checked_sub(1) } else { None };
        move |index| cut == Some(index) || described && self.functions.get(index).is_some_and(named)
    }

    /// Kernel and IOMMUs; AMD's are PCI functions and known from these alone.
    fn host(&self, known: &[Known]) -> Host {
        let host = &self.host;
        let mut iommus: Vec<IommuUnit> = host.iommus.iter().map(decode_iommu).collect();
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

/// What a function is, as far as its own description tells.
struct Known {
    ids: Option<Fact<Ids>>,
    class: Option<Fact<Class>>,
    header: Fact<Header>,
    name: String,
    /// The models that have its name, where there are several; `ids` is one of them.
    models: Vec<Ids>,
}

impl Known {
    fn of(reading: &FunctionReading, names: &mut Names) -> Self {
        let class = match (reading.class, &reading.class_name) {
            (Some(class), _) => Some(Fact::read(class)),
            (None, Some(name)) => names.class(name).map(|class| Fact::inferred(class, Basis::Name)),
            (None, None) => None,
        };
        let name = reading.name.clone().unwrap_or_default();
        let named = if reading.ids.is_some() { None } else { names.ids(&name) };
        let (ids, models) = match named {
            None => (reading.ids.map(Fact::read), Vec::new()),
            Some(Named::One(ids)) => (Some(Fact::inferred(ids, Basis::Name)), Vec::new()),
            Some(Named::Several(models)) => {
                (models.first().map(|first| Fact::assumed(*first, Basis::VendorName)), models)
            }
            Some(Named::Vendor(vendor)) => (
                Some(Fact::assumed(Ids { vendor, device: Ids::UNKNOWN }, Basis::VendorName)),
                Vec::new(),
            ),
            Some(Named::SomeVendor(vendor)) => {
                (Some(Fact::assumed(Ids { vendor, device: Ids::UNKNOWN }, Basis::Name)), Vec::new())
            }
        };
        Self { ids, class, header: header(reading, class), name, models }
    }

    /// Base class and subclass.
    fn code(&self) -> Option<u16> {
        self.class.map(|class| class.value.code())
    }

    fn has_buses_below(&self) -> bool {
        !matches!(self.header.value, Header::Endpoint)
    }
}

/// Where several models have a function's name: the one whose number is nearest to that of another
/// function of the same device, or else the first. The functions of a chipset's device are numbered
/// in a row, so of two generations that share a name this finds the one that the machine has.
fn choose_models(functions: &[FunctionReading], known: &mut [Known]) {
    let mut sure: HashMap<Bdf, Vec<Ids>> = HashMap::new();
    for (function, known) in functions.iter().zip(known.iter()) {
        let ids = known
            .ids
            .map(|ids| ids.value)
            .filter(|ids| known.models.is_empty() && ids.device != Ids::UNKNOWN);
        sure.entry(function.bdf.slot()).or_default().extend(ids);
    }
    for (function, known) in functions.iter().zip(known) {
        let beside = sure.get(&function.bdf.slot()).map(Vec::as_slice).unwrap_or_default();
        let distance = |model: &&Ids| {
            let siblings = beside.iter().filter(|ids| ids.vendor == model.vendor);
            siblings.map(|ids| ids.device.abs_diff(model.device)).min().unwrap_or(u16::MAX)
        };
        if let Some(nearest) = known.models.iter().min_by_key(distance) {
            known.ids = Some(Fact::assumed(*nearest, Basis::VendorName));
        }
    }
}

fn header(reading: &FunctionReading, class: Option<Fact<Class>>) -> Fact<Header> {
    let bridge = || Bridge {
        secondary: reading.buses.map_or(0, |buses| buses.secondary),
        subordinate: reading.buses.map_or(0, |buses| buses.subordinate),
        windows: reading.windows.clone(),
    };
    match (reading.header, class.map(|class| class.value.code())) {
        (Some(HeaderReading::Endpoint), _) => Fact::read(Header::Endpoint),
        (Some(HeaderReading::Bridge), _) => Fact::read(Header::Bridge(bridge())),
        (Some(HeaderReading::CardBus), _) => Fact::read(Header::CardBus(bridge())),
        // 0609 is a semi-transparent bridge.
        (None, Some(Class::PCI_BRIDGE | 0x0609)) => {
            Fact::inferred(Header::Bridge(bridge()), Basis::Class)
        }
        (None, Some(0x0607)) => Fact::inferred(Header::CardBus(bridge()), Basis::Class),
        (None, Some(_)) => Fact::inferred(Header::Endpoint, Basis::Class),
        (None, None) => Fact::assumed(Header::Endpoint, Basis::NotPrinted),
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

/// What an absent capability is known by: the list it would be in.
fn absent<T>(list: ListState) -> Fact<Option<T>> {
    match list {
        ListState::Complete => Fact::inferred(None, Basis::CompleteList),
        ListState::Hidden => Fact::assumed(None, Basis::CapabilitiesHidden),
        ListState::NotPrinted => Fact::assumed(None, Basis::NotPrinted),
        ListState::Truncated => Fact::assumed(None, Basis::Truncated),
    }
}

/// Why a list does not show what it would have.
fn gap(list: ListState) -> Basis {
    match list {
        ListState::Complete => Basis::CompleteList,
        ListState::Hidden => Basis::CapabilitiesHidden,
        ListState::NotPrinted => Basis::NotPrinted,
        ListState::Truncated => Basis::Truncated,
    }
}
