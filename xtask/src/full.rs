//! `cargo xtask full`: everything that takes long, run and recorded before a change of the core
//! counts as done. The figures go to standard output and into a file.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::context::Context;
use crate::outcome::{Outcome, minutes};
use crate::step::{Step, select};
use crate::{fuzz, miri, mutate, sanitize, soak, steps};

/// The record, in the build folder.
const RECORD: &str = "xtask-full.json";

/// Of each target.
const FUZZING: Duration = Duration::from_secs(120);

/// All of them, each bounded in time by itself.
pub(crate) const FULL: &[Step] = &[
    Step {
        name: "mutate",
        what: "all defects of docs/regressions.md, put back in one by one",
        run: mutate::all,
    },
    Step { name: "loom", what: "all models of races", run: steps::all_models },
    Step {
        name: "schedule",
        what: "60,000,000 steps of the whole system by schedules",
        run: steps::schedule,
    },
    Step { name: "soak", what: "200,000,000 accesses, each checked", run: soak::long },
    Step { name: "fuzz", what: "each reader of foreign bytes, 120 s", run: fuzzing },
    Step { name: "miri", what: "all tests that Miri can run", run: under_miri },
    Step { name: "tsan", what: "the tests under ThreadSanitizer", run: sanitize::thread_all },
    Step { name: "asan", what: "the tests under AddressSanitizer", run: sanitize::address },
    Step {
        name: "bench",
        what: "the benchmarks, quick, with instructions counted",
        run: steps::counted_bench,
    },
];

/// What one step came to.
struct Row {
    name: &'static str,
    what: &'static str,
    outcome: &'static str,
    figures: String,
    took: Duration,
}

/// The task.
pub(crate) fn task(options: &[&str]) -> Result<ExitCode, String> {
    let selected = select(FULL, options)?;
    let context = Context::find()?;
    let begun = Instant::now();
    let mut rows = Vec::new();
    for (at, step) in selected.iter().enumerate() {
        println!("\n=== [{}/{}] {}: {}", at + 1, selected.len(), step.name, step.what);
        let started = Instant::now();
        let (outcome, figures) = match (step.run)(&context) {
            Ok(Outcome::Passed) => ("passed", String::new()),
            Ok(Outcome::Figures(figures)) => ("passed", figures),
            Ok(Outcome::Skipped(why)) => ("SKIPPED", why),
            Ok(Outcome::Failed(why)) | Err(why) => ("FAILED", why),
        };
        let took = started.elapsed();
        println!("--- {}: {outcome} after {:.0} s: {figures}", step.name, took.as_secs_f64());
        rows.push(Row { name: step.name, what: step.what, outcome, figures, took });
        // After each step: a run that is broken off leaves what it has.
        record(&context, &rows, begun.elapsed())?;
    }
    println!("\n=== full");
    for row in &rows {
        let first = row.figures.lines().next().unwrap_or_default();
        println!("{:<10}{:<9}{:>7.0} s  {first}", row.name, row.outcome, row.took.as_secs_f64());
    }
    println!("recorded in {}", context.target.join(RECORD).display());
    let failed = rows.iter().any(|row| row.outcome == "FAILED");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn record(context: &Context, rows: &[Row], took: Duration) -> Result<(), String> {
    let object = |row: &Row| {
        json!({
            "step": row.name,
            "what": row.what,
            "outcome": row.outcome,
            "figures": row.figures,
            "seconds": row.took.as_secs_f64().round(),
        })
    };
    let whole = json!({
        "commit": commit(context),
        "seconds": took.as_secs_f64().round(),
        "steps": rows.iter().map(object).collect::<Vec<Value>>(),
    });
    let path = context.target.join(RECORD);
    fs::write(&path, format!("{whole:#}\n")).map_err(|e| format!("{}: {e}", path.display()))
}

/// What the run was of, as git describes it; null where there is no git.
fn commit(context: &Context) -> Value {
    let mut command = Command::new("git");
    command.args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(&context.root);
    match context.capture(&mut command, minutes(1)) {
        Ok(said) if said.status.is_some_and(|status| status.success()) => {
            Value::from(said.stdout.trim())
        }
        _ => Value::Null,
    }
}

fn fuzzing(context: &Context) -> Result<Outcome, String> {
    Ok(match fuzz::fuzz(context, &[], FUZZING)? {
        Ok(runs) => {
            let executions: u64 = runs.iter().map(|run| run.executions).sum();
            let edges: u64 = runs.iter().map(|run| run.covered).sum();
            Outcome::Figures(format!(
                "{} targets, {executions} executions, {edges} edges",
                runs.len()
            ))
        }
        Err(why) => Outcome::Skipped(why),
    })
}

fn under_miri(context: &Context) -> Result<Outcome, String> {
    let suites = miri::SHORT.iter().chain(miri::LONG);
    Ok(match miri::run(context, suites, minutes(30))? {
        Ok(tests) => Outcome::Figures(format!("{tests} tests")),
        Err(why) => Outcome::Skipped(why),
    })
}
