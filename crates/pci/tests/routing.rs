//! Where requests go, by example.

mod common;

use common::at;
use common::switch::{A_BAR, B_BAR, HOLE, switch};
use sva_core::Topology;
use sva_core::topology::RequesterId;
use sva_core::topology::{PathDefect, PathPolicy, PeerWindow};
use sva_core::{Access, AddrRange};
use sva_pci::{
    Acs, AcsBits, Fabric, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec, Route,
};

/// Two root ports with `acs` and one endpoint each.
fn root_ports(p2p: bool, acs: Option<AcsBits>) -> Fabric {
    let with = |mut port: PortSpec| {
        port.acs = acs.map(Acs::port);
        port
    };
    let mut host = HostBridgeSpec::new("rc", AddrRange::new(0x8000_0000, 1 << 30));
    host.p2p = p2p;
    let spec = FabricSpec::new(PathPolicy::Permissive)
        .host_bridge(host)
        .port(with(PortSpec::new(PortKind::Root, "ra", "rc", at("00:01.0"), 1)))
        .port(with(PortSpec::new(PortKind::Root, "rb", "rc", at("00:02.0"), 2)))
        .function(FunctionSpec::new("ra", at("01:00.0")).with_bar(A_BAR, 4096))
        .function(FunctionSpec::new("rb", at("02:00.0")).with_bar(B_BAR, 4096));
    Fabric::new(spec).expect("a fabric")
}

// shows B7
#[test]
fn without_redirect_the_peer_the_own_port_and_the_switch_catch_requests() {
    let fabric = switch(None);
    let a = at("03:00.0");
    assert_eq!(fabric.route(a, B_BAR), Route::Peer { bdf: at("04:00.0"), bar: 0 });
    assert_eq!(fabric.route(a, B_BAR + 4096), Route::Dropped { bridge: at("02:01.0") });
    assert_eq!(fabric.route(a, A_BAR), Route::Dropped { bridge: at("02:00.0") });
    assert_eq!(fabric.route(a, HOLE), Route::Dropped { bridge: at("01:00.0") });
    assert_eq!(fabric.route(a, HOLE + (1 << 20)), Route::Upstream);
    let window = |first, last, decoder, claimed| PeerWindow {
        range: AddrRange::inclusive(first, last).expect("a range"),
        decoder: at(decoder),
        claimed,
    };
    let expected = [
        window(A_BAR, A_BAR + 0xf_ffff, "02:00.0", false),
        window(B_BAR, B_BAR + 0xfff, "04:00.0", true),
        window(B_BAR + 0x1000, B_BAR + 0xf_ffff, "02:01.0", false),
        window(HOLE, HOLE + 0xf_ffff, "01:00.0", false),
    ];
    assert_eq!(fabric.windows(a), expected);
}

// shows B1, B7
#[test]
fn redirect_without_upstream_forwarding_loses_what_lies_in_the_own_port_only() {
    let fabric = switch(Some(AcsBits::RR));
    let a = at("03:00.0");
    assert_eq!(fabric.path_defect(a), Some(PathDefect::NoUpstreamForwarding(at("02:00.0"))));
    assert_eq!(fabric.route(a, B_BAR), Route::Upstream);
    assert_eq!(fabric.route(a, HOLE), Route::Upstream);
    assert_eq!(fabric.route(a, A_BAR), Route::Dropped { bridge: at("02:00.0") });
}

// shows B7
#[test]
fn redirected_requests_pass_the_upstream_forwarding_rule_of_every_port_above() {
    let fabric = switch(Some(AcsBits::RR | AcsBits::UF));
    let a = at("03:00.0");
    assert_eq!(fabric.windows(a), []);
    assert_eq!(fabric.path_defect(a), None);
    fabric.set_acs(at("00:01.0"), AcsBits::RR).expect("the root port has ACS");
    assert_eq!(fabric.path_defect(a), Some(PathDefect::NoUpstreamForwarding(at("00:01.0"))));
    for address in [A_BAR, B_BAR, HOLE] {
        assert_eq!(fabric.route(a, address), Route::Dropped { bridge: at("00:01.0") });
    }
}

// shows B7
#[test]
fn translated_requests_reach_a_peer_that_the_others_are_redirected_from_where_direct_is_set() {
    let fabric = switch(Some(AcsBits::RR | AcsBits::UF | AcsBits::DT));
    let (a, b) = (at("03:00.0"), at("04:00.0"));
    assert_eq!((fabric.windows(a), fabric.path_defect(a)), (vec![], None));
    assert_eq!(fabric.route_translated(a, B_BAR), Route::Peer { bdf: b, bar: 0 });
    assert_eq!(fabric.route_translated(a, B_BAR + 4096), Route::Dropped { bridge: at("02:01.0") });
    assert_eq!(fabric.route_translated(a, A_BAR), Route::Upstream, "the own port is no peer: UF");
    assert_eq!(fabric.route_translated(a, HOLE), Route::Upstream, "nor is a hole: RR");
    let caught: Vec<_> = fabric
        .translated_windows(a)
        .iter()
        .map(|window| (window.range.first(), window.decoder, window.claimed))
        .collect();
    assert_eq!(caught, [(B_BAR, b, true), (B_BAR + 4096, at("02:01.0"), false)]);
    fabric.set_acs(at("02:00.0"), AcsBits::RR | AcsBits::UF).expect("the port has ACS");
    assert_eq!((fabric.translated_windows(a), fabric.translation_blocker(a)), (vec![], None));
}

// shows B7
#[test]
fn a_port_that_blocks_translation_stops_what_no_peer_below_it_took() {
    let fabric = switch(Some(AcsBits::ISOLATION | AcsBits::DT));
    let (a, b, root) = (at("03:00.0"), at("04:00.0"), at("00:01.0"));
    fabric.set_acs(root, AcsBits::ISOLATION | AcsBits::TB).expect("the port has ACS");
    assert_eq!(fabric.translation_blocker(a), Some(root));
    assert_eq!(fabric.route_translated(a, B_BAR), Route::Peer { bdf: b, bar: 0 });
    assert_eq!(fabric.route_translated(a, 0x1000), Route::Blocked { port: root });
    assert_eq!(fabric.route(a, 0x1000), Route::Upstream);
    // In the port that they enter first: TB goes before DT, and before UF.
    let (own, before) = (at("02:00.0"), fabric.changes().count());
    fabric.set_acs(own, AcsBits::ISOLATION | AcsBits::DT | AcsBits::TB).expect("the port has ACS");
    assert_ne!(fabric.changes().count(), before);
    assert_eq!((fabric.translation_blocker(a), fabric.translated_windows(a)), (Some(own), vec![]));
    assert_eq!(
        [A_BAR, B_BAR, 0x1000].map(|address| fabric.route_translated(a, address)),
        [Route::Blocked { port: own }; 3]
    );
    assert_eq!(
        (fabric.windows(a), fabric.path_defect(a)),
        (vec![], None),
        "the others go on as before"
    );
    assert_eq!(
        fabric.route_translated(b, A_BAR),
        Route::Peer { bdf: a, bar: 0 },
        "what comes from above it does not stop"
    );
}

// shows B7
#[test]
fn between_root_ports_direct_counts_only_where_the_root_complex_forwards() {
    let services = AcsBits::ISOLATION | AcsBits::DT;
    for (p2p, route) in
        [(false, Route::Upstream), (true, Route::Peer { bdf: at("02:00.0"), bar: 0 })]
    {
        let fabric = root_ports(p2p, Some(services));
        assert_eq!(fabric.route_translated(at("01:00.0"), B_BAR), route);
        assert_eq!(fabric.route(at("01:00.0"), B_BAR), Route::Upstream);
    }
}

// shows B7
#[test]
fn functions_with_direct_reach_each_other_by_translated_requests_only() {
    let with = |acs: AcsBits| {
        let function = |bdf, bar| {
            FunctionSpec::new("rp", at(bdf)).with_bar(bar, 4096).with_acs(Acs::function(acs))
        };
        let spec = FabricSpec::new(PathPolicy::Strict)
            .host_bridge(HostBridgeSpec::new("rc", AddrRange::new(0x8000_0000, 1 << 30)))
            .port(
                PortSpec::new(PortKind::Root, "rp", "rc", at("00:01.0"), 1)
                    .with_acs(Acs::isolating()),
            )
            .function(function("01:00.0", A_BAR))
            .function(function("01:00.1", A_BAR + 4096));
        Fabric::new(spec).expect("a fabric")
    };
    let (a, b) = (at("01:00.0"), at("01:00.1"));
    let (direct, redirected) =
        (with(AcsBits::FUNCTION_ISOLATION | AcsBits::DT), with(AcsBits::FUNCTION_ISOLATION));
    assert_eq!(direct.route_translated(a, A_BAR + 4096), Route::Peer { bdf: b, bar: 0 });
    assert_eq!(redirected.route_translated(a, A_BAR + 4096), Route::Upstream);
    for fabric in [direct, redirected] {
        assert_eq!(fabric.route(a, A_BAR + 4096), Route::Upstream);
        assert_ne!(
            fabric.group(a),
            fabric.group(b),
            "a translation to a peer is the IOMMU's to give"
        );
    }
}

// shows B7
#[test]
fn a_peer_that_took_a_translated_request_is_read_and_written() {
    let fabric = switch(Some(AcsBits::ISOLATION | AcsBits::DT));
    let windows = fabric.translated_windows(at("03:00.0"));
    let window = windows.iter().find(|window| window.claimed).expect("the peer's BAR");
    fabric.write_peer(at("03:00.0"), window, B_BAR + 8, b"direct").expect("memory takes it");
    let mut buf = [0; 6];
    fabric
        .read_peer(at("03:00.0"), window, B_BAR + 8, &mut buf, Access::READ)
        .expect("memory answers");
    assert_eq!(&buf, b"direct");
}

// shows B1
#[test]
fn the_first_defect_from_the_device_up_is_reported_with_its_port() {
    let fabric = switch(None);
    assert_eq!(
        fabric.path_defect(at("04:00.0")),
        Some(PathDefect::NoRequestRedirect(at("02:01.0")))
    );
    let mut spec = FabricSpec::from_toml(sva_pci::DEFAULT_TOML).expect("the default");
    let port = spec.ports.iter_mut().find(|port| port.id == "sw4").expect("the upstream port");
    port.tlp_prefix = false;
    let fabric = Fabric::new(spec).expect("a fabric");
    assert_eq!(fabric.path_defect(at("06:00.0")), Some(PathDefect::NoTlpPrefix(at("04:00.0"))));
}

// shows B7, G1
#[test]
fn root_ports_reach_each_other_only_where_the_host_bridge_forwards_and_nothing_redirects() {
    let (a, b) = (at("01:00.0"), at("02:00.0"));
    let peer = Route::Peer { bdf: b, bar: 0 };
    for (p2p, acs, route, together) in [
        (true, None, peer, true),
        (true, Some(AcsBits::UF), peer, true),
        (true, Some(AcsBits::ISOLATION), Route::Upstream, false),
        (false, None, Route::Upstream, false),
    ] {
        let fabric = root_ports(p2p, acs);
        assert_eq!(fabric.route(a, B_BAR), route, "p2p {p2p}, ACS {acs:?}");
        assert_eq!(fabric.group(a) == fabric.group(b), together, "p2p {p2p}, ACS {acs:?}");
    }
}

// shows B7, G1
#[test]
fn devices_behind_a_pci_bridge_share_its_requester_id_and_reach_each_other() {
    let spec = FabricSpec::new(PathPolicy::Permissive)
        .host_bridge(HostBridgeSpec::new("rc", AddrRange::new(0x8000_0000, 1 << 30)))
        .port(
            PortSpec::new(PortKind::Root, "rp", "rc", at("00:01.0"), 1).with_acs(Acs::isolating()),
        )
        .port(PortSpec::new(PortKind::PciBridge, "pci", "rp", at("01:00.0"), 2))
        .function(FunctionSpec::new("pci", at("02:03.0")).with_bar(A_BAR, 4096))
        .function(FunctionSpec::new("pci", at("02:04.0")).with_bar(A_BAR + 4096, 4096));
    let fabric = Fabric::new(spec).expect("a fabric");
    let (a, b) = (at("02:03.0"), at("02:04.0"));
    assert_eq!(fabric.requester(a), RequesterId(at("02:00.0")));
    assert_eq!(fabric.requester(b), RequesterId(at("02:00.0")));
    assert_eq!(fabric.group(a), fabric.group(b));
    assert_eq!(fabric.route(a, A_BAR + 4096), Route::Peer { bdf: b, bar: 0 });
    assert_eq!(fabric.route(a, A_BAR + 8192), Route::Dropped { bridge: at("01:00.0") });
    assert_eq!(fabric.path_defect(a), Some(PathDefect::NoRequestRedirect(at("01:00.0"))));
    // Nothing on that bus could tell a translated address from another.
    assert_eq!(
        (fabric.translation_blocker(a), fabric.translated_windows(a)),
        (Some(at("01:00.0")), vec![])
    );
    assert_eq!(fabric.route_translated(a, A_BAR + 4096), Route::Blocked { port: at("01:00.0") });
}

// shows T8
#[test]
fn reserved_ranges_are_sorted_and_merged_and_known_without_the_device() {
    let mut host = HostBridgeSpec::new("rc", AddrRange::new(0x8000_0000, 1 << 30));
    host.reserved.extend(
        [AddrRange::new(0xfef0_0000, 16), AddrRange::new(0x1000, 0x1000)].into_iter().flatten(),
    );
    let fabric =
        Fabric::new(FabricSpec::new(PathPolicy::Strict).host_bridge(host)).expect("a fabric");
    let expected: Vec<_> =
        [AddrRange::new(0x1000, 0x1000), AddrRange::inclusive(0xfee0_0000, 0xfef0_000f)]
            .into_iter()
            .flatten()
            .collect();
    assert_eq!(fabric.reserved(at("00:05.0")), expected);
    assert_eq!(fabric.reserved(at("77:00.0")), expected);
}
