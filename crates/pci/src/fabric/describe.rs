//! Writes a description as TOML, in the form that people write.
//!
//! Written by hand rather than by serde: tables of one line each for what belongs together,
//! hexadecimal addresses and sizes with units, and nothing that is the default.

use std::fmt::{self, Display, Formatter};

use sva_core::AddrRange;
use sva_core::topology::PathPolicy;
use sva_topology::AcsBits;

use crate::acs::Acs;
use crate::fabric::spec::{FabricSpec, FunctionSpec, HostBridgeSpec, PortSpec};
use crate::number::size_text;

impl FabricSpec {
    /// The description as a configuration file, which [`from_toml`](Self::from_toml) reads back to
    /// an equal one where every element is what one can be and the text is no longer than
    /// [`limit::TEXT`](crate::limit::TEXT). The text ends with a line feed.
    pub fn to_toml(&self) -> String {
        Toml(self).to_string()
    }
}

struct Toml<'a>(&'a FabricSpec);

impl Display for Toml<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let spec = self.0;
        let policy = match spec.policy {
            PathPolicy::Strict => "strict",
            PathPolicy::Permissive => "permissive",
        };
        writeln!(f, "policy = \"{policy}\"")?;
        spec.host_bridges.iter().try_for_each(|host| host_bridge(f, host))?;
        spec.ports.iter().try_for_each(|item| port(f, item))?;
        spec.functions.iter().try_for_each(|item| function(f, item))?;
        for members in &spec.groups {
            writeln!(f, "\n[[group]]\nmembers = {}", list(members.iter().map(quoted)))?;
        }
        Ok(())
    }
}

fn host_bridge(f: &mut Formatter<'_>, host: &HostBridgeSpec) -> fmt::Result {
    let usual = HostBridgeSpec::new("", []);
    writeln!(f, "\n[[host_bridge]]\nid = {}", quoted(&host.id))?;
    if host.segment != usual.segment {
        writeln!(f, "segment = {:#x}", host.segment)?;
    }
    if host.bus != usual.bus {
        writeln!(f, "bus = {:#04x}", host.bus)?;
    }
    if host.p2p {
        writeln!(f, "p2p = true")?;
    }
    writeln!(f, "windows = {}", list(host.windows.iter().map(range)))?;
    if host.reserved != usual.reserved {
        writeln!(f, "reserved = {}", list(host.reserved.iter().map(range)))?;
    }
    Ok(())
}

fn port(f: &mut Formatter<'_>, port: &PortSpec) -> fmt::Result {
    let usual = PortSpec::new(port.kind, "", "", port.bdf, port.secondary);
    writeln!(
        f,
        "\n[[port]]\nid = {}\nparent = {}\nkind = \"{}\"",
        quoted(&port.id),
        quoted(&port.parent),
        port.kind
    )?;
    writeln!(f, "bdf = \"{}\"\nsecondary = {:#04x}", port.bdf, port.secondary)?;
    acs(f, port.acs, Acs::port)?;
    if port.multifunction {
        writeln!(f, "multifunction = true")?;
    }
    if port.tlp_prefix != usual.tlp_prefix {
        writeln!(f, "tlp_prefix = {}", port.tlp_prefix)?;
    }
    if !port.windows.is_empty() {
        writeln!(f, "windows = {}", list(port.windows.iter().map(range)))?;
    }
    Ok(())
}

fn function(f: &mut Formatter<'_>, function: &FunctionSpec) -> fmt::Result {
    writeln!(f, "\n[[device]]\nparent = {}\nbdf = \"{}\"", quoted(&function.parent), function.bdf)?;
    if let Some(model) = &function.model {
        writeln!(f, "model = {}", quoted(model))?;
    }
    let capabilities = function.capabilities;
    if let Some(pasid) = capabilities.pasid {
        let (execute, privileged) = (
            if pasid.execute { ", execute = true" } else { "" },
            if pasid.privileged { ", privileged = true" } else { "" },
        );
        writeln!(f, "pasid = {{ width = {}{execute}{privileged} }}", pasid.width.bits())?;
    }
    if capabilities.ats {
        writeln!(f, "ats = true")?;
    }
    if let Some(requests) = capabilities.pri {
        writeln!(f, "pri = {requests}")?;
    }
    if capabilities.response_pasid != capabilities.pri.is_some() {
        writeln!(f, "response_pasid = {}", capabilities.response_pasid)?;
    }
    if capabilities.page_faults {
        writeln!(f, "page_faults = true")?;
    }
    acs(f, function.acs, Acs::function)?;
    if !function.bars.is_empty() {
        let bar = |bar: &crate::BarSpec| {
            format!(
                "{{ index = {}, address = \"{:#x}\", size = \"{}\" }}",
                bar.index,
                bar.address,
                size_text(bar.size)
            )
        };
        writeln!(f, "bars = {}", list(function.bars.iter().map(bar)))?;
    }
    Ok(())
}

fn acs(f: &mut Formatter<'_>, acs: Option<Acs>, usual: fn(AcsBits) -> Acs) -> fmt::Result {
    let Some(acs) = acs else { return Ok(()) };
    let names = |bits: AcsBits| list(bits.names().map(|name| quoted(&name)));
    writeln!(f, "acs = {}", names(acs.enabled))?;
    if acs.implemented != usual(acs.enabled).implemented {
        writeln!(f, "acs_implemented = {}", names(acs.implemented))?;
    }
    Ok(())
}

/// As a TOML string. Names that a fabric takes need no escape; others are not ours to judge here.
fn quoted(text: &impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn range(range: &AddrRange) -> String {
    format!("{{ address = \"{:#x}\", size = \"{}\" }}", range.first(), size_text(range.len()))
}

/// On one line where it is short, one item a line otherwise.
fn list(items: impl Iterator<Item = String>) -> String {
    const SHORT: usize = 100;
    let items: Vec<String> = items.collect();
    let line = items.join(", ");
    if line.len() <= SHORT {
        format!("[{line}]")
    } else {
        format!("[\n    {},\n]", items.join(",\n    "))
    }
}
