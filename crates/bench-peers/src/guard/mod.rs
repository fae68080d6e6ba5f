//! Guards that mark an access as in flight: what each costs the access, and what it costs to wait
//! for the accesses in flight.

mod access;
mod kinds;
mod wait;
mod ways;

use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::Instant;

use fastrand::Rng;
use sva_bench::processor::{Allowed, run_on};
use sva_bench::row::{Goal, Rows, median};
use sva_sync::atomic::{AtomicUsize, Ordering};

use crate::turns::{Turn, medians, medians_cold};
use access::{AccessGuard, Block, copies};
use kinds::{KINDS, Kinds, for_each_kind};
use ways::Slots;

/// Adds all rows. The baseline of an access is the same access without a guard; that of a wait is
/// two readings of the clock.
pub(crate) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    // Before there are threads: afterwards it takes the kernel some 10 ms.
    Slots::<false>::register()?;
    let (allowed, kinds) = (Allowed::now()?, Kinds::default());
    let processors: Vec<usize> = allowed.processors().take(2).collect();
    let [first, others @ ..] = processors.as_slice() else { return Err("no processor".into()) };
    run_on(*first)?;
    alone(quick, &kinds, rows);
    far_apart(quick, &kinds, rows);
    if let [second, ..] = others {
        side_by_side(quick, &kinds, [*first, *second], rows)?;
        wait::run(quick, &kinds, [*first, *second], rows)?;
    }
    Ok(allowed.restore()?)
}

fn turn<'a>(work: impl FnMut() -> usize + 'a) -> Turn<'a> {
    Box::new(work)
}

fn add(rows: &mut Rows, what: &str, each: &[f64]) {
    for (name, value) in KINDS.iter().zip(each) {
        rows.add(format!("{what}: {name}"), "ns", *value, each[0], Goal::None);
    }
}

fn alone(quick: bool, kinds: &Kinds, rows: &mut Rows) {
    let mut turns = for_each_kind!(kinds, |kind| turn(move || copies(kind, 0, 2_000)));
    add(rows, "64-byte copy, hot", &medians(if quick { 3 } else { 401 }, &mut turns));
}

/// Memory that is in no cache. Many misses are under way at once, so that each instruction between
/// them counts, and each fence more.
fn far_apart(quick: bool, kinds: &Kinds, rows: &mut Rows) {
    let (blocks, rounds, size) =
        if quick { (1 << 18, 3, "16 MiB") } else { (1 << 24, 61, "1 GiB") };
    let memory: Vec<Block> = (0..blocks).map(|number| [number as u8; 64]).collect();
    let memory = memory.as_slice();
    let mut turns = for_each_kind!(kinds, |kind| {
        let (mut rng, mut target) = (Rng::new(), [0; 64]);
        turn(move || {
            for number in 0..20_000 {
                let at = rng.usize(..) & (memory.len() - 1);
                kind.during(0, number, || {
                    target = memory[at];
                    black_box(&mut target);
                });
            }
            20_000
        })
    });
    add(rows, &format!("64-byte copy, at random in {size}"), &medians_cold(rounds, &mut turns));
}

/// Two threads, each on its processor, do the same at the same time: what they share shows.
fn side_by_side(
    quick: bool,
    kinds: &Kinds,
    processors: [usize; 2],
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let rounds = if quick { 3 } else { 301 };
    let meeting = AtomicUsize::new(0);
    let reader = |reader: usize| -> Result<Vec<f64>, String> {
        // Both come to each meeting, also where one cannot be pinned.
        let pinned = run_on(processors[reader]).map_err(|error| error.to_string());
        let mut figures = vec![Vec::new(); KINDS.len()];
        let mut met = 0;
        for _ in 0..rounds {
            let times = for_each_kind!(kinds, |kind| {
                met += 2;
                meeting.fetch_add(1, Ordering::AcqRel);
                while meeting.load(Ordering::Acquire) < met {
                    spin_loop();
                }
                copies(kind, reader, 500);
                let start = Instant::now();
                let accesses = copies(kind, reader, 2_000);
                let time = start.elapsed();
                // The other one may still be at it.
                copies(kind, reader, 500);
                time.as_nanos() as f64 / accesses as f64
            });
            times.into_iter().zip(&mut figures).for_each(|(time, figures)| figures.push(time));
        }
        pinned.map(|()| figures.iter_mut().map(|figures| median(figures)).collect())
    };
    let each = thread::scope(|scope| {
        let threads = [0, 1].map(|number| scope.spawn(move || reader(number)));
        threads.map(|thread| thread.join().unwrap_or_else(|_| Err("a reader panicked".to_owned())))
    });
    let [one, other] = each;
    let mean: Vec<f64> =
        one?.into_iter().zip(other?).map(|(one, other)| (one + other) / 2.0).collect();
    add(rows, "64-byte copy, two threads", &mean);
    Ok(())
}
