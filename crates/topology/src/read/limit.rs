//! The bound of an input.

/// The longest input that is read, in bytes: 64 MiB.
pub const LONGEST: usize = 64 << 20;
