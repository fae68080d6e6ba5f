//! Translation: what a hit costs, what an access through it costs beside the bare copy, what
//! invalidations cost, and what an entry takes.
//!
//! Comparisons with other crates are in `sva-bench-peers`, so that their dependencies stay out of
//! here.

mod access;
mod effort;
mod fixture;
mod hit;
mod invalidate;
mod notifying_space;
mod threads;

use std::error::Error;

use sva_bench::processor::{Allowed, run_on};
use sva_bench::row::Rows;

use effort::Effort;

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Look-ups of cached translations, and their memory.
    Hit,
    /// Reads, writes and atomic operations.
    Access,
    /// Invalidations.
    Invalidate,
    /// Two threads.
    Threads,
}

/// Runs all of it, or one part.
pub(crate) fn run(quick: bool, only: Option<Part>, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let wanted = |part| only.is_none_or(|only| only == part);
    let allowed = Allowed::now()?;
    // Each figure is of one thread that stays where it is; the cases with several threads place
    // them.
    run_on(allowed.processors().next().ok_or("no processor")?)?;
    let effort = Effort { quick, counted: false };
    if wanted(Part::Hit) {
        hit::run(effort, rows)?;
    }
    if wanted(Part::Access) {
        access::run(effort, rows)?;
    }
    if wanted(Part::Invalidate) {
        invalidate::run(effort, &allowed, rows)?;
    }
    if wanted(Part::Threads) {
        threads::run(effort, &allowed, rows)?;
    }
    Ok(allowed.restore()?)
}

/// As [`run`], in a program that callgrind runs: what is not timed, or takes two threads, is left
/// out.
pub(crate) fn count(
    quick: bool,
    only: Option<Part>,
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let wanted = |part| only.is_none_or(|only| only == part);
    let effort = Effort { quick, counted: true };
    if wanted(Part::Hit) {
        hit::run(effort, rows)?;
    }
    if wanted(Part::Access) {
        access::run(effort, rows)?;
    }
    if wanted(Part::Invalidate) {
        invalidate::count(effort, rows)?;
    }
    Ok(())
}
