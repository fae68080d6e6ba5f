//! Programs the windows of bridges, from the leaves up, and checks that every address has at most
//! one decoder on each bus.

use sva_core::{AddrRange, Bdf};

use crate::fabric::error::{Decoder, SpecError};
use crate::fabric::ranges::{FOUR_GIB, WINDOW_UNIT, joined};
use crate::fabric::spec::{FunctionSpec, PortSpec};
use crate::fabric::tree::{Bar, Child, HostBridge, Parent, Tree};

/// The smallest memory BAR: the low four bits of the register are no address (PCIe 6.0, section
/// 7.5.1.2.1, which wants 128 of native endpoints).
const BAR_LEAST: u64 = 16;

/// Checks the BARs of a function by themselves.
pub(crate) fn bars(function: &FunctionSpec) -> Result<Vec<Bar>, SpecError> {
    let bdf = function.bdf;
    let mut bars = Vec::with_capacity(function.bars.len());
    for bar in &function.bars {
        let (index, address, size) = (bar.index, bar.address, bar.size);
        let decoder = Decoder::Bar { device: bdf, index };
        if size == 0 {
            return Err(SpecError::Empty { decoder, address });
        }
        let range =
            AddrRange::new(address, size).ok_or(SpecError::Wraps { decoder, address, size })?;
        if !size.is_power_of_two() || size < BAR_LEAST {
            return Err(SpecError::BarSize { bdf, index, size });
        }
        if !address.is_multiple_of(size) {
            return Err(SpecError::Misaligned { decoder, range, to: size });
        }
        if range.first() < FOUR_GIB && range.last() >= FOUR_GIB {
            return Err(SpecError::CrossesFourGib { decoder, range });
        }
        bars.push(Bar { index, range });
    }
    bars.sort_by_key(|bar| bar.range);
    Ok(bars)
}

/// Programs all windows; `order` has parents before children.
pub(crate) fn windows(tree: &mut Tree, order: &[usize]) -> Result<(), SpecError> {
    for function in &tree.functions {
        let (_, host) = tree.upward(function.above);
        for bar in &function.bars {
            inside(
                &tree.hosts[host],
                Decoder::Bar { device: function.spec.bdf, index: bar.index },
                bar.range,
            )?;
        }
    }
    for &port in order.iter().rev() {
        let children = decoded(tree, Parent::Port(port));
        disjoint(&children)?;
        tree.ports[port].windows = programmed(&tree.ports[port].spec, &children)?;
    }
    let mut tops = Vec::new();
    for (n, host) in tree.hosts.iter().enumerate() {
        let children = decoded(tree, Parent::HostBridge(n));
        children.iter().try_for_each(|(range, decoder)| inside(host, *decoder, *range))?;
        disjoint(&children)?;
        tops.extend(
            host.spec.windows.iter().map(|range| (*range, Decoder::HostBridge(host.bdf()))),
        );
    }
    disjoint(&tops)
}

fn inside(host: &HostBridge, decoder: Decoder, range: AddrRange) -> Result<(), SpecError> {
    if host.spec.windows.iter().any(|window| window.covers(range)) {
        return Ok(());
    }
    Err(SpecError::OutsideWindow { decoder, range, above: host.bdf() })
}

/// What the elements of one bus decode.
fn decoded(tree: &Tree, above: Parent) -> Vec<(AddrRange, Decoder)> {
    let mut ranges = Vec::new();
    for child in tree.children(above) {
        match *child {
            Child::Port(port) => {
                let port = &tree.ports[port];
                ranges.extend(
                    port.windows.iter().map(|window| (*window, Decoder::Port(port.spec.bdf))),
                );
            }
            Child::Function(function) => {
                let function = &tree.functions[function];
                let device: Bdf = function.spec.bdf;
                ranges.extend(
                    function
                        .bars
                        .iter()
                        .map(|bar| (bar.range, Decoder::Bar { device, index: bar.index })),
                );
            }
        }
    }
    ranges
}

fn disjoint(ranges: &[(AddrRange, Decoder)]) -> Result<(), SpecError> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|(range, _)| *range);
    match sorted.windows(2).find(|pair| pair[0].0.overlaps(pair[1].0)) {
        Some(pair) => Err(SpecError::Overlap {
            a: pair[0].1,
            a_range: pair[0].0,
            b: pair[1].1,
            b_range: pair[1].0,
        }),
        None => Ok(()),
    }
}

/// The windows of a port on each side of 4 GiB: several as they are given, or else the smallest one
/// that holds what is given and all of `children`, none of which crosses.
fn programmed(
    port: &PortSpec,
    children: &[(AddrRange, Decoder)],
) -> Result<Vec<AddrRange>, SpecError> {
    let mut windows = Vec::new();
    for low in [true, false] {
        let side = |range: &AddrRange| (range.first() < FOUR_GIB) == low;
        let given: Vec<AddrRange> = port.windows.iter().copied().filter(side).collect();
        let inner = children.iter().filter(|(range, _)| side(range));
        if given.len() < 2 {
            windows.extend(hull(&inner.map(|(range, _)| *range).chain(given).collect::<Vec<_>>()));
            continue;
        }
        let given = joined(given);
        for (range, decoder) in inner {
            if !given.iter().any(|window| window.covers(*range)) {
                return Err(SpecError::OutsideWindow {
                    decoder: *decoder,
                    range: *range,
                    above: port.bdf,
                });
            }
        }
        windows.extend(given);
    }
    Ok(windows)
}

fn hull(ranges: &[AddrRange]) -> Option<AddrRange> {
    let first = ranges.iter().map(|range| range.first()).min()?;
    let last = ranges.iter().map(|range| range.last()).max()?;
    AddrRange::inclusive(first & !(WINDOW_UNIT - 1), last | (WINDOW_UNIT - 1))
}
