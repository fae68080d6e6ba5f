//! `sva demo`: tells what the contract promises, with real child processes, and checks every
//! sentence of it.
//!
//! A *chapter* is a function that does things on a [`Stage`] and makes *claims*. A chapter that
//! fails makes a claim that did not hold, and the next one goes on. The children ([`child`]) are
//! this command again; what devices do to them they recompute themselves.

mod chapters;
mod child;
mod claim;
mod failure;
mod hammer;
mod machine;
mod process;
mod storm;
mod trace;
mod watchdog;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde::Serialize;
use sva_core::AddressSpace;

use crate::args::DemoArgs;
use crate::error::{Error, exit};
use crate::interrupt::Interrupts;
use crate::report;
use crate::voice::Voice;

use chapters::Chapter;
use claim::{Claim, Figures};
use failure::Failure;
use process::{Process, ProcessError};
use storm::BondTimes;
use watchdog::Watchdog;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until `done` holds, looking every now and then.
///
/// # Errors
/// It took longer than [`PATIENCE`].
fn wait_until(what: &'static str, mut done: impl FnMut() -> bool) -> Result<Duration, Failure> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > PATIENCE {
            return Err(Failure::Late { what, waited: PATIENCE });
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(begun.elapsed())
}

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
pub(crate) fn run(args: &DemoArgs) -> u8 {
    let voice = Voice { json: args.json, bytes_on_stdout: false };
    perform(args, voice).unwrap_or_else(|error| voice.fail(&error))
}

fn perform(args: &DemoArgs, voice: Voice) -> Result<u8, Error> {
    let begun = Instant::now();
    let interrupts = Interrupts::install().map_err(Error::Signals)?;
    try_out()?;
    let seed = args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    if args.trace {
        trace::install();
    }
    let (story, chapters) = if args.faults {
        ("sva demo --faults: software devices ask for pages", chapters::FAULTS)
    } else {
        ("sva demo: software devices on the memory of live processes", chapters::ALL)
    };
    if !voice.json {
        voice.say(&format!("{story}, with random data from seed {seed}"))?;
    }
    let (mut claims, mut bonds) = (Vec::new(), Vec::new());
    for (n, chapter) in chapters.iter().enumerate() {
        interrupts.check()?;
        if !voice.json {
            voice.say(&format!("\n{}", chapter.title))?;
        }
        // A seed of its own for each chapter: what one draws changes no other.
        let rng = Rng::with_seed(seed.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let interrupts = interrupts.clone();
        let mut stage = Stage {
            chapter,
            rng,
            voice,
            traced: args.trace,
            interrupts,
            claims: Vec::new(),
            bonds: Vec::new(),
            unsaid: None,
        };
        let watched = Watchdog::over(chapter.name, voice);
        let told = (chapter.tell)(&mut stage);
        drop(watched);
        if let Err(Failure::Interrupted(interrupted)) = told {
            return Err(interrupted.into());
        }
        if let Err(failure) = told {
            stage.claim(
                &[],
                "the chapter came to its end",
                false,
                Figures::new().said("failure", &failure),
            );
        }
        if let Some(error) = stage.unsaid {
            return Err(error);
        }
        claims.append(&mut stage.claims);
        bonds.append(&mut stage.bonds);
    }
    interrupts.check()?;
    if !voice.json && !bonds.is_empty() {
        voice.say(&storm::text(&bonds))?;
    }
    conclude(args, &Told { seed, claims, bonds, elapsed: begun.elapsed() }, voice)
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

/// All that was told.
struct Told {
    seed: u64,
    claims: Vec<Claim>,
    bonds: Vec<BondTimes>,
    elapsed: Duration,
}

fn conclude(args: &DemoArgs, told: &Told, voice: Voice) -> Result<u8, Error> {
    let Told { seed, claims, bonds, elapsed } = told;
    let failed = claims.iter().filter(|claim| !claim.held).count();
    if voice.json {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        voice.say(&report::object(&Report {
            seed: *seed,
            claims,
            bonds,
            held: claims.len() - failed,
            failed,
            elapsed_ms,
        })?)?;
    } else if failed == 0 {
        voice.say(&format!(
            "\n{} claims, all held, {:.1} s",
            claims.len(),
            elapsed.as_secs_f64()
        ))?;
    } else {
        let mut text = format!(
            "\n{} claims, {failed} did not hold, {:.1} s:",
            claims.len(),
            elapsed.as_secs_f64()
        );
        for claim in claims.iter().filter(|claim| !claim.held) {
            text.push_str(&format!("\n  {}: {}", claim.chapter, claim.text));
        }
        let faults = if args.faults { " --faults" } else { "" };
        text.push_str(&format!("\nsva demo{faults} --seed {seed} repeats it with the same data"));
        voice.say(&text)?;
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

/// Where a chapter is told: makes children, and takes claims.
struct Stage {
    chapter: &'static Chapter,
    rng: Rng,
    voice: Voice,
    /// Events are printed as they happen.
    traced: bool,
    interrupts: Interrupts,
    claims: Vec<Claim>,
    bonds: Vec<BondTimes>,
    /// Why a claim could not be printed.
    unsaid: Option<Error>,
}

impl Stage {
    /// Takes a claim, and shows it to a person.
    fn claim(
        &mut self,
        rules: &'static [&'static str],
        text: &'static str,
        held: bool,
        figures: Figures,
    ) {
        let claim = Claim { chapter: self.chapter.name, rules, text, held, figures };
        if !self.voice.json && self.unsaid.is_none() {
            self.unsaid = self.voice.say(&claim.lines()).err();
        }
        self.claims.push(claim);
    }

    /// Whether nothing is to be shown beside the claims.
    fn is_silent(&self) -> bool {
        self.voice.json || self.traced
    }

    /// Starts a child and attaches its memory.
    fn process(&self) -> Result<(Process, Arc<dyn AddressSpace>), Failure> {
        let process = Process::start()?;
        let space = sva_host::attach(process.pid())?;
        Ok((process, space))
    }

    /// The next seed.
    fn seed(&mut self) -> u64 {
        self.rng.u64(..)
    }
}
