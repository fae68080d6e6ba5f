//! What a description can say beyond what the rules find: declared groups, windows kept apart; and
//! that it is written as it is read.

mod common;

use common::{at, specs};
use proptest::prelude::*;
use sva_core::Topology;
use sva_core::topology::{PathPolicy, SharedBecause};
use sva_core::{AddrRange, Capabilities, PasidWidth};
use sva_pci::{
    Acs, AcsBits, Fabric, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec, Route,
    SpecError,
};

const MIB: u64 = 1 << 20;

fn range(first: u64, last: u64) -> AddrRange {
    AddrRange::inclusive(first, last).expect("a range in a test")
}

/// Two root ports that isolate, each with a device of one function.
fn two_ports() -> FabricSpec {
    let port = |id: &str, bdf, secondary| {
        PortSpec::new(PortKind::Root, id, "rc", at(bdf), secondary).with_acs(Acs::isolating())
    };
    FabricSpec::new(PathPolicy::Strict)
        .host_bridge(HostBridgeSpec::new("rc", [range(0x8000_0000, 0x8fff_ffff)]))
        .port(port("a", "00:01.0", 1))
        .port(port("b", "00:02.0", 2))
        .function(FunctionSpec::new("a", at("01:00.0")))
        .function(FunctionSpec::new("b", at("02:00.0")))
}

proptest! {
    // shows S2
    #[test]
    fn a_description_reads_back_as_it_was_written(
        spec in specs(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        permissive: bool,
    ) {
        let mut spec = spec;
        if permissive {
            spec.policy = PathPolicy::Permissive;
        }
        let mut functions: Vec<_> = spec.functions.iter().map(|function| function.bdf).collect();
        for pick in picks {
            if !functions.is_empty() {
                let other = functions.swap_remove(pick.index(functions.len()));
                spec = spec.group([other]);
            }
        }
        if let Some(function) = spec.functions.first_mut() {
            function.model = Some("data-mover".into());
            function.capabilities =
                Capabilities { ats: true, pri: Some(7), ..Capabilities::sva(PasidWidth::MAX) };
        }
        if let Some(host) = spec.host_bridges.last_mut() {
            host.reserved = vec![];
        }
        let text = spec.to_toml();
        prop_assert_eq!(
            FabricSpec::from_toml(&text)
                .map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?,
            spec
        );
    }
}

// shows S2
#[test]
fn odd_names_are_written_as_toml_strings_and_cannot_add_lines() {
    let mut spec = two_ports();
    spec.host_bridges[0].id = "rc\"\npolicy = \"permissive".into();
    let read = FabricSpec::from_toml(&spec.to_toml()).expect("well-formed");
    assert_eq!(read, spec);
}

// shows G1
#[test]
fn a_declared_group_joins_what_the_rules_keep_apart_and_says_so() {
    let apart = Fabric::new(two_ports()).expect("a fabric");
    assert_ne!(apart.group(at("01:00.0")), apart.group(at("02:00.0")));
    let joined = Fabric::new(two_ports().group([at("01:00.0"), at("02:00.0")])).expect("a fabric");
    assert_eq!(joined.group(at("01:00.0")), joined.group(at("02:00.0")));
    assert_eq!(joined.why_shared(at("01:00.0"), at("02:00.0")), SharedBecause::Declared);
}

// shows G1
#[test]
fn declared_groups_part_what_the_rules_join() {
    let mut spec = two_ports().function(FunctionSpec::new("a", at("01:00.1")));
    assert_eq!(
        Fabric::new(spec.clone()).expect("a fabric").group(at("01:00.1")).0,
        at("01:00.0"),
        "no ACS between functions"
    );
    spec = spec.group([at("01:00.0")]).group([at("01:00.1")]);
    let fabric = Fabric::new(spec).expect("a fabric");
    assert_ne!(fabric.group(at("01:00.0")), fabric.group(at("01:00.1")));
}

// shows G4
#[test]
fn a_newcomer_joins_the_declared_group_that_has_the_port_where_its_path_runs_together() {
    let mut spec = two_ports().group([at("02:00.0"), at("01:00.0"), at("00:01.0")]);
    spec.ports[0].acs = None;
    let fabric = Fabric::new(spec).expect("a fabric");
    fabric.add(FunctionSpec::new("a", at("01:00.1"))).expect("it fits");
    assert_eq!(fabric.group(at("01:00.1")), fabric.group(at("02:00.0")));
    fabric.remove(at("02:00.0")).expect("it is there");
    assert_eq!(fabric.group(at("01:00.1")), fabric.group(at("01:00.0")), "a member may leave");
}

// shows S2
#[test]
fn declared_groups_that_are_none_are_refused() {
    let refused = |spec| Fabric::new(spec).expect_err("refused");
    assert_eq!(
        refused(two_ports().group([at("01:00.0")]).group([])),
        SpecError::EmptyGroup { number: 1 }
    );
    assert_eq!(
        refused(two_ports().group([at("01:00.0"), at("01:00.0")])),
        SpecError::InTwoGroups { bdf: at("01:00.0") }
    );
    assert_eq!(
        refused(two_ports().group([at("01:00.0")]).group([at("02:00.0"), at("01:00.0")])),
        SpecError::InTwoGroups { bdf: at("01:00.0") }
    );
    assert_eq!(
        refused(two_ports().group([at("03:00.0")])),
        SpecError::UnknownMember { bdf: at("03:00.0") }
    );
}

/// Root port `a` with two windows, and `b` between them.
fn interleaved() -> FabricSpec {
    let mut spec = two_ports();
    spec.ports[0].windows = vec![range(0x8000_0000, 0x800f_ffff), range(0x8030_0000, 0x803f_ffff)];
    spec.ports[0].acs = Some(Acs::port(AcsBits::RR));
    for (function, addresses) in
        spec.functions.iter_mut().zip([vec![0x8000_0000, 0x8030_0000], vec![0x8010_0000]])
    {
        *function = addresses
            .into_iter()
            .fold(function.clone(), |function, address| function.with_bar(address, 4096));
    }
    spec
}

// shows B7
#[test]
fn several_windows_on_one_side_stay_apart_and_another_port_may_lie_between() {
    let fabric = Fabric::new(interleaved()).expect("a fabric");
    let device = at("01:00.0");
    assert_eq!(fabric.route(device, 0x8010_0000), Route::Upstream, "the window of the other port");
    assert_eq!(
        fabric.route(device, 0x8000_0000 + MIB - 1),
        Route::Dropped { bridge: at("00:01.0") }
    );
    let caught: Vec<AddrRange> = fabric.windows(device).iter().map(|window| window.range).collect();
    assert_eq!(caught, [range(0x8000_0000, 0x800f_ffff), range(0x8030_0000, 0x803f_ffff)]);
    // One window alone is widened to what is below, here over the other port's.
    let mut one = interleaved();
    one.ports[0].windows.pop();
    assert!(matches!(Fabric::new(one), Err(SpecError::Overlap { .. })));
}

// shows S2
#[test]
fn a_bar_outside_of_several_windows_is_refused() {
    let mut spec = interleaved();
    spec.functions[0] = spec.functions[0].clone().with_bar(0x8050_0000, 4096);
    let error = Fabric::new(spec).expect_err("refused");
    assert!(
        matches!(
            error,
            SpecError::OutsideWindow { range, above, .. }
                if range.first() == 0x8050_0000 && above == at("00:01.0")
        ),
        "{error}"
    );
}

// shows G1
#[test]
fn a_port_may_sit_where_its_host_bridge_does() {
    let mut spec = two_ports();
    spec.ports[0].bdf = at("00:00.0");
    let fabric = Fabric::new(spec).expect("a fabric");
    assert_ne!(fabric.group(at("01:00.0")), fabric.group(at("02:00.0")));
}

/// A switch whose upstream port is one of three functions, as chipsets have it.
fn chipset() -> FabricSpec {
    let mut spec = two_ports();
    spec.functions.retain(|function| function.bdf != at("02:00.0"));
    spec.ports.retain(|port| port.id == "a");
    spec.port(PortSpec::new(PortKind::Upstream, "up", "a", at("01:00.2"), 2).multifunction())
        .port(
            PortSpec::new(PortKind::Downstream, "down", "up", at("02:00.0"), 3)
                .with_acs(Acs::isolating()),
        )
        .function(
            FunctionSpec::new("a", at("01:00.1"))
                .with_acs(Acs::function(AcsBits::FUNCTION_ISOLATION)),
        )
        .function(FunctionSpec::new("down", at("03:00.0")).with_bar(0x8000_0000, 4096))
}

// shows G1, B7
#[test]
fn what_is_beside_an_upstream_port_and_what_is_below_are_one_group_and_reach_each_other() {
    let mut spec = chipset();
    spec.functions.iter_mut().for_each(|function| function.acs = None);
    let beside =
        spec.functions.iter().position(|function| function.bdf == at("01:00.0")).expect("there");
    spec.functions[beside] = spec.functions[beside].clone().with_bar(0x8010_0000, 4096);
    let fabric = Fabric::new(spec).expect("a fabric");
    let (below, beside) = (at("03:00.0"), at("01:00.0"));
    assert_eq!(fabric.group(below), fabric.group(beside));
    assert_eq!(fabric.route(below, 0x8010_0000), Route::Peer { bdf: beside, bar: 0 });
    assert_eq!(fabric.route(beside, 0x8000_0000), Route::Peer { bdf: below, bar: 0 });
    assert_eq!(fabric.why_shared(below, beside), SharedBecause::NoAcs { port: at("01:00.2") });
    assert_eq!(
        fabric.path_defect(below),
        Some(sva_core::topology::PathDefect::NoRequestRedirect(at("01:00.2")))
    );
    fabric.remove(beside).expect("there");
    assert_eq!(fabric.group(below), fabric.group(at("01:00.1")), "groups stay when one leaves");
}

// shows S2
#[test]
fn only_an_upstream_port_that_says_so_has_endpoints_beside_it() {
    let mut spec = chipset();
    spec.functions.retain(|function| function.bdf != at("01:00.0"));
    Fabric::new(spec.clone()).expect("a fabric");
    spec.ports.iter_mut().for_each(|port| port.multifunction = false);
    let mixed =
        SpecError::MixedSlot { a: at("01:00.2"), kind: PortKind::Upstream, b: at("01:00.1") };
    assert_eq!(Fabric::new(spec.clone()).expect_err("refused"), mixed);
    spec.ports[0].multifunction = true;
    let misplaced = SpecError::MultifunctionMisplaced { bdf: at("00:01.0"), kind: PortKind::Root };
    assert_eq!(Fabric::new(spec).expect_err("refused"), misplaced);
}
