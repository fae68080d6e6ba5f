//! A software PCI Express fabric: ports, windows, ACS, grouping and routing.
//!
//! A [`FabricSpec`] says what is there, in Rust ([`FabricSpec::new`]) or as TOML
//! ([`FabricSpec::from_toml`]). A [`Fabric`] is the same at run time and implements the core's
//! trait for buses, [`Topology`](sva_core::Topology). Memory requests are routed by address, never
//! by PASID.
//!
//! ```
//! use sva_core::{Bdf, Topology};
//! use sva_pci::{Fabric, FabricSpec, Route};
//!
//! let fabric = Fabric::new(FabricSpec::from_toml(sva_pci::DEFAULT_TOML)?)?;
//! let mover: Bdf = "01:00.0".parse()?;
//! assert_eq!(fabric.path_defect(mover), None);
//! assert_eq!(fabric.route(mover, 0x7fff_0000_0000), Route::Upstream);
//! println!("{}", sva_pci::render(&fabric));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules
//!
//! Each uses those above it in this table only.
//!
//! | module | what it holds |
//! |---|---|
//! | `number` | addresses and sizes as people write them |
//! | `acs` | an emulated ACS capability, [`Acs`] |
//! | [`fabric`] | the fabric: described, checked, grouped, routed, drawn |
//! | [`mirror`] | a real machine, as `sva-topology` reads it, as a fabric |
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod acs;
pub mod fabric;
pub mod mirror;
mod number;

pub use acs::Acs;
pub use fabric::{
    AcsView, AddError, BarAborted, BarModel, BarSpec, BarView, CaughtView, ConfigError,
    ControlError, DEFAULT_TOML, Decoder, Fabric, FabricSpec, FabricView, FunctionSpec,
    FunctionView, GroupView, HostBridgeSpec, HostBridgeView, ModelError, NodeView, NotPresent,
    PasidView, PortKind, PortSpec, PortView, RamBar, RangeView, Route, SpecError, limit, render,
    render_within,
};
pub use number::{BadNumber, parse_address, parse_size};
pub use sva_topology::{AcsBits, UnknownAcsBit};
