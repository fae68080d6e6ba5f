//! Benchmarks of sva, each figure beside a baseline that is measured in the same run.
//!
//! `cargo run --release -p sva-bench -- (host|topology|faults|translate) [--json] [--quick]`. Machines are shared and noisy: value and baseline take turns, and the ratio is what counts.
#![forbid(unsafe_code)]

mod faults;
mod host;
mod resident;
mod target;
mod topology;
mod translate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sva_bench::row::Rows;

/// Benchmarks of sva beside their baselines.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// Binding, and the memory of live processes.
    Host {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
    },
    /// Grouping of large machines.
    Topology {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
    },
    /// Page requests: round trips, a storm, memory.
    Faults {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
    },
    /// Translation: hits, accesses, invalidations, memory.
    Translate {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
        /// One part only.
        #[arg(long)]
        only: Option<translate::Part>,
    },
    /// The process that is measured on; started by the others.
    #[command(hide = true)]
    Target {
        /// Bytes of memory to have.
        bytes: usize,
        /// Leave all of its pages to be made by whoever needs them.
        #[arg(long)]
        untouched: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().subject {
        Subject::Target { bytes, untouched } => target::run(bytes, untouched),
        Subject::Host { json, quick } => {
            let mut rows = Rows::new(json);
            host::run(quick, &mut rows).and_then(|()| rows.finish())
        }
        Subject::Topology { json, quick } => {
            let mut rows = Rows::new(json);
            topology::run(quick, &mut rows).and_then(|()| rows.finish())
        }
        Subject::Faults { json, quick } => {
            let mut rows = Rows::new(json);
            faults::run(quick, &mut rows).and_then(|()| rows.finish())
        }
        Subject::Translate { json, quick, only } => {
            let mut rows = Rows::new(json);
            translate::run(quick, only, &mut rows).and_then(|()| rows.finish())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sva-bench: {error}");
            ExitCode::from(2)
        }
    }
}
