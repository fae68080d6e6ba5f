//! The PCI ID database, used both ways: names of numbers for live machines, numbers of names for
//! text without them.
//!
//! Names are compared by their letters and digits alone, in any case: spelling around them has
//! changed over the years, and mail programs wrap them. Where a vendor has several devices of one
//! name, the caller gets all of them: they are mostly steppings of one design, and an answer that
//! is marked as assumed serves a person better than none. Rejected: guessing by similar names; a
//! quirk of one model must not be given to its neighbour.

use std::collections::HashMap;

use ids_rs::{DeviceClassId, DeviceId, PciDatabase, SubClassId, VendorId};

use crate::machine::{Class, Ids, hex_word};

/// Names that the database has since changed, as letters and digits, and the vendor.
const FORMER_VENDORS: [(&str, u16); 14] = [
    ("advancedmicrodevicesamd", 0x1022),
    ("advancedmicrodevicesincamdati", 0x1002),
    ("advancedmicrodevicesneeatitechnologiesinc", 0x1002),
    ("advancedmicrodevicesamdati", 0x1002),
    ("advancedmicrodevicesamdneeati", 0x1002),
    ("atitechnologiesinc", 0x1002),
    ("intelcorp", 0x8086),
    ("broadcomcorporation", 0x14e4),
    ("broadcomlimited", 0x14e4),
    ("atheroscommunicationsinc", 0x168c),
    ("lsilogicsymbioslogic", 0x1000),
    ("plxtechnology", 0x10b5),
    ("hewlettpackardcompany", 0x103c),
    ("caviumnetworks", 0x177d),
];

/// Series whose devices the database has since named otherwise: the vendor, how their names began,
/// and how they begin now, as letters and digits. Those that quirks are for, and those whose
/// capabilities are assumed; a listing made by an old distribution names them so.
const FORMER_SERIES: [(u16, &str, &str); 16] = [
    (0x1002, "sb700sb800", "sb7x0sb8x0sb9x0"),
    (0x8086, "ibexpeak", "5series3400serieschipset"),
    (0x8086, "cougarpoint", "6seriesc200serieschipsetfamily"),
    (0x8086, "patsburg", "c600x79serieschipset"),
    (0x8086, "pantherpoint", "7seriesc216chipsetfamily"),
    (0x8086, "pantherpoint", "7seriesc210serieschipsetfamily"),
    (0x8086, "7seriesc210serieschipsetfamily", "7seriesc216chipsetfamily"),
    (0x8086, "7seriesc216chipsetfamily", "7seriesc210serieschipsetfamily"),
    (0x8086, "lynxpointlp", "8series"),
    (0x8086, "lynxpoint", "8seriesc220serieschipsetfamily"),
    (0x8086, "wellsburg", "c610x99serieschipset"),
    (0x8086, "sunrisepointhpciroot", "100seriesc230serieschipsetfamilypciexpressroot"),
    (0x8086, "sunrisepointh", "100seriesc230serieschipsetfamily"),
    (0x8086, "skylakepciecontroller", "6th10thgencoreprocessorpciecontroller"),
    (
        0x8086,
        "xeone31200v5e31500v56thgencoreprocessorpciecontroller",
        "6th10thgencoreprocessorpciecontroller",
    ),
    (0x8086, "6th9thgencoreprocessorpciecontroller", "6th10thgencoreprocessorpciecontroller"),
];

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameMatch {
    /// One model has this name.
    Device(Ids),
    /// Several of this vendor's models have it, in ascending order.
    Devices(Vec<Ids>),
    /// The vendor is known, the model is not.
    Vendor(u16),
    /// The model is not known, and this is one of several vendors that have the name.
    AmbiguousVendor(u16),
}

/// Finds numbers by name. Indexes a vendor when it is first asked for, so that neither many
/// functions nor many vendors cost more than they are.
#[derive(Default)]
pub(crate) struct Names {
    vendors: HashMap<String, Vec<u16>>,
    devices: HashMap<u16, HashMap<String, Vec<u16>>>,
    classes: HashMap<String, u32>,
}

impl Names {
    /// The numbers of `name`: a vendor's name followed by a device's, as `lspci` prints them.
    /// Vendors' names begin alike and some are used twice: one that has a device of the
    /// remaining name is meant, or else the one with the longest name.
    pub(crate) fn ids(&mut self, name: &str) -> Option<NameMatch> {
        let vendors = self.vendors_of(name);
        for (vendor, device) in &vendors {
            match self.device(*vendor, device) {
                NameMatch::Vendor(_) => {}
                found => return Some(found),
            }
        }
        let (vendor, device) = vendors.last()?;
        let namesakes = vendors.iter().filter(|(_, other)| other.len() == device.len()).count();
        Some(if namesakes == 1 {
            NameMatch::Vendor(*vendor)
        } else {
            NameMatch::AmbiguousVendor(*vendor)
        })
    }

    fn device(&mut self, vendor: u16, name: &str) -> NameMatch {
        let number =
            ["Device ", "Unknown device "].into_iter().find_map(|start| name.strip_prefix(start));
        if let Some(device) = number.and_then(|number| hex_word(number.trim())) {
            return NameMatch::Device(Ids { vendor, device });
        }
        let index = self.devices.entry(vendor).or_insert_with(|| index_devices(vendor));
        let name = plain(name);
        let since = |(maker, former, current): &(u16, &str, &str)| {
            let rest = name.strip_prefix(former).filter(|_| *maker == vendor)?;
            index.get(&format!("{current}{rest}"))
        };
        match index.get(&name).or_else(|| FORMER_SERIES.iter().find_map(since)).map(Vec::as_slice) {
            Some([device]) => NameMatch::Device(Ids { vendor, device: *device }),
            Some(devices) if !devices.is_empty() => NameMatch::Devices(
                devices.iter().map(|device| Ids { vendor, device: *device }).collect(),
            ),
            _ => NameMatch::Vendor(vendor),
        }
    }

    /// The class of a name such as `PCI bridge`; an unnamed subclass is written `Class name
    /// [ff00]`, as `lspci` does.
    pub(crate) fn class(&mut self, name: &str) -> Option<Class> {
        if self.classes.is_empty() {
            self.classes = index_classes();
        }
        self.classes.get(&plain(name)).copied().map(Class)
    }

    /// The vendors that `name` may begin with, the shortest name first, and what follows it.
    fn vendors_of<'n>(&mut self, name: &'n str) -> Vec<(u16, &'n str)> {
        if self.vendors.is_empty() {
            self.vendors = index_vendors();
        }
        let ends = name.match_indices(' ').map(|(at, _)| at).chain([name.len()]).take(16);
        let start = |end: usize| {
            Some((self.vendors.get(&plain(name.get(..end)?))?, name.get(end..)?.trim_start()))
        };
        ends.filter_map(start)
            .flat_map(|(vendors, device)| vendors.iter().map(move |vendor| (*vendor, device)))
            .collect()
    }
}

/// What the database calls a model: vendor and device, as far as it knows them.
pub(crate) fn name_of(ids: Ids) -> Option<String> {
    let vendor = PciDatabase::get().find_vendor(VendorId::new(ids.vendor))?;
    let device = vendor.find_device(DeviceId::new(ids.device));
    Some(match device {
        Some(device) => format!("{} {}", vendor.name(), device.name()),
        None => format!("{} Device {:04x}", vendor.name(), ids.device),
    })
}

impl Class {
    /// What the PCI ID database calls it, such as `PCI bridge`; an unnamed subclass is the base
    /// class with the number, as `lspci` prints it.
    pub fn name(self) -> Option<String> {
        let base = PciDatabase::get().find_class(DeviceClassId::new(self.base()))?;
        let sub = base.find_subclass(SubClassId::new(self.code() as u8));
        Some(match sub {
            Some(sub) => sub.name().to_owned(),
            None => format!("{} [{:04x}]", base.name(), self.code()),
        })
    }
}

/// Letters and digits, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn index_vendors() -> HashMap<String, Vec<u16>> {
    let mut index: HashMap<String, Vec<u16>> = HashMap::new();
    for vendor in PciDatabase::get().vendors() {
        index.entry(plain(vendor.name())).or_default().push(vendor.id().value());
    }
    for (name, vendor) in FORMER_VENDORS {
        index.entry(name.to_owned()).or_default().push(vendor);
    }
    index.remove("");
    index
}

fn index_devices(vendor: u16) -> HashMap<String, Vec<u16>> {
    let mut index: HashMap<String, Vec<u16>> = HashMap::new();
    let vendor = PciDatabase::get().find_vendor(VendorId::new(vendor));
    for device in vendor.into_iter().flat_map(|vendor| vendor.devices()) {
        index.entry(plain(device.name())).or_default().push(device.id().value());
    }
    index.values_mut().for_each(|devices| devices.sort_unstable());
    index
}

fn index_classes() -> HashMap<String, u32> {
    let mut index: HashMap<String, u32> = HashMap::new();
    for class in PciDatabase::get().classes() {
        let base = u32::from(class.id().value()) << 16;
        for sub in class.subclasses() {
            index.entry(plain(sub.name())).or_insert(base | u32::from(sub.id().value()) << 8);
        }
        index.entry(plain(class.name())).or_insert(base);
    }
    // Former names; the kernel and old texts still use them.
    for (name, class) in [
        ("usbcontroller", 0x0c_0300),
        ("smbus", 0x0c_0500),
        ("nonvolatilememorycontroller", 0x01_0800),
        ("iommu", 0x08_0600),
    ] {
        index.entry(name.to_owned()).or_insert(class);
    }
    index
}
