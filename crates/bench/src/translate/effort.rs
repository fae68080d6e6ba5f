//! How much is measured, and the turns of value and baseline.

use std::time::Instant;

use sva_bench::counted;
use sva_bench::row::median;

/// How much is measured.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    pub(super) quick: bool,
    /// Instructions are, and not time.
    pub(super) counted: bool,
}

impl Effort {
    /// `full`, or `quick` in a quick run.
    pub(super) fn of(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// Nanoseconds of one of `count` operations of each, in the middle of `rounds` rounds in which they
/// take turns.
pub(super) fn turns(
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
