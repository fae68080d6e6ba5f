//! Which devices form a group: the rules of this fabric.
//!
//! A group is the last of these points on the way from the device to the root, at which the paths
//! of several devices join:
//!
//! 1. the device, where its functions do not isolate from one another (RR and CR);
//! 2. a PCIe-to-PCI bridge: one requester ID for all behind it;
//! 3. a switch, where one of its downstream ports does not isolate (SV, RR, CR and UF): what is
//!    below that port reaches the others, however these are set; An upstream port that is one of
//!    several functions joins the others and all below it, for it does not isolate them;
//! 4. a root port that does not isolate: what is redirected to it is not sent on;
//! 5. a host bridge that forwards between peers, where one of its ports does not isolate.
//!
//! Declared groups ([`FabricSpec::groups`](crate::FabricSpec::groups)) go before: a device that one
//! names is in it, and so is one that none names where it names the point that the rules found.
//!
//! ACS counts as it was at enumeration: a later change of ACS control moves no device to another
//! group, as on Linux, but shows in the path's defects and windows. Rules 2 to 5 look at bridges
//! alone, and a device's functions isolate all or none (rule 1), so keys do not change with the
//! endpoints plugged; the fabric checks that when one is added. Other rule sets can stand beside
//! this one: the fabric uses [`key`] and [`why`] alone.

use sva_core::Bdf;
use sva_core::topology::RequesterId;
use sva_core::topology::{GroupKey, SharedBecause};
use sva_topology::AcsBits;

use crate::acs::enabled;
use crate::fabric::check::isolates;
use crate::fabric::path;
use crate::fabric::spec::PortKind;
use crate::fabric::tree::{Child, Port, Tree};

/// The group of `device`; one that is not there is answered by its position, as without ACS of its
/// own.
pub(crate) fn key(tree: &Tree, device: Bdf) -> GroupKey {
    if let Some(first) = tree.declared.get(&device) {
        return GroupKey(*first);
    }
    let point = merge_point(tree, device);
    tree.declared.get(&point.0).map_or(point, |first| GroupKey(*first))
}

/// The last point at which paths run together with that of `device`.
fn merge_point(tree: &Tree, device: Bdf) -> GroupKey {
    let bus = tree.bus_of(device);
    let own = if function_isolates(tree, device) && tree.beside(device).is_none() {
        device
    } else {
        device.slot()
    };
    let Some(above) = bus else { return GroupKey(own) };
    let (ports, host) = tree.upward(above);
    let merged_at = ports
        .iter()
        .rev()
        .find(|port| merges(tree, **port))
        .map(|port| representative(&tree.ports[*port]));
    if host_merges(tree, host).is_some() {
        return GroupKey(tree.hosts[host].bdf());
    }
    GroupKey(merged_at.unwrap_or(own))
}

/// What stands for what a port joins: itself, or the device of an upstream port with functions
/// beside it.
fn representative(port: &Port) -> Bdf {
    if port.spec.multifunction { port.spec.bdf.slot() } else { port.spec.bdf }
}

/// Why `a` and `b` share a group. What the rules do not join is declared.
pub(crate) fn why(tree: &Tree, a: Bdf, b: Bdf) -> SharedBecause {
    let rid: RequesterId = path::requester(tree, a);
    if rid == path::requester(tree, b) {
        return SharedBecause::RequesterId(rid);
    }
    if a.slot() == b.slot() && !function_isolates(tree, a) {
        return SharedBecause::Multifunction { slot: a.slot() };
    }
    if merge_point(tree, a) != merge_point(tree, b) {
        return SharedBecause::Declared;
    }
    SharedBecause::NoAcs { port: joining_port(tree, a, b).unwrap_or(merge_point(tree, a).0) }
}

/// The port that joins the paths of `a` and `b`: the first that does not isolate on the way of `a`,
/// then of `b`, then beside them.
fn joining_port(tree: &Tree, a: Bdf, b: Bdf) -> Option<Bdf> {
    let (above_a, above_b) = (tree.bus_of(a)?, tree.bus_of(b)?);
    let ((ports_a, host), (ports_b, _)) = (tree.upward(above_a), tree.upward(above_b));
    let beside = [a, b].into_iter().filter_map(|device| tree.beside(device));
    let on_the_way =
        ports_a.iter().chain(&ports_b).copied().chain(beside).map(|port| &tree.ports[port]);
    let lacking = on_the_way
        .filter(|port| port.spec.kind != PortKind::Upstream || port.spec.multifunction)
        .find(|port| !port_isolates(port));
    if let Some(port) = lacking {
        return Some(port.spec.bdf);
    }
    let switches = ports_a.iter().filter(|port| ports_b.contains(port));
    switches
        .filter_map(|port| non_isolating_downstream(tree, *port))
        .next()
        .or_else(|| host_merges(tree, host))
}

/// Whether everything below this port or bridge is one group.
fn merges(tree: &Tree, port: usize) -> bool {
    match tree.ports[port].spec.kind {
        PortKind::PciBridge => true,
        PortKind::Upstream => {
            tree.ports[port].spec.multifunction || non_isolating_downstream(tree, port).is_some()
        }
        PortKind::Root => !port_isolates(&tree.ports[port]),
        // Its switch has merged, one step further up.
        PortKind::Downstream => false,
    }
}

/// The first downstream port of a switch that does not isolate.
fn non_isolating_downstream(tree: &Tree, upstream: usize) -> Option<Bdf> {
    let mut ports = ports_of(tree, &tree.ports[upstream].children);
    ports
        .find(|port| port.spec.kind == PortKind::Downstream && !port_isolates(port))
        .map(|port| port.spec.bdf)
}

fn ports_of<'a>(tree: &'a Tree, children: &'a [Child]) -> impl Iterator<Item = &'a Port> {
    children.iter().filter_map(|child| {
        if let Child::Port(port) = child { Some(&tree.ports[*port]) } else { None }
    })
}

/// What makes everything below a host bridge one group: the first of its ports through which peers
/// are reached.
fn host_merges(tree: &Tree, host: usize) -> Option<Bdf> {
    let host = &tree.hosts[host];
    if !host.spec.p2p {
        return None;
    }
    ports_of(tree, &host.children).find(|port| !port_isolates(port)).map(|port| port.spec.bdf)
}

fn port_isolates(port: &Port) -> bool {
    enabled(port.spec.acs, AcsBits::ISOLATION)
}

fn function_isolates(tree: &Tree, device: Bdf) -> bool {
    tree.function(device).is_some_and(|function| isolates(&function.spec))
}
