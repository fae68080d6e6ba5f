//! What it costs to wait for the accesses in flight.

use std::error::Error;
use std::hint::spin_loop;
use std::thread;
use std::time::{Duration, Instant};

use sva_bench::processor::run_on;
use sva_bench::row::{Goal, Rows, percentile};
use sva_sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::access::{AccessGuard, Wait, copies};
use super::kinds::Kinds;
use super::ways::Nothing;

/// What runs on the other processor meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    /// A thread that sleeps.
    Asleep,
    /// A reader that makes one access after the other.
    Reader,
    /// A thread of this process that has nothing to do with it.
    Stranger,
}

pub(super) fn run(
    quick: bool,
    kinds: &Kinds,
    processors: [usize; 2],
    rows: &mut Rows,
) -> Result<(), Box<dyn Error>> {
    let samples = if quick { 200 } else { 20_000 };
    for (other, state) in [
        (Other::Asleep, "reader asleep"),
        (Other::Reader, "reader busy"),
        (Other::Stranger, "stranger busy"),
    ] {
        for (name, mut figures) in [
            ("slot, membarrier", measure(samples, &kinds.asymmetric, other, processors)?),
            ("slot, fence", measure(samples, &kinds.symmetric, other, processors)?),
            ("reader count", measure(samples, &kinds.counted, other, processors)?),
            ("RwLock", measure(samples, &kinds.locked, other, processors)?),
        ] {
            for percent in [50, 99] {
                let (value, baseline) = (
                    percentile(&mut figures.waits, percent),
                    percentile(&mut figures.clock, percent),
                );
                rows.add(
                    format!("wait, {state}, p{percent}: {name}"),
                    "ns",
                    value,
                    baseline,
                    Goal::None,
                );
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Figures {
    waits: Vec<f64>,
    clock: Vec<f64>,
}

fn measure(
    samples: usize,
    guard: &impl Wait,
    other: Other,
    processors: [usize; 2],
) -> Result<Figures, Box<dyn Error>> {
    let (stop, beats) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let pinned = run_on(processors[1]);
            while !stop.load(Ordering::Relaxed) {
                match other {
                    Other::Asleep => thread::sleep(Duration::from_millis(1)),
                    Other::Reader => busy(guard, &beats),
                    Other::Stranger => busy(&Nothing, &beats),
                }
            }
            pinned
        });
        let pinned = run_on(processors[0]);
        let figures = sample(samples, guard, other, &beats);
        stop.store(true, Ordering::Relaxed);
        let theirs = thread.join().map_err(|_| "the reader panicked")?;
        pinned.and(theirs)?;
        Ok(figures)
    })
}

fn busy(guard: &impl AccessGuard, beats: &AtomicUsize) {
    copies(guard, 1, 50);
    beats.fetch_add(1, Ordering::Relaxed);
}

/// Where the other one should be running, only those moments count in which it is: on a shared
/// machine its processor is often taken from it.
fn sample(samples: usize, guard: &impl Wait, other: Other, beats: &AtomicUsize) -> Figures {
    let (mut figures, end) = (Figures::default(), Instant::now() + Duration::from_secs(10));
    while figures.waits.len() < samples && Instant::now() < end {
        if other != Other::Asleep && !beating(beats) {
            continue;
        }
        let start = Instant::now();
        let between = Instant::now();
        guard.wait();
        figures.waits.push(between.elapsed().as_nanos() as f64);
        figures.clock.push((between - start).as_nanos() as f64);
    }
    figures
}

fn beating(beats: &AtomicUsize) -> bool {
    let (before, start) = (beats.load(Ordering::Relaxed), Instant::now());
    while start.elapsed() < Duration::from_micros(5) {
        if beats.load(Ordering::Relaxed) != before {
            return true;
        }
        spin_loop();
    }
    false
}
