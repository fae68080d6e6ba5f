//! Bounds of a [`Reading`](super::Reading); what passes them is refused or cut off.

/// Functions of a machine.
pub const FUNCTIONS: usize = 65_536;
/// Windows or BARs of one function.
pub const RANGES: usize = 8;
/// IOMMUs of a machine.
pub const IOMMUS: usize = 1_024;
/// Options of the command line.
pub const OPTIONS: usize = 256;
/// Characters of a name.
pub const NAME: usize = 256;
