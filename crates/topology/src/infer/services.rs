//! ACS, ATS, page requests, PASID and TLP prefixes, where they were not read to the bit.

use std::collections::HashSet;

use sva_core::Bdf;

use super::absent::{absent, gap};
use super::express::Kind;
use super::identity::Identity;
use crate::acs::AcsBits;
use crate::machine::{
    AcsCapability, AcsReading, Ats, Basis, Express, ExpressKind, Fact, FunctionReading, ListState,
    Pasid, PasidReading, Pri,
};

/// Ports that are known to have no ACS capability; almost everything else has one. Vendor and
/// device.
const PORTS_WITHOUT_ACS: [(u16, u16); 23] = [
    // Root ports of Intel's client processors before the 12th generation.
    (0x8086, 0x0101),
    (0x8086, 0x0105),
    (0x8086, 0x0109),
    (0x8086, 0x0151),
    (0x8086, 0x0155),
    (0x8086, 0x0159),
    (0x8086, 0x0c01),
    (0x8086, 0x0c05),
    (0x8086, 0x0c09),
    (0x8086, 0x1601),
    (0x8086, 0x1605),
    (0x8086, 0x1609),
    (0x8086, 0x1901),
    (0x8086, 0x1905),
    (0x8086, 0x1909),
    // Thunderbolt 3, second stepping.
    (0x8086, 0x15d3),
    (0x8086, 0x15da),
    // AMD: root ports of family 15h models 60h, downstream ports of the 300, 400 and 500 series
    // chipsets.
    (0x1022, 0x157c),
    (0x1022, 0x43b4),
    (0x1022, 0x43c7),
    (0x1022, 0x43ea),
    // Downstream ports inside AMD's X570.
    (0x1022, 0x57a4),
    // Cadence.
    (0x17cd, 0x0100),
];

/// ACS, ATS, PRI and PASID.
pub(super) type Services =
    (Fact<Option<AcsCapability>>, Fact<Option<Ats>>, Fact<Option<Pri>>, Fact<Option<Pasid>>);

/// Where the functions of one device isolate from one another although they share it: inside AMD's
/// processors, and on its graphics cards that have a switch.
pub(super) struct Isolating {
    slots: HashSet<Bdf>,
    buses: HashSet<(u32, u8)>,
}

impl Isolating {
    pub(super) fn find(functions: &[FunctionReading], known: &[Identity]) -> Self {
        let by = |vendor| {
            move |(_, known): &(&FunctionReading, &Identity)| {
                known.ids.is_some_and(|ids| ids.value.vendor == vendor)
            }
        };
        let all = || functions.iter().zip(known);
        let below = |function: &FunctionReading| {
            function.buses.map(|buses| (function.bdf.segment(), buses.secondary))
        };
        Self {
            // Its older chipsets have numbers of their own and are another maker's design.
            slots: all()
                .filter(by(0x1022))
                .filter(|(_, known)| !known.is_amd_chipset())
                .map(|(function, _)| function.bdf.slot())
                .collect(),
            buses: all().filter(by(0x1002)).filter_map(|(function, _)| below(function)).collect(),
        }
    }

    fn holds(&self, bdf: Bdf) -> bool {
        self.slots.contains(&bdf.slot()) || self.buses.contains(&(bdf.segment(), bdf.bus()))
    }
}

impl Identity {
    fn is_amd_chipset(&self) -> bool {
        self.ids.is_some_and(|ids| ids.value.vendor == 0x1022 && ids.value.device >> 8 == 0x43)
    }
}

/// The services of a function.
pub(super) fn of(
    reading: &FunctionReading,
    known: &Identity,
    kind: Kind,
    isolating: &Isolating,
) -> Services {
    let ats = reading.ats.map(|ats| Ats { enabled: switch(ats.enabled) });
    let pri = reading.pri.map(|pri| Pri { enabled: switch(pri.enabled), capacity: pri.capacity });
    (
        acs(reading, known, kind, isolating),
        found(ats, reading.extended),
        found(pri, reading.extended),
        found(reading.pasid.map(pasid), reading.extended),
    )
}

fn found<T>(capability: Option<T>, list: ListState) -> Fact<Option<T>> {
    match capability {
        Some(capability) => Fact::read(Some(capability)),
        None => absent(list),
    }
}

/// What drivers enable is off until they do.
fn switch(read: Option<bool>) -> Fact<bool> {
    read.map_or(Fact::assumed(false, Basis::NotPrinted), Fact::read)
}

/// The narrower of the two widths that devices have, 16 and 20.
const USUAL_WIDTH: u8 = 16;

fn pasid(pasid: PasidReading) -> Pasid {
    Pasid {
        enabled: switch(pasid.enabled),
        // Wider than 20 bits is reserved.
        width: pasid.width.map_or(Fact::assumed(USUAL_WIDTH, Basis::NotPrinted), |width| {
            Fact::read(width.min(20))
        }),
        execute: pasid.execute.unwrap_or(false),
        privileged: pasid.privileged.unwrap_or(false),
    }
}

fn acs(
    reading: &FunctionReading,
    known: &Identity,
    kind: Kind,
    isolating: &Isolating,
) -> Fact<Option<AcsCapability>> {
    if let Some(acs) = reading.acs {
        return Fact::read(Some(registers(acs, kind.value)));
    }
    let isolates = match kind.value {
        Some(ExpressKind::RootPort | ExpressKind::Downstream) => true,
        Some(ExpressKind::Endpoint | ExpressKind::LegacyEndpoint) => isolating.holds(reading.bdf),
        _ => false,
    };
    let old = known
        .ids
        .is_some_and(|ids| PORTS_WITHOUT_ACS.contains(&(ids.value.vendor, ids.value.device)));
    if reading.extended == ListState::Complete || !isolates || old {
        return absent(reading.extended);
    }
    // Its capabilities were not shown; most of these have ACS, and Linux then enables it.
    Fact::assumed(Some(registers(AcsReading::default(), kind.value)), gap(reading.extended))
}

/// The registers; what of them was not read is what ports usually implement, and of that what Linux
/// enables.
fn registers(acs: AcsReading, kind: Option<ExpressKind>) -> AcsCapability {
    let usual = match kind {
        Some(ExpressKind::RootPort | ExpressKind::Downstream) => AcsBits::ISOLATION,
        _ => AcsBits::FUNCTION_ISOLATION,
    };
    let implemented = acs.implemented.map(|word| AcsBits::from_bits(word.0));
    let enabled = acs.enabled.map(|word| AcsBits::from_bits(word.0));
    AcsCapability {
        implemented: implemented.map_or(Fact::assumed(usual, Basis::NotPrinted), Fact::read),
        enabled: enabled.map_or_else(
            || {
                Fact::assumed(
                    implemented.unwrap_or(usual) & AcsBits::ISOLATION,
                    Basis::LinuxEnablesAcs,
                )
            },
            Fact::read,
        ),
        dwords: acs.dwords.map(|dwords| dwords.map(|dword| dword.0)),
    }
}

/// Segment and bus of all functions that have a PASID capability.
pub(super) fn prefix_users(functions: &[FunctionReading]) -> HashSet<(u32, u8)> {
    functions
        .iter()
        .filter(|function| function.pasid.is_some())
        .map(|function| (function.bdf.segment(), function.bdf.bus()))
        .collect()
}

/// The PCI Express capability with its support of end-to-end TLP prefixes, in which PASIDs travel:
/// what was not read is assumed to be there in a function that has a PASID capability and in the
/// bridges above one.
pub(super) fn express(
    reading: &FunctionReading,
    kind: Kind,
    users: &HashSet<(u32, u8)>,
) -> Fact<Option<Express>> {
    let segment = reading.bdf.segment();
    let used = || match reading.buses {
        Some(buses) => {
            (buses.secondary..=buses.subordinate).any(|bus| users.contains(&(segment, bus)))
        }
        None => reading.pasid.is_some(),
    };
    kind.map(|kind| {
        kind.map(|kind| Express {
            kind,
            end_to_end_prefix: match reading.express.and_then(|express| express.end_to_end_prefix) {
                Some(bit) => Fact::read(bit),
                None => Fact::assumed(used(), gap(reading.extended).when_shown()),
            },
        })
    })
}

impl Basis {
    /// A register that was not shown although the list was: the text does not print it.
    fn when_shown(self) -> Self {
        if self == Self::CompleteList { Self::NotPrinted } else { self }
    }
}
