//! Page requests: how long a fault takes through the whole protocol, how many a second in a storm,
//! and what they cost in memory.

mod fixture;
mod live;
mod memory;
mod round_trip;
mod storm;

use std::error::Error;

use sva_bench::row::Rows;

/// Runs all of it.
pub(crate) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    // First, while nothing that was freed hides growth.
    memory::run(quick, rows)?;
    let alone = round_trip::run(quick, rows)?;
    live::run(quick, rows)?;
    storm::run(quick, &alone, rows)
}
