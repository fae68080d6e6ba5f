//! A small fabric as text: a switch with devices below both of its ports, and changes of the text.

use sva_pci::{ConfigError, Fabric, SpecError};

pub(crate) const SMALL: &str = r#"
policy = "permissive"

[[host_bridge]]
id = "rc"
windows = [{ address = "0x80000000", size = "256M" }]

[[port]]
id = "rp"
parent = "rc"
kind = "root-port"
bdf = "00:01.0"
secondary = 1
acs = ["SV", "RR", "CR", "UF"]

[[port]]
id = "up"
parent = "rp"
kind = "upstream"
bdf = "01:00.0"
secondary = 2

[[port]]
id = "da"
parent = "up"
kind = "downstream"
bdf = "02:00.0"
secondary = 3
windows = [{ address = "0x80300000", size = "1M" }]

[[port]]
id = "db"
parent = "up"
kind = "downstream"
bdf = "02:01.0"
secondary = 4

[[device]]
parent = "da"
bdf = "03:00.0"
pasid = { width = 20 }
bars = [{ address = "0x80000000", size = "4K" }, { index = 2, address = "0x80001000", size = "4K" }]

[[device]]
parent = "db"
bdf = "04:00.0"
bars = [{ address = "0x80400000", size = "4K" }]

[[device]]
parent = "db"
bdf = "04:00.1"
"#;

/// The fabric of [`SMALL`] with `to` in place of `from`.
pub(crate) fn edited(from: &str, to: &str) -> Result<Fabric, ConfigError> {
    assert!(SMALL.contains(from), "`{from}` is not in the text");
    Fabric::from_toml(&SMALL.replacen(from, to, 1))
}

/// Why [`SMALL`] with `to` in place of `from` is no fabric.
pub(crate) fn refused(from: &str, to: &str) -> SpecError {
    match edited(from, to) {
        Err(ConfigError::Spec(error)) => error,
        other => panic!("`{to}` in place of `{from}`: {other:?}"),
    }
}
