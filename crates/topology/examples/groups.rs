//! Prints the IOMMU groups of a machine with their reasons: of the machine in the file named as the
//! argument (text of `lspci -vvv -nn`, or a saved dump), or of a small one that is built in.
//!
//! ```sh
//! cargo run -p sva-topology --example groups                 # the machine that is built in
//! cargo run -p sva-topology --example groups -- lspci.txt
//! ```

use std::borrow::Cow;
use std::error::Error;

use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{Machine, Source};
use sva_topology::read;

/// A switch whose second downstream port does not isolate, and two cards below it.
const SMALL: &[u8] = b"\
00:01.0 PCI bridge [0604]: Root Port [1af4:0101] (prog-if 00 [Normal decode])
\tBus: primary=00, secondary=01, subordinate=04, sec-latency=0
\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00
\tCapabilities: [220 v1] Access Control Services
\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-

01:00.0 PCI bridge [0604]: Switch, Upstream Port [1af4:0110] (prog-if 00 [Normal decode])
\tBus: primary=01, secondary=02, subordinate=04, sec-latency=0
\tCapabilities: [40] Express (v2) Upstream Port, MSI 00

02:01.0 PCI bridge [0604]: Switch, Downstream Port [1af4:0111] (prog-if 00 [Normal decode])
\tBus: primary=02, secondary=03, subordinate=03, sec-latency=0
\tCapabilities: [40] Express (v2) Downstream Port (Slot+), MSI 00
\tCapabilities: [220 v1] Access Control Services
\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-

02:02.0 PCI bridge [0604]: Switch, Downstream Port [1af4:0111] (prog-if 00 [Normal decode])
\tBus: primary=02, secondary=04, subordinate=04, sec-latency=0
\tCapabilities: [40] Express (v2) Downstream Port (Slot+), MSI 00
\tCapabilities: [220 v1] Access Control Services
\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
\t\tACSCtl:\tSrcValid- TransBlk- ReqRedir- CmpltRedir- UpstreamFwd- EgressCtrl- DirectTrans-

03:00.0 Ethernet controller [0200]: Network Card [1af4:0102]
\tCapabilities: [70] Express (v2) Endpoint, MSI 00

04:00.0 Ethernet controller [0200]: Network Card [1af4:0102]
\tCapabilities: [70] Express (v2) Endpoint, MSI 00

";

fn main() -> Result<(), Box<dyn Error>> {
    let text = match std::env::args_os().nth(1) {
        Some(file) => Cow::Owned(std::fs::read(&file).map_err(|error| {
            format!("{}: {error}; lspci -vvv -nn writes such a text", file.display())
        })?),
        None => Cow::Borrowed(SMALL),
    };
    let machine = read::from_text(&text)?;
    print_groups(&machine, &Grouping::compute(&machine, Policy::Linux));
    for anomaly in machine.anomalies() {
        println!("note: {anomaly}");
    }
    Ok(())
}

fn print_groups(machine: &Machine, grouping: &Grouping) {
    for group in grouping.groups() {
        println!("group {}", group.id);
        for member in &group.members {
            let function = &machine.functions()[*member];
            println!("  {} {}", function.bdf, function.name.as_deref().unwrap_or("-"));
        }
        for reason in &group.reasons {
            let known = match reason.source {
                Source::Read => String::new(),
                source => format!(" [{source}]"),
            };
            println!("  because: {}{known}", reason.describe(machine, grouping));
        }
    }
}
