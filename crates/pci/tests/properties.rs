//! Random fabrics: the fast forms against slow ones, and what must hold between them.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{edges, services, specs};
use proptest::prelude::*;
use sva_core::Bdf;
use sva_core::Topology;
use sva_core::topology::{PathDefect, PeerWindow, SharedBecause};
use sva_pci::{Acs, AcsBits, Fabric, FabricSpec, PortKind, PortSpec, Route};

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 256, ..ProptestConfig::default() }
}

/// Where a request ends, without the number of the BAR.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Iommu,
    Caught(Bdf, bool),
    Blocked(Bdf),
}

/// What the windows say about one address, the request being stopped by `blocked` where none
/// catches it.
fn by_windows(windows: &[PeerWindow], blocked: Option<Bdf>, address: u64) -> End {
    let hit: Vec<_> = windows.iter().filter(|window| window.range.contains(address)).collect();
    assert!(hit.len() < 2, "windows overlap at {address:#x}");
    match (hit.first(), blocked) {
        (Some(window), _) => End::Caught(window.decoder, window.claimed),
        (None, Some(port)) => End::Blocked(port),
        (None, None) => End::Iommu,
    }
}

fn by_route(route: Route) -> End {
    match route {
        Route::Upstream => End::Iommu,
        Route::Peer { bdf, .. } => End::Caught(bdf, true),
        Route::Dropped { bridge } => End::Caught(bridge, false),
        Route::Blocked { port } => End::Blocked(port),
    }
}

/// All that the fabric says of the way of a device's requests.
fn ways(
    fabric: &Fabric,
    device: Bdf,
) -> (Vec<PeerWindow>, Vec<PeerWindow>, Option<Bdf>, Option<PathDefect>) {
    (
        fabric.windows(device),
        fabric.translated_windows(device),
        fabric.translation_blocker(device),
        fabric.path_defect(device),
    )
}

fn sorted_and_disjoint(windows: &[PeerWindow]) -> bool {
    windows.windows(2).all(|pair| pair[0].range.last() < pair[1].range.first())
}

/// The ports between `bdf` and the root, from below.
fn ports_above(spec: &FabricSpec, bdf: Bdf) -> Vec<&PortSpec> {
    let above = |bus: u8| spec.ports.iter().find(|port| port.secondary == bus);
    std::iter::successors(above(bdf.bus()), |port| above(port.bdf.bus())).collect()
}

/// The rules of grouping once more, from the flat lists: every weak point joins all functions whose
/// way passes it.
fn flat_groups(spec: &FabricSpec) -> BTreeSet<BTreeSet<Bdf>> {
    let way = |bdf: Bdf| {
        let ports = ports_above(spec, bdf);
        let root_bus = ports.last().map_or(bdf.bus(), |port| port.bdf.bus());
        (ports, root_bus)
    };
    let isolates =
        |acs: Option<Acs>, bits: AcsBits| acs.is_some_and(|acs| acs.enabled.contains(bits));
    let mut joined: Vec<BTreeSet<Bdf>> = Vec::new();
    let functions: Vec<Bdf> = spec.functions.iter().map(|function| function.bdf).collect();
    for port in spec
        .ports
        .iter()
        .filter(|port| port.kind != PortKind::Upstream && !isolates(port.acs, AcsBits::ISOLATION))
    {
        let (above, root_bus) = way(port.bdf);
        let root = spec
            .host_bridges
            .iter()
            .find(|host| host.bus == root_bus)
            .expect("a way ends at a host bridge");
        let point = if port.kind == PortKind::Downstream { above[0].bdf } else { port.bdf };
        joined.push(
            functions
                .iter()
                .copied()
                .filter(|bdf| way(*bdf).0.iter().any(|port| port.bdf == point))
                .collect(),
        );
        if root.p2p && port.parent == root.id {
            joined.push(functions.iter().copied().filter(|bdf| way(*bdf).1 == root_bus).collect());
        }
    }
    for port in spec.ports.iter().filter(|port| port.multifunction) {
        let below = |bdf: Bdf| way(bdf).0.iter().any(|other| other.bdf == port.bdf);
        joined.push(
            functions
                .iter()
                .copied()
                .filter(|bdf| bdf.slot() == port.bdf.slot() || below(*bdf))
                .collect(),
        );
    }
    for function in spec
        .functions
        .iter()
        .filter(|function| !isolates(function.acs, AcsBits::FUNCTION_ISOLATION))
    {
        joined.push(
            functions.iter().copied().filter(|bdf| bdf.slot() == function.bdf.slot()).collect(),
        );
    }
    let mut groups: Vec<BTreeSet<Bdf>> =
        functions.iter().map(|bdf| BTreeSet::from([*bdf])).collect();
    for set in joined {
        let (touched, rest): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| !group.is_disjoint(&set));
        groups = rest;
        groups.extend(touched.into_iter().reduce(|a, b| &a | &b));
    }
    groups.into_iter().collect()
}

fn groups(fabric: &Fabric) -> BTreeSet<BTreeSet<Bdf>> {
    let mut by_key: BTreeMap<_, BTreeSet<Bdf>> = BTreeMap::new();
    for device in fabric.devices() {
        by_key.entry(fabric.group(device.bdf)).or_default().insert(device.bdf);
    }
    by_key.into_values().collect()
}

proptest! {
    #![proptest_config(cases())]

    // shows B7
    #[test]
    fn windows_and_the_hop_by_hop_router_agree_at_every_address(
        spec in specs(),
        more in prop::collection::vec((1u64 << 31)..(3 << 30), 32),
    ) {
        let fabric = Fabric::new(spec.clone())?;
        let edges = edges(&fabric, &spec);
        for device in fabric.devices() {
            let device = device.bdf;
            let (windows, translated, blocked, _) = ways(&fabric, device);
            prop_assert!(sorted_and_disjoint(&windows) && sorted_and_disjoint(&translated));
            for &address in edges.iter().chain(&more) {
                prop_assert_eq!(
                    by_windows(&windows, None, address),
                    by_route(fabric.route(device, address)),
                    "{} at {:#x}",
                    device,
                    address
                );
                let route = by_route(fabric.route_translated(device, address));
                prop_assert_eq!(
                    by_windows(&translated, blocked, address),
                    route,
                    "{} at {:#x}, translated",
                    device,
                    address
                );
            }
        }
    }

    // shows B7
    #[test]
    fn without_their_services_translated_requests_differ_on_conventional_buses_only(
        spec in specs(),
    ) {
        let fabric = Fabric::new(spec.clone())?;
        let mut plain = spec.clone();
        let ports = plain.ports.iter_mut().filter_map(|port| port.acs.as_mut());
        let functions = plain.functions.iter_mut().filter_map(|function| function.acs.as_mut());
        ports
            .chain(functions)
            .for_each(|acs| acs.enabled = acs.enabled & !(AcsBits::TB | AcsBits::DT));
        let plain = Fabric::new(plain)?;
        for device in fabric.devices() {
            let (windows, translated, blocked, defect) = ways(&plain, device.bdf);
            prop_assert_eq!(
                (fabric.windows(device.bdf), fabric.path_defect(device.bdf)),
                (windows.clone(), defect)
            );
            match ports_above(&spec, device.bdf)
                .first()
                .filter(|port| port.kind == PortKind::PciBridge)
            {
                Some(bridge) => prop_assert_eq!((translated, blocked), (vec![], Some(bridge.bdf))),
                None => prop_assert_eq!((translated, blocked), (windows, None)),
            }
        }
    }

    // shows B7
    #[test]
    fn translated_requests_never_pass_what_catches_others_and_only_peers_catch_more_of_them(
        spec in specs(),
    ) {
        let fabric = Fabric::new(spec.clone())?;
        let edges = edges(&fabric, &spec);
        for device in fabric.devices() {
            let device = device.bdf;
            for &address in &edges {
                match (fabric.route(device, address), fabric.route_translated(device, address)) {
                    (_, Route::Blocked { .. })
                    | (Route::Upstream, Route::Upstream | Route::Peer { .. }) => {}
                    (Route::Upstream, Route::Dropped { bridge }) => {
                        prop_assert!(
                            ports_above(&spec, device).iter().all(|port| port.bdf != bridge),
                            "{} at {:#x}",
                            device,
                            address
                        );
                    }
                    (caught, translated) => prop_assert!(
                        translated != Route::Upstream,
                        "{} at {:#x}: {:?}",
                        device,
                        address,
                        caught
                    ),
                }
            }
        }
    }

    // shows B1, B7
    #[test]
    fn a_path_without_defect_lets_every_address_through_to_the_iommu(spec in specs()) {
        let fabric = Fabric::new(spec)?;
        for device in
            fabric.devices().iter().filter(|device| fabric.path_defect(device.bdf).is_none())
        {
            prop_assert_eq!(fabric.windows(device.bdf), vec![]);
        }
    }

    // shows G1
    #[test]
    fn groups_are_what_the_flat_rules_say(spec in specs()) {
        let fabric = Fabric::new(spec.clone())?;
        prop_assert_eq!(groups(&fabric), flat_groups(&spec));
    }

    // shows G1
    #[test]
    fn no_request_reaches_a_bar_of_another_group(spec in specs()) {
        let fabric = Fabric::new(spec.clone())?;
        let bars: Vec<_> = spec
            .functions
            .iter()
            .flat_map(|function| function.bars.iter().map(|bar| (function.bdf, bar.address)))
            .collect();
        for device in fabric.devices() {
            for (owner, address) in
                bars.iter().filter(|(owner, _)| fabric.group(*owner) != fabric.group(device.bdf))
            {
                let route = fabric.route(device.bdf, *address);
                prop_assert!(
                    !matches!(route, Route::Peer { .. }),
                    "{} reaches {} at {:#x}",
                    device.bdf,
                    owner,
                    address
                );
            }
        }
    }

    // shows B1
    #[test]
    fn the_reason_for_a_shared_group_names_something_that_is_so(spec in specs()) {
        let fabric = Fabric::new(spec.clone())?;
        let devices = fabric.devices();
        for (a, b) in devices.iter().flat_map(|a| devices.iter().map(move |b| (a.bdf, b.bdf))) {
            if a == b || fabric.group(a) != fabric.group(b) {
                continue;
            }
            match fabric.why_shared(a, b) {
                SharedBecause::RequesterId(rid) => {
                    prop_assert_eq!((fabric.requester(a), fabric.requester(b)), (rid, rid));
                }
                SharedBecause::Multifunction { slot } => {
                    prop_assert_eq!((a.slot(), b.slot()), (slot, slot));
                    let acs = spec
                        .functions
                        .iter()
                        .find(|function| function.bdf == a)
                        .and_then(|function| function.acs);
                    prop_assert!(
                        !acs.is_some_and(|acs| acs.enabled.contains(AcsBits::FUNCTION_ISOLATION))
                    );
                }
                SharedBecause::NoAcs { port } => {
                    let port = spec.ports.iter().find(|candidate| candidate.bdf == port);
                    let acs = port.map(|port| port.acs);
                    prop_assert!(acs.is_some(), "the port is there");
                    let enabled = acs.flatten().map_or(AcsBits::NONE, |acs| acs.enabled);
                    prop_assert!(!enabled.contains(AcsBits::ISOLATION));
                }
                other => prop_assert!(false, "{}", other),
            }
        }
    }

    // shows G4
    #[test]
    fn keys_and_windows_of_the_others_stay_when_devices_leave_and_return(
        spec in specs(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
    ) {
        let fabric = Fabric::new(spec.clone())?;
        prop_assume!(!spec.functions.is_empty());
        let keys: BTreeMap<Bdf, _> =
            fabric.devices().iter().map(|device| (device.bdf, fabric.group(device.bdf))).collect();
        let before = fabric.devices();
        let windows: Vec<_> = before.iter().map(|device| fabric.windows(device.bdf)).collect();
        let mut out = Vec::new();
        for pick in picks {
            let victim = pick.get(&spec.functions).bdf;
            match fabric.remove(victim) {
                Ok(function) => out.push(function),
                Err(_) => prop_assert!(out.iter().any(|function| function.bdf == victim)),
            }
            for device in fabric.devices() {
                prop_assert_eq!(fabric.group(device.bdf), keys[&device.bdf]);
            }
        }
        for function in out {
            fabric.add(function)?;
        }
        prop_assert_eq!(fabric.devices(), before.clone());
        prop_assert_eq!(
            before.iter().map(|device| fabric.windows(device.bdf)).collect::<Vec<_>>(),
            windows
        );
    }

    // shows B7
    #[test]
    fn acs_control_changed_at_run_time_routes_as_if_it_had_been_so_and_moves_no_group(
        spec in specs(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), services()), 1..6),
    ) {
        let fabric = Fabric::new(spec.clone())?;
        let mut other = spec.clone();
        let keys: Vec<_> = fabric.devices().iter().map(|device| fabric.group(device.bdf)).collect();
        for (pick, bits) in picks {
            let mut ports: Vec<_> =
                other.ports.iter_mut().filter(|port| port.acs.is_some()).collect();
            prop_assume!(!ports.is_empty());
            let n = pick.index(ports.len());
            fabric.set_acs(ports[n].bdf, bits)?;
            ports[n].acs = Some(Acs::port(bits));
        }
        let fresh = Fabric::new(other)?;
        for device in fabric.devices() {
            prop_assert_eq!(ways(&fabric, device.bdf), ways(&fresh, device.bdf));
        }
        prop_assert_eq!(
            fabric.devices().iter().map(|device| fabric.group(device.bdf)).collect::<Vec<_>>(),
            keys
        );
    }

    #[test]
    fn drawings_keep_to_100_columns_and_show_every_device_once(spec in specs()) {
        let fabric = Fabric::new(spec)?;
        let text = sva_pci::render(&fabric);
        prop_assert!(text.lines().all(|line| line.chars().count() <= 100), "{}", text);
        for device in fabric.devices() {
            let head = format!("{} endpoint, group ", device.bdf);
            prop_assert_eq!(text.matches(&head).count(), 1, "{}", text);
        }
    }
}
