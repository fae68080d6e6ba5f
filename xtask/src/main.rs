//! The developer's door: `cargo xtask ci` runs what continuous integration runs.
#![forbid(unsafe_code)]

mod context;
mod fence;
mod links;
mod mutate;
mod outputs;
mod rules;
mod sanitize;
mod scan;
mod soak;
mod steps;
mod targets;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use context::Context;
use steps::{STEPS, Step};

const USAGE: &str = "\
usage: cargo xtask ci [--only STEP,...] [--skip STEP,...]   run the steps, all of them also after one has failed
       cargo xtask steps                                    list them
       cargo xtask rules                                    write the lists of tests in docs/rules.md
       cargo xtask mutate [--only N,...] [--strict] [--list] [--json]
                                                            put each defect of docs/regressions.md back in; its test has to fail
       cargo xtask soak [--accesses N] [--seed N]           access and change memory with many threads, and check each access";

/// What a step came to.
enum Outcome {
    Passed,
    /// It could not be run here; why.
    Skipped(String),
    /// What was wrong.
    Failed(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ci", options @ ..] => match select(options) {
            Ok(selected) => ci(&selected),
            Err(message) => usage(&message),
        },
        ["steps"] => {
            for step in STEPS {
                println!("{:<9} {}", step.name, step.what);
            }
            ExitCode::SUCCESS
        }
        ["rules"] => match Context::find().and_then(|context| rules::write(&context)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("xtask: {message}");
                ExitCode::FAILURE
            }
        },
        ["mutate", options @ ..] => mutate::task(options).unwrap_or_else(|message| {
            eprintln!("xtask: {message}");
            ExitCode::from(2)
        }),
        ["soak", options @ ..] => soak::task(options).unwrap_or_else(|message| {
            eprintln!("xtask: {message}");
            ExitCode::from(2)
        }),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        [] => usage("nothing to do"),
        [other, ..] => usage(&format!("`{other}` is not a task")),
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("xtask: {message}\n{USAGE}");
    ExitCode::from(2)
}

/// The steps that `--only` and `--skip` leave, in their own order.
fn select(options: &[&str]) -> Result<Vec<&'static Step>, String> {
    let mut selected: Vec<&'static Step> = STEPS.iter().collect();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let names: Vec<&str> =
            rest.next().ok_or(format!("{option} needs a list of steps"))?.split(',').collect();
        if let Some(unknown) =
            names.iter().find(|name| STEPS.iter().all(|step| step.name != **name))
        {
            return Err(format!("there is no step `{unknown}`; cargo xtask steps lists them"));
        }
        match *option {
            "--only" => selected.retain(|step| names.contains(&step.name)),
            "--skip" => selected.retain(|step| !names.contains(&step.name)),
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    if selected.is_empty() { Err("no step is left to run".into()) } else { Ok(selected) }
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
            Outcome::Passed => println!("--- {}: passed in {:.1} s", step.name, took.as_secs_f64()),
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
