//! Enumeration: makes a [`Tree`] of a description, checks it, and programs its bridge windows.

use std::collections::{BTreeMap, HashMap};

use sva_core::Bdf;
use sva_topology::AcsBits;

use crate::acs::Acs;
use crate::fabric::error::SpecError;
use crate::fabric::limit;
use crate::fabric::spec::FabricSpec;
use crate::fabric::tree::{Child, Function, HostBridge, Parent, Port, Tree};
use crate::fabric::{check, program};

/// Checks and links `spec`; `control` holds ACS control that was changed since enumeration.
pub(crate) fn enumerate(
    spec: &FabricSpec,
    control: &BTreeMap<Bdf, AcsBits>,
) -> Result<Tree, SpecError> {
    check::elements(spec)?;
    let mut tree = link(spec, control)?;
    let order = order(&mut tree)?;
    check::buses(&mut tree, &order)?;
    check::slots(&tree)?;
    program::windows(&mut tree, &order)?;
    Ok(tree)
}

/// The ports, parents before children; also sets their depths. A port that no host bridge is
/// above of is in a cycle.
fn order(tree: &mut Tree) -> Result<Vec<usize>, SpecError> {
    let mut order: Vec<usize> = Vec::with_capacity(tree.ports.len());
    let ports_of = |children: &[Child]| {
        let ports = children
            .iter()
            .filter_map(|below| if let Child::Port(port) = below { Some(*port) } else { None });
        ports.collect::<Vec<_>>()
    };
    for host in &tree.hosts {
        order.extend(ports_of(&host.children));
    }
    let mut next = 0;
    while let Some(&port) = order.get(next) {
        next += 1;
        if tree.ports[port].depth >= limit::DEPTH {
            return Err(SpecError::TooDeep { id: tree.ports[port].spec.id.clone() });
        }
        let children = ports_of(&tree.ports[port].children);
        for child in &children {
            tree.ports[*child].depth = tree.ports[port].depth + 1;
        }
        order.extend(children);
    }
    if order.len() < tree.ports.len() {
        let mut reached = vec![false; tree.ports.len()];
        order.iter().for_each(|port| reached[*port] = true);
        if let Some(port) = reached.iter().position(|reached| !reached) {
            return Err(SpecError::Cycle { id: tree.ports[port].spec.id.clone() });
        }
    }
    Ok(order)
}

fn link(spec: &FabricSpec, control: &BTreeMap<Bdf, AcsBits>) -> Result<Tree, SpecError> {
    let mut names = HashMap::new();
    names.extend(
        spec.host_bridges
            .iter()
            .enumerate()
            .map(|(n, host)| (host.id.as_str(), Parent::HostBridge(n))),
    );
    names
        .extend(spec.ports.iter().enumerate().map(|(n, port)| (port.id.as_str(), Parent::Port(n))));
    let parent = |bdf: Bdf, name: &str| {
        names
            .get(name)
            .copied()
            .ok_or_else(|| SpecError::UnknownParent { bdf, parent: name.to_owned() })
    };
    let acs_now = |bdf: Bdf, acs: Option<Acs>| {
        acs.map(|acs| Acs { enabled: control.get(&bdf).copied().unwrap_or(acs.enabled), ..acs })
    };

    let hosts = spec
        .host_bridges
        .iter()
        .map(|host| HostBridge { spec: host.clone(), children: Vec::new() })
        .collect();
    let mut ports = Vec::with_capacity(spec.ports.len());
    let mut functions = Vec::with_capacity(spec.functions.len());
    for port in &spec.ports {
        ports.push(Port {
            spec: port.clone(),
            acs: acs_now(port.bdf, port.acs),
            above: parent(port.bdf, &port.parent)?,
            children: Vec::new(),
            depth: 0,
            subordinate: port.secondary,
            windows: Vec::new(),
        });
    }
    for function in &spec.functions {
        functions.push(Function {
            spec: function.clone(),
            acs: acs_now(function.bdf, function.acs),
            above: parent(function.bdf, &function.parent)?,
            bars: program::bars(function)?,
        });
    }
    Ok(Tree::new(hosts, ports, functions, declared(&spec.groups)))
}

fn declared(groups: &[Vec<Bdf>]) -> HashMap<Bdf, Bdf> {
    let with_first =
        |members: &Vec<Bdf>| members.first().copied().into_iter().cycle().zip(members.clone());
    groups.iter().flat_map(with_first).map(|(first, member)| (member, first)).collect()
}
