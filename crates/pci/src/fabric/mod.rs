//! A software PCI Express fabric: what is there ([`FabricSpec`]), and how it behaves at run time
//! ([`Fabric`]).
//!
//! Uses `acs` and `number`. Inside, each module uses those above it in this table only.
//!
//! | module | what it holds |
//! |---|---|
//! | `limit`, `ranges` | bounds; windows as bridges have them |
//! | `spec`, `error` | the plain description, and what is wrong with one |
//! | `tree` | the linked hierarchy |
//! | `config`, `describe` | the description as TOML: read, written |
//! | `check`, `program` | a linked description checked; its bridge windows programmed |
//! | `enumerate` | all of that in order |
//! | `route`, `path` | where one request goes, hop by hop, by its address and address type |
//! | `windows` | the same for all addresses at once |
//! | `grouping` | which devices form a group |
//! | `runtime`, `bar` | the run-time object: hotplug, ACS control, what answers behind a BAR |
//! | `view`, `render` | the fabric as data and as a picture |

mod bar;
mod check;
mod config;
mod describe;
mod enumerate;
mod error;
mod grouping;
pub mod limit;
mod path;
mod program;
mod ranges;
mod render;
mod route;
mod runtime;
mod spec;
mod tree;
mod view;
mod windows;

pub(crate) use ranges::{FOUR_GIB, WINDOW_UNIT, joined};

pub use bar::{BarAborted, BarModel, RamBar};
pub use config::DEFAULT_TOML;
pub use error::{AddError, ConfigError, ControlError, Decoder, ModelError, NotPresent, SpecError};
pub use render::{render, render_within};
pub use route::Route;
pub use runtime::Fabric;
pub use spec::{BarSpec, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};
pub use view::{
    AcsView, BarView, CaughtView, FabricView, FunctionView, GroupView, HostBridgeView, NodeView,
    PasidView, PortView, RangeView,
};
