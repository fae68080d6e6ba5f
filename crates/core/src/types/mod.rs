//! Numbers with a meaning, ranges and accesses: values without behaviour, which every layer uses.
//!
//! This layer uses nothing of this crate.

pub(crate) mod access;
pub(crate) mod ids;
pub(crate) mod range;
