//! Small machines built in code, function by function.
#![allow(dead_code, reason = "each test file uses its part")]

use sva_core::Bdf;
use sva_topology::AcsBits;
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    AcsCapability, Bar, Basis, Bridge, Class, Express, ExpressKind, Fact, Header, Host, Ids,
    Machine, PciFunction,
};

/// SV, RR, CR and UF.
pub(crate) const ALL: AcsBits = AcsBits::ISOLATION;

/// One function under construction; a conventional endpoint by a vendor that no table knows, unless
/// told otherwise.
pub(crate) struct F(pub(crate) PciFunction);

pub(crate) fn at(bdf: &str) -> Bdf {
    bdf.parse().expect("an address in a test")
}

/// A conventional function.
pub(crate) fn pci(bdf: &str) -> F {
    let bdf = at(bdf);
    F(PciFunction {
        ids: Some(Fact::read(Ids { vendor: 0x1af4, device: 0x0001 })),
        class: Some(Fact::read(Class(0xff_0000))),
        multifunction: if bdf.function() > 0 {
            Fact::inferred(true, Basis::FunctionNumber)
        } else {
            Fact::read(false)
        },
        ..PciFunction::new(bdf)
    })
}

/// A PCI Express function.
pub(crate) fn pcie(bdf: &str, kind: ExpressKind) -> F {
    let mut it = pci(bdf);
    it.0.express = Fact::read(Some(Express { kind, end_to_end_prefix: Fact::read(false) }));
    it
}

pub(crate) fn endpoint(bdf: &str) -> F {
    pcie(bdf, ExpressKind::Endpoint)
}

/// A root port with the buses `first..=last` below.
pub(crate) fn root(bdf: &str, first: u8, last: u8) -> F {
    pcie(bdf, ExpressKind::RootPort).below(first, last)
}

pub(crate) fn upstream(bdf: &str, first: u8, last: u8) -> F {
    pcie(bdf, ExpressKind::Upstream).below(first, last)
}

pub(crate) fn downstream(bdf: &str, first: u8, last: u8) -> F {
    pcie(bdf, ExpressKind::Downstream).below(first, last)
}

pub(crate) fn to_pci(bdf: &str, first: u8, last: u8) -> F {
    pcie(bdf, ExpressKind::PcieToPci).below(first, last)
}

impl F {
    pub(crate) fn below(mut self, secondary: u8, subordinate: u8) -> Self {
        self.0.header =
            Fact::read(Header::Bridge(Bridge { secondary, subordinate, windows: Vec::new() }));
        self.0.class = Some(Fact::read(Class(0x06_0400)));
        self
    }

    pub(crate) fn ids(mut self, vendor: u16, device: u16) -> Self {
        self.0.ids = Some(Fact::read(Ids { vendor, device }));
        self
    }

    pub(crate) fn subsystem(mut self, vendor: u16, device: u16) -> Self {
        self.0.subsystem = Some(Fact::read(Ids { vendor, device }));
        self
    }

    pub(crate) fn class(mut self, class: u32) -> Self {
        self.0.class = Some(Fact::read(Class(class)));
        self
    }

    pub(crate) fn acs(mut self, implemented: AcsBits, enabled: AcsBits) -> Self {
        let (implemented, enabled) = (Fact::read(implemented), Fact::read(enabled));
        self.0.acs = Fact::read(Some(AcsCapability { implemented, enabled, dwords: None }));
        self
    }

    /// Isolates.
    pub(crate) fn isolating(self) -> Self {
        self.acs(ALL, ALL)
    }

    pub(crate) fn dwords(mut self, dwords: [u32; 2]) -> Self {
        self.0.acs.value.as_mut().expect("a test gives the capability first").dwords = Some(dwords);
        self
    }

    /// Function 0 of a device with several.
    pub(crate) fn multifunction(mut self) -> Self {
        self.0.multifunction = Fact::read(true);
        self
    }

    pub(crate) fn virtual_of(mut self, physical: &str) -> Self {
        self.0.physical_function = Some(Fact::read(at(physical)));
        self.0.multifunction = Fact::inferred(false, Basis::FunctionNumber);
        self
    }

    pub(crate) fn driver(mut self, driver: &str) -> Self {
        self.0.driver = Some(driver.to_owned());
        self
    }

    pub(crate) fn bar(mut self) -> Self {
        self.0.bars.push(Bar { index: 0, address: 0x8000_0000, size: Some(0x1000) });
        self
    }

    /// The kernel's group; `None` for none.
    pub(crate) fn kernel(mut self, group: Option<u32>) -> Self {
        self.0.kernel_group = Some(group);
        self
    }
}

pub(crate) fn machine(functions: impl IntoIterator<Item = F>) -> Machine {
    let machine = Machine::new(functions.into_iter().map(|it| it.0).collect(), Host::default());
    assert!(machine.anomalies().is_empty(), "{:?}", machine.anomalies());
    machine
}

/// The groups, each as its members' addresses in segment 0 without the segment, such as `00:01.0
/// 01:00.0`.
pub(crate) fn groups_by(machine: &Machine, policy: Policy) -> Vec<String> {
    let name = |member: &usize| {
        machine.functions()[*member].bdf.to_string().trim_start_matches("0000:").to_owned()
    };
    let grouping = Grouping::compute(machine, policy);
    let mut groups: Vec<String> = grouping
        .groups()
        .iter()
        .map(|group| group.members.iter().map(name).collect::<Vec<_>>().join(" "))
        .collect();
    groups.sort();
    groups
}

pub(crate) fn groups(machine: &Machine) -> Vec<String> {
    groups_by(machine, Policy::Linux)
}
