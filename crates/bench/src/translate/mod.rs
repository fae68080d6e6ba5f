//! Translation: what a hit costs, what an access through it costs beside the bare copy, what
//! invalidations cost, and what an entry takes.
//!
//! Comparisons with other crates are in `sva-bench-peers`, so that their dependencies stay out of
//! here.

mod access;
mod hit;
mod invalidate;
mod scene;
mod threads;
mod watched;

use std::error::Error;
use std::time::Instant;

use sva_bench::counted;
use sva_bench::processor::{Allowed, run_on};
use sva_bench::row::{Rows, median};

/// A part of the measurements.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Finding what is kept, and its memory.
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

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
    /// Instructions are, and not time.
    counted: bool,
}

impl Effort {
    fn of(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// Nanoseconds of one of `count` operations of each, in the middle of `rounds` rounds in which they
/// take turns.
fn turns(
    effort: Effort,
    rounds: usize,
    count: usize,
    mut value: impl FnMut(usize),
    mut baseline: impl FnMut(usize),
) -> (f64, f64) {
    if effort.counted {
        let operations = |work: &mut dyn FnMut(usize)| {
            counted::figure(&mut || {
                work(count);
                count
            })
        };
        return (operations(&mut value), operations(&mut baseline));
    }
    let mut each = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for _ in 0..rounds {
        each[0].push(timed(count, &mut value));
        each[1].push(timed(count, &mut baseline));
    }
    let [mut value, mut baseline] = each;
    (median(&mut value), median(&mut baseline))
}

fn timed(count: usize, operation: &mut impl FnMut(usize)) -> f64 {
    let begun = Instant::now();
    operation(count);
    begun.elapsed().as_secs_f64() * 1e9 / count as f64
}
