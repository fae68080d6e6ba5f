//! Benchmarks of sva, each figure beside a baseline that is measured in the same run.
//!
//! `cargo run --release -p sva-bench -- (host|topology|faults|translate) [--json] [--quick]`.
//! Machines are shared and noisy: value and baseline take turns, and the ratio is what counts.
#![forbid(unsafe_code)]

mod device;
mod faults;
mod host;
mod resident;
mod target;
mod topology;
mod translate;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use sva_bench::counted::counts_of;
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
        /// Count instructions as well, with valgrind: rows of their own, beside those of time.
        #[arg(long)]
        instructions: bool,
    },
    /// What callgrind counts of it: rows of operations; started by itself.
    #[command(hide = true)]
    TranslateCounted {
        /// A smaller run.
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

fn translated(
    json: bool,
    quick: bool,
    only: Option<translate::Part>,
    instructions: bool,
) -> Result<(), Box<dyn Error>> {
    let mut rows = Rows::new(json);
    if instructions {
        let part = only.and_then(|only| Some(only.to_possible_value()?.get_name().to_owned()));
        let arguments = ["translate-counted"]
            .into_iter()
            .chain(quick.then_some("--quick"))
            .chain(part.iter().flat_map(|part| ["--only", part]));
        rows.beside(
            counts_of(&std::env::current_exe()?, &arguments.collect::<Vec<_>>())?
                .unwrap_or_default(),
        );
    }
    translate::run(quick, only, &mut rows)?;
    rows.finish()
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
        Subject::Translate { json, quick, only, instructions } => {
            translated(json, quick, only, instructions)
        }
        Subject::TranslateCounted { quick, only } => {
            let mut rows = Rows::new(true);
            translate::count(quick, only, &mut rows).and_then(|()| rows.finish())
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
