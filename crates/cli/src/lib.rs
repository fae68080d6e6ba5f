//! The command `sva`: thin, over the libraries that do the work. What programs may rely on is in
//! docs/cli.md.
//!
//! | module | what lives there |
//! |---|---|
//! | `args`, `number` | the command line |
//! | `fabric`, `regions`, `manual` | the commands that only look |
//! | `topology` | a real machine's groups and readiness: read, explained, drawn, compared |
//! | `session`, `work`, `dma` | bind a process; let the data mover work in pieces; the commands that do |
//! | `demo` | the demonstration, and the children that it is shown on |
//! | `report`, `voice`, `error` | what is said, where, and with which exit code |
//! | `stream`, `interrupt`, `progress` | files and pipes, signals, the bar |
#![forbid(unsafe_code)]

mod args;
mod demo;
mod dma;
mod error;
mod fabric;
mod interrupt;
mod manual;
mod number;
mod progress;
mod regions;
mod report;
mod session;
mod stream;
mod topology;
mod voice;
mod work;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use error::exit;
use voice::Voice;

/// Runs the command with this program's arguments.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = demo::child_code(&arguments) {
        return ExitCode::from(code);
    }
    let code = match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(&cli.command),
        Err(error) => misused(
            &error,
            Voice { json: arguments.iter().any(|word| word == "--json"), bytes_on_stdout: false },
        ),
    };
    ExitCode::from(code)
}

fn run(command: &Command) -> u8 {
    let quiet = |json| Voice { json, bytes_on_stdout: false };
    let (voice, outcome) = match command {
        Command::Fabric(args) => (quiet(args.json), fabric::text(args)),
        Command::Topology(args) => (quiet(args.json()), topology::text(args)),
        Command::Regions(args) => (quiet(args.json), regions::text(args)),
        Command::Completions { shell } => (quiet(false), Ok(manual::completions(*shell))),
        Command::Man { out } => (quiet(false), manual::text(out.as_deref())),
        Command::Demo(args) => return demo::run(args),
        Command::Dma(command) => return dma::run(command),
    };
    match outcome.and_then(|text| voice.say(&text)) {
        Ok(()) => exit::DONE,
        Err(error) => voice.fail(&error),
    }
}

/// Help that was asked for, or a command line that is wrong.
fn misused(error: &clap::Error, voice: Voice) -> u8 {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return voice.say(&text).map_or_else(|error| voice.fail(&error), |()| exit::DONE);
    }
    let nothing = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if nothing && !voice.json {
        voice::complain(&text);
        return exit::REFUSED;
    }
    let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = if nothing { "no command was given; sva --help lists them" } else { message };
    if voice.json {
        return voice.refuse("usage", &message.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    voice.refuse("usage", format!("{message}\n\n{rest}").trim_end())
}

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
