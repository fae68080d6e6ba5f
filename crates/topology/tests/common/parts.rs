//! A machine whose accelerator passes every gate of readiness, until a test changes it.
#![allow(dead_code, reason = "each test file uses its part")]

use sva_core::Bdf;
use sva_topology::AcsBits;
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    AcsCapability, Ats, Bridge, Class, Express, ExpressKind, Fact, Header, Host, Ids, IommuKind,
    IommuUnit, Machine, Pasid, PciFunction, Pri,
};
use sva_topology::ready::{Readiness, readiness};

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().expect("an address")
}

/// An Express function with nothing but its type, all of it read.
pub(crate) fn function(at: &str, kind: ExpressKind) -> PciFunction {
    PciFunction {
        ids: Some(Fact::read(Ids { vendor: 0x1234, device: 0x5678 })),
        class: Some(Fact::read(Class(0x0b_40_00))),
        multifunction: Fact::read(false),
        express: Fact::read(Some(Express { kind, end_to_end_prefix: Fact::read(true) })),
        ..PciFunction::new(bdf(at))
    }
}

pub(crate) fn port(at: &str, kind: ExpressKind, secondary: u8, subordinate: u8) -> PciFunction {
    PciFunction {
        class: Some(Fact::read(Class(0x06_04_00))),
        header: Fact::read(Header::Bridge(Bridge { secondary, subordinate, windows: Vec::new() })),
        acs: acs(AcsBits::ISOLATION, AcsBits::ISOLATION),
        ..function(at, kind)
    }
}

pub(crate) fn acs(implemented: AcsBits, enabled: AcsBits) -> Fact<Option<AcsCapability>> {
    Fact::read(Some(AcsCapability {
        implemented: Fact::read(implemented),
        enabled: Fact::read(enabled),
        dwords: None,
    }))
}

/// A device with all that shared virtual addressing wants, switched on.
pub(crate) fn accelerator(at: &str) -> PciFunction {
    PciFunction {
        ats: Fact::read(Some(Ats { enabled: Fact::read(true) })),
        pri: Fact::read(Some(Pri { enabled: Fact::read(true), capacity: Some(32) })),
        pasid: Fact::read(Some(Pasid {
            enabled: Fact::read(true),
            width: Fact::read(20),
            execute: false,
            privileged: false,
        })),
        ..function(at, ExpressKind::Endpoint)
    }
}

pub(crate) fn unit(kind: IommuKind) -> IommuUnit {
    IommuUnit {
        name: "unit0".to_owned(),
        kind,
        function: None,
        devices: None,
        pasid_width: Some(Fact::read(20)),
        page_requests: Some(Fact::read(true)),
        device_tlb: Some(Fact::read(true)),
        first_stage: Some(Fact::read(true)),
    }
}

/// A root port, a switch of one downstream port, and the accelerator below, under VT-d.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) functions: Vec<PciFunction>,
    pub(crate) host: Host,
}

pub(crate) const ROOT_PORT: usize = 0;

pub(crate) const DOWNSTREAM: usize = 2;

pub(crate) const DEVICE: usize = 3;

impl Parts {
    pub(crate) fn new() -> Self {
        let functions = vec![
            port("00:01.0", ExpressKind::RootPort, 1, 3),
            port("01:00.0", ExpressKind::Upstream, 2, 3),
            port("02:00.0", ExpressKind::Downstream, 3, 3),
            accelerator("03:00.0"),
        ];
        let host = Host {
            iommu_in_use: Some(Fact::read(true)),
            iommus: vec![unit(IommuKind::VtD)],
            ..Host::default()
        };
        Self { functions, host }
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::new(self.functions.clone(), self.host.clone())
    }

    /// The readiness of the accelerator, after a change.
    pub(crate) fn after(change: impl FnOnce(&mut Self)) -> Readiness {
        let mut parts = Self::new();
        change(&mut parts);
        let machine = parts.machine();
        let rows = readiness(&machine, &Grouping::compute(&machine, Policy::Linux));
        let subject = machine.find(bdf("03:00.0")).expect("it is there");
        rows.into_iter().find(|row| row.function == subject).expect("it issues requests")
    }

    pub(crate) fn unit(&mut self) -> &mut IommuUnit {
        &mut self.host.iommus[0]
    }

    pub(crate) fn option(&mut self, option: &str) {
        self.host.options.get_or_insert_default().push(option.to_owned());
    }
}
