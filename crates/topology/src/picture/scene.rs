//! What is drawn: the hierarchy, with what a reader wants to know of each function.

use std::collections::HashMap;
use std::fmt;

use sva_core::Bdf;

use crate::acs::AcsBits;
use crate::groups::{AcsRule, Grouping, acs_verdict};
use crate::machine::{Bus, Class, ExpressKind, Header, Machine, PciFunction, Source};

/// Characters of a foreign name that are kept.
const NAME: usize = 120;

/// The whole picture.
pub(super) struct Scene {
    /// The root buses, each with what is on it.
    pub(super) roots: Vec<Root>,
    /// All functions, in the order in which a reader of the tree meets them.
    pub(super) nodes: Vec<Node>,
    /// How many groups there are.
    pub(super) groups: usize,
}

/// A root bus.
pub(super) struct Root {
    /// Such as `0000:00`.
    pub(super) name: String,
    /// The functions on it: indexes into [`Scene::nodes`].
    pub(super) children: Vec<usize>,
}

/// One function.
pub(super) struct Node {
    /// Index into [`Machine::functions`].
    pub(super) function: usize,
    pub(super) bdf: Bdf,
    /// Its address, without the segment where all functions are in segment 0.
    pub(super) address: String,
    pub(super) group: Option<u32>,
    /// Such as `root port`.
    pub(super) kind: String,
    /// What a person calls it, harmless to a terminal, at most [`NAME`] characters; its numbers
    /// where it has no name.
    pub(super) name: String,
    /// The same with the vendor's name in short.
    pub(super) short: String,
    /// Vendor and device, such as `8086:1901`.
    pub(super) ids: Option<String>,
    /// Of ports, and of functions that have ACS or are asked for it.
    pub(super) indicators: Option<[AcsIndicator; 4]>,
    /// Such as `PASID 20`, `ATS`, `PRI`.
    pub(super) badges: Vec<String>,
    /// The functions below: indexes into [`Scene::nodes`].
    pub(super) children: Vec<usize>,
}

/// One ACS service of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AcsIndicator {
    /// `SV`, `RR`, `CR` or `UF`.
    pub(super) name: &'static str,
    pub(super) state: AcsState,
    /// Whether that rests on an assumption.
    pub(super) assumed: bool,
}

/// What is known of an ACS service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcsState {
    /// Enabled.
    On,
    /// Implemented, not enabled; or withheld by a quirk.
    Off,
    /// Not implemented, in a capability that is there: counts as given.
    NotImplemented,
    /// There is no capability.
    None,
    /// Given by a quirk.
    Quirk,
}

impl AcsState {
    pub(super) const fn sign(self) -> char {
        match self {
            Self::On => '+',
            Self::Off => '-',
            Self::NotImplemented => '.',
            Self::None => ' ',
            Self::Quirk => '*',
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::On => "enabled",
            Self::Off => "off",
            Self::NotImplemented => "not implemented, counts as given",
            Self::None => "no capability",
            Self::Quirk => "given by a quirk",
        }
    }
}

impl fmt::Display for AcsIndicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let assumed = if self.assumed { " (assumed)" } else { "" };
        write!(f, "{} {}{assumed}", self.name, self.state.words())
    }
}

impl Scene {
    pub(super) fn new(machine: &Machine, grouping: &Grouping) -> Self {
        let short = machine.functions().iter().all(|function| function.bdf.segment() == 0);
        let mut scene =
            Self { roots: Vec::new(), nodes: Vec::new(), groups: grouping.groups().len() };
        let draw = Draw { machine, grouping, short, virtual_buses: virtual_buses(machine) };
        for bus in machine.buses().iter().filter(|bus| bus.parent.is_none()) {
            let children = draw.bus(bus, &mut scene.nodes);
            let (segment, number) = bus.number;
            scene.roots.push(Root { name: format!("{segment:04x}:{number:02x}"), children });
        }
        scene
    }
}

struct Draw<'a> {
    machine: &'a Machine,
    grouping: &'a Grouping,
    short: bool,
    /// By number, the buses without a bridge of their own that hang from a bus.
    virtual_buses: HashMap<(u32, u8), Vec<&'a Bus>>,
}

fn virtual_buses(machine: &Machine) -> HashMap<(u32, u8), Vec<&Bus>> {
    let mut buses: HashMap<_, Vec<&Bus>> = HashMap::new();
    for bus in machine.buses().iter().filter(|bus| bus.bridge.is_none()) {
        if let Some(parent) = machine.parent_of(bus) {
            buses.entry(parent.number).or_default().push(bus);
        }
    }
    buses
}

impl Draw<'_> {
    /// Adds what is on `bus`, and on the buses of SR-IOV that hang from it; no deeper than there
    /// are bus numbers.
    fn bus(&self, bus: &Bus, nodes: &mut Vec<Node>) -> Vec<usize> {
        let mut children = Vec::new();
        let hanging = self
            .virtual_buses
            .get(&bus.number)
            .into_iter()
            .flatten()
            .flat_map(|bus| &bus.functions);
        for &function in bus.functions.iter().chain(hanging) {
            let at = nodes.len();
            nodes.push(self.node(function));
            children.push(at);
            if let Some(below) = self.machine.below(function) {
                let below = self.bus(below, nodes);
                nodes[at].children = below;
            }
        }
        children
    }

    fn node(&self, function: usize) -> Node {
        let it = &self.machine.functions()[function];
        let address = it.bdf.to_string();
        let ids = it.ids.map(|ids| format!("{:04x}:{:04x}", ids.value.vendor, ids.value.device));
        let name = it.name.as_deref().map(harmless).filter(|name| !name.is_empty());
        let name = name.or_else(|| ids.clone()).unwrap_or_else(|| "unknown".to_owned());
        Node {
            function,
            bdf: it.bdf,
            address: if self.short {
                address.get(5..).unwrap_or(&address).to_owned()
            } else {
                address.clone()
            },
            group: self.grouping.of(function),
            kind: kind(it),
            short: without_legal_forms(&name),
            name,
            ids,
            indicators: self.indicators(function),
            badges: badges(it),
            children: Vec::new(),
        }
    }

    /// The ACS indicators: of all ports, and of other functions that have the capability.
    fn indicators(&self, function: usize) -> Option<[AcsIndicator; 4]> {
        let it = &self.machine.functions()[function];
        let port = it.express.value.is_some_and(|express| {
            matches!(express.kind, ExpressKind::RootPort | ExpressKind::Downstream)
        });
        if !port && it.acs.value.is_none() {
            return None;
        }
        Some(
            [("SV", AcsBits::SV), ("RR", AcsBits::RR), ("CR", AcsBits::CR), ("UF", AcsBits::UF)]
                .map(|(name, bit)| {
                    let verdict = acs_verdict(self.machine, function, bit, self.grouping.policy());
                    let state = match verdict.rule {
                        AcsRule::Quirk { .. } if verdict.given => AcsState::Quirk,
                        AcsRule::Quirk { .. } => AcsState::Off,
                        _ => by_capability(it, bit),
                    };
                    AcsIndicator {
                        name,
                        state,
                        assumed: matches!(it.acs.source.weaker(acs_source(it)), Source::Assumed(_)),
                    }
                }),
        )
    }
}

fn by_capability(it: &PciFunction, bit: AcsBits) -> AcsState {
    match it.acs.value {
        None => AcsState::None,
        Some(acs) if !acs.implemented.value.contains(bit) => AcsState::NotImplemented,
        Some(acs) if acs.enabled.value.contains(bit) => AcsState::On,
        Some(_) => AcsState::Off,
    }
}

fn acs_source(it: &PciFunction) -> Source {
    it.acs.value.map_or(Source::Read, |acs| acs.implemented.source.weaker(acs.enabled.source))
}

fn kind(it: &PciFunction) -> String {
    let express = it.express.value.map(|express| express.kind.name());
    match (&it.header.value, express, it.class.map(|class| class.value.code())) {
        (Header::CardBus(_), ..) => "CardBus bridge".to_owned(),
        (Header::Bridge(_), Some(express), _) => express.to_owned(),
        (Header::Bridge(_), None, _) => "PCI bridge".to_owned(),
        (Header::Endpoint, _, Some(Class::HOST_BRIDGE)) => "host bridge".to_owned(),
        (Header::Endpoint, _, Some(Class::IOMMU)) => "IOMMU".to_owned(),
        (Header::Endpoint, _, _) if it.physical_function.is_some() => "virtual function".to_owned(),
        (Header::Endpoint, express, _) => express.unwrap_or("PCI device").to_owned(),
    }
}

fn badges(it: &PciFunction) -> Vec<String> {
    let mut badges = Vec::new();
    if let Some(pasid) = it.pasid.value {
        let width = pasid.width.value;
        badges.push(if width == 0 { "PASID".to_owned() } else { format!("PASID {width}") });
    }
    badges.extend(it.ats.value.map(|_| "ATS".to_owned()));
    badges.extend(it.pri.value.map(|_| "PRI".to_owned()));
    badges
}

/// A name without what companies add to theirs, which leaves more room for the device.
fn without_legal_forms(name: &str) -> String {
    const LONG: [(&str, &str); 12] = [
        ("Advanced Micro Devices, Inc. [AMD/ATI]", "AMD"),
        ("Advanced Micro Devices, Inc. [AMD]", "AMD"),
        (" Semiconductor Co., Ltd.", ""),
        (" Electronics Co Ltd", ""),
        (" Electronics Corporation", ""),
        (" Corporation", ""),
        (" Technology Inc.", ""),
        (" Technologies Inc", ""),
        (" Co., Ltd.", ""),
        (", Inc.", ""),
        (" Inc.", ""),
        (" Ltd.", ""),
    ];
    let short =
        LONG.iter().fold(name.to_owned(), |name, (long, short)| name.replacen(long, short, 1));
    if short.trim().is_empty() { name.to_owned() } else { short }
}

/// One line of at most [`NAME`] characters without anything that a terminal would obey or that
/// turns the direction of writing.
fn harmless(text: &str) -> String {
    let plain = |c: char| {
        !matches!(
            c,
            '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{61c}'
        ) && !c.is_control()
    };
    let kept: String =
        text.chars().map(|c| if plain(c) { c } else { '\u{fffd}' }).take(NAME + 1).collect();
    let words: Vec<&str> = kept.split_whitespace().collect();
    shortened(&words.join(" "), NAME)
}

/// At most `most` characters; an ellipsis where something was cut.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.truncate(cut.trim_end().len());
    cut.push('…');
    cut
}
