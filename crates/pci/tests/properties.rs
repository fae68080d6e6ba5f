//! Random fabrics: the fast forms against slow ones, and what must hold between them.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{edges, specs};
use proptest::prelude::*;
use sva_core::{Bdf, SharedBecause, Topology};
use sva_pci::{Acs, AcsBits, Fabric, FabricSpec, PortKind, PortSpec, Route};

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 256, ..ProptestConfig::default() }
}

/// What the windows say about one address.
fn by_windows(fabric: &Fabric, from: Bdf, address: u64) -> Option<(Bdf, bool)> {
    let windows = fabric.windows(from);
    let hit: Vec<_> = windows.iter().filter(|window| window.range.contains(address)).collect();
    assert!(hit.len() < 2, "windows of {from} overlap at {address:#x}");
    hit.first().map(|window| (window.decoder, window.claimed))
}

fn by_route(fabric: &Fabric, from: Bdf, address: u64) -> Option<(Bdf, bool)> {
    match fabric.route(from, address) {
        Route::Upstream => None,
        Route::Peer { bdf, .. } => Some((bdf, true)),
        Route::Swallowed { bridge } => Some((bridge, false)),
    }
}

/// The rules of grouping once more, from the flat lists: every weak point joins all functions whose way passes it.
fn flat_groups(spec: &FabricSpec) -> BTreeSet<BTreeSet<Bdf>> {
    let way = |bdf: Bdf| {
        let mut ports: Vec<&PortSpec> = Vec::new();
        let mut bus = bdf.bus();
        while let Some(port) = spec.ports.iter().find(|port| port.secondary == bus) {
            ports.push(port);
            bus = port.bdf.bus();
        }
        (ports, bus)
    };
    let isolates = |acs: Option<Acs>, bits: AcsBits| acs.is_some_and(|acs| acs.enabled.contains(bits));
    let mut joined: Vec<BTreeSet<Bdf>> = Vec::new();
    let functions: Vec<Bdf> = spec.functions.iter().map(|function| function.bdf).collect();
    for port in spec.ports.iter().filter(|port| port.kind != PortKind::Upstream && !isolates(port.acs, AcsBits::ISOLATION)) {
        let (above, root_bus) = way(port.bdf);
        let root = spec.host_bridges.iter().find(|host| host.bus == root_bus).expect("a way ends at a host bridge");
        let point = if port.kind == PortKind::Downstream { above[0].bdf } else { port.bdf };
        joined.push(functions.iter().copied().filter(|bdf| way(*bdf).0.iter().any(|port| port.bdf == point)).collect());
        if root.p2p && port.parent == root.id {
            joined.push(functions.iter().copied().filter(|bdf| way(*bdf).1 == root_bus).collect());
        }
    }
    for port in spec.ports.iter().filter(|port| port.multifunction) {
        let below = |bdf: Bdf| way(bdf).0.iter().any(|other| other.bdf == port.bdf);
        joined.push(functions.iter().copied().filter(|bdf| bdf.slot() == port.bdf.slot() || below(*bdf)).collect());
    }
    for function in spec.functions.iter().filter(|function| !isolates(function.acs, AcsBits::FUNCTION_ISOLATION)) {
        joined.push(functions.iter().copied().filter(|bdf| bdf.slot() == function.bdf.slot()).collect());
    }
    let mut groups: Vec<BTreeSet<Bdf>> = functions.iter().map(|bdf| BTreeSet::from([*bdf])).collect();
    for set in joined {
        let (touched, rest): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| !group.is_disjoint(&set));
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
    fn windows_and_the_hop_by_hop_router_agree_at_every_address(spec in specs(), more in prop::collection::vec((1u64 << 31)..(3 << 30), 32)) {
        let fabric = Fabric::new(spec.clone())?;
        let edges = edges(&fabric, &spec);
        for device in fabric.devices() {
            let windows = fabric.windows(device.bdf);
            prop_assert!(windows.windows(2).all(|pair| pair[0].range.last() < pair[1].range.first()), "sorted and disjoint");
            for &address in edges.iter().chain(&more) {
                prop_assert_eq!(by_windows(&fabric, device.bdf, address), by_route(&fabric, device.bdf, address), "{} at {:#x}", device.bdf, address);
            }
        }
    }

    // shows B1, B7
    #[test]
    fn a_path_without_defect_lets_every_address_through_to_the_iommu(spec in specs()) {
        let fabric = Fabric::new(spec)?;
        for device in fabric.devices().iter().filter(|device| fabric.path_defect(device.bdf).is_none()) {
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
        let bars: Vec<_> = spec.functions.iter().flat_map(|function| function.bars.iter().map(|bar| (function.bdf, bar.address))).collect();
        for device in fabric.devices() {
            for (owner, address) in bars.iter().filter(|(owner, _)| fabric.group(*owner) != fabric.group(device.bdf)) {
                let route = fabric.route(device.bdf, *address);
                prop_assert!(!matches!(route, Route::Peer { .. }), "{} reaches {} at {:#x}", device.bdf, owner, address);
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
                    let acs = spec.functions.iter().find(|function| function.bdf == a).and_then(|function| function.acs);
                    prop_assert!(!acs.is_some_and(|acs| acs.enabled.contains(AcsBits::FUNCTION_ISOLATION)));
                }
                SharedBecause::NoAcs { port } => {
                    let port = spec.ports.iter().find(|candidate| candidate.bdf == port);
                    prop_assert!(port.is_some_and(|port| !port.acs.is_some_and(|acs| acs.enabled.contains(AcsBits::ISOLATION))));
                }
                other => prop_assert!(false, "{}", other),
            }
        }
    }

    // shows G4
    #[test]
    fn keys_and_windows_of_the_others_stay_when_devices_leave_and_return(spec in specs(), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..8)) {
        let fabric = Fabric::new(spec.clone())?;
        prop_assume!(!spec.functions.is_empty());
        let keys: BTreeMap<Bdf, _> = fabric.devices().iter().map(|device| (device.bdf, fabric.group(device.bdf))).collect();
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
        prop_assert_eq!(before.iter().map(|device| fabric.windows(device.bdf)).collect::<Vec<_>>(), windows);
    }

    // shows B7
    #[test]
    fn acs_control_changed_at_run_time_routes_as_if_it_had_been_so_and_moves_no_group(spec in specs(), picks in prop::collection::vec((any::<prop::sample::Index>(), 0..16u8), 1..6)) {
        let fabric = Fabric::new(spec.clone())?;
        let mut other = spec.clone();
        let keys: Vec<_> = fabric.devices().iter().map(|device| fabric.group(device.bdf)).collect();
        for (pick, set) in picks {
            let named = [AcsBits::SV, AcsBits::RR, AcsBits::CR, AcsBits::UF].into_iter().enumerate();
            let bits = named.filter(|(n, _)| set >> n & 1 == 1).fold(AcsBits::NONE, |all, (_, bit)| all | bit);
            let mut ports: Vec<_> = other.ports.iter_mut().filter(|port| port.acs.is_some()).collect();
            prop_assume!(!ports.is_empty());
            let n = pick.index(ports.len());
            fabric.set_acs(ports[n].bdf, bits)?;
            ports[n].acs = Some(Acs::port(bits));
        }
        let fresh = Fabric::new(other)?;
        for device in fabric.devices() {
            prop_assert_eq!(fabric.windows(device.bdf), fresh.windows(device.bdf));
            prop_assert_eq!(fabric.path_defect(device.bdf), fresh.path_defect(device.bdf));
        }
        prop_assert_eq!(fabric.devices().iter().map(|device| fabric.group(device.bdf)).collect::<Vec<_>>(), keys);
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
