//! Coverage-guided fuzzing of everything that reads foreign bytes, by cargo-fuzz: fuzz/README.md.

use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::context::Context;
use crate::outcome::{Outcome, minutes};
use crate::{scan, toolchain};

const TOOLCHAIN: &str = "nightly";

/// Of each target, in CI.
const SHORT: Duration = Duration::from_secs(6);

/// All targets, built with a sanitizer.
const BUILD: Duration = minutes(12);

/// What one target did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) target: String,
    pub(crate) executions: u64,
    /// Edges of the control flow that were reached.
    pub(crate) covered: u64,
}

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    match fuzz(context, &[], SHORT)? {
        Ok(_) => Ok(Outcome::Passed),
        Err(why) => Ok(Outcome::Skipped(why)),
    }
}

/// The task: `[--seconds N] [TARGET...]`.
pub(crate) fn task(arguments: &[&str]) -> Result<ExitCode, String> {
    let (seconds, targets) = match arguments {
        ["--seconds", number, targets @ ..] => {
            (number.parse().map_err(|_| format!("`{number}` is no number of seconds"))?, targets)
        }
        targets => (60, targets),
    };
    let context = Context::find()?;
    match fuzz(&context, targets, Duration::from_secs(seconds)) {
        Ok(Ok(_)) => Ok(ExitCode::SUCCESS),
        Ok(Err(why)) => Err(why),
        Err(why) => {
            println!("{why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Runs the targets, all where there are none, each for so long; why it cannot be done here, or
/// what the first of them found.
pub(crate) fn fuzz(
    context: &Context,
    only: &[&str],
    each: Duration,
) -> Result<Result<Vec<Run>, String>, String> {
    for words in [&["--version"][..], &["fuzz", "--version"]] {
        if let Some(why) = toolchain::unavailable(context, TOOLCHAIN, words) {
            return Ok(Err(why));
        }
    }
    let targets = targets(context)?;
    if let Some(unknown) = only.iter().find(|name| targets.iter().all(|target| target != *name)) {
        return Err(format!("`{unknown}` is none of the targets {}", targets.join(", ")));
    }
    let folder = folder(context);
    let words = ["fuzz", "build", "--target-dir", &folder];
    let build = toolchain::cargo(context, TOOLCHAIN, &words);
    context.run(build, BUILD)?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| only.is_empty() || only.contains(&name.as_str())).collect();
    side_by_side(&chosen, |target| {
        let run = one(context, target, each)?;
        println!("    {}: {} executions, {} edges", run.target, run.executions, run.covered);
        Ok(run)
    })
    .map(Ok)
}

/// The results of `work` on each item, in their order, or the first error. There are as many
/// threads as processors, since a target uses one; each takes every so many-th item, since all take
/// the same time.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, String> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let work = &work;
    let mut results: Vec<(usize, Result<R, String>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let own = items.iter().enumerate().skip(first).step_by(threads);
                scope.spawn(move || own.map(|(at, item)| (at, work(item))).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    if results.len() != items.len() {
        return Err("a thread that ran fuzz targets has panicked".to_owned());
    }
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Where the targets are built.
fn folder(context: &Context) -> String {
    context.target.join("fuzz").to_string_lossy().into_owned()
}

/// The names of the files in fuzz/fuzz_targets.
fn targets(context: &Context) -> Result<Vec<String>, String> {
    let files = scan::files(&context.root.join("fuzz/fuzz_targets"), "rs")?;
    Ok(files.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect())
}

fn one(context: &Context, target: &str, each: Duration) -> Result<Run, String> {
    // What was found before is kept beside what is built, the seeds are only read.
    let corpus = context.target.join("fuzz-corpus").join(target);
    fs::create_dir_all(&corpus).map_err(|e| format!("{}: {e}", corpus.display()))?;
    let seeds = context.root.join("fuzz/seeds").join(target);
    let [corpus, seeds] = [&corpus, &seeds].map(|path: &PathBuf| path.to_string_lossy());
    let folder = folder(context);
    let limit = format!("-max_total_time={}", each.as_secs());
    let words = [
        "fuzz",
        "run",
        "--target-dir",
        &folder,
        target,
        &corpus,
        &seeds,
        "--",
        &limit,
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ];
    let command = toolchain::cargo(context, TOOLCHAIN, &words);
    let output = context.output_of(command, each + minutes(3))?;
    if !output.status.success() {
        let what = complaint(&output.stderr);
        return Err(format!("the target `{target}` ended with {}:\n{what}", output.status));
    }
    let run = figures(target, &output.stderr);
    run.ok_or_else(|| format!("the target `{target}` executed nothing:\n{}", output.stderr))
}

/// What was wrong: the words of a panic or of the sanitizer, and where the input is. All that was
/// said where neither is found.
fn complaint(said: &str) -> String {
    let begins = |line: &&str| line.contains(" panicked at ") || line.contains("ERROR: ");
    let words = said.lines().skip_while(|line| !begins(line)).take(6);
    let input = said.lines().filter(|line| line.contains("Test unit written to"));
    let found: Vec<&str> = words.chain(input).collect();
    if found.is_empty() { said.to_owned() } else { found.join("\n") }
}

/// What libFuzzer says at the end, and in the last line about its progress.
fn figures(target: &str, said: &str) -> Option<Run> {
    let executions = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|number| number.trim().parse().ok())
        .filter(|number| *number > 0)?;
    let covered = said
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: "))
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())?;
    Some(Run { target: target.to_owned(), executions, covered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_end() {
        let said = "#2\tINITED cov: 12 ft: 13 corp: 1/1b\n#90\tDONE   cov: 34 ft: 40 corp: 3/9b\n\
                    stat::number_of_executed_units: 90\n";
        let run = Run { target: "t".to_owned(), executions: 90, covered: 34 };
        assert_eq!(figures("t", said), Some(run));
        assert_eq!(figures("t", "stat::number_of_executed_units: 0\n"), None);
    }

    #[test]
    fn results_come_in_the_order_of_the_items_and_the_first_error_is_told() {
        let items: Vec<u32> = (0..20).collect();
        let doubled = side_by_side(&items, |item| Ok(item * 2));
        assert_eq!(doubled, Ok((0..20).map(|item| item * 2).collect()));
        let odd = |item: &u32| if item % 2 == 1 { Err(item.to_string()) } else { Ok(()) };
        assert_eq!(side_by_side(&items, odd), Err("1".to_owned()));
        assert_eq!(side_by_side(&[] as &[u32], |_| Ok(())), Ok(vec![]));
    }

    #[test]
    fn of_a_crash_the_words_and_the_input_are_told() {
        let said = "INFO: x\nthread 'm' panicked at src/a.rs:1:2:\nthe words\n==1== ERROR: \
                    libFuzzer: deadly signal\n#0\n#1\n#2\n#3\nTest unit written to crash-1\n";
        let what = complaint(said);
        assert!(what.contains("the words") && what.ends_with("crash-1"), "{what}");
        assert!(!what.contains("INFO") && !what.contains("#3"), "{what}");
        assert_eq!(complaint("cannot build"), "cannot build");
    }
}
