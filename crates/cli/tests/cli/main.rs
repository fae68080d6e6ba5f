//! The command, run as users run it, on real processes.
#![forbid(unsafe_code)]

mod dma;
mod faults;
mod output;
mod refusals;
mod signals;
mod support;
mod terminal;
mod topology;

/// The child process that the other tests bind: this program again.
#[test]
#[ignore = "a child process of the other tests, which start it themselves"]
fn target() {
    support::target::serve();
}
