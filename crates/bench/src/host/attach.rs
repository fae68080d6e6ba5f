//! The first bind of a foreign process: how long it is stopped, beside a debugger's stop that does
//! nothing.

use std::error::Error;
use std::time::Instant;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sva_bench::row::{Goal, Rows, percentile};

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
        bare.push(bare_stop(&target)?);
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

/// For how many microseconds a process is stopped that is seized, interrupted and let go.
fn bare_stop(target: &Target) -> Result<f64, Box<dyn Error>> {
    let pid = Pid::from_raw(target.pid() as i32);
    ptrace::seize(pid, ptrace::Options::empty())?;
    let start = Instant::now();
    ptrace::interrupt(pid)?;
    waitpid(pid, Some(WaitPidFlag::__WALL))?;
    ptrace::detach(pid, None)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
