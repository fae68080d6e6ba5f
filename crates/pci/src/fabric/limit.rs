//! Bounds of a fabric and of the text that describes one; what passes them is refused.

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
