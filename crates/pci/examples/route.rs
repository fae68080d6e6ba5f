//! Builds a fabric from TOML, draws it, and routes one memory request through it: shows whether the
//! IOMMU gets the request, or which peer or bridge decodes its address before.
//!
//! ```sh
//! cargo run -p sva-pci --example route                        # the fabric and request built in
//! cargo run -p sva-pci --example route -- fabric.toml 03:00.0 0x80100000
//! ```

use std::error::Error;

use sva_core::Bdf;
use sva_core::Topology;
use sva_pci::{Fabric, Route, parse_address};

/// Two endpoints below a switch whose first downstream port redirects nothing.
const SMALL: &str = r#"
policy = "strict"

[[host_bridge]]
id = "rc0"
windows = [{ address = "0x80000000", size = "1G" }]

[[port]]
id = "rp1"
parent = "rc0"
kind = "root-port"
bdf = "00:01.0"
secondary = 0x01
acs = ["SV", "RR", "CR", "UF"]

[[port]]
id = "up"
parent = "rp1"
kind = "upstream"
bdf = "01:00.0"
secondary = 0x02

[[port]]
id = "open"
parent = "up"
kind = "downstream"
bdf = "02:00.0"
secondary = 0x03
acs = []

[[port]]
id = "isolating"
parent = "up"
kind = "downstream"
bdf = "02:01.0"
secondary = 0x04
acs = ["SV", "RR", "CR", "UF"]

[[device]]
parent = "open"
bdf = "03:00.0"
bars = [{ address = "0x80000000", size = "64K" }]

[[device]]
parent = "isolating"
bdf = "04:00.0"
bars = [{ address = "0x80100000", size = "64K" }]
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = match arguments.next() {
        Some(file) => std::fs::read_to_string(file)?,
        None => SMALL.to_owned(),
    };
    let from: Bdf = arguments.next().as_deref().unwrap_or("03:00.0").parse()?;
    let address = parse_address(arguments.next().as_deref().unwrap_or("0x80100000"))?;

    let fabric = Fabric::from_toml(&text)?;
    print!("{}", sva_pci::render(&fabric));
    println!();
    println!("request of {from} for {address:#x}: {}", end(fabric.route(from, address)));
    if let Some(defect) = fabric.path_defect(from) {
        println!("path of {from} to the root: {defect}");
    }
    Ok(())
}

/// Where the request ends, in words.
fn end(route: Route) -> String {
    match route {
        Route::Upstream => "reaches the IOMMU".to_owned(),
        Route::Peer { bdf, bar } => format!("BAR {bar} of {bdf} decodes it"),
        Route::Dropped { bridge } => format!("{bridge} drops it: nobody behind decodes it"),
        Route::Blocked { port } => format!("{port} blocks it: its address is translated"),
    }
}
