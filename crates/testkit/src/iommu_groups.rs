//! A slow reference of the IOMMU groups of PCI functions. It takes the functions in the order in
//! which Linux finds them, and scans the whole list for each decision. Its only state is the group
//! of each function. Property tests compare a fast grouping with it.
//!
//! The answers of Linux' tables for a function (a quirk, aliases) are part of the input: the
//! reference is for the rules, not for the tables.

mod linux;
mod rework;

/// One PCI function. Indexes are places in the list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// PCI segment.
    pub segment: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number (bits 7..3) and function number (bits 2..0).
    pub devfn: u8,
    /// First and last bus below, if it is a bridge.
    pub buses_below: Option<(u8, u8)>,
    /// Its type in the PCI Express capability; none in conventional PCI.
    pub kind: Option<Kind>,
    /// Whether its device has several functions.
    pub multifunction: bool,
    /// ACS capability and control register.
    pub acs: Option<(u16, u16)>,
    /// Services that a quirk of its model gives, whatever the registers say; a quirk may give
    /// none.
    pub quirk: Option<u16>,
    /// Numbers of its bus that its requests may carry beside its own.
    pub aliases: Vec<u8>,
    /// The function that issues its requests (VMD).
    pub issuer: Option<usize>,
    /// The physical function of a virtual one.
    pub physical: Option<usize>,
    /// A PCIe-to-PCI bridge that shows no PCI Express capability.
    pub disguised: bool,
    /// It has memory that others could reach.
    pub memory: bool,
    /// An IOMMU translates its requests.
    pub translated: bool,
}

/// Types of the PCI Express capability, as far as the rules tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Endpoint or legacy endpoint.
    Endpoint,
    /// Root port.
    Root,
    /// Upstream port.
    Upstream,
    /// Downstream port.
    Downstream,
    /// PCIe-to-PCI bridge.
    ToPci,
    /// PCI-to-PCIe bridge.
    FromPci,
    /// Integrated endpoint.
    Integrated,
    /// Event collector.
    EventCollector,
}

/// Which rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Linux.
    Linux,
    /// The proposed rework.
    ReachableSet,
    /// Linux with ports and multifunction devices without ACS declared isolated.
    Override,
}

/// SV, RR, CR and UF in the registers.
pub const ISOLATION: u16 = 0b1_1101;

/// The group of each function, as a number that only says who is together.
pub fn groups(functions: &[Function], rules: Rules) -> Vec<Option<usize>> {
    let mut world =
        World { all: functions, rules, of: vec![None; functions.len()], spreads: Vec::new() };
    for function in world.enumeration() {
        if !functions[function].translated {
            continue;
        }
        let (found, spreads) = match rules {
            Rules::ReachableSet => world.rework(function),
            Rules::Linux | Rules::Override => (world.linux(function), false),
        };
        let group = found.unwrap_or(world.spreads.len());
        if found.is_none() {
            world.spreads.push(false);
        }
        world.spreads[group] |= spreads;
        world.of[function] = Some(group);
    }
    world.of
}

struct World<'a> {
    all: &'a [Function],
    rules: Rules,
    of: Vec<Option<usize>>,
    spreads: Vec<bool>,
}

/// What is on the other side of a bus.
enum Above {
    Root,
    Bridge(usize),
    /// An SR-IOV bus without a bridge; the bus that it hangs from.
    Virtual(u8),
}

impl World<'_> {
    /// Buses depth first, a bus's functions before what is below its bridges; virtual functions
    /// after all others.
    fn enumeration(&self) -> Vec<usize> {
        let mut order = Vec::new();
        let mut roots: Vec<(u32, u8)> = self.all.iter().map(|it| (it.segment, it.bus)).collect();
        roots.sort_unstable();
        roots.dedup();
        for (segment, bus) in roots {
            if matches!(self.above(segment, bus), Above::Root) {
                self.scan(segment, bus, &mut order);
            }
        }
        let mut rest: Vec<usize> = (0..self.all.len()).filter(|it| !order.contains(it)).collect();
        rest.sort_by_key(|it| (self.all[*it].segment, self.all[*it].bus, self.all[*it].devfn));
        order.extend(rest);
        order
    }

    fn scan(&self, segment: u32, bus: u8, order: &mut Vec<usize>) {
        let here = self.on_bus(segment, bus);
        order.extend(here.iter().copied().filter(|it| self.all[*it].physical.is_none()));
        for bridge in here {
            if let Some((below, _)) = self.all[bridge].buses_below {
                self.scan(segment, below, order);
            }
        }
    }

    fn on_bus(&self, segment: u32, bus: u8) -> Vec<usize> {
        let mut here: Vec<usize> = (0..self.all.len())
            .filter(|it| self.all[*it].segment == segment && self.all[*it].bus == bus)
            .collect();
        here.sort_by_key(|it| self.all[*it].devfn);
        here
    }

    fn above(&self, segment: u32, bus: u8) -> Above {
        let bridges = || (0..self.all.len()).filter(move |it| self.all[*it].segment == segment);
        if let Some(bridge) =
            bridges().find(|it| self.all[*it].buses_below.is_some_and(|(first, _)| first == bus))
        {
            return Above::Bridge(bridge);
        }
        let holds = |it: &usize| {
            self.all[*it].buses_below.filter(|(first, last)| *first < bus && bus <= *last)
        };
        match bridges().filter_map(|it| holds(&it)).max() {
            Some((innermost, _)) => Above::Virtual(innermost),
            None => Above::Root,
        }
    }

    /// The bridges from a function to its root bus, the nearest first.
    fn way_up(&self, function: usize) -> Vec<usize> {
        let (segment, mut bus) = (self.all[function].segment, self.all[function].bus);
        let mut way = Vec::new();
        loop {
            match self.above(segment, bus) {
                Above::Root => return way,
                Above::Virtual(parent) => bus = parent,
                Above::Bridge(bridge) => {
                    way.push(bridge);
                    bus = self.all[bridge].bus;
                }
            }
        }
    }

    fn isolates(&self, function: usize) -> bool {
        let it = &self.all[function];
        let ports = matches!(it.kind, Some(Kind::Root | Kind::Downstream));
        let inner = matches!(it.kind, Some(Kind::Endpoint | Kind::Upstream | Kind::Integrated));
        if self.rules == Rules::Override && it.acs.is_none() && (ports || inner && it.multifunction)
        {
            return true;
        }
        // The override comes before the quirks that deny anything.
        if let Some(given) = it.quirk {
            return ISOLATION & !given == 0;
        }
        if inner && !it.multifunction {
            return true;
        }
        (ports || inner)
            && it.acs.is_some_and(|(implemented, enabled)| ISOLATION & implemented & !enabled == 0)
    }

    fn way_isolates(&self, bridge: usize) -> bool {
        self.isolates(bridge) && self.way_up(bridge).into_iter().all(|it| self.isolates(it))
    }

    fn takes_requests(&self, bridge: usize) -> bool {
        matches!(self.all[bridge].kind, None | Some(Kind::ToPci | Kind::FromPci))
    }

    fn same_bus(&self, a: usize, b: usize) -> bool {
        (self.all[a].segment, self.all[a].bus) == (self.all[b].segment, self.all[b].bus)
    }

    fn same_device(&self, a: usize, b: usize) -> bool {
        a != b && self.same_bus(a, b) && self.all[a].devfn >> 3 == self.all[b].devfn >> 3
    }

    fn share_ids(&self, a: usize, b: usize) -> bool {
        let (fa, fb) = (&self.all[a], &self.all[b]);
        a != b
            && self.same_bus(a, b)
            && (fa.aliases.contains(&fb.devfn) || fb.aliases.contains(&fa.devfn))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn function(bus: u8, devfn: u8, kind: Kind) -> Function {
        Function {
            segment: 0,
            bus,
            devfn,
            buses_below: None,
            kind: Some(kind),
            multifunction: false,
            acs: None,
            quirk: None,
            aliases: Vec::new(),
            issuer: None,
            physical: None,
            disguised: false,
            memory: false,
            translated: true,
        }
    }

    fn switch(ports: [Option<(u16, u16)>; 2]) -> Vec<Function> {
        let port = |devfn, acs, below| Function {
            acs,
            buses_below: Some((below, below)),
            ..function(2, devfn, Kind::Downstream)
        };
        let root = Function {
            acs: Some((ISOLATION, ISOLATION)),
            buses_below: Some((1, 4)),
            ..function(0, 8, Kind::Root)
        };
        let upstream = Function { buses_below: Some((2, 4)), ..function(1, 0, Kind::Upstream) };
        let ends = [function(3, 0, Kind::Endpoint), function(4, 0, Kind::Endpoint)];
        [root, upstream, port(0, ports[0], 3), port(8, ports[1], 4)]
            .into_iter()
            .chain(ends)
            .collect()
    }

    // shows G1
    #[test]
    fn linux_joins_what_is_below_an_open_port_and_the_rework_joins_its_siblings_too() {
        let good = Some((ISOLATION, ISOLATION));
        let off = Some((ISOLATION, 0));
        let of = |ports, rules| groups(&switch(ports), rules);
        assert_eq!(of([good, good], Rules::Linux), [0, 1, 2, 3, 4, 5].map(Some));
        assert_eq!(of([good, off], Rules::Linux), [0, 1, 2, 3, 4, 3].map(Some));
        assert_eq!(of([good, off], Rules::ReachableSet), [0, 1, 2, 2, 2, 2].map(Some));
        assert_eq!(of([good, None], Rules::ReachableSet), [0, 1, 1, 1, 1, 1].map(Some));
        assert_eq!(of([good, None], Rules::Override), [0, 1, 2, 3, 4, 5].map(Some));
    }
}
