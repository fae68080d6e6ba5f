//! A software PCI Express fabric: ports, windows, ACS, grouping and routing.
//!
//! A [`FabricSpec`] says what is there, in Rust ([`FabricSpec::new`]) or as TOML
//! ([`FabricSpec::from_toml`]); a [`Fabric`] is it at run time and answers the core's questions
//! ([`sva_core::Topology`]). Memory requests are routed by address, never by PASID.
//!
//! ```
//! use sva_core::{Bdf, PathDefect, Topology};
//! use sva_pci::{Acs, Fabric, FabricSpec, Route};
//!
//! let fabric = Fabric::new(FabricSpec::from_toml(sva_pci::DEFAULT_TOML)?)?;
//! let mover: Bdf = "01:00.0".parse()?;
//! assert_eq!(fabric.path_defect(mover), None);
//! assert_eq!(fabric.route(mover, 0x7fff_0000_0000), Route::Upstream);
//! println!("{}", sva_pci::render(&fabric));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | folder | what lives there |
//! |---|---|
//! | [`fabric`] | the software fabric: described, checked, grouped, routed, drawn |
//! | [`groups`] | which functions of a real machine share an IOMMU group, why, and what would change it |
//! | [`machine`] | a real machine as it was read: functions, buses, IOMMUs, and how each value is known |
//! | [`read`] | readers of real machines: live Linux, `lspci` text, saved dumps, kernel logs |
//! | [`ready`] | which devices of a real machine can do shared virtual addressing, gate by gate |
//! | [`mirror`] | a software fabric that mirrors a real machine |
//! | [`picture`] | a machine and its groups as text, SVG and HTML |
//! | [`diff`] | what differs between two machines, or two groupings of one |
//! | `acs`, `number` | ACS services; numbers as people write them |
#![forbid(unsafe_code)]

mod acs;
pub mod diff;
pub mod fabric;
pub mod groups;
pub mod machine;
pub mod mirror;
mod number;
pub mod picture;
#[cfg(test)]
mod random;
pub mod read;
pub mod ready;

pub use acs::{Acs, AcsBits, UnknownAcsBit};
pub use fabric::{
    AcsView, AddError, BarAborted, BarModel, BarSpec, BarView, CaughtView, ConfigError,
    ControlError, DEFAULT_TOML, Decoder, Fabric, FabricSpec, FabricView, FunctionSpec,
    FunctionView, GroupView, HostBridgeSpec, HostBridgeView, ModelError, NodeView, NotPresent,
    PasidView, PortKind, PortSpec, PortView, RamBar, RangeView, Route, SpecError, limit, render,
};
pub use number::{BadNumber, parse_address, parse_size};
