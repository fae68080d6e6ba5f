//! Made-up dumps.
#![allow(dead_code, reason = "each test file uses its part")]

use sva_core::Bdf;
use sva_topology::machine::{Machine, PciFunction};

pub(crate) fn bdf(text: &str) -> Bdf {
    text.parse().expect("an address in a test")
}

/// The machine that `text` describes.
pub(crate) fn machine(text: &str) -> Machine {
    sva_topology::read::from_text(text.as_bytes()).expect("the text reads")
}

pub(crate) fn function<'m>(machine: &'m Machine, at: &str) -> &'m PciFunction {
    machine.get(bdf(at)).expect("the function is there")
}

/// A root port and a card that can do shared virtual addressing.
pub(crate) const ONE_PORT: &str = "\
00:01.0 PCI bridge [0604]: Made Up Root Port [1af4:0101] (rev 02) (prog-if 00 [Normal decode])
\tSubsystem: Made Up [1af4:1100]
\tFlags: bus master, fast devsel, latency 0, IRQ 122
\tBus: primary=00, secondary=01, subordinate=02, sec-latency=0
\tI/O behind bridge: 2000-2fff [size=4K] [16-bit]
\tMemory behind bridge: 80000000-81ffffff [size=32M] [32-bit]
\tPrefetchable memory behind bridge: 00000000fff00000-00000000000fffff [disabled] [64-bit]
\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00
\t\tDevCap:\tMaxPayload 256 bytes, PhantFunc 0
\t\tStatus:\tDEVSEL=fast
\t\tDevCap2: Completion Timeout: Range ABC, TimeoutDis+ NROPrPrP- LTR+
\t\t\t 10BitTagComp+ 10BitTagReq+ OBFF Via WAKE#, ExtFmt+ EETLPPrefix+, MaxEETLPPrefixes 2
\t\tDevCtl2: Completion Timeout: 50us to 50ms, TimeoutDis- LTR+ 10BitTagReq- \
OBFF Disabled, EETLPPrefixBlk-
\tCapabilities: [220 v1] Access Control Services
\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir- UpstreamFwd- EgressCtrl- DirectTrans-
\tCapabilities: [300 v1] Extended Capability ID 0x7f
\tKernel driver in use: pcieport

01:00.0 Ethernet controller [0200]: Made Up Card With a Name That Is Long Enough to Be \
Wrapped by Mail [1af4:0102]
\tFlags: bus master, fast devsel, latency 0, IRQ 10
\tRegion 0: Memory at 80000000 (64-bit, non-prefetchable) [size=16M]
\tRegion 2: I/O ports at 2000 [size=64]
\tRegion 4: Memory at 4000000000 (64-bit, prefetchable) [size=256M]
\tCapabilities: [70] Express (v2) Endpoint, MSI 00
\tCapabilities: [100 v1] Address Translation Service (ATS)
\t\tATSCap:\tInvalidate Queue Depth: 00
\t\tATSCtl:\tEnable+, Smallest Translation Unit: 00
\tCapabilities: [110 v1] Page Request Interface (PRI)
\t\tPRICtl: Enable- Reset-
\t\tPRISta: RF- UPRGI- Stopped+
\t\tPage Request Capacity: 00000100, Page Request Allocation: 00000000
\tCapabilities: [120 v1] Process Address Space ID (PASID)
\t\tPASIDCap: Exec+ Priv-, Max PASID Width: 14
\t\tPASIDCtl: Enable+ Exec- Priv-
\tKernel driver in use: made_up
\tKernel modules: made_up

";

/// Little-endian writes into configuration space.
pub(crate) struct Config(pub(crate) Vec<u8>);

impl Config {
    pub(crate) fn word(&mut self, at: usize, value: u16) -> &mut Self {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn dword(&mut self, at: usize, value: u32) -> &mut Self {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }
}

/// 4 KiB of the port of [`ONE_PORT`], with another ACS control.
pub(crate) fn port_config() -> Vec<u8> {
    let mut config = Config(vec![0; 4096]);
    config
        .word(0, 0x1af4)
        .word(2, 0x0101)
        .word(6, 0x0010)
        .dword(8, 0x0604_0002)
        .dword(0x0c, 0x0081_0000);
    config.dword(0x18, 0x0002_0100).dword(0x20, 0x81f0_8000).dword(0x34, 0x40);
    // Express, version 2, root port; end-to-end prefixes.
    config.word(0x40, 0x0010).word(0x42, 0x0042).dword(0x40 + 0x24, 1 << 21);
    // A null capability first, then ACS.
    config
        .dword(0x100, 0x2201_0000 & !0xffff | 0x2200_0000)
        .dword(0x220, 0x0001_000d)
        .word(0x224, 0x005f)
        .word(0x226, 0x001d);
    config.0
}

/// As `lspci -xxxx` prints them.
pub(crate) fn hex_lines(bytes: &[u8]) -> String {
    let line = |(n, chunk): (usize, &[u8])| {
        let bytes: String = chunk.iter().map(|byte| format!(" {byte:02x}")).collect();
        format!("{:02x}:{bytes}\n", n * 16)
    };
    bytes.chunks(16).enumerate().map(line).collect()
}
