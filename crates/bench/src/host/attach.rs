//! The first bind of a foreign process: how long it is stopped, beside a debugger's stop that does
//! nothing.

use std::error::Error;
use std::time::Instant;

use sva_bench::row::{Goal, Rows, percentile};
use sva_bench::system::stop_once;

use crate::target::Target;

pub(super) fn run(quick: bool, rows: &mut Rows) -> Result<(), Box<dyn Error>> {
    let target = Target::start(1 << 20)?;
    let rounds = if quick { 20 } else { 500 };
    let (mut stopped, mut whole, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        // The handle goes at the end of the round, and the anchor with it: each round is a first
        // bind.
        let space = sva_host::attach(target.pid())?;
        whole.push(start.elapsed().as_secs_f64() * 1e6);
        stopped.push(space.stop_time().as_secs_f64() * 1e6);
        drop(space);
        bare.push(stop_once(target.pid())?.as_secs_f64() * 1e6);
    }
    for percent in [50, 90, 99, 100] {
        let (value, baseline) = (percentile(&mut stopped, percent), percentile(&mut bare, percent));
        rows.add(
            format!("first bind: target stopped, p{percent}, bare ptrace stop"),
            "us",
            value,
            baseline,
            Goal::None,
        );
    }
    let (value, baseline) = (percentile(&mut whole, 50), percentile(&mut bare, 50));
    rows.add("first bind: whole attach, p50, bare ptrace stop", "us", value, baseline, Goal::None);
    Ok(())
}
