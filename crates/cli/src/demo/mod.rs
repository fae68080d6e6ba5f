//! `sva demo`: states what the contract promises, with real child processes, and checks every
//! sentence of it.
//!
//! A *chapter* is a function that does things with a [`Context`] and makes *claims*. A chapter that
//! fails makes a claim that did not hold, and the next one goes on. The children ([`child`]) are
//! this command again; they compute themselves what devices have to do to them.
//!
//! Each row may use what stands above it, and no row below.
//!
//! | module | what it holds |
//! |---|---|
//! | `child`, `wait` | the child's side of the demonstration; bounded waits |
//! | `trace`, `watchdog` | the events of `--trace`; the time limit of a chapter |
//! | `process`, `claim`, `times` | the parent's side of a child; claims; the times of faults |
//! | `failure`, `context` | why a chapter ends early; what a chapter works with |
//! | `machine`, `writer` | a fabric with an IOMMU and devices; a device that writes and writes |
//! | `storm`, `chapters` | `--faults`; the chapters of both demonstrations |

mod chapters;
mod child;
mod claim;
mod context;
mod failure;
mod machine;
mod process;
mod storm;
mod times;
mod trace;
mod wait;
mod watchdog;
mod writer;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Serialize;

use crate::args::DemoArgs;
use crate::error::{Error, exit};
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::report;
use crate::terminal::Role;

use chapters::Chapter;
use claim::{Claim, Figures};
use context::Context;
use failure::Failure;
use process::{Process, ProcessError};
use times::BondTimes;
use watchdog::Watchdog;

/// Where this command was started as a child of a demonstration: runs as one and answers the exit
/// code.
///
/// Not a subcommand of the command line's definition: it is nobody's to type, and has no place in
/// help and completions.
pub(crate) fn child_code(arguments: &[OsString]) -> Option<u8> {
    let (word, rest) = arguments.get(1..)?.split_first()?;
    (word == child::WORD).then(|| {
        child::main(
            &rest.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        )
    })
}

/// Runs it; answers the exit code.
pub(crate) fn run(args: &DemoArgs, output: Output) -> u8 {
    perform(args, output).unwrap_or_else(|error| output.fail(&error))
}

fn perform(args: &DemoArgs, output: Output) -> Result<u8, Error> {
    let begun = Instant::now();
    let interrupts = Interrupts::install().map_err(Error::Signals)?;
    try_out()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    if args.trace {
        trace::install();
    }
    let (title, chapters) = if args.faults {
        ("sva demo --faults: software devices ask for pages", chapters::FAULTS)
    } else {
        ("sva demo: software devices on the memory of live processes", chapters::ALL)
    };
    if !output.json {
        let title = format!("{title}, with random data from seed {seed}");
        output.print(&output.terminal.wrapped(&title, "  "))?;
    }
    let mut results = Results { seed, claims: Vec::new(), bonds: Vec::new() };
    for (n, chapter) in chapters.iter().enumerate() {
        interrupts.check()?;
        // A seed of its own for each chapter: what one draws changes no other.
        let rng = Rng::with_seed(seed.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut context = Context {
            chapter: chapter.name,
            rng,
            output,
            traced: args.trace,
            interrupts: interrupts.clone(),
            claims: Vec::new(),
            bonds: Vec::new(),
            print_error: None,
        };
        run_chapter(chapter, &mut context)?;
        results.claims.append(&mut context.claims);
        results.bonds.append(&mut context.bonds);
    }
    interrupts.check()?;
    if !output.json && !results.bonds.is_empty() {
        output.print(&times::text(&results.bonds, output.terminal))?;
    }
    conclude(args, &results, begun.elapsed(), output)
}

/// Runs a chapter. Its own failure is a claim that did not hold; an error ends the demonstration.
fn run_chapter(chapter: &Chapter, context: &mut Context) -> Result<(), Error> {
    let output = context.output;
    if !output.json {
        let title = output.terminal.palette.paint(Role::Heading, chapter.title);
        output.print(&format!("\n{title}"))?;
    }
    let watchdog = Watchdog::over(chapter.name, output);
    let outcome = (chapter.run)(context);
    drop(watchdog);
    match outcome {
        Ok(()) => {}
        Err(Failure::Interrupted(interrupted)) => return Err(interrupted.into()),
        Err(failure) => context.claim(
            &[],
            "the chapter came to its end",
            false,
            Figures::new().said("failure", &failure),
        ),
    }
    context.print_error.take().map_or(Ok(()), Err)
}

/// Whether children can be started and attached at all: where not, nothing can be claimed.
fn try_out() -> Result<(), Error> {
    // Our own memory first: on a platform without live processes the error says so.
    sva_host::attach(std::process::id())?;
    let child = Process::start().map_err(|error| match error {
        ProcessError::Start(source) => Error::File { path: child::SELF.into(), source },
        error => Error::Demo { source: error.into() },
    })?;
    sva_host::attach(child.pid())?;
    Ok(())
}

/// What all chapters have shown.
struct Results {
    seed: u64,
    claims: Vec<Claim>,
    bonds: Vec<BondTimes>,
}

fn conclude(
    args: &DemoArgs,
    results: &Results,
    elapsed: Duration,
    output: Output,
) -> Result<u8, Error> {
    let Results { seed, claims, bonds } = results;
    let failed = claims.iter().filter(|claim| !claim.held).count();
    let palette = output.terminal.palette;
    let (all, seconds) = (claims.len(), elapsed.as_secs_f64());
    if output.json {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let held = all - failed;
        let report = Report { seed: *seed, claims, bonds, held, failed, elapsed_ms };
        output.print(&report::object(&report)?)?;
    } else if failed == 0 {
        let held = palette.paint(Role::Good, "all held");
        output.print(&format!("\n{all} claims, {held}, {seconds:.1} s"))?;
    } else {
        let not_held = palette.paint(Role::Bad, format!("{failed} did not hold"));
        let mut text = format!("\n{all} claims, {not_held}, {seconds:.1} s:");
        for claim in claims.iter().filter(|claim| !claim.held) {
            text.push_str(&format!("\n  {}: {}", claim.chapter, claim.text));
        }
        let faults = if args.faults { " --faults" } else { "" };
        text.push_str(&format!("\nsva demo{faults} --seed {seed} repeats it with the same data"));
        output.print(&text)?;
    }
    Ok(if failed == 0 { exit::DONE } else { exit::FAULT })
}

/// What `--json` prints (docs/demo.md).
#[derive(Serialize)]
struct Report<'a> {
    seed: u64,
    claims: &'a [Claim],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    bonds: &'a [BondTimes],
    held: usize,
    failed: usize,
    elapsed_ms: u64,
}
