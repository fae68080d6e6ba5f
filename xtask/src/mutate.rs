//! `cargo xtask mutate`: puts each defect of docs/regressions.md back in and expects the test that
//! the document names to find it.
//!
//! The tests are built once with `--cfg sva_mutate`, with which the variable `SVA_MUTATE` switches
//! one defect on at run time (crates/core/src/mutation.rs), and the models once more for model
//! checking. Each test runs twice: without a defect it has to pass, with it to fail.

mod run;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::context::Context;
use crate::outcome::Outcome;
use run::{RUN_LIMIT, Target, Verdict};
use table::{Row, Test};

/// What the caller asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// These scenarios; all where empty.
    only: Vec<u8>,
    list: bool,
    json: bool,
    /// A scenario whose mechanism is not there yet is a failure too.
    strict: bool,
}

/// What came of one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The test passes without the defect and fails with it.
    Found,
    /// The mechanism is not there yet, so that there is nothing to break.
    NotBuilt,
    /// The test passes with the defect.
    Survived,
    /// Nothing was shown: the test is not there, or fails without the defect, or ended in a way
    /// that says nothing.
    Broken,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NotBuilt => "not there yet",
            Self::Survived => "SURVIVED",
            Self::Broken => "BROKEN",
        }
    }
}

struct Report {
    row: Row,
    fate: Fate,
    /// How the test failed, or what is wrong.
    words: String,
    /// With the defect.
    took: Duration,
}

/// The task.
pub(crate) fn task(arguments: &[&str]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let context = Context::find()?;
    let rows = chosen(&context, &options)?;
    if options.list {
        rows.iter().for_each(|row| println!("{:>2}  {}", row.number, place(row)));
        return Ok(ExitCode::SUCCESS);
    }
    let reports = examine(&context, rows)?;
    if options.json {
        json(&reports)
    } else {
        show(&reports)
    }
    Ok(if failures(&reports, options.strict).is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The step.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let reports = examine(context, chosen(context, &Options::default())?)?;
    show(&reports);
    let failures = failures(&reports, true);
    if failures.is_empty() { Ok(Outcome::Passed) } else { Err(failures.join("\n!!! ")) }
}

fn parse(arguments: &[&str]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--list" => options.list = true,
            "--json" => options.json = true,
            "--strict" => options.strict = true,
            "--only" => {
                let numbers = rest.next().ok_or("--only needs a list of numbers")?.split(',');
                let number = |text: &str| {
                    text.parse().map_err(|_| format!("`{text}` is not the number of a scenario"))
                };
                options.only = numbers.map(number).collect::<Result<_, _>>()?;
            }
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    Ok(options)
}

/// The rows that were asked for.
fn chosen(context: &Context, options: &Options) -> Result<Vec<Row>, String> {
    let mut rows = table::read(context)?;
    if let Some(unknown) =
        options.only.iter().find(|number| rows.iter().all(|row| row.number != **number))
    {
        return Err(format!("{} has no row {unknown}", table::DOCUMENT));
    }
    rows.retain(|row| options.only.is_empty() || options.only.contains(&row.number));
    Ok(rows)
}

/// Builds what the rows need and runs their tests.
fn examine(context: &Context, rows: Vec<Row>) -> Result<Vec<Report>, String> {
    let targets = Target::all(context)?;
    let find = |test: &Test| {
        let file = context.root.join(&test.file);
        targets.iter().find_map(|target| target.modules_of(&file).map(|modules| (target, modules)))
    };
    let mut needed: Vec<&Target> = rows
        .iter()
        .filter_map(|row| row.test.as_ref())
        .filter_map(find)
        .map(|(target, _)| target)
        .collect();
    needed.sort();
    needed.dedup();
    let mut bench =
        Bench { context, programs: run::build(context, &needed)?, passed: BTreeMap::new() };
    let mut reports = Vec::new();
    for row in rows {
        let (fate, words, took) = match row.test.as_ref().map(|test| (test, find(test))) {
            None => (Fate::NotBuilt, "its row names no test".to_owned(), Duration::ZERO),
            Some((test, None)) => {
                (Fate::Broken, format!("{} is no part of a test", test.file), Duration::ZERO)
            }
            Some((test, Some((target, modules)))) => {
                bench.try_one(row.number, test, target, &modules)?
            }
        };
        eprintln!("{:>2} {}", row.number, fate.word());
        reports.push(Report { row, fate, words, took });
    }
    Ok(reports)
}

/// Where the tests are run.
struct Bench<'a> {
    context: &'a Context,
    programs: BTreeMap<Target, PathBuf>,
    /// What tests came to without a defect; several scenarios may have one test.
    passed: BTreeMap<(PathBuf, String), Verdict>,
}

impl Bench<'_> {
    fn try_one(
        &mut self,
        number: u8,
        row: &Test,
        target: &Target,
        modules: &str,
    ) -> Result<(Fate, String, Duration), String> {
        let program = self.programs.get(target).ok_or(format!("{target:?} was not built"))?;
        let test = match run::find(self.context, target, program, modules, &row.name) {
            Ok(test) => test,
            Err(why) => return Ok((Fate::Broken, why, Duration::ZERO)),
        };
        let key = (program.clone(), test.clone());
        let without = match self.passed.get(&key) {
            Some(known) => known.clone(),
            None => run::run(self.context, target, program, &test, None)?.0,
        };
        self.passed.insert(key, without.clone());
        if without != Verdict::Passed {
            return Ok((Fate::Broken, format!("without the defect: {without:?}"), Duration::ZERO));
        }
        let (with, took) = run::run(self.context, target, program, &test, Some(number))?;
        let (fate, words) = judge(with, row.hangs);
        Ok((fate, words, took))
    }
}

/// What a run with the defect shows.
fn judge(with: Verdict, hangs: bool) -> (Fate, String) {
    let limit = RUN_LIMIT.as_secs();
    match with {
        Verdict::Failed(words) => (Fate::Found, words),
        Verdict::Hangs if hangs => (Fate::Found, format!("does not end within {limit} s")),
        Verdict::Hangs => {
            (Fate::Broken, format!("does not end within {limit} s, and its row does not say so"))
        }
        Verdict::Passed => (Fate::Survived, "the test does not see the defect".to_owned()),
        Verdict::Odd(why) => (Fate::Broken, why),
    }
}

/// What is not as it should be.
fn failures(reports: &[Report], strict: bool) -> Vec<String> {
    let bad = |report: &&Report| match report.fate {
        Fate::Found => false,
        Fate::NotBuilt => strict,
        Fate::Survived | Fate::Broken => true,
    };
    reports
        .iter()
        .filter(bad)
        .map(|report| format!("{} {}: {}", report.row.number, report.fate.word(), report.words))
        .collect()
}

/// The test of a row and the files of its mutation.
fn place(row: &Row) -> String {
    let files: Vec<&str> = row.mutation.iter().map(String::as_str).collect();
    let test = row.test.as_ref().map_or_else(
        || Fate::NotBuilt.word().to_owned(),
        |test| format!("{} in {}", test.name, test.file),
    );
    if files.is_empty() { test } else { format!("{test}; switched in {}", files.join(", ")) }
}

fn show(reports: &[Report]) {
    for Report { row, fate, words, took } in reports {
        match &row.test {
            Some(test) => {
                println!(
                    "{:>2}  {:<13}  {:>5.1} s  {}\n{:>28}{words}",
                    row.number,
                    fate.word(),
                    took.as_secs_f64(),
                    test.name,
                    ""
                )
            }
            None => println!("{:>2}  {}", row.number, fate.word()),
        }
    }
    let count = |fate: Fate| reports.iter().filter(|report| report.fate == fate).count();
    let [found, later, survived, broken] =
        [Fate::Found, Fate::NotBuilt, Fate::Survived, Fate::Broken].map(count);
    println!(
        "mutations: {found} found, {survived} survived, {broken} broken, {later} not there yet"
    );
}

fn json(reports: &[Report]) {
    let object = |report: &Report| {
        let test = report.row.test.as_ref();
        serde_json::json!({
            "number": report.row.number,
            "fate": report.fate.word(),
            "test": test.map(|test| &test.name),
            "file": test.map(|test| &test.file),
            "mutation": report.row.mutation,
            "words": report.words,
            "seconds": report.took.as_secs_f64(),
        })
    };
    println!("{:#}", serde_json::Value::Array(reports.iter().map(object).collect()));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let all = Options { only: vec![7, 19], list: false, json: true, strict: true };
        assert_eq!(parse(&["--only", "7,19", "--json", "--strict"]), Ok(all));
        assert!(
            parse(&["--only", "seven"]).is_err()
                && parse(&["--only"]).is_err()
                && parse(&["--loose"]).is_err()
        );
    }

    #[test]
    fn a_test_that_passes_with_the_defect_or_hangs_unannounced_is_a_failure() {
        assert_eq!(judge(Verdict::Failed("words".to_owned()), false).0, Fate::Found);
        assert_eq!(judge(Verdict::Passed, false).0, Fate::Survived);
        assert_eq!(
            (judge(Verdict::Hangs, true).0, judge(Verdict::Hangs, false).0),
            (Fate::Found, Fate::Broken)
        );
        assert_eq!(judge(Verdict::Odd("killed".to_owned()), true).0, Fate::Broken);
        let report = |fate| Report {
            row: Row { number: 1, test: None, mutation: BTreeSet::new() },
            fate,
            words: String::new(),
            took: Duration::ZERO,
        };
        let reports = [
            report(Fate::Found),
            report(Fate::NotBuilt),
            report(Fate::Survived),
            report(Fate::Broken),
        ];
        assert_eq!((failures(&reports, false).len(), failures(&reports, true).len()), (2, 3));
        assert!(failures(&reports[..2], false).is_empty());
    }
}
