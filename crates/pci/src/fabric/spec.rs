//! The plain description of a fabric: what is there, before anything is linked or checked.

use std::fmt;

use sva_core::topology::PathPolicy;
use sva_core::{AddrRange, Bdf, Capabilities};

use crate::acs::Acs;

/// A whole fabric. Checked by [`Fabric::new`](crate::Fabric::new).
///
/// ```
/// use sva_core::topology::PathPolicy;
/// use sva_core::{AddrRange, Bdf, Capabilities, PasidWidth};
/// use sva_pci::{Acs, Fabric, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};
///
/// let at = |text: &str| text.parse::<Bdf>();
/// let memory = AddrRange::new(0x8000_0000, 1 << 30);
/// let fabric = Fabric::new(
///     FabricSpec::new(PathPolicy::Strict)
///         .host_bridge(HostBridgeSpec::new("rc", memory))
///         .port(
///             PortSpec::new(PortKind::Root, "rp", "rc", at("00:01.0")?, 1)
///                 .with_acs(Acs::isolating()),
///         )
///         .function(
///             FunctionSpec::new("rp", at("01:00.0")?)
///                 .with_capabilities(Capabilities::sva(PasidWidth::MAX))
///                 .with_bar(0x8000_0000, 64 << 10),
///         ),
/// )?;
/// assert_eq!(fabric.devices().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FabricSpec {
    /// What a bind demands of the path to the root.
    pub policy: PathPolicy,
    /// The tops of the hierarchies.
    pub host_bridges: Vec<HostBridgeSpec>,
    /// Root ports, switch ports and PCIe-to-PCI bridges, in any order.
    pub ports: Vec<PortSpec>,
    /// Functions of endpoints, in any order.
    pub functions: Vec<FunctionSpec>,
    /// Groups as they are to be, whatever the rules say: each a list of functions, and of ports
    /// and host bridges whose groups' newcomers are to join it. What no list names is grouped
    /// by the rules. A real machine's groups are those that its kernel made, which need not be
    /// those of the rules here.
    pub groups: Vec<Vec<Bdf>>,
}

/// A host bridge: function 00.0 of its root bus, unless something else is there (host bridges of
/// Arm machines often are no function).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostBridgeSpec {
    /// Its name, by which children refer to it.
    pub id: String,
    /// PCI segment (domain).
    pub segment: u32,
    /// Its root bus.
    pub bus: u8,
    /// Whether the root complex forwards requests from one of its ports or integrated endpoints to
    /// another, where their ACS does not redirect them.
    pub p2p: bool,
    /// The addresses that it sends down; all BARs and bridge windows below lie inside.
    pub windows: Vec<AddrRange>,
    /// Addresses that no domain may map, such as the MSI doorbells.
    pub reserved: Vec<AddrRange>,
}

impl HostBridgeSpec {
    /// The MSI doorbells of x86.
    pub const MSI_DOORBELLS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

    /// A host bridge of segment 0 and bus 0, without peer-to-peer, with the MSI doorbells of x86
    /// reserved.
    pub fn new(id: impl Into<String>, windows: impl IntoIterator<Item = AddrRange>) -> Self {
        let reserved = AddrRange::inclusive(Self::MSI_DOORBELLS.0, Self::MSI_DOORBELLS.1);
        Self {
            id: id.into(),
            segment: 0,
            bus: 0,
            p2p: false,
            windows: windows.into_iter().collect(),
            reserved: reserved.into_iter().collect(),
        }
    }

    /// Lets the root complex forward requests between its ports.
    pub fn with_p2p(self) -> Self {
        Self { p2p: true, ..self }
    }
}

/// What a bridge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// A root port, below a host bridge.
    Root,
    /// The upstream port of a switch, below a root or downstream port.
    Upstream,
    /// A downstream port of a switch, below its upstream port.
    Downstream,
    /// A PCIe-to-PCI bridge: a conventional bus, whose devices' requests it issues under its own
    /// requester ID.
    PciBridge,
}

impl PortKind {
    /// The name in a configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root-port",
            Self::Upstream => "upstream",
            Self::Downstream => "downstream",
            Self::PciBridge => "pci-bridge",
        }
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port of a root complex or switch, or a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortSpec {
    /// Its name, by which children refer to it.
    pub id: String,
    /// The name of the host bridge or port above.
    pub parent: String,
    /// What it is.
    pub kind: PortKind,
    /// Where it sits.
    pub bdf: Bdf,
    /// The number of the bus below it.
    pub secondary: u8,
    /// ACS, in root and downstream ports only. What is enabled here is what groups are made from.
    pub acs: Option<Acs>,
    /// Whether it is one of several functions of its device, in upstream ports only: endpoints may
    /// sit beside it, and reach what is below it as that reaches them.
    pub multifunction: bool,
    /// Whether it carries end-to-end TLP prefixes, and so PASIDs.
    pub tlp_prefix: bool,
    /// Address space that it decodes, in units of 1 MiB; each range on one side of 4 GiB. One
    /// range on a side is widened to hold what its children need; several (a bridge has a
    /// window for prefetchable memory and one for other) stay as they are, and hold all its
    /// children on that side.
    pub windows: Vec<AddrRange>,
}

impl PortSpec {
    /// A port with TLP prefixes, without ACS and extra windows.
    pub fn new(
        kind: PortKind,
        id: impl Into<String>,
        parent: impl Into<String>,
        bdf: Bdf,
        secondary: u8,
    ) -> Self {
        let tlp_prefix = kind != PortKind::PciBridge;
        Self {
            id: id.into(),
            parent: parent.into(),
            kind,
            bdf,
            secondary,
            acs: None,
            multifunction: false,
            tlp_prefix,
            windows: Vec::new(),
        }
    }

    /// Gives it an ACS capability.
    pub fn with_acs(self, acs: Acs) -> Self {
        Self { acs: Some(acs), ..self }
    }

    /// Makes an upstream port one of several functions of its device.
    pub fn multifunction(self) -> Self {
        Self { multifunction: true, ..self }
    }

    /// Makes it drop end-to-end TLP prefixes.
    pub fn without_tlp_prefix(self) -> Self {
        Self { tlp_prefix: false, ..self }
    }

    /// Has it decode `window` too, for example for devices to come.
    pub fn with_window(mut self, window: AddrRange) -> Self {
        self.windows.push(window);
        self
    }
}

/// One function of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionSpec {
    /// The name of the port, bridge or host bridge above.
    pub parent: String,
    /// Where it sits; its bus is the one below the parent.
    pub bdf: Bdf,
    /// What kind of device model it is meant for; the fabric gives it no meaning.
    pub model: Option<String>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// ACS between the functions of its device. Either all functions of a device isolate (RR and
    /// CR) or none.
    pub acs: Option<Acs>,
    /// Its memory windows.
    pub bars: Vec<BarSpec>,
}

impl FunctionSpec {
    /// A function without capabilities, BARs and ACS.
    pub fn new(parent: impl Into<String>, bdf: Bdf) -> Self {
        Self {
            parent: parent.into(),
            bdf,
            model: None,
            capabilities: Capabilities::default(),
            acs: None,
            bars: Vec::new(),
        }
    }

    /// Gives it capabilities.
    pub fn with_capabilities(self, capabilities: Capabilities) -> Self {
        Self { capabilities, ..self }
    }

    /// Gives it an ACS capability.
    pub fn with_acs(self, acs: Acs) -> Self {
        Self { acs: Some(acs), ..self }
    }

    /// Says what kind of device model it is meant for.
    pub fn with_model(self, model: impl Into<String>) -> Self {
        Self { model: Some(model.into()), ..self }
    }

    /// Adds a memory BAR of `size` bytes with the next free index.
    pub fn with_bar(mut self, address: u64, size: u64) -> Self {
        let index =
            (0..=u8::MAX).find(|n| self.bars.iter().all(|bar| bar.index != *n)).unwrap_or(u8::MAX);
        self.bars.push(BarSpec { index, address, size });
        self
    }
}

/// One memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BarSpec {
    /// Which one, 0..=5.
    pub index: u8,
    /// Where it is programmed; a multiple of `size`.
    pub address: u64,
    /// Bytes; a power of two from 16 on.
    pub size: u64,
}

impl FabricSpec {
    /// An empty fabric.
    pub fn new(policy: PathPolicy) -> Self {
        Self {
            policy,
            host_bridges: Vec::new(),
            ports: Vec::new(),
            functions: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Adds a host bridge.
    pub fn host_bridge(mut self, host: HostBridgeSpec) -> Self {
        self.host_bridges.push(host);
        self
    }

    /// Adds a port.
    pub fn port(mut self, port: PortSpec) -> Self {
        self.ports.push(port);
        self
    }

    /// Adds a function.
    pub fn function(mut self, function: FunctionSpec) -> Self {
        self.functions.push(function);
        self
    }

    /// Declares a group.
    pub fn group(mut self, members: impl IntoIterator<Item = Bdf>) -> Self {
        self.groups.push(members.into_iter().collect());
        self
    }
}
