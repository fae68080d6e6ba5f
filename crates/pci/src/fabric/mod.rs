//! A software PCI Express fabric: what is there ([`FabricSpec`]), and how it behaves at run time
//! ([`Fabric`]).
//!
//! | module | what lives there |
//! |---|---|
//! | `spec`, `config`, `describe` | the plain description, its TOML form, and the way back |
//! | `tree`, `check`, `program` | the hierarchy: linked, checked, its bridge windows programmed |
//! | `route` | where one request goes, hop by hop, by its address and address type |
//! | `windows` | the same for all addresses at once |
//! | `grouping`, `path` | which devices form a group; what a path to the root lacks |
//! | `runtime`, `bar` | the run-time object: hotplug, ACS control, what answers behind a BAR |
//! | `view`, `render` | the fabric as data and as a picture |

mod bar;
mod check;
mod config;
mod describe;
mod error;
mod grouping;
mod path;
mod program;
mod render;
mod route;
mod runtime;
mod spec;
mod tree;
mod view;
mod windows;

pub(crate) use program::joined;

pub use bar::{BarAborted, BarModel, RamBar};
pub use config::DEFAULT_TOML;
pub use error::{AddError, ConfigError, ControlError, Decoder, ModelError, NotPresent, SpecError};
pub use render::render;
pub use route::Route;
pub use runtime::Fabric;
pub use spec::{BarSpec, FabricSpec, FunctionSpec, HostBridgeSpec, PortKind, PortSpec};
pub use view::{
    AcsView, BarView, CaughtView, FabricView, FunctionView, GroupView, HostBridgeView, NodeView,
    PasidView, PortView, RangeView,
};

/// Bounds of a fabric and of the text that describes one; what passes them is refused.
pub mod limit {
    /// Bytes of a configuration file.
    pub const TEXT: usize = 1 << 20;
    /// Host bridges: a large server has tens of root buses.
    pub const HOST_BRIDGES: usize = 256;
    /// Ports and bridges.
    pub const PORTS: usize = 1024;
    /// Functions of endpoints.
    pub const FUNCTIONS: usize = 4096;
    /// Bridges between an endpoint and its host bridge.
    pub const DEPTH: usize = 32;
    /// BARs of one function.
    pub const BARS: usize = 6;
    /// Windows or reserved ranges of one host bridge.
    pub const RANGES: usize = 16;
    /// Ranges listed for one function in a [`FabricView`](crate::FabricView); a large fabric
    /// without ACS has millions in all.
    pub const CAUGHT: usize = 32;
    /// Bytes of an id or of a model's name.
    pub const NAME: usize = 32;
    /// Characters of a configuration file that a message about it shows.
    pub const EXCERPT: usize = 80;
    /// Characters of the reason in such a message; it can hold foreign text, too.
    pub const REASON: usize = 320;
}
