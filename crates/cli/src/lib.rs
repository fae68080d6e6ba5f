//! The command `sva`: thin, over the libraries that do the work. What programs may rely on is in
//! docs/cli.md.
//!
//! Each row may use what stands above it, and no row below.
//!
//! | module | what it holds |
//! |---|---|
//! | `number`, `terminal`, `drawing` | numbers of the command line; columns and colours |
//! | `interrupt`, `stream`, `progress` | signals; files and pipes; the progress bar |
//! | `args`, `error`, `output`, `report` | the command line; what is printed, and exit codes |
//! | `fabric`, `regions`, `manual` | the commands that only look |
//! | `topology` | a real machine's groups and readiness: explained, drawn, compared |
//! | `session`, `work`, `dma` | a bound process; the data mover's work in pieces; `sva dma` |
//! | `demo` | the demonstration, and the child processes that it needs |
#![forbid(unsafe_code)]

mod args;
mod demo;
mod dma;
mod drawing;
mod error;
mod fabric;
mod interrupt;
mod manual;
mod number;
mod output;
mod progress;
mod regions;
mod report;
mod session;
mod stream;
mod terminal;
mod topology;
mod work;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use error::exit;
use output::Output;

/// Runs the command with this program's arguments.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = demo::child_code(&arguments) {
        return ExitCode::from(code);
    }
    let code = match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(&cli),
        Err(error) => {
            let json = arguments.iter().any(|word| word == "--json");
            misused(&error, Output::new(json, args::color_of(&arguments)))
        }
    };
    ExitCode::from(code)
}

fn run(cli: &Cli) -> u8 {
    let output = |json| Output::new(json, cli.color);
    let texts = output(false).terminal;
    let (output, outcome) = match &cli.command {
        Command::Fabric(args) => (output(args.json), fabric::text(args, texts)),
        Command::Topology(args) => {
            let output = output(args.json());
            (output, topology::text(args, output))
        }
        Command::Regions(args) => (output(args.json), regions::text(args, texts)),
        Command::Completions { shell } => (output(false), Ok(manual::completions(*shell))),
        Command::Man { out } => (output(false), manual::text(out.as_deref())),
        Command::Demo(args) => return demo::run(args, output(args.json)),
        Command::Dma(command) => return dma::run(command, output(command.target().json)),
    };
    match outcome.and_then(|text| output.print(&text)) {
        Ok(()) => exit::DONE,
        Err(error) => output.fail(&error),
    }
}

/// Prints help that was asked for, or what is wrong with the command line.
fn misused(error: &clap::Error, output: Output) -> u8 {
    let text = error.render();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let text = output.terminal.palette.styled(&text);
        return output.print(&text).map_or_else(|error| output.fail(&error), |()| exit::DONE);
    }
    let nothing = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if nothing && !output.json {
        output::print_error(&output.errors.styled(&text));
        return exit::REFUSED;
    }
    let text = text.to_string();
    let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = if nothing { "no command was given; sva --help lists them" } else { message };
    if output.json {
        return output.refuse("usage", &message.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    output.refuse("usage", format!("{message}\n\n{rest}").trim_end())
}

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
