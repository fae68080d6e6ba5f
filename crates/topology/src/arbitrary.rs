//! Random machines for tests: many make sense, some do not, and names are whatever a file may hold.

use proptest::prelude::*;
use sva_core::{AddrRange, Bdf};

use crate::acs::AcsBits;
use crate::machine::{
    AcsCapability, Ats, Bar, Basis, Bridge, Class, Express, ExpressKind, Fact, Header, Host, Ids,
    Machine, Pasid, PciFunction, Pri,
};

/// A conventional endpoint without anything.
pub fn bare(bdf: Bdf) -> PciFunction {
    let ids = Some(Fact::read(Ids { vendor: 0x1af4, device: 1 }));
    PciFunction { ids, class: Some(Fact::read(Class(0xff_0000))), ..PciFunction::new(bdf) }
}

/// A function of PCI Express.
pub fn express(bdf: Bdf, kind: ExpressKind) -> PciFunction {
    PciFunction {
        express: Fact::read(Some(Express { kind, end_to_end_prefix: Fact::read(true) })),
        ..bare(bdf)
    }
}

/// A bridge of this type with one bus or more below.
pub fn bridge(
    bdf: Bdf,
    kind: Option<ExpressKind>,
    secondary: u8,
    subordinate: u8,
    windows: Vec<AddrRange>,
) -> PciFunction {
    let it = kind.map_or_else(|| bare(bdf), |kind| express(bdf, kind));
    let header = Fact::read(Header::Bridge(Bridge { secondary, subordinate, windows }));
    PciFunction { header, class: Some(Fact::read(Class(0x06_0400))), ..it }
}

/// An ACS capability.
pub fn acs(implemented: AcsBits, enabled: AcsBits) -> Fact<Option<AcsCapability>> {
    Fact::read(Some(AcsCapability {
        implemented: Fact::read(implemented),
        enabled: Fact::read(enabled),
        dwords: None,
    }))
}

fn range() -> impl Strategy<Value = AddrRange> {
    let unit = 1u64 << 20;
    let low =
        (0x800..0x820u64, 1..12u64).prop_map(move |(first, count)| (first * unit, count * unit));
    let high = (0..12u64, 1..12u64)
        .prop_map(move |(first, count)| ((first << 20) + (1 << 40), count * unit));
    let odd = any::<(u64, u64)>();
    prop_oneof![8 => low, 4 => high, 1 => odd]
        .prop_filter_map("a range", |(first, size)| AddrRange::new(first, size))
}

fn bar() -> impl Strategy<Value = Bar> {
    let usual = (0..6u8, 0x8_0000..0x8_2000u64, 12..21u32).prop_map(|(index, page, log)| {
        let size = 1 << log;
        Bar { index, address: (page << 12) & !(size - 1), size: Some(size) }
    });
    let odd = any::<(u8, u64, Option<u64>)>().prop_map(|(index, address, size)| Bar {
        index,
        address,
        size,
    });
    prop_oneof![12 => usual, 1 => odd]
}

fn kind() -> impl Strategy<Value = Option<ExpressKind>> {
    prop_oneof![2 => Just(None), 8 => (0..11u8).prop_map(|bits| Some(ExpressKind::from_bits(bits)))]
}

fn name() -> impl Strategy<Value = Option<String>> {
    let hostile =
        "</text><script>alert('&')</script>\"\u{1b}[31m\u{202e}\u{0}\u{ffff}]]>".to_owned();
    prop_oneof![
        2 => Just(None),
        6 => "[ -~]{0,90}".prop_map(Some),
        2 => any::<String>().prop_map(Some),
        1 => Just(Some(hostile)),
    ]
}

/// One function somewhere on the first few buses of one or two segments.
fn function() -> impl Strategy<Value = PciFunction> {
    let place = (
        prop_oneof![6 => Just(0u32), 1 => Just(0x1_0000)],
        0..7u8,
        prop_oneof![3 => Just(0u8), 2 => 0..4u8],
        0..3u8,
    );
    let below = prop::option::weighted(0.5, (1..9u8, 0..4u8, prop::collection::vec(range(), 0..3)));
    let services = prop::option::of((0..0x80u16, 0..0x80u16, any::<bool>()));
    let can =
        (prop::option::of(0..22u8), any::<bool>(), prop::option::of(prop::option::of(1..64u32)));
    let class = prop_oneof![8 => Just(0x02_0000u32), 1 => Just(0x06_0000), 1 => Just(0x08_0600)];
    (
        place,
        kind(),
        below,
        services,
        can,
        class,
        prop::collection::vec(bar(), 0..3),
        name(),
        any::<bool>(),
    )
        .prop_map(
            |(
                (segment, bus, device, number),
                kind,
                below,
                services,
                (pasid, ats, pri),
                class,
                bars,
                name,
                several,
            )| {
                let bdf = Bdf::new(segment, bus, device, number).expect("in range");
                let mut it = match below {
                    Some((more, span, windows)) => bridge(
                        bdf,
                        kind,
                        bus.saturating_add(more),
                        bus.saturating_add(more + span),
                        windows,
                    ),
                    None => PciFunction {
                        class: Some(Fact::read(Class(class))),
                        ..kind.map_or_else(|| bare(bdf), |kind| express(bdf, kind))
                    },
                };
                it.multifunction.value |= several;
                if let Some((implemented, enabled, assumed)) = services {
                    it.acs = acs(
                        AcsBits::from_bits(implemented),
                        AcsBits::from_bits(enabled & implemented),
                    );
                    if assumed {
                        it.acs = Fact::assumed(it.acs.value, Basis::LinuxEnablesAcs);
                    }
                }
                let width = |bits| Pasid {
                    enabled: Fact::read(false),
                    width: Fact::read(bits),
                    execute: false,
                    privileged: true,
                };
                it.pasid = Fact::read(pasid.map(width));
                it.ats = Fact::read(ats.then_some(Ats { enabled: Fact::read(true) }));
                it.pri =
                    Fact::read(pri.map(|capacity| Pri { enabled: Fact::read(false), capacity }));
                it.bars = bars;
                it.name = name;
                it
            },
        )
}

/// Up to some forty functions.
pub fn machines() -> impl Strategy<Value = Machine> {
    prop::collection::vec(function(), 1..40)
        .prop_map(|functions| Machine::new(functions, Host::default()))
}
