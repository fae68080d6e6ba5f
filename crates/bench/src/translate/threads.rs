//! Two threads that look the same ranges up, each on its own processor, beside two that look them
//! up in a plain table.

use std::error::Error;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use rustc_hash::FxHashMap;
use sva_bench::processor::{Allowed, run_on};
use sva_bench::row::{Goal, Rows, median};

use super::effort::Effort;
use super::fixture::Fixture;
use super::hit::{look_up, plain, plain_table};

const PAGE: u64 = 4096;
const BATCH: usize = 20_000;

pub(super) fn run(
    effort: Effort,
    allowed: &Allowed,
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let processors: Vec<_> = allowed.processors().take(2).collect();
    let [first, second] = processors[..] else {
        eprintln!("SKIPPED: two threads, which need two processors");
        return Ok(());
    };
    for extents in [1, 16, 1024] {
        let fixture = Fixture::new(extents, PAGE)?;
        let table = plain_table(&fixture, &fixture.port()?);
        let together = Barrier::new(2);
        let rounds = effort.of(101, 7);
        let figures = std::thread::scope(|scope| {
            let threads = [first, second].map(|processor| {
                let (fixture, table, together) = (&fixture, &table, &together);
                scope.spawn(move || {
                    one(processor, fixture, table, together, rounds)
                        .map_err(|error| error.to_string())
                })
            });
            threads.map(|thread| {
                thread.join().unwrap_or_else(|_| Err("a thread has panicked".to_owned()))
            })
        });
        run_on(first)?;
        let alone = one(first, &fixture, &table, &Barrier::new(1), rounds)?;
        for (thread, figures) in figures.into_iter().enumerate() {
            let (value, baseline) = figures?;
            let case = format!(
                "two threads, {extents} same ranges of 4 KiB, thread {thread}; \
                 plain hash table, two threads"
            );
            rows.add(case, "M look-ups/s", 1e3 / value, 1e3 / baseline, Goal::RatioAtLeast(0.9));
            let case = format!(
                "thread {thread} of two beside one alone, {extents} ranges; the plain table's"
            );
            rows.add(case, "share", alone.0 / value, alone.1 / baseline, Goal::RatioAtLeast(0.9));
        }
    }
    Ok(())
}

fn one(
    processor: usize,
    fixture: &Fixture,
    table: &FxHashMap<u64, u64>,
    together: &Barrier,
    rounds: usize,
) -> Result<(f64, f64), Box<dyn Error>> {
    run_on(processor)?;
    let (port, pasid) = (fixture.port()?, fixture.pasid());
    let addresses = fixture.addresses(BATCH, 8);
    let (mut value, mut baseline) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for _ in 0..rounds {
        value.push(batch(together, &addresses, |address| look_up(&port, pasid, address)));
        baseline.push(batch(together, &addresses, |address| plain(table, address)));
    }
    Ok((median(&mut value), median(&mut baseline)))
}

/// Nanoseconds of one look-up, while the other thread does the same.
fn batch(together: &Barrier, addresses: &[u64], look_up: impl Fn(u64) -> u64) -> f64 {
    together.wait();
    let begun = Instant::now();
    black_box(addresses.iter().fold(0u64, |sum, address| sum.wrapping_add(look_up(*address))));
    begun.elapsed().as_secs_f64() * 1e9 / addresses.len() as f64
}
