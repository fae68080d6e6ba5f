//! Identifiers, address ranges, accesses and permissions: plain values that every layer uses.
//!
//! This layer uses no other layer of this crate.

pub(crate) mod access;
pub(crate) mod ids;
pub(crate) mod range;
