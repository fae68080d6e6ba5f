//! Subjects that take turns, so that a slow moment of the machine meets them all.

use std::time::Instant;

use sva_bench::counted;
use sva_bench::row::median;

/// Does its work once, and answers how many operations that was.
pub(crate) type Turn<'a> = Box<dyn FnMut() -> usize + 'a>;

/// What is wanted of each subject.
#[derive(Clone, Copy)]
pub(crate) enum Figures {
    /// Nanoseconds, as [`medians`] has them.
    Times {
        /// How often each has its turn.
        rounds: usize,
    },
    /// Of how many operations each figure is, in a program that callgrind runs.
    Operations,
}

/// The figure of each subject, and that of the first, which is everybody's baseline.
pub(crate) fn beside_the_first(figures: Figures, subjects: &mut [Turn<'_>]) -> Vec<(f64, f64)> {
    match figures {
        Figures::Times { rounds } => {
            let each = medians(rounds, subjects);
            each.iter().map(|value| (*value, each[0])).collect()
        }
        // Counted once more for each: every row has two figures.
        Figures::Operations => (0..subjects.len())
            .map(|at| (counted::figure(&mut subjects[at]), counted::figure(&mut subjects[0])))
            .collect(),
    }
}

/// The nanoseconds of one operation of each subject: the median of `rounds`. Before each turn that
/// is timed comes one that is not, which brings what it needs back into the caches.
pub(crate) fn medians(rounds: usize, subjects: &mut [Turn<'_>]) -> Vec<f64> {
    let mut figures = vec![Vec::with_capacity(rounds); subjects.len()];
    for _ in 0..rounds {
        for (turn, figures) in subjects.iter_mut().zip(&mut figures) {
            turn();
            figures.push(timed(turn));
        }
    }
    figures.iter_mut().map(|figures| median(figures)).collect()
}

/// The same, with nothing brought into the caches: for work that meets new memory each time.
pub(crate) fn medians_cold(rounds: usize, subjects: &mut [Turn<'_>]) -> Vec<f64> {
    let mut figures = vec![Vec::with_capacity(rounds); subjects.len()];
    for _ in 0..rounds {
        subjects.iter_mut().zip(&mut figures).for_each(|(turn, figures)| figures.push(timed(turn)));
    }
    figures.iter_mut().map(|figures| median(figures)).collect()
}

fn timed(turn: &mut Turn<'_>) -> f64 {
    let start = Instant::now();
    let operations = turn();
    start.elapsed().as_nanos() as f64 / operations as f64
}
