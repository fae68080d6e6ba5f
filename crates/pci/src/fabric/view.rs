//! The fabric as data, for machine-readable output. Field names and forms are stable; addresses are
//! hexadecimal strings.

use std::collections::BTreeMap;

use serde::Serialize;
use sva_core::topology::GroupKey;
use sva_core::{AddrRange, Bdf};

use crate::acs::Acs;
use crate::fabric::grouping;
use crate::fabric::limit;
use crate::fabric::path;
use crate::fabric::route::AddressType;
use crate::fabric::runtime::Fabric;
use crate::fabric::tree::{Bar, Child, Function, HostBridge, Parent, Port, Tree};
use crate::fabric::windows;

/// A whole fabric as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FabricView {
    /// `strict` or `permissive`.
    pub policy: String,
    /// The hierarchies.
    pub host_bridges: Vec<HostBridgeView>,
    /// The groups, in the order of their first members.
    pub groups: Vec<GroupView>,
}

/// A host bridge and all below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostBridgeView {
    /// Its name.
    pub id: String,
    /// Where it sits.
    pub bdf: String,
    /// Whether it forwards between peers.
    pub p2p: bool,
    /// What it sends down.
    pub windows: Vec<RangeView>,
    /// What no domain may map.
    pub reserved: Vec<RangeView>,
    /// What is on its bus.
    pub children: Vec<NodeView>,
}

/// An element of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum NodeView {
    /// A port or bridge.
    Port(PortView),
    /// A function of an endpoint.
    Function(FunctionView),
}

/// A port or bridge and all below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortView {
    /// Its name.
    pub id: String,
    /// Where it sits.
    pub bdf: String,
    /// `root-port`, `upstream`, `downstream` or `pci-bridge`.
    pub kind: &'static str,
    /// The bus below it.
    pub secondary: u8,
    /// The last bus below it.
    pub subordinate: u8,
    /// ACS as it is now; null without the capability.
    pub acs: Option<AcsView>,
    /// Whether it carries end-to-end TLP prefixes.
    pub tlp_prefix: bool,
    /// What it decodes.
    pub windows: Vec<RangeView>,
    /// What is on the bus below it.
    pub children: Vec<NodeView>,
}

/// ACS services by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcsView {
    /// The capability register.
    pub implemented: Vec<&'static str>,
    /// The control register.
    pub enabled: Vec<&'static str>,
}

/// A function of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionView {
    /// Where it sits.
    pub bdf: String,
    /// What kind of device model it is meant for.
    pub model: Option<String>,
    /// The requester ID of its requests.
    pub requester: String,
    /// Its group, an index into [`FabricView::groups`].
    pub group: usize,
    /// The PASID capability.
    pub pasid: Option<PasidView>,
    /// Address translation services.
    pub ats: bool,
    /// Outstanding page requests that it can have.
    pub pri: Option<u32>,
    /// It can wait for a page fault.
    pub page_faults: bool,
    /// ACS as it is now; null without the capability.
    pub acs: Option<AcsView>,
    /// Its BARs.
    pub bars: Vec<BarView>,
    /// The first thing that its path lacks, in words.
    pub path_defect: Option<String>,
    /// The first port or bridge on its path that stops its translated requests.
    pub translation_blocked: Option<String>,
    /// What catches its untranslated requests before the IOMMU, sorted; the first
    /// [`limit::CAUGHT`] ranges.
    pub caught: Vec<CaughtView>,
    /// How many more ranges there are.
    pub caught_more: usize,
}

/// The PASID capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PasidView {
    /// Bits.
    pub width: u8,
    /// Execute Permission Supported.
    pub execute: bool,
    /// Privileged Mode Supported.
    pub privileged: bool,
}

/// A BAR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BarView {
    /// Which one.
    pub index: u8,
    /// Where.
    #[serde(flatten)]
    pub range: RangeView,
}

/// Addresses that never reach the IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaughtView {
    /// Which.
    #[serde(flatten)]
    pub range: RangeView,
    /// The function or bridge that decodes them.
    pub decoder: String,
    /// Whether a BAR answers; otherwise they are lost in a bridge.
    pub claimed: bool,
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RangeView {
    /// First address, hexadecimal.
    pub first: String,
    /// Last address (inclusive), hexadecimal.
    pub last: String,
    /// Bytes.
    pub size: u64,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// Its number, from 0. An IOMMU numbers its groups alike when the devices are plugged in the
    /// order of their addresses.
    pub number: usize,
    /// The point of the hierarchy up to which its members cannot be told apart.
    pub at: String,
    /// Its members, in the order of their addresses.
    pub members: Vec<String>,
    /// Why the second member is not isolated from the first, in words; null with one member.
    pub because: Option<String>,
}

impl FabricView {
    /// Takes a picture of `fabric`.
    pub fn new(fabric: &Fabric) -> Self {
        let tree = fabric.tree();
        let groups = Groups::of(&tree);
        Self {
            policy: sva_core::topology::Topology::policy(fabric).to_string(),
            host_bridges: tree
                .hosts
                .iter()
                .enumerate()
                .map(|(n, host)| host_view(&tree, &groups, n, host))
                .collect(),
            groups: groups.views(&tree),
        }
    }
}

/// Groups in the order of their first members.
struct Groups {
    members: Vec<(GroupKey, Vec<Bdf>)>,
    numbers: BTreeMap<GroupKey, usize>,
}

impl Groups {
    fn of(tree: &Tree) -> Self {
        let mut groups = Self { members: Vec::new(), numbers: BTreeMap::new() };
        for function in tree.in_order() {
            let bdf = function.spec.bdf;
            let key = grouping::key(tree, bdf);
            let number = *groups.numbers.entry(key).or_insert(groups.members.len());
            match groups.members.get_mut(number) {
                Some((_, members)) => members.push(bdf),
                None => groups.members.push((key, vec![bdf])),
            }
        }
        groups
    }

    fn views(&self, tree: &Tree) -> Vec<GroupView> {
        let view = |(number, (key, members)): (usize, &(GroupKey, Vec<Bdf>))| GroupView {
            number,
            at: key.0.to_string(),
            members: members.iter().map(Bdf::to_string).collect(),
            because: members
                .get(1)
                .map(|second| grouping::why(tree, members[0], *second).to_string()),
        };
        self.members.iter().enumerate().map(view).collect()
    }
}

fn host_view(tree: &Tree, groups: &Groups, n: usize, host: &HostBridge) -> HostBridgeView {
    HostBridgeView {
        id: host.spec.id.clone(),
        bdf: host.bdf().to_string(),
        p2p: host.spec.p2p,
        windows: host.spec.windows.iter().map(range_view).collect(),
        reserved: host.spec.reserved.iter().map(range_view).collect(),
        children: children(tree, groups, Parent::HostBridge(n)),
    }
}

fn children(tree: &Tree, groups: &Groups, above: Parent) -> Vec<NodeView> {
    let view = |below: &Child| match *below {
        Child::Port(n) => NodeView::Port(port_view(tree, groups, n, &tree.ports[n])),
        Child::Function(n) => NodeView::Function(function_view(tree, groups, &tree.functions[n])),
    };
    tree.children(above).iter().map(view).collect()
}

fn port_view(tree: &Tree, groups: &Groups, n: usize, port: &Port) -> PortView {
    PortView {
        id: port.spec.id.clone(),
        bdf: port.spec.bdf.to_string(),
        kind: port.spec.kind.name(),
        secondary: port.spec.secondary,
        subordinate: port.subordinate,
        acs: port.acs.map(acs_view),
        tlp_prefix: port.spec.tlp_prefix,
        windows: port.windows.iter().map(range_view).collect(),
        children: children(tree, groups, Parent::Port(n)),
    }
}

fn function_view(tree: &Tree, groups: &Groups, function: &Function) -> FunctionView {
    let bdf = function.spec.bdf;
    let capabilities = function.spec.capabilities;
    let pasid = |pasid: sva_core::device::PasidCapability| PasidView {
        width: pasid.width.bits(),
        execute: pasid.execute,
        privileged: pasid.privileged,
    };
    let windows = windows::windows(tree, function, AddressType::Untranslated);
    let caught = windows.iter().take(limit::CAUGHT).map(|window| CaughtView {
        range: range_view(&window.range),
        decoder: window.decoder.to_string(),
        claimed: window.claimed,
    });
    FunctionView {
        bdf: bdf.to_string(),
        model: function.spec.model.clone(),
        requester: path::requester(tree, bdf).to_string(),
        group: groups.numbers.get(&grouping::key(tree, bdf)).copied().unwrap_or_default(),
        pasid: capabilities.pasid.map(pasid),
        ats: capabilities.ats,
        pri: capabilities.pri,
        page_faults: capabilities.page_faults,
        acs: function.acs.map(acs_view),
        bars: function.bars.iter().map(bar_view).collect(),
        path_defect: path::defect(tree, function).map(|defect| defect.to_string()),
        translation_blocked: path::translation_blocker(tree, function).map(|at| at.to_string()),
        caught: caught.collect(),
        caught_more: windows.len().saturating_sub(limit::CAUGHT),
    }
}

fn acs_view(acs: Acs) -> AcsView {
    AcsView {
        implemented: acs.implemented.names().collect(),
        enabled: acs.enabled.names().collect(),
    }
}

fn bar_view(bar: &Bar) -> BarView {
    BarView { index: bar.index, range: range_view(&bar.range) }
}

fn range_view(range: &AddrRange) -> RangeView {
    RangeView {
        first: format!("{:#x}", range.first()),
        last: format!("{:#x}", range.last()),
        size: range.len(),
    }
}
