//! `cargo xtask mutate`: puts each defect of docs/regressions.md back in and expects the test that
//! the document names to find it.
//!
//! A defect is a patch (xtask/mutations), which is applied to a copy of the tree: the tests are
//! built from the copy as it is, where they have to pass, and again with the patch, where they have
//! to fail.

mod edit;
mod patches;
mod report;
mod run;
mod table;
mod tree;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::context::Context;
use crate::outcome::Outcome;
use patches::Patch;
use report::{Fate, Report, failures, judge, show};
use run::{Target, Verdict};
use table::{Row, Test};
use tree::Tree;

/// What the caller asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// These scenarios; all where empty.
    only: Vec<u8>,
    list: bool,
    json: bool,
    /// A scenario whose mechanism is not there yet is a failure too.
    strict: bool,
    /// Whether the table, the patches and the tree agree, and no more.
    check: bool,
    /// Lay out a copy of the tree with this defect.
    edit: Option<u8>,
    /// Write the patch of what was changed in that copy, under this name.
    save: Option<(u8, Option<String>)>,
}

/// The task.
pub(crate) fn task(arguments: &[&str]) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let context = Context::find()?;
    let patches = patches::read(&context)?;
    if let Some(number) = options.edit {
        return edit::begin(&context, &patches, number).map(|()| ExitCode::SUCCESS);
    }
    if let Some((number, name)) = &options.save {
        return edit::save(&context, &patches, *number, name.as_deref())
            .map(|()| ExitCode::SUCCESS);
    }
    let rows = agreed(&context, &patches)?;
    let rows = chosen(rows, &options.only)?;
    if options.list || options.check {
        rows.iter().for_each(|row| println!("{:>2}  {}", row.number, place(row, &patches)));
        return Ok(ExitCode::SUCCESS);
    }
    let reports = examine(&context, &patches, rows)?;
    if options.json {
        report::json(&reports)
    } else {
        show(&reports)
    }
    Ok(if failures(&reports, options.strict).is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The step: the table, the patches and the tree agree. The defects are built one by one, which is
/// left to `cargo xtask full`.
pub(crate) fn check(context: &Context) -> Result<Outcome, String> {
    let patches = patches::read(context)?;
    let rows = agreed(context, &patches)?;
    Ok(Outcome::Figures(format!("{} rows, {} patches, which apply", rows.len(), patches.len())))
}

/// The step of `cargo xtask full`: every defect is found.
pub(crate) fn all(context: &Context) -> Result<Outcome, String> {
    let patches = patches::read(context)?;
    let reports = examine(context, &patches, agreed(context, &patches)?)?;
    show(&reports);
    let failures = failures(&reports, true);
    let found = reports.iter().filter(|report| report.fate == Fate::Found).count();
    let figures = format!("{found} of {} defects found", reports.len());
    if failures.is_empty() { Ok(Outcome::Figures(figures)) } else { Err(failures.join("\n!!! ")) }
}

fn parse(arguments: &[&str]) -> Result<Options, String> {
    let number =
        |text: &str| text.parse().map_err(|_| format!("`{text}` is not the number of a scenario"));
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--list" => options.list = true,
            "--json" => options.json = true,
            "--strict" => options.strict = true,
            "--check" => options.check = true,
            "--only" => {
                let numbers = rest.next().ok_or("--only needs a list of numbers")?.split(',');
                options.only = numbers.map(number).collect::<Result<_, _>>()?;
            }
            "--edit" => {
                options.edit = Some(number(rest.next().ok_or("--edit needs a number")?)?);
            }
            "--save" => {
                let number = number(rest.next().ok_or("--save needs a number")?)?;
                options.save = Some((number, rest.next().map(|name| (*name).to_owned())));
            }
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    let named = |name: &String| name.starts_with('-') || name.contains(['/', ' ']);
    if let Some((_, Some(name))) = options.save.as_ref().filter(|(_, name)| name.iter().any(named))
    {
        return Err(format!("`{name}` is no short name for a file"));
    }
    Ok(options)
}

/// All rows, where the patches are those that they name.
fn agreed(context: &Context, patches: &BTreeMap<u8, Patch>) -> Result<Vec<Row>, String> {
    let rows = table::read(context)?;
    let wrong = patches::check(context, patches, &rows)?;
    if wrong.is_empty() { Ok(rows) } else { Err(wrong.join("\n!!! ")) }
}

/// The rows that were asked for.
fn chosen(mut rows: Vec<Row>, only: &[u8]) -> Result<Vec<Row>, String> {
    if let Some(unknown) = only.iter().find(|number| rows.iter().all(|row| row.number != **number))
    {
        return Err(format!("{} has no row {unknown}", table::DOCUMENT));
    }
    rows.retain(|row| only.is_empty() || only.contains(&row.number));
    Ok(rows)
}

/// Runs the tests of the rows.
fn examine(
    context: &Context,
    patches: &BTreeMap<u8, Patch>,
    rows: Vec<Row>,
) -> Result<Vec<Report>, String> {
    let tree = Tree::copy(context, "tree")?;
    let bench = Bench::new(&tree.context, &rows)?;
    let reports = bench.all(rows, |row, place| {
        let patch = patches.get(&row.number).ok_or(format!("row {} has no patch", row.number))?;
        let hangs = row.test.as_ref().is_some_and(|test| test.hangs);
        with_patch(context, &tree, patch, place, run::limit(hangs))
    })?;
    tree.restore(context)?;
    Ok(reports)
}

/// Runs a test with a patch in the copy; what the compiler says where that does not build.
fn with_patch(
    context: &Context,
    tree: &Tree,
    patch: &Patch,
    place: &Place,
    limit: Duration,
) -> Result<Ran, String> {
    tree.restore(context)?;
    tree.apply(context, &patch.path)?;
    let programs = match run::build(&tree.context, &[place.target]) {
        Ok(programs) => programs,
        Err(why) => return Ok(Err(format!("with the patch: {why}"))),
    };
    let program = programs.get(place.target).ok_or("the test was not built")?;
    run::run(&tree.context, place.target, program, &place.test, limit).map(Ok)
}

/// What a test with a defect came to and how long it took, or why it could not be built.
type Ran = Result<(Verdict, Duration), String>;

/// Where the tests are built and run without a defect.
struct Bench<'a> {
    context: &'a Context,
    targets: Vec<Target>,
    programs: BTreeMap<Target, PathBuf>,
}

/// A test that was found.
struct Place<'a> {
    target: &'a Target,
    program: &'a PathBuf,
    /// With its modules.
    test: String,
}

impl<'a> Bench<'a> {
    fn new(context: &'a Context, rows: &[Row]) -> Result<Self, String> {
        let targets = Target::all(context)?;
        let mut bench = Bench { context, targets, programs: BTreeMap::new() };
        let mut needed: Vec<&Target> = rows
            .iter()
            .filter_map(|row| row.test.as_ref())
            .filter_map(|test| bench.target_of(test))
            .map(|(target, _)| target)
            .collect();
        needed.sort();
        needed.dedup();
        bench.programs = run::build(context, &needed)?;
        Ok(bench)
    }

    /// The target that the file of a test belongs to, and its modules there.
    fn target_of(&self, test: &Test) -> Option<(&Target, String)> {
        let file = self.context.root.join(&test.file);
        self.targets.iter().find_map(|target| Some((target, target.modules_of(&file)?)))
    }

    fn place(&self, test: &Test) -> Result<Place<'_>, String> {
        let (target, modules) =
            self.target_of(test).ok_or(format!("{} is no part of a test", test.file))?;
        let program = self.programs.get(target).ok_or(format!("{target:?} was not built"))?;
        let test = run::find(self.context, target, program, &modules, &test.name)?;
        Ok(Place { target, program, test })
    }

    /// Runs every test without a defect, and then each with its own, by `with_defect`, which
    /// replaces the programs.
    fn all(
        &self,
        rows: Vec<Row>,
        with_defect: impl Fn(&Row, &Place) -> Result<Ran, String>,
    ) -> Result<Vec<Report>, String> {
        let mut places = Vec::new();
        for row in &rows {
            places.push(match &row.test {
                None => Err((Fate::NotBuilt, "its row names no test".to_owned())),
                Some(test) => self.place(test).map_err(|why| (Fate::Broken, why)),
            });
        }
        // Several scenarios may have one test.
        let mut passed: BTreeMap<(&Target, &str), Verdict> = BTreeMap::new();
        for place in places.iter().flatten() {
            let key = (place.target, place.test.as_str());
            if let Entry::Vacant(unknown) = passed.entry(key) {
                let ran = run::run(
                    self.context,
                    place.target,
                    place.program,
                    &place.test,
                    run::limit(false),
                )?;
                unknown.insert(ran.0);
            }
        }
        let mut reports = Vec::new();
        let count = rows.len();
        for (at, (row, place)) in rows.into_iter().zip(&places).enumerate() {
            let (fate, words, took) = match place {
                Err((fate, words)) => (*fate, words.clone(), Duration::ZERO),
                Ok(place) => match &passed[&(place.target, place.test.as_str())] {
                    Verdict::Passed => match with_defect(&row, place)? {
                        Ok((with, took)) => {
                            let hangs = row.test.as_ref().is_some_and(|test| test.hangs);
                            let (fate, words) = judge(with, hangs);
                            (fate, words, took)
                        }
                        Err(why) => (Fate::Broken, why, Duration::ZERO),
                    },
                    without => {
                        (Fate::Broken, format!("without the defect: {without:?}"), Duration::ZERO)
                    }
                },
            };
            eprintln!("[{}/{count}] {} {}", at + 1, row.number, fate.word());
            reports.push(Report { row, fate, words, took });
        }
        Ok(reports)
    }
}

/// The test of a row, and how its defect is put in.
fn place(row: &Row, patches: &BTreeMap<u8, Patch>) -> String {
    let test = row.test.as_ref().map_or_else(
        || Fate::NotBuilt.word().to_owned(),
        |test| format!("{} in {}", test.name, test.file),
    );
    match patches.get(&row.number) {
        Some(patch) => format!("{test}; by {}", patch.path.display()),
        None => test,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let all = Options { only: vec![7, 19], json: true, strict: true, ..Options::default() };
        assert_eq!(parse(&["--only", "7,19", "--json", "--strict"]), Ok(all));
        let save = Options { save: Some((7, Some("two".to_owned()))), ..Options::default() };
        assert_eq!(parse(&["--save", "7", "two"]), Ok(save));
        for wrong in [
            &["--only", "seven"][..],
            &["--only"],
            &["--loose"],
            &["--edit"],
            &["--save", "7", "../x"],
            &["--save", "7", "--check"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
