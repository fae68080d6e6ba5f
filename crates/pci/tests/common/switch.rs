//! A switch with a device below each of its two ports, and addresses worth asking about.

use sva_core::AddrRange;
use sva_core::topology::PathPolicy;
use sva_pci::{Acs, AcsBits, Fabric, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};

use super::at;
pub(crate) const A_BAR: u64 = 0x8000_0000;
pub(crate) const B_BAR: u64 = 0x8010_0000;
pub(crate) const HOLE: u64 = 0x8020_0000;

/// A switch with two endpoints, all downstream ports with `acs`, and 1 MiB of the upstream port's
/// window that no port below decodes.
pub(crate) fn switch(acs: Option<AcsBits>) -> Fabric {
    let with = |port: PortSpec| match acs {
        Some(bits) => port.with_acs(Acs::port(bits)),
        None => port,
    };
    let hole = AddrRange::new(HOLE, 1 << 20).expect("a range");
    let spec = FabricSpec::new(PathPolicy::Strict)
        .host_bridge(HostBridgeSpec::new("rc", AddrRange::new(0x8000_0000, 1 << 30)))
        .port(
            PortSpec::new(PortKind::Root, "rp", "rc", at("00:01.0"), 1).with_acs(Acs::isolating()),
        )
        .port(PortSpec::new(PortKind::Upstream, "up", "rp", at("01:00.0"), 2).with_window(hole))
        .port(with(PortSpec::new(PortKind::Downstream, "da", "up", at("02:00.0"), 3)))
        .port(with(PortSpec::new(PortKind::Downstream, "db", "up", at("02:01.0"), 4)))
        .function(FunctionSpec::new("da", at("03:00.0")).with_bar(A_BAR, 4096))
        .function(FunctionSpec::new("db", at("04:00.0")).with_bar(B_BAR, 4096));
    Fabric::new(spec).expect("a fabric")
}
