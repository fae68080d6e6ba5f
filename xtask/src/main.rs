//! The developer's door: `cargo xtask ci` runs what continuous integration runs.
#![forbid(unsafe_code)]

mod circles;
mod context;
mod full;
mod fuzz;
mod links;
mod miri;
mod msrv;
mod mutate;
mod outcome;
mod outputs;
mod package;
mod rules;
mod sanitize;
mod scan;
mod soak;
mod source;
mod step;
mod steps;
mod style;
mod targets;
mod toolchain;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use context::Context;
use outcome::Outcome;
use step::{Step, select};
use steps::STEPS;

const USAGE: &str = "\
usage: cargo xtask TASK

  ci [--only STEP,...] [--skip STEP,...]
        run the steps, all of them also after one has failed
  steps
        list them, and those of the next
  full [--only STEP,...] [--skip STEP,...]
        run everything that takes long, and record its figures
  rules
        write the lists of tests in docs/rules.md
  circles [FOLDER...]
        look for circles of imports in all crates, or in those of these folders
  style [--json]
        print the figures of docs/design/style.md
  mutate [--only N,...] [--strict] [--list] [--check] [--json]
        put each defect of docs/regressions.md back in; its test has to fail
  mutate --edit N, mutate --save N [SHORT-NAME]
        make the patch of a defect, or make it anew when the code has moved on
  fuzz [--seconds N] [TARGET...]
        fuzz the readers of foreign bytes, 60 s each
  soak [--accesses N] [--seed N]
        access and change memory with many threads, and check each access";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ci", options @ ..] => match select(STEPS, options) {
            Ok(selected) => ci(&selected),
            Err(message) => usage(&message),
        },
        ["full", options @ ..] => finish(full::task(options)),
        ["steps"] => {
            for step in STEPS {
                println!("{:<9} {}", step.name, step.what);
            }
            println!("\nand of cargo xtask full:");
            for step in full::FULL {
                println!("{:<8} {}", step.name, step.what);
            }
            ExitCode::SUCCESS
        }
        ["rules"] => finish(rules::task()),
        ["circles", folders @ ..] => finish(circles::task(folders)),
        ["style", options @ ..] => finish(style::task(options)),
        ["mutate", options @ ..] => finish(mutate::task(options)),
        ["fuzz", options @ ..] => finish(fuzz::task(options)),
        ["soak", options @ ..] => finish(soak::task(options)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        [] => usage("nothing to do"),
        [other, ..] => usage(&format!("`{other}` is not a task")),
    }
}

/// What a task came to; one that could not begin says why.
fn finish(outcome: Result<ExitCode, String>) -> ExitCode {
    outcome.unwrap_or_else(|message| {
        eprintln!("xtask: {message}");
        ExitCode::from(2)
    })
}

fn usage(message: &str) -> ExitCode {
    eprintln!("xtask: {message}\n{USAGE}");
    ExitCode::from(2)
}

fn ci(selected: &[&Step]) -> ExitCode {
    let context = match Context::find() {
        Ok(context) => context,
        Err(message) => {
            eprintln!("xtask: {message}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let mut done: Vec<(&Step, Outcome, Duration)> = Vec::new();
    for step in selected {
        println!("\n=== {}: {}", step.name, step.what);
        let started = Instant::now();
        let outcome = (step.run)(&context).unwrap_or_else(Outcome::Failed);
        let took = started.elapsed();
        match &outcome {
            Outcome::Passed | Outcome::Figures(_) => {
                println!("--- {}: passed in {:.1} s", step.name, took.as_secs_f64())
            }
            Outcome::Skipped(why) => println!("*** {}: SKIPPED\n*** because: {why}", step.name),
            Outcome::Failed(why) => {
                println!("!!! {}: FAILED after {:.1} s\n!!! {why}", step.name, took.as_secs_f64())
            }
        }
        done.push((step, outcome, took));
    }
    summary(&done, begun.elapsed())
}

fn summary(done: &[(&Step, Outcome, Duration)], took: Duration) -> ExitCode {
    println!("\n=== summary");
    let (mut failed, mut skipped) = (0, 0);
    for (step, outcome, took) in done {
        let (word, why) = match outcome {
            Outcome::Passed => ("passed", ""),
            Outcome::Figures(figures) => ("passed", figures.as_str()),
            Outcome::Skipped(why) => {
                skipped += 1;
                ("SKIPPED", why.as_str())
            }
            Outcome::Failed(why) => {
                failed += 1;
                ("FAILED", why.as_str())
            }
        };
        println!(
            "{:<9} {word:<8} {:>7.1} s  {}",
            step.name,
            took.as_secs_f64(),
            why.lines().next().unwrap_or("")
        );
    }
    println!("{} steps in {:.0} s", done.len(), took.as_secs_f64());
    println!("steps: {} passed, {failed} failed, {skipped} skipped", done.len() - failed - skipped);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
