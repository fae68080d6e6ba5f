//! Mechanisms of sva beside their alternatives: other crates' tables, other ways to wait for
//! accesses in flight.
//!
//! `cargo run --release -p sva-bench-peers -- (mechanisms|translate|vmm) [--json] [--quick]`, and
//! `translate --instructions`. A crate of its own, so that the dependencies stay out of all others.
//! What was chosen by these figures, and why, is in docs/design/translation.md.
#![forbid(unsafe_code)]

mod guard;
mod lookup;
mod turns;
mod vmm;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lookup::What;
use sva_bench::counted::counts_of;
use sva_bench::row::Rows;
use turns::Figures;

/// Mechanisms of sva beside their alternatives.
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
    /// Look-ups by a port of sva.
    Translate {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
        /// Count instructions as well, with valgrind: rows of their own, beside those of time.
        #[arg(long)]
        instructions: bool,
    },
    /// Guest memory for device models of rust-vmm, by the adapters of sva.
    Vmm {
        /// Print a JSON array of rows instead of a table.
        #[arg(long)]
        json: bool,
        /// A smaller run, to see that everything works; the figures mean little.
        #[arg(long)]
        quick: bool,
    },
    /// What callgrind counts of it: rows of operations; started by itself.
    #[command(hide = true)]
    TranslateCounted,
}

fn main() -> ExitCode {
    match run(Cli::parse().subject) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sva-bench-peers: {error}");
            ExitCode::from(2)
        }
    }
}

fn rounds(quick: bool) -> usize {
    if quick { 3 } else { 41 }
}

fn run(subject: Subject) -> Result<(), Box<dyn Error>> {
    match subject {
        Subject::Mechanisms { json, quick } => {
            let mut rows = Rows::new(json);
            lookup::run(What::Tables, Figures::Times { rounds: rounds(quick) }, &mut rows)?;
            guard::run(quick, &mut rows)?;
            rows.finish()
        }
        Subject::Translate { json, quick, instructions } => {
            let mut rows = Rows::new(json);
            if instructions {
                rows.beside(
                    counts_of(&std::env::current_exe()?, &["translate-counted"])?
                        .unwrap_or_default(),
                );
            }
            lookup::run(What::Port, Figures::Times { rounds: rounds(quick) }, &mut rows)?;
            rows.finish()
        }
        Subject::Vmm { json, quick } => {
            let mut rows = Rows::new(json);
            vmm::run(rounds(quick), &mut rows)?;
            rows.finish()
        }
        Subject::TranslateCounted => {
            let mut rows = Rows::new(true);
            lookup::run(What::Port, Figures::Operations, &mut rows)?;
            rows.finish()
        }
    }
}
