//! Binding, and the memory of live processes.

mod attach;
mod bind;
mod bulk;
mod mover;

use std::error::Error;

use sva_bench::row::Rows;

/// Runs all of it.
pub(crate) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    bulk::run(quick, rows)?;
    bind::run(quick, rows)?;
    attach::run(quick, rows)
}
