//! Grouping of large machines.

use std::error::Error;
use std::time::Instant;

use sva_bench::row::{Goal, Rows, median};
use sva_core::Bdf;
use sva_topology::AcsBits;
use sva_topology::groups::{Grouping, Policy};
use sva_topology::machine::{
    AcsCapability, Bridge, Express, ExpressKind, Fact, Header, Host, Ids, Machine, PciFunction,
};

/// What 10,000 functions may take.
const LIMIT_MS: f64 = 200.0;

/// Times grouping, and how the time grows.
pub(crate) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let rounds = if quick { 3 } else { 15 };
    for policy in Policy::ALL {
        let machines: Vec<Machine> = [2_500, 5_000, 10_000, 20_000]
            .into_iter()
            .map(machine)
            .collect::<Option<_>>()
            .ok_or("a machine that cannot be")?;
        // All sizes take turns, so that a slow moment of the host meets them all.
        let mut times = vec![Vec::new(); machines.len()];
        for _ in 0..rounds {
            for (machine, times) in machines.iter().zip(&mut times) {
                let start = Instant::now();
                let grouping = Grouping::compute(machine, policy);
                times.push(start.elapsed().as_secs_f64());
                if grouping.groups().is_empty() {
                    return Err("no groups".into());
                }
            }
        }
        let each: Vec<(usize, f64)> = machines
            .iter()
            .zip(&mut times)
            .map(|(machine, times)| (machine.functions().len(), median(times)))
            .collect();
        let [(small, base), rest @ ..] = each.as_slice() else { return Ok(()) };
        for (functions, seconds) in rest {
            let per_function = |seconds: f64, functions: usize| seconds * 1e9 / functions as f64;
            let case = format!("group {functions} functions, {policy}, beside {small}");
            rows.add(
                case,
                "ns a function",
                per_function(*seconds, *functions),
                per_function(*base, *small),
                Goal::RatioAtMost(2.0),
            );
            if *functions == 10_000 {
                rows.add(
                    format!("group 10000 functions, {policy}, beside the limit"),
                    "ms",
                    seconds * 1e3,
                    LIMIT_MS,
                    Goal::RatioAtMost(1.0),
                );
            }
        }
    }
    Ok(())
}

/// A server room in one machine: segments with 12 root ports, below each a switch with three ports
/// and a device of eight functions below each of these. Every third port lacks ACS, every fifth
/// device has aliases.
fn machine(functions: usize) -> Option<Machine> {
    let mut all: Vec<PciFunction> = Vec::with_capacity(functions + 512);
    for segment in 0.. {
        let mut bus = 0;
        for root in 0..12u8 {
            let top = bus + 1;
            let port = |device, number, below: (u8, u8), kind, acs| -> Option<PciFunction> {
                let mut it = function(Bdf::new(segment, number, device, 0)?, kind, acs);
                it.header = Fact::read(Header::Bridge(Bridge {
                    secondary: below.0,
                    subordinate: below.1,
                    windows: Vec::new(),
                }));
                Some(it)
            };
            all.push(port(root, 0, (top, top + 4), ExpressKind::RootPort, root % 3 != 0)?);
            all.push(port(0, top, (top + 1, top + 4), ExpressKind::Upstream, true)?);
            for down in 0..3u8 {
                let below = top + 2 + down;
                all.push(port(
                    down,
                    top + 1,
                    (below, below),
                    ExpressKind::Downstream,
                    down % 3 != 0,
                )?);
                for number in 0..8u8 {
                    let mut it = function(
                        Bdf::new(segment, below, 0, number)?,
                        ExpressKind::Endpoint,
                        number % 2 == 0,
                    );
                    it.multifunction = Fact::read(true);
                    if (root + down) % 5 == 0 {
                        it.ids = Some(Fact::read(Ids { vendor: 0x10b5, device: 0x87b0 }));
                    }
                    all.push(it);
                }
            }
            bus = top + 4;
        }
        if all.len() >= functions {
            break;
        }
    }
    all.truncate(functions);
    Some(Machine::new(all, Host::default()))
}

fn function(bdf: Bdf, kind: ExpressKind, acs: bool) -> PciFunction {
    let bits = Fact::read(AcsBits::ISOLATION);
    PciFunction {
        ids: Some(Fact::read(Ids { vendor: 0x8086, device: 0x1234 })),
        multifunction: Fact::read(false),
        express: Fact::read(Some(Express { kind, end_to_end_prefix: Fact::read(false) })),
        acs: Fact::read(acs.then_some(AcsCapability {
            implemented: bits,
            enabled: bits,
            dwords: None,
        })),
        ..PciFunction::new(bdf)
    }
}
