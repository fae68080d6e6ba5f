//! What sva is made of, measured beside what else it could be made of: other crates' tables, other ways to wait for accesses in flight.
//!
//! `cargo run --release -p sva-bench-peers -- mechanisms [--json] [--quick]`. A crate of its own, so that the dependencies stay out of all others. What was chosen by these figures, and why, is in
//! docs/design/translation.md.
#![forbid(unsafe_code)]

mod lookup;
mod section;
mod turns;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sva_bench::row::Rows;

/// What sva is made of, beside what else it could be made of.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// Tables for translations, and ways to wait for accesses in flight.
    Mechanisms {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    let Subject::Mechanisms { json, quick } = Cli::parse().subject;
    let mut rows = Rows::new(json);
    let outcome = lookup::run(quick, &mut rows).and_then(|()| section::run(quick, &mut rows)).and_then(|()| rows.finish());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sva-bench-peers: {error}");
            ExitCode::from(2)
        }
    }
}
