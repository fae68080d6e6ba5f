//! What a function is, as far as its own description tells: numbers, class, header.

use std::collections::HashMap;

use sva_core::Bdf;

use super::names::{NameMatch, Names};
use crate::machine::{Basis, Bridge, Class, Fact, FunctionReading, Header, HeaderReading, Ids};

/// What a function is, as far as its own description tells.
pub(super) struct Identity {
    pub(super) ids: Option<Fact<Ids>>,
    pub(super) class: Option<Fact<Class>>,
    pub(super) header: Fact<Header>,
    pub(super) name: String,
    /// The models that have its name, where there are several; `ids` is one of them.
    pub(super) models: Vec<Ids>,
}

impl Identity {
    pub(super) fn of(reading: &FunctionReading, names: &mut Names) -> Self {
        let class = match (reading.class, &reading.class_name) {
            (Some(class), _) => Some(Fact::read(class)),
            (None, Some(name)) => names.class(name).map(|class| Fact::inferred(class, Basis::Name)),
            (None, None) => None,
        };
        let name = reading.name.clone().unwrap_or_default();
        let named = if reading.ids.is_some() { None } else { names.ids(&name) };
        let (ids, models) = match named {
            None => (reading.ids.map(Fact::read), Vec::new()),
            Some(NameMatch::Device(ids)) => (Some(Fact::inferred(ids, Basis::Name)), Vec::new()),
            Some(NameMatch::Devices(models)) => {
                (models.first().map(|first| Fact::assumed(*first, Basis::VendorName)), models)
            }
            Some(NameMatch::Vendor(vendor)) => (
                Some(Fact::assumed(Ids { vendor, device: Ids::UNKNOWN }, Basis::VendorName)),
                Vec::new(),
            ),
            Some(NameMatch::AmbiguousVendor(vendor)) => {
                (Some(Fact::assumed(Ids { vendor, device: Ids::UNKNOWN }, Basis::Name)), Vec::new())
            }
        };
        Self { ids, class, header: header(reading, class), name, models }
    }

    /// Base class and subclass.
    pub(super) fn code(&self) -> Option<u16> {
        self.class.map(|class| class.value.code())
    }

    pub(super) fn has_buses_below(&self) -> bool {
        !matches!(self.header.value, Header::Endpoint)
    }
}

/// Where several models have a function's name: the one whose number is nearest to that of another
/// function of the same device, or else the first. The functions of a chipset's device are numbered
/// in a row, so of two generations that share a name this finds the one that the machine has.
pub(super) fn choose_models(functions: &[FunctionReading], known: &mut [Identity]) {
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
