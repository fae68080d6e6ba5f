//! What it costs to look up a cached translation, without an access.

use std::error::Error;
use std::hint::black_box;

use rustc_hash::FxHashMap;
use sva_bench::row::{Goal, Rows};
use sva_core::{Access, DmaPort, Pasid};

use super::effort::{Effort, turns};
use super::fixture::Fixture;

const PAGE: u64 = 4096;
/// Look-ups of one batch, where there are not more ranges: each is to be looked up.
const BATCH: usize = 20_000;

pub(super) fn run(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    same(effort, rows)?;
    for extents in [16, 1024, 65_536] {
        random(effort, extents, rows)?;
    }
    // Bytes are not counted in instructions.
    if effort.counted { Ok(()) } else { memory(effort, rows) }
}

/// What a look-up answers: where the address leads.
#[inline]
pub(super) fn look_up(port: &DmaPort, pasid: Pasid, address: u64) -> u64 {
    match port.cached_translation(pasid, address, Access::READ) {
        Some(frame) => frame.0,
        None => panic!("{address:#x} is not cached"),
    }
}

/// All in one extent, as a descriptor ring or a buffer is.
fn same(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let fixture = Fixture::new(1, PAGE)?;
    let (port, pasid) = (fixture.port()?, fixture.pasid());
    let table = plain_table(&fixture, &port);
    let addresses = fixture.addresses(512, 8);
    let (value, baseline) = turns(
        effort,
        effort.of(301, 11),
        BATCH,
        |count| sum(count, &addresses, |address| look_up(&port, pasid, address)),
        |count| sum(count, &addresses, |address| plain(&table, address)),
    );
    rows.add(
        "hit, same range as last time, 1 page of 4 KiB; plain hash table",
        "ns",
        value,
        baseline,
        Goal::ValueAtMost(4.0),
    );
    Ok(())
}

fn random(effort: Effort, extents: u64, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let fixture = Fixture::new(extents, PAGE)?;
    let (port, pasid) = (fixture.port()?, fixture.pasid());
    let table = plain_table(&fixture, &port);
    let addresses = fixture.addresses(BATCH.max(2 * extents as usize), 8);
    let batch = addresses.len();
    let rounds = effort.of(101, 5);
    let (value, baseline) = turns(
        effort,
        rounds,
        batch,
        |count| sum(count, &addresses, |address| look_up(&port, pasid, address)),
        |count| sum(count, &addresses, |address| plain(&table, address)),
    );
    rows.add(
        format!("hit, {extents} ranges of 4 KiB, independent; plain hash table"),
        "ns",
        value,
        baseline,
        Goal::None,
    );
    let (value, baseline) = turns(
        effort,
        rounds,
        batch,
        |count| chain(count, &addresses, |address| look_up(&port, pasid, address)),
        |count| chain(count, &addresses, |address| plain(&table, address)),
    );
    rows.add(
        format!("hit, {extents} ranges of 4 KiB, dependent; plain hash table"),
        "ns",
        value,
        baseline,
        Goal::None,
    );
    Ok(())
}

/// Nobody waits for the result of one before the next begins.
fn sum(count: usize, addresses: &[u64], look_up: impl Fn(u64) -> u64) {
    let found = addresses
        .iter()
        .cycle()
        .take(count)
        .fold(0u64, |sum, address| sum.wrapping_add(look_up(*address)));
    black_box(found);
}

/// Each address depends on what the one before led to.
fn chain(count: usize, addresses: &[u64], look_up: impl Fn(u64) -> u64) {
    let mut carried = 0;
    for address in addresses.iter().cycle().take(count) {
        // A frame's lowest bits are the address's, which are a multiple of 8.
        carried = look_up(*address | carried) & 7;
    }
    black_box(carried);
}

/// Page -> what to add: what a look-up costs that checks nothing and that nothing may change.
pub(super) fn plain_table(fixture: &Fixture, port: &DmaPort) -> FxHashMap<u64, u64> {
    let pages = (0..fixture.extents).map(|n| fixture.first(n));
    pages
        .map(|first| (first / PAGE, look_up(port, fixture.pasid(), first).wrapping_sub(first)))
        .collect()
}

#[inline]
pub(super) fn plain(table: &FxHashMap<u64, u64>, address: u64) -> u64 {
    table.get(&(address / PAGE)).map_or(0, |shift| address.wrapping_add(*shift))
}

/// Bytes of an entry, in a table that is filled as far as possible with few evictions.
fn memory(effort: Effort, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let extents = effort.of(90_000, 90_000) as u64;
    let fixture = Fixture::new(extents, PAGE)?;
    let _port = fixture.port()?;
    let usage = fixture.iommu.iotlb_usage();
    let bytes = usage.bytes as f64 / usage.entries as f64;
    let case = format!(
        "memory of an entry, {} cached of {extents} filled, capacity {}; plain table entry",
        usage.entries, usage.capacity
    );
    rows.add(case, "bytes", bytes, 16.0 * 8.0 / 7.0, Goal::ValueAtMost(48.0));
    Ok(())
}
