//! Fabrics and numbers as people write them.

use sva_core::Bdf;
use sva_pci::{Fabric, parse_address, parse_size, render};

/// A description in TOML.
///
/// # Panics
/// An error is too long to be read.
pub fn toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Fabric::from_toml(text) {
        Ok(fabric) => assert!(!render(&fabric).is_empty()),
        Err(error) => assert!(error.to_string().chars().count() < 2_000, "{error}"),
    }
}

/// An address, a size, a place on the bus.
///
/// # Panics
/// What was read is written otherwise than it reads.
pub fn number(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(address) = parse_address(text) {
        assert_eq!(parse_address(&format!("{address:#x}")).ok(), Some(address));
    }
    if let Ok(size) = parse_size(text) {
        assert_eq!(parse_size(&size.to_string()).ok(), Some(size));
    }
    if let Ok(bdf) = text.parse::<Bdf>() {
        assert_eq!(bdf.to_string().parse().ok(), Some(bdf));
    }
}
